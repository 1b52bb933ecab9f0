//! What the agent decides: sync, without clock, randomness, sockets or disk.
//!
//! in → the scheduler's messages, ends of attempts, the passing of time · out → [`Action`]s for the shell to carry out, in
//! order · invariant: an attempt's outcome is stored before it is delivered and never delivered after its
//! acknowledgement; reservations never exceed a device; everything kept is bounded by [`Limits`].

mod frames;
mod messages;
mod owner;
#[cfg(test)]
mod tests;

use crate::admission::{Book, Demand};
use crate::assignment::Work;
use crate::backoff::Backoff;
use crate::progress::Download;
use nightshift_types::{AttemptId, Bytes, Device, Digest, Epoch, FailureReason, Measured, Offer};
use nightshift_wire::convert::Report;
use nightshift_wire::proto;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How much the agent takes on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Attempts running at once, whatever memory says.
    pub max_attempts: usize,
    /// Attempts running or with an outcome not yet acknowledged.
    pub max_held: usize,
    /// Bytes of outcomes above which nothing new is accepted.
    pub max_outbox: Bytes,
    /// Outcomes under way at once without acknowledgement.
    pub delivery_window: usize,
    /// Acknowledged attempts remembered, so that a late duplicate is not run again.
    pub remembered: usize,
    /// Longest deadline of an attempt.
    pub longest_attempt: Duration,
    /// Delays between dials.
    pub backoff: Backoff,
    /// A session this long resets the back-off, and is worth [`Limits::hand_over`].
    pub settled: Duration,
    /// For so long after a good session another leader is expected at any moment: the back-off does not grow beyond
    /// [`Limits::expecting`].
    pub hand_over: Duration,
    /// Longest delay between two dials in that time.
    pub expecting: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_attempts: 64,
            max_held: 512,
            max_outbox: Bytes::gibi(2),
            delivery_window: 32,
            remembered: 4096,
            longest_attempt: Duration::from_secs(3600),
            backoff: Backoff::default(),
            settled: Duration::from_secs(2),
            // A leader's lease is 10 s where nobody says otherwise.
            hand_over: Duration::from_secs(15),
            expecting: Duration::from_millis(500),
        }
    }
}

/// What the agent says of its machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What it computes on, and how much of that the owner lets us use.
    pub devices: Vec<Device>,
    /// How fast it is.
    pub measured: Measured,
    /// What the owner asks for.
    pub offer: Offer,
}

/// What the shell sees around it when it calls the core.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Since the agent's start.
    pub now: Duration,
    /// What each device has free in the machine; a device that is not listed is not checked.
    pub free: BTreeMap<String, Bytes>,
    /// Models that workers have loaded, and where.
    pub loaded: Vec<(Digest, String)>,
    /// Models in the cache, most recently used first.
    pub cached: Vec<Digest>,
    /// Bytes of outcomes in the outbox.
    pub outbox: Bytes,
    /// Models under way.
    pub downloads: BTreeMap<Digest, Download>,
}

/// Whether the owner lets us work now; reasons are the API's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Availability {
    /// `None` while available; else the reason and a message for people.
    pub away: Option<(String, String)>,
}

/// Where a running attempt is; the wire's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Model or input under way.
    Fetching,
    /// With the engine.
    Computing,
}

impl Phase {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "Fetching",
            Self::Computing => "Computing",
        }
    }
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a frame on the session; it may be lost.
    Send(Box<proto::AgentMessage>),
    /// Run an attempt; answer with [`AgentCore::finished`].
    Start(Box<Work>),
    /// Stop a running attempt; it still answers with [`AgentCore::finished`].
    Cancel(AttemptId),
    /// Make an outcome durable; answer with [`AgentCore::stored`].
    Store(Box<Report>),
    /// Send a stored outcome; answer with [`AgentCore::undelivered`] if that cannot be.
    Deliver(AttemptId),
    /// Delete a stored outcome.
    Forget(AttemptId),
    /// Answer a scrape.
    Scrape(u64),
    /// Make an epoch durable.
    Remember(Epoch),
    /// End this session, for this reason, and dial again later.
    Disconnect(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Running {
        demand: Demand,
        phase: Phase,
        /// Since when it is with the engine.
        computing: Option<Duration>,
        stop: Option<(FailureReason, String)>,
    },
    Storing,
    /// In the outbox; delivered at that time of this session, or not yet.
    Waiting {
        delivered: Option<Duration>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    epoch: Epoch,
    stage: Stage,
    /// Its outcome is wanted by nobody: acknowledged meanwhile, or of an older journal.
    dropped: bool,
}

#[derive(Debug, Clone)]
struct Session {
    since: Duration,
    interval: Duration,
    lease: Duration,
    next_heartbeat: Duration,
}

/// The agent's state.
#[derive(Debug)]
pub struct AgentCore {
    limits: Limits,
    facts: Facts,
    availability: Availability,
    accept: crate::config::Accept,
    pace: owner::Pace,
    /// When attempts that the owner's return found almost done are ended.
    grace_ends: Option<Duration>,
    book: Book,
    held: BTreeMap<AttemptId, Held>,
    acknowledged: BTreeSet<AttemptId>,
    acknowledged_order: VecDeque<AttemptId>,
    epoch: Option<Epoch>,
    session: Option<Session>,
    failures: u32,
    /// Until then another leader is expected.
    expecting_until: Option<Duration>,
    stopping: bool,
    pong: u64,
}

impl AgentCore {
    /// `epoch` is the last one remembered; `outbox` the outcomes found there.
    pub fn new(limits: Limits, facts: Facts, epoch: Option<Epoch>, outbox: Vec<(AttemptId, Epoch)>) -> Self {
        let waiting = |epoch| Held { epoch, stage: Stage::Waiting { delivered: None }, dropped: false };
        Self {
            book: Book::new(&facts.devices),
            limits,
            facts,
            availability: Availability::default(),
            accept: crate::config::Accept::default(),
            pace: owner::Pace::default(),
            grace_ends: None,
            held: outbox.into_iter().map(|(attempt, epoch)| (attempt, waiting(epoch))).collect(),
            acknowledged: BTreeSet::new(),
            acknowledged_order: VecDeque::new(),
            epoch,
            session: None,
            failures: 0,
            expecting_until: None,
            stopping: false,
            pong: 0,
        }
    }

    /// An attempt moved on.
    pub fn phase(&mut self, attempt: &AttemptId, new: Phase, now: Duration) {
        if let Some(Held { stage: Stage::Running { phase, computing, .. }, .. }) = self.held.get_mut(attempt) {
            *phase = new;
            *computing = (new == Phase::Computing).then_some(now);
        }
    }

    /// An attempt ended: its memory is free, its outcome is stored next.
    pub fn finished(&mut self, mut report: Report) -> Vec<Action> {
        let Some(held) = self.held.get_mut(&report.attempt) else { return Vec::new() };
        let Stage::Running { demand, stop, .. } = &held.stage else { return Vec::new() };
        self.book.release(demand);
        if report.result.is_ok() {
            let timings = &report.timings;
            let micros = timings.load_us + timings.queue_us + timings.compute_us + timings.codec_us;
            self.pace.learn(demand.model, Duration::from_micros(micros));
        }
        if held.dropped {
            self.held.remove(&report.attempt);
            return Vec::new();
        }
        if let (Err((FailureReason::Cancelled, _)), Some((reason, message))) = (&report.result, stop) {
            report.result = Err((*reason, message.clone()));
        }
        held.stage = Stage::Storing;
        vec![Action::Store(Box::new(report))]
    }

    /// An outcome is durable, as far as it can be.
    pub fn stored(&mut self, attempt: &AttemptId, now: Duration) -> Vec<Action> {
        let Some(held) = self.held.get_mut(attempt) else { return Vec::new() };
        if held.dropped {
            self.held.remove(attempt);
            return vec![Action::Forget(attempt.clone())];
        }
        if held.stage == Stage::Storing {
            held.stage = Stage::Waiting { delivered: None };
        }
        self.deliver(now)
    }

    /// An outcome could not be sent; it is tried again with the next heartbeat.
    pub fn undelivered(&mut self, attempt: &AttemptId) {
        if let Some(Held { stage: Stage::Waiting { delivered }, .. }) = self.held.get_mut(attempt) {
            *delivered = None;
        }
    }

    /// Whether an outcome is stored and not acknowledged.
    pub fn is_waiting(&self, attempt: &AttemptId) -> bool {
        matches!(self.held.get(attempt), Some(Held { stage: Stage::Waiting { .. }, .. }))
    }

    /// The session ended or a dial failed, and there is another server to try.
    pub fn lost_session(&mut self, now: Duration) {
        if let Some(session) = self.session.take()
            && now.saturating_sub(session.since) >= self.limits.settled
        {
            self.failures = 0;
            self.expecting_until = Some(now + self.limits.hand_over);
        }
    }

    /// The same where every server was tried: how long to wait. `random` is uniform in 0..1.
    pub fn disconnected(&mut self, now: Duration, random: f64) -> Duration {
        self.lost_session(now);
        let delay = self.limits.backoff.delay(self.failures, random);
        if self.expecting_until.is_some_and(|until| now < until) && delay > self.limits.expecting {
            // Between the least and the longest: not all agents in the same moment.
            let most = self.limits.expecting;
            return Backoff { most, ..self.limits.backoff }.delay(u32::MAX, random);
        }
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Heartbeat, and outcomes that were not acknowledged in time.
    pub fn tick(&mut self, around: &Surroundings) -> Vec<Action> {
        self.book.observe(&around.loaded);
        let mut actions = self.end_of_grace(around.now);
        let Some(session) = &mut self.session else { return actions };
        if around.now < session.next_heartbeat {
            return actions;
        }
        session.next_heartbeat = around.now + session.interval;
        let patience = session.lease.max(session.interval * 3);
        for held in self.held.values_mut() {
            if let Stage::Waiting { delivered } = &mut held.stage
                && delivered.is_some_and(|at| around.now.saturating_sub(at) > patience)
            {
                *delivered = None;
            }
        }
        actions.push(Action::Send(self.heartbeat(around)));
        actions.extend(self.deliver(around.now));
        actions
    }

    /// When [`Self::tick`] has something to do; `None`: nothing now.
    pub fn next_tick(&self) -> Option<Duration> {
        let heartbeat = self.session.as_ref().map(|session| session.next_heartbeat);
        heartbeat.into_iter().chain(self.grace_ends).min()
    }

    /// Whether the owner lets us work now.
    pub fn available(&self) -> bool {
        self.availability.away.is_none()
    }

    /// The owner comes or goes: told at once.
    pub fn set_availability(&mut self, availability: Availability, around: &Surroundings) -> Vec<Action> {
        if self.availability == availability {
            return Vec::new();
        }
        self.availability = availability;
        if self.session.is_some() { vec![Action::Send(self.heartbeat(around))] } else { Vec::new() }
    }

    /// Takes on nothing more.
    pub fn stop(&mut self, around: &Surroundings) -> Vec<Action> {
        self.stopping = true;
        let away = Some(("Stopping".to_string(), "the agent is stopping".to_string()));
        self.set_availability(Availability { away }, around)
    }

    /// Ends what still runs: nobody's fault, to be placed elsewhere.
    pub fn cancel_all(&mut self) -> Vec<Action> {
        self.cancel_running("the agent was stopped")
    }

    fn cancel_running(&mut self, message: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        for (attempt, held) in &mut self.held {
            if let Stage::Running { stop, .. } = &mut held.stage {
                stop.get_or_insert((FailureReason::OwnerActive, message.to_string()));
                actions.push(Action::Cancel(attempt.clone()));
            }
        }
        actions
    }

    /// Attempts running now.
    pub fn running(&self) -> usize {
        self.held.values().filter(|held| matches!(held.stage, Stage::Running { .. })).count()
    }

    /// Attempts whose outcome is not in the outbox yet.
    pub fn unsaved(&self) -> usize {
        self.held.values().filter(|held| !matches!(held.stage, Stage::Waiting { .. })).count()
    }

    /// Attempts running, or with an outcome not acknowledged.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether there is a session.
    pub fn connected(&self) -> bool {
        self.session.is_some()
    }

    /// Memory reserved by running attempts.
    pub fn reserved(&self) -> Bytes {
        self.book.reserved()
    }

    /// Delivers what is stored, within the window.
    fn deliver(&mut self, now: Duration) -> Vec<Action> {
        if self.session.is_none() {
            return Vec::new();
        }
        let under_way =
            self.held.values().filter(|held| matches!(held.stage, Stage::Waiting { delivered: Some(_) })).count();
        let mut actions = Vec::new();
        for (attempt, held) in &mut self.held {
            if under_way + actions.len() >= self.limits.delivery_window {
                break;
            }
            if let Stage::Waiting { delivered: delivered @ None } = &mut held.stage {
                *delivered = Some(now);
                actions.push(Action::Deliver(attempt.clone()));
            }
        }
        actions
    }

    /// Says what is wrong with the state; for tests after every step, and for a debug build's own use.
    pub fn check_invariants(&self) -> Result<(), String> {
        let demand = |held: &'_ Held| match &held.stage {
            Stage::Running { demand, .. } => Some(demand.clone()),
            _ => None,
        };
        let demands: Vec<Demand> = self.held.values().filter_map(demand).collect();
        self.book.check_invariants(demands.iter())?;
        if demands.len() > self.limits.max_attempts || self.held.len() > self.limits.max_held.max(demands.len()) {
            return Err(format!("{} running, {} held: over the limits", demands.len(), self.held.len()));
        }
        if self.acknowledged.len() != self.acknowledged_order.len() || self.acknowledged.len() > self.limits.remembered
        {
            return Err(format!("{} acknowledged attempts remembered", self.acknowledged.len()));
        }
        Ok(())
    }
}
