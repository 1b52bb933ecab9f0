//! The async shell around [`AgentCore`]: one task owns the core, dials, and carries out its actions.
//!
//! in → a stream of the scheduler's messages, ends of attempts, signals · out → frames, running attempts, files in the
//! outbox · invariant: every queue is bounded and the owning task never waits on another one of ours; running work goes
//! on while there is no session.

mod owner;
pub use owner::{Owner, Policy};

use crate::attempt::Runner;
use crate::edge::Edge;
use crate::join::chain;
use crate::link::{self, Event, LinkEvent};
use crate::metrics::Metrics;
use crate::outbox::{Kept, Outbox};
use crate::reactor::{Action, AgentCore, Surroundings};
use crate::state::StateFile;
use nightshift_types::{AttemptId, Bytes, Device};
use nightshift_wire::proto;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Frames on their way up; heartbeats beyond that are dropped, outcomes wait.
const FRAMES: usize = 64;
/// Events on their way to the core; whoever has one more waits.
const EVENTS: usize = 256;
/// How old the machine's free memory may be: asking for it costs a little.
const FREE_AGE: Duration = Duration::from_millis(250);
/// Longest wait before the next of several servers is dialled: it may lead already.
const NEXT_SERVER: Duration = Duration::from_millis(50);
/// Results uploaded at once.
const UPLOADS: usize = 2;

/// What a session works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The connection.
    pub edge: Edge,
    /// What runs attempts.
    pub runner: Runner,
    /// Outcomes not acknowledged.
    pub outbox: Arc<Outbox>,
    /// The model cache, for what we announce.
    pub cache: Arc<crate::cache::Cache>,
    /// Session number and epoch.
    pub state: Arc<StateFile>,
    /// Where counts go.
    pub metrics: Metrics,
    /// What we compute on.
    pub devices: Vec<Device>,
    /// What a device has free in the machine now.
    pub free_memory: fn(&Device) -> Bytes,
    /// The owner, and what is told to them.
    pub owner: Owner,
}

/// How it ends.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Take on nothing more, give running work [`Stop::grace`], deliver what there is, end.
    pub gently: CancellationToken,
    /// For running work.
    pub grace: Duration,
    /// For the last outcomes to be acknowledged.
    pub flush: Duration,
}

struct Link {
    generation: u64,
    frames: mpsc::Sender<proto::AgentMessage>,
    task: CancellationToken,
}

enum Stopping {
    No,
    Grace(Instant),
    Flush(Instant),
}

/// The owning task's state.
struct Shell {
    core: AgentCore,
    parts: Parts,
    events: mpsc::Sender<Event>,
    running: HashMap<AttemptId, CancellationToken>,
    link: Option<Link>,
    generation: u64,
    redial: Instant,
    /// In vain, since the last session.
    dials: usize,
    started: Instant,
    uploads: Arc<Semaphore>,
    stopping: Stopping,
    free: BTreeMap<String, Bytes>,
    free_at: Option<Instant>,
    guest: owner::Guest,
}

/// Runs until told to stop. Returns when everything is stopped; what was not acknowledged stays in the outbox.
pub async fn run(core: AgentCore, parts: Parts, stop: Stop) {
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let now = Instant::now();
    let mut shell = Shell {
        core,
        parts,
        events,
        running: HashMap::new(),
        link: None,
        generation: 0,
        redial: now,
        dials: 0,
        started: now,
        uploads: Arc::new(Semaphore::new(UPLOADS)),
        stopping: Stopping::No,
        free: BTreeMap::new(),
        free_at: None,
        guest: owner::Guest::default(),
    };
    let (mut verdicts, mut policy) = (shell.parts.owner.local.watch.verdicts(), shell.parts.owner.policy.clone());
    verdicts.mark_changed();
    policy.mark_changed();
    while !shell.is_over() {
        if shell.link.is_none() && Instant::now() >= shell.redial {
            shell.dial();
        }
        let wake = shell.wake();
        tokio::select! {
            Ok(()) = verdicts.changed() => {
                let verdict = verdicts.borrow_and_update().clone();
                shell.owner_says(verdict);
            }
            Ok(()) = policy.changed() => {
                let changed = policy.borrow_and_update().clone();
                shell.policy(changed);
            }
            Some(event) = inbox.recv() => shell.event(event),
            () = tokio::time::sleep_until(wake) => shell.wakened(),
            () = stop.gently.cancelled(), if matches!(shell.stopping, Stopping::No) => shell.stop(&stop),
        }
        shell.hurry(&stop);
        shell.release_if_quiet();
        shell.measure();
        shell.tell_owner();
    }
    let (entries, bytes) = shell.parts.outbox.size();
    if entries > 0 {
        info!(entries, bytes = %bytes.human(), "outcomes wait in the outbox for the next start");
    }
    if let Some(link) = shell.link {
        link.task.cancel();
    }
    shell.parts.runner.executor.shutdown().await;
}

impl Shell {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn around(&mut self) -> Surroundings {
        if self.free_at.is_none_or(|at| at.elapsed() >= FREE_AGE) {
            let free = |device: &Device| (device.name.clone(), (self.parts.free_memory)(device));
            self.free = self.parts.devices.iter().map(free).collect();
            for (device, free) in &self.free {
                self.parts.metrics.device_free(device, *free);
            }
            self.free_at = Some(Instant::now());
        }
        Surroundings {
            now: self.now(),
            free: self.free.clone(),
            loaded: self.parts.runner.executor.loaded(),
            cached: self.parts.cache.list(),
            outbox: self.parts.outbox.size().1,
            downloads: self.parts.runner.fetcher.downloads(),
        }
    }

    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let heartbeat = self.core.next_tick().map_or(far, |at| self.started + at);
        let dial = if self.link.is_none() { self.redial } else { far };
        let stop = match self.stopping {
            Stopping::No => far,
            Stopping::Grace(at) | Stopping::Flush(at) => at,
        };
        heartbeat.min(dial).min(stop)
    }

    fn wakened(&mut self) {
        let around = self.around();
        let actions = self.core.tick(&around);
        self.carry_out(actions);
    }

    /// From grace to flush, when nothing runs any more or the grace is over.
    fn hurry(&mut self, stop: &Stop) {
        if let Stopping::Grace(at) = self.stopping
            && (Instant::now() >= at || self.core.unsaved() == 0)
        {
            let actions = self.core.cancel_all();
            self.carry_out(actions);
            self.stopping = Stopping::Flush(Instant::now() + stop.flush);
        }
    }

    fn stop(&mut self, stop: &Stop) {
        info!(running = self.core.running(), grace = ?stop.grace, "stopping: nothing new is accepted");
        let around = self.around();
        let actions = self.core.stop(&around);
        self.carry_out(actions);
        self.stopping = Stopping::Grace(Instant::now() + stop.grace);
    }

    fn is_over(&self) -> bool {
        // What is stored may wait for the next start; with a session it is worth a moment to have it acknowledged.
        let unsaved = self.core.unsaved() > 0 || !self.running.is_empty();
        match self.stopping {
            Stopping::No => false,
            Stopping::Grace(_) => !unsaved && self.core.held() == 0,
            Stopping::Flush(at) => {
                (!unsaved && (self.core.held() == 0 || !self.core.connected())) || at <= Instant::now()
            }
        }
    }

    fn dial(&mut self) {
        self.generation += 1;
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let task = CancellationToken::new();
        let number = self.parts.state.next_session();
        let around = self.around();
        let hello = self.core.hello(number, &around);
        let _ = frames.try_send(hello); // the queue is new and empty
        let dialling = link::run(self.parts.edge.clone(), outgoing, self.generation, self.events.clone());
        let cancelled = task.clone();
        tokio::spawn(async move {
            tokio::select! { () = dialling => {}, () = cancelled.cancelled() => {} }
        });
        self.link = Some(Link { generation: self.generation, frames, task });
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link(generation, event) if self.link.as_ref().is_some_and(|l| l.generation == generation) => {
                match event {
                    LinkEvent::Message(message) => {
                        let around = self.around();
                        let was = self.core.connected();
                        let actions = self.core.message(*message, &around);
                        if !was && self.core.connected() {
                            self.dials = 0;
                            info!("the session with the scheduler is up");
                            self.parts.metrics.sessions.inc();
                        }
                        self.carry_out(actions);
                    }
                    LinkEvent::Down(problem) => self.disconnect(&problem),
                }
            }
            Event::Link(..) => {} // of a link that we gave up
            Event::Phase(attempt, phase) => {
                let now = self.now();
                self.core.phase(&attempt, phase, now);
            }
            Event::Finished(report) => {
                self.running.remove(&report.attempt);
                let actions = self.core.finished(*report);
                for action in &actions {
                    if let Action::Store(report) = action {
                        self.ended(report);
                    }
                }
                self.carry_out(actions);
            }
            Event::Stored(attempt) => {
                let actions = self.core.stored(&attempt, self.now());
                self.carry_out(actions);
            }
            Event::Loaded(attempt, outcome) => self.send_outcome(attempt, *outcome),
            Event::Lost(attempt) => self.core.undelivered(&attempt),
            Event::Released(held) => self.released(held),
        }
    }

    fn disconnect(&mut self, problem: &str) {
        if let Some(link) = self.link.take() {
            link.task.cancel();
        }
        let server = self.parts.edge.server();
        self.dials += 1;
        // One of several leads: all are tried before a longer wait.
        let delay = if self.dials.is_multiple_of(self.parts.edge.next_server()) {
            self.core.disconnected(self.now(), rand::random())
        } else {
            self.core.lost_session(self.now());
            NEXT_SERVER.mul_f64(rand::random())
        };
        warn!(problem, server, again_in = ?delay, running = self.core.running(), "no session with the scheduler");
        self.redial = Instant::now() + delay;
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(frame) => self.send(*frame),
                Action::Start(work) => self.start(*work),
                Action::Cancel(attempt) => {
                    if let Some(token) = self.running.get(&attempt) {
                        token.cancel();
                    }
                }
                Action::Store(report) => self.store(*report),
                Action::Deliver(attempt) => self.load(attempt),
                Action::Forget(attempt) => self.parts.outbox.remove(&attempt),
                Action::Scrape(id) => self.scrape(id),
                Action::Remember(epoch) => self.parts.state.remember(epoch),
                Action::Disconnect(problem) => self.disconnect(&problem),
            }
        }
    }

    fn send(&self, frame: proto::AgentMessage) {
        if matches!(frame.kind, Some(proto::agent_message::Kind::Refusal(_))) {
            self.parts.metrics.refusals.inc();
        }
        if self.link.as_ref().is_some_and(|link| link.frames.try_send(frame).is_err()) {
            debug!("the link is slow: a frame was dropped");
        }
    }

    fn start(&mut self, work: crate::assignment::Work) {
        self.begins(&work);
        let token = CancellationToken::new();
        self.running.insert(work.attempt.clone(), token.clone());
        let (runner, events) = (self.parts.runner.clone(), self.events.clone());
        tokio::spawn(async move {
            let attempt = work.attempt.clone();
            let phases = events.clone();
            // A phase that is lost is told by the next one.
            let phase = move |phase| drop(phases.try_send(Event::Phase(attempt.clone(), phase)));
            let report = runner.run(work, token, phase).await;
            let _ = events.send(Event::Finished(Box::new(report))).await;
        });
    }

    fn store(&self, report: nightshift_wire::convert::Report) {
        let (outbox, events) = (self.parts.outbox.clone(), self.events.clone());
        tokio::spawn(async move {
            let attempt = report.attempt.clone();
            let kept = tokio::task::spawn_blocking(move || outbox.put(&report)).await;
            debug!(%attempt, kept = ?kept.unwrap_or(Kept::InMemory), "an outcome was stored");
            let _ = events.send(Event::Stored(attempt)).await;
        });
    }

    /// Reads an outcome, uploads what is too large for a frame, and hands it back to be sent.
    fn load(&self, attempt: AttemptId) {
        let (parts, uploads, events) = (self.parts.clone(), self.uploads.clone(), self.events.clone());
        tokio::spawn(async move {
            let event = match link::load_outcome(&parts, &uploads, &attempt).await {
                Ok(outcome) => Event::Loaded(attempt, Box::new(outcome)),
                Err(problem) => {
                    warn!(%attempt, problem, "an outcome could not be sent; it is tried again");
                    Event::Lost(attempt)
                }
            };
            let _ = events.send(event).await;
        });
    }

    fn send_outcome(&mut self, attempt: AttemptId, outcome: proto::Outcome) {
        if !self.core.is_waiting(&attempt) {
            return; // acknowledged while it was read
        }
        let frame = proto::AgentMessage { kind: Some(proto::agent_message::Kind::Outcome(outcome)) };
        let sent = self.core.connected() && self.link.as_ref().is_some_and(|link| link.frames.try_send(frame).is_ok());
        if !sent {
            self.core.undelivered(&attempt);
        }
    }

    fn scrape(&self, id: u64) {
        let (edge, text) = (self.parts.edge.clone(), self.parts.metrics.text());
        tokio::spawn(async move {
            if let Err(status) = edge.put_metrics(id, text).await {
                debug!(problem = chain(&status), "a scrape could not be answered");
            }
        });
    }

    fn measure(&self) {
        let metrics = &self.parts.metrics;
        let (entries, bytes) = self.parts.outbox.size();
        metrics.outbox_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        metrics.connected.set(i64::from(self.core.connected()));
        metrics.running.set(i64::try_from(self.running.len()).unwrap_or(i64::MAX));
        metrics.loaded.set(i64::try_from(self.parts.runner.executor.loaded().len()).unwrap_or(i64::MAX));
        metrics.available.set(i64::from(self.core.available()));
        let started = self.parts.runner.executor.workers_started();
        metrics.workers.inc_by(started.saturating_sub(metrics.workers.get()));
        Metrics::bytes(&metrics.outbox_bytes, bytes);
        Metrics::bytes(&metrics.reserved, self.core.reserved());
        Metrics::bytes(&metrics.cache, self.parts.cache.size());
        metrics.downloads(self.parts.runner.fetcher.downloads().values());
        if cfg!(debug_assertions)
            && let Err(problem) = self.core.check_invariants()
        {
            tracing::error!(problem, "the agent's books are wrong");
        }
    }
}
