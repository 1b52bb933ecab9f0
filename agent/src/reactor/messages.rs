//! The scheduler's messages.
//!
//! in → one frame · out → what to do about it · invariant: nothing starts under an epoch older than the newest known, or
//! twice; a frame that makes no sense is answered or logged, never obeyed in part.

use super::{Action, AgentCore, Held, Phase, Session, Stage, Surroundings};
use crate::admission::Shortage;
use crate::assignment::Work;
use nightshift_types::{AttemptId, Bytes, Epoch, FailureReason};
use nightshift_wire::convert::{self, Report, Timings};
use nightshift_wire::proto::{self, scheduler_message::Kind};
use std::time::Duration;
use tracing::{info, warn};

const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

impl AgentCore {
    /// One message of the scheduler.
    pub fn message(&mut self, message: proto::SchedulerMessage, around: &Surroundings) -> Vec<Action> {
        match message.kind {
            None => Vec::new(), // a newer scheduler's message: the capabilities say that we do not know it
            Some(Kind::Welcome(welcome)) => self.welcome(&welcome, around),
            Some(Kind::Assignment(assignment)) => self.assignment(&assignment, around),
            Some(Kind::Cancel(cancel)) => self.cancel(&cancel),
            Some(Kind::Ack(ack)) => self.ack(&ack, around.now),
            Some(Kind::Scrape(scrape)) => vec![Action::Scrape(scrape.id)],
            Some(Kind::Ping(ping)) => {
                self.pong = ping.nonce;
                if self.session.is_some() { vec![Action::Send(self.heartbeat(around))] } else { Vec::new() }
            }
        }
    }

    fn welcome(&mut self, welcome: &proto::Welcome, around: &Surroundings) -> Vec<Action> {
        let epoch = match convert::epoch(&welcome.epoch) {
            Ok(epoch) => epoch,
            Err(error) => return vec![Action::Disconnect(format!("the scheduler's welcome is malformed: {error}"))],
        };
        let mut actions = Vec::new();
        match &self.epoch {
            Some(known) if known.journal == epoch.journal && epoch.revision < known.revision => {
                return vec![Action::Disconnect(format!("the scheduler's epoch {epoch} is older than {known}"))];
            }
            Some(known) if *known == epoch => {}
            _ => {
                actions.push(Action::Remember(epoch.clone()));
                actions.extend(self.drop_other_journals(&epoch));
                self.epoch = Some(epoch);
            }
        }
        let interval = Duration::from_millis(welcome.heartbeat_interval_ms).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        self.session = Some(Session {
            since: around.now,
            interval,
            lease: Duration::from_millis(welcome.lease_ms).min(LONGEST_INTERVAL * 60),
            next_heartbeat: around.now + interval,
        });
        for held in self.held.values_mut() {
            if let Stage::Waiting { delivered } = &mut held.stage {
                *delivered = None;
            }
        }
        actions.push(Action::Send(self.heartbeat(around)));
        actions.extend(self.deliver(around.now));
        actions
    }

    /// The journal was restored or replaced: what another one placed is nobody's any more.
    fn drop_other_journals(&mut self, epoch: &Epoch) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.epoch.as_ref().is_some_and(|known| known.journal != epoch.journal) {
            self.acknowledged.clear();
            self.acknowledged_order.clear();
        }
        self.held.retain(|attempt, held| {
            if held.epoch.journal == epoch.journal {
                return true;
            }
            warn!(%attempt, journal = held.epoch.journal, "dropped: the scheduler has another journal now");
            held.dropped = true;
            match held.stage {
                Stage::Running { .. } => actions.push(Action::Cancel(attempt.clone())),
                Stage::Storing => {}
                Stage::Waiting { .. } => actions.push(Action::Forget(attempt.clone())),
            }
            !matches!(held.stage, Stage::Waiting { .. })
        });
        actions
    }

    fn assignment(&mut self, frame: &proto::Assignment, around: &Surroundings) -> Vec<Action> {
        let (attempt, epoch) = match (convert::attempt(&frame.attempt), convert::epoch(&frame.epoch)) {
            (Ok(attempt), Ok(epoch)) => (attempt, epoch),
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "an assignment that cannot be answered was ignored");
                return Vec::new();
            }
        };
        if let Some(actions) = self.duplicate(&attempt, frame, around) {
            return actions;
        }
        if let Some(reason) = self.unwilling(&attempt, &epoch, around) {
            return vec![self.refuse(frame, reason, around)];
        }
        let mut work = match Work::parse(frame, self.limits.longest_attempt) {
            Ok(work) => work,
            Err(error) => return self.fail_at_once(attempt, epoch, &error.to_string()),
        };
        if let Some(reason) = self.accept.refuses(&work.model_name) {
            return vec![self.refuse(frame, reason, around)];
        }
        let unchecked = Bytes(u64::MAX);
        let free = around.free.get(&work.demand.device).copied().unwrap_or(unchecked);
        match self.book.admit(&work.demand, &work.evict, free) {
            Err(shortage) => {
                if let Shortage::NoDevice(_) = shortage {
                    warn!(%attempt, %shortage, "refused");
                }
                vec![self.refuse(frame, shortage.to_string(), around)]
            }
            Ok(evict) => {
                work.evict = evict;
                let mut actions = self.supersede(&attempt);
                if self.epoch.as_ref().is_some_and(|known| known.revision < epoch.revision) {
                    self.epoch = Some(epoch.clone());
                    actions.push(Action::Remember(epoch.clone()));
                }
                let stage =
                    Stage::Running { demand: work.demand.clone(), phase: Phase::Fetching, computing: None, stop: None };
                self.held.insert(attempt, Held { epoch, stage, dropped: false });
                actions.push(Action::Start(Box::new(work)));
                actions
            }
        }
    }

    /// An attempt we know already.
    fn duplicate(
        &mut self,
        attempt: &AttemptId,
        frame: &proto::Assignment,
        around: &Surroundings,
    ) -> Option<Vec<Action>> {
        if self.acknowledged.contains(attempt) {
            return Some(Vec::new());
        }
        let held = self.held.get_mut(attempt)?;
        if held.dropped {
            return Some(vec![self.refuse(frame, "an attempt of this name is still ending".into(), around)]);
        }
        if let Stage::Waiting { delivered } = &mut held.stage {
            *delivered = None;
        }
        Some(self.deliver(around.now))
    }

    /// Why nothing like this may start now.
    fn unwilling(&self, attempt: &AttemptId, epoch: &Epoch, around: &Surroundings) -> Option<String> {
        let Some(known) = self.epoch.as_ref().filter(|_| self.session.is_some()) else {
            return Some("there is no session yet".into());
        };
        if known.journal != epoch.journal || epoch.revision < known.revision {
            return Some(format!("stale epoch {epoch}: this node follows {known}"));
        }
        if let Some((newer, _)) = self.of_task(attempt).find(|(other, _)| other.number > attempt.number) {
            return Some(format!("superseded: this node has {newer}"));
        }
        if let Some((reason, message)) = &self.availability.away {
            return Some(format!("{reason}: {message}"));
        }
        let running = self.running();
        if running >= self.limits.max_attempts {
            return Some(format!("{running} attempts run already, the most this node takes at once"));
        }
        if self.held.len() >= self.limits.max_held || around.outbox >= self.limits.max_outbox {
            let size = around.outbox.human();
            return Some(format!(
                "{} outcomes ({size}) wait to be acknowledged: outbox full",
                self.held.len() - running
            ));
        }
        None
    }

    fn of_task<'a>(&'a self, attempt: &'a AttemptId) -> impl Iterator<Item = (&'a AttemptId, &'a Held)> {
        let same = move |other: &AttemptId| other.cell == attempt.cell && other.task == attempt.task;
        self.held.iter().filter(move |(other, held)| same(other) && !held.dropped)
    }

    /// Stops older attempts of the same task: their reports would be discarded.
    fn supersede(&mut self, attempt: &AttemptId) -> Vec<Action> {
        let mut actions = Vec::new();
        for (older, held) in &mut self.held {
            if older.cell == attempt.cell
                && older.task == attempt.task
                && let Stage::Running { stop, .. } = &mut held.stage
            {
                stop.get_or_insert((FailureReason::Cancelled, format!("superseded by {attempt}")));
                actions.push(Action::Cancel(older.clone()));
            }
        }
        actions
    }

    fn fail_at_once(&mut self, attempt: AttemptId, epoch: Epoch, message: &str) -> Vec<Action> {
        warn!(%attempt, why = message, "an assignment is malformed");
        self.held.insert(attempt.clone(), Held { epoch: epoch.clone(), stage: Stage::Storing, dropped: false });
        let result = Err((FailureReason::Internal, format!("the assignment is malformed: {message}")));
        vec![Action::Store(Box::new(Report { attempt, epoch, result, timings: Timings::default() }))]
    }

    fn refuse(&self, frame: &proto::Assignment, message: String, around: &Surroundings) -> Action {
        info!(attempt = frame.attempt, why = message, "refused");
        let machine = around.free.get(&frame.device).copied().unwrap_or(Bytes(u64::MAX));
        let refusal = proto::Refusal {
            attempt: frame.attempt.clone(),
            epoch: frame.epoch.clone(),
            message: convert::clip(&message),
            free_memory_bytes: self.book.free(&frame.device).min(machine).0,
        };
        Action::Send(Box::new(proto::AgentMessage { kind: Some(proto::agent_message::Kind::Refusal(refusal)) }))
    }

    fn cancel(&mut self, cancel: &proto::Cancel) -> Vec<Action> {
        let Ok(attempt) = convert::attempt(&cancel.attempt) else { return Vec::new() };
        let Some(Held { stage: Stage::Running { stop, .. }, .. }) = self.held.get_mut(&attempt) else {
            return Vec::new();
        };
        let message = if cancel.reason.is_empty() { "cancelled".into() } else { convert::clip(&cancel.reason) };
        stop.get_or_insert((FailureReason::Cancelled, message));
        vec![Action::Cancel(attempt)]
    }

    fn ack(&mut self, ack: &proto::Ack, now: Duration) -> Vec<Action> {
        let Ok(attempt) = convert::attempt(&ack.attempt) else { return Vec::new() };
        let Some(held) = self.held.get_mut(&attempt) else { return Vec::new() };
        let mut actions = match &held.stage {
            Stage::Waiting { .. } => vec![Action::Forget(attempt.clone())],
            Stage::Storing => Vec::new(),
            Stage::Running { .. } => vec![Action::Cancel(attempt.clone())],
        };
        held.dropped = true;
        if matches!(held.stage, Stage::Waiting { .. }) {
            self.held.remove(&attempt);
        }
        if self.acknowledged.insert(attempt.clone()) {
            self.acknowledged_order.push_back(attempt);
        }
        while self.acknowledged_order.len() > self.limits.remembered {
            if let Some(oldest) = self.acknowledged_order.pop_front() {
                self.acknowledged.remove(&oldest);
            }
        }
        actions.extend(self.deliver(now));
        actions
    }
}
