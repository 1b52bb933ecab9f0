//! The owner returns, and goes.
//!
//! in → pauses, their end, how long attempts of a model took · out → what is cancelled now and what may end · invariant: while
//! it pauses nothing starts; every attempt is over when the grace is.

use super::{Action, AgentCore, Availability, Stage, Surroundings};
use nightshift_types::{Digest, FailureReason, Offer};
use nightshift_wire::proto;
use std::collections::BTreeMap;
use std::time::Duration;

/// Models whose time is remembered.
const REMEMBERED: usize = 256;
/// The part of its expected time after which an attempt is "almost done".
const ALMOST: f64 = 0.9;
/// And before which: one that takes much longer than others did has another size, and nobody knows when it ends.
const NO_LONGER: f64 = 1.5;

/// How long attempts of a model take here, from the engine's start to the outcome: a moving average, the newer counts a
/// quarter.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(BTreeMap<Digest, Duration>);

impl Pace {
    pub(super) fn learn(&mut self, model: Digest, took: Duration) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&model) {
            self.0.pop_first();
        }
        self.0.entry(model).and_modify(|old| *old = (*old * 3 + took) / 4).or_insert(took);
    }

    /// Whether an attempt that computes for so long should be over within `grace`.
    fn almost_done(&self, model: &Digest, since: Duration, grace: Duration) -> bool {
        let Some(expected) = self.0.get(model) else { return false };
        let part = since.as_secs_f64() / expected.as_secs_f64().max(1e-9);
        (ALMOST..=NO_LONGER).contains(&part) && expected.saturating_sub(since) <= grace
    }
}

impl AgentCore {
    /// The owner is back: told at once; work is handed back, but for what is almost done and gets `grace`.
    pub fn pause(&mut self, away: (String, String), grace: Duration, around: &Surroundings) -> Vec<Action> {
        if self.stopping {
            return Vec::new();
        }
        let message = away.1.clone();
        let mut actions = self.set_availability(Availability { away: Some(away) }, around);
        let mut spared = false;
        for (attempt, held) in &mut self.held {
            if let Stage::Running { demand, computing, stop, .. } = &mut held.stage {
                let since = computing.map(|at| around.now.saturating_sub(at));
                if since.is_some_and(|since| !grace.is_zero() && self.pace.almost_done(&demand.model, since, grace)) {
                    spared = true;
                    continue;
                }
                stop.get_or_insert((FailureReason::OwnerActive, message.clone()));
                actions.push(Action::Cancel(attempt.clone()));
            }
        }
        self.grace_ends = spared.then_some(around.now + grace);
        actions
    }

    /// Another reason for the same pause.
    pub fn tell_away(&mut self, away: (String, String), around: &Surroundings) -> Vec<Action> {
        if self.stopping { Vec::new() } else { self.set_availability(Availability { away: Some(away) }, around) }
    }

    /// The owner is gone again.
    pub fn resume(&mut self, around: &Surroundings) -> Vec<Action> {
        if self.stopping {
            return Vec::new();
        }
        self.grace_ends = None;
        self.set_availability(Availability::default(), around)
    }

    /// Ends what had its grace.
    pub(super) fn end_of_grace(&mut self, now: Duration) -> Vec<Action> {
        if self.grace_ends.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.grace_ends = None;
        let message = self.availability.away.clone().map_or_else(String::new, |(_, message)| message);
        self.cancel_running(&message)
    }

    /// The owner asks for something else.
    pub fn set_offer(&mut self, offer: Offer) -> Vec<Action> {
        if self.facts.offer == offer {
            return Vec::new();
        }
        self.facts.offer = offer;
        let frame = proto::AgentMessage { kind: Some(proto::agent_message::Kind::Offer((&self.facts.offer).into())) };
        if self.session.is_some() { vec![Action::Send(Box::new(frame))] } else { Vec::new() }
    }

    /// Which models the owner lets run.
    pub fn set_accept(&mut self, accept: crate::config::Accept) {
        self.accept = accept;
    }
}
