//! The leader: one task that decides, commits and dispatches, and the handle everybody else speaks to it through.
//!
//! in → commands · out → answers, frames to agents, changed jobs: all after their commit · invariant: one append is in
//! flight; what arrives meanwhile is decided together next (group commit). Readers see committed facts only.

mod changed;
mod keep;
pub mod trouble;
mod turn;

pub use changed::Changed;
pub use keep::Keeping;

use self::trouble::{Trouble, Troubles};
use crate::blobs::BlobStore;
use crate::cycle::Cycle;
use crate::dispatch::assignment;
use crate::downloads::{Download, Downloads};
use crate::metrics::Metrics;
use crate::models::ModelRegistry;
use crate::nodes::Nodes;
use crate::scrape::Scrapes;
use crate::tenants::Tenants;
use nightshift_placement::WhyNot;
use nightshift_placement::queue::{Held, Order};
use nightshift_state::{
    Command, Core, Effect, Folded, History, JobResult, Journal, JournalError, LedgerHistory, Rejection, State,
    TaskState,
};
use nightshift_types::{AttemptId, CellId, Epoch, JobId, Milliseconds, NodeId, Timestamp};
use nightshift_wire::pki::CertificateAuthority;
use nightshift_wire::proto::{self, scheduler_message::Kind as Down};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, mpsc, oneshot};

/// Commands waiting for the leader; beyond it callers wait.
const QUEUE: usize = 4096;
/// An attempt that its agent's heartbeats do not name this long after it was placed is sent again.
const REDELIVER: Milliseconds = Milliseconds(6_000);

/// Times the leader keeps to.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often agents say that they live.
    pub heartbeat: Duration,
    /// Silence after which a node's attempts are placed elsewhere.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(2), lease: Duration::from_secs(12) }
    }
}

/// Why a command was not done.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// It cannot be; nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The leader is going away; whether it was done is not known.
    #[error("this scheduler is stopping")]
    Stopped,
    /// So many commands wait that this one was not taken; nothing changed.
    #[error("{} commands wait for the journal already: try again in a moment", QUEUE)]
    Busy,
}

struct Ask {
    /// `None`: whether we still lead.
    command: Option<Command>,
    reply: oneshot::Sender<Result<Vec<Effect>, Rejection>>,
}

/// What the leader and its handles share.
struct Shared {
    core: RwLock<Core>,
    epoch: Epoch,
    clock: Clock,
    cell: CellId,
    ca: CertificateAuthority,
    timing: Timing,
    nodes: Nodes,
    models: ModelRegistry,
    tenants: Tenants,
    blobs: BlobStore,
    metrics: Metrics,
    scrapes: Scrapes,
    downloads: Downloads,
    why: Mutex<BTreeMap<JobId, turn::Noted>>,
    held: Mutex<BTreeMap<JobId, Held>>,
    order: Mutex<Arc<Order>>,
    /// Finished jobs that the metrics counted.
    counted: Mutex<BTreeSet<JobId>>,
    wake: Notify,
    troubles: Troubles,
    changed_jobs: Changed<JobId>,
    changed_nodes: Changed<NodeId>,
    /// Of the ledger; `None` once this process leads no more.
    history: Mutex<Option<Arc<dyn History>>>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Leader {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
}

/// Everything a leader is made of, beside its journal.
pub struct Parts {
    /// Our CA.
    pub ca: CertificateAuthority,
    /// Blobs.
    pub blobs: BlobStore,
    /// Counters.
    pub metrics: Metrics,
    /// Times.
    pub timing: Timing,
    /// How the journal is kept small.
    pub keeping: Keeping,
}

/// The task itself; [`Lead::run`] it.
pub struct Lead<J: Journal> {
    journal: J,
    keep: keep::Keep<J::Store>,
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    pace: turn::Pace,
    cycle: Cycle,
}

/// Recovers the state from the journal and starts leading: the first commit is `LeaderStarted`.
/// `folded` is what is known of the journal already.
pub async fn start<J: Journal>(
    mut journal: J,
    cell: CellId,
    folded: Folded,
    parts: Parts,
) -> Result<(Leader, Lead<J>), JournalError> {
    let core = Core::take_over(folded, &mut journal, cell.clone(), wall()).await?;
    let clock = Clock::after(core.state().time());
    let epoch = journal.epoch().clone();
    let (sender, asks) = mpsc::channel(QUEUE);
    let Parts { ca, blobs, metrics, timing, keeping } = parts;
    let history = LedgerHistory { store: journal.store(), archive: keeping.archive.clone() };
    let keep = keep::Keep::new(keeping, journal.store(), epoch.journal.clone(), metrics.clone());
    let shared = Arc::new(Shared {
        core: RwLock::new(core),
        epoch,
        clock,
        cell,
        ca,
        timing,
        nodes: Nodes::default(),
        models: ModelRegistry::default(),
        tenants: Tenants::default(),
        blobs,
        metrics,
        scrapes: Scrapes::default(),
        downloads: Downloads::default(),
        why: Mutex::default(),
        held: Mutex::default(),
        order: Mutex::default(),
        counted: Mutex::default(),
        wake: Notify::new(),
        troubles: Troubles::default(),
        changed_jobs: Changed::default(),
        changed_nodes: Changed::default(),
        history: Mutex::new(Some(Arc::new(history))),
    });
    Ok((
        Leader { shared: shared.clone(), asks: sender },
        Lead { journal, keep, shared, asks, pace: turn::Pace::default(), cycle: Cycle::default() },
    ))
}

/// The machine's clock.
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp((since.as_millis() as u64).saturating_add_signed(nightshift_state::hooks::skew()))
}

/// The leader's clock: the machine's, but where that is behind the journal's time, or set back, it goes on from there.
/// Else nothing would run out until it had caught up.
#[derive(Debug)]
struct Clock {
    began: Instant,
    at: Timestamp,
}

impl Clock {
    fn after(journal: Timestamp) -> Self {
        Self { began: Instant::now(), at: wall().max(journal) }
    }

    fn now(&self) -> Timestamp {
        wall().max(self.at.after(Milliseconds(self.began.elapsed().as_millis() as u64)))
    }
}

impl Leader {
    /// Decides and commits a command; returns what it led to once that is durable.
    pub async fn submit(&self, command: Command) -> Result<Vec<Effect>, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask { command: Some(command), reply }).await.map_err(|_| SubmitError::Stopped)?;
        Ok(answer.await.map_err(|_| SubmitError::Stopped)??)
    }

    /// The same, but refused where too many wait already: for people, who can ask again.
    pub async fn try_submit(&self, command: Command) -> Result<Vec<Effect>, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(Ask { command: Some(command), reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.metrics().commands_refused.inc();
                SubmitError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })?;
        Ok(answer.await.map_err(|_| SubmitError::Stopped)??)
    }

    /// What keeps the journal from taking anything, if it does. Then the state cannot be read either, as it has what is
    /// not committed yet.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.shared.troubles.now()
    }

    /// Waits until the journal is in trouble, or in another one, or in none, and says in which.
    pub fn watch_trouble(&self) -> tokio::sync::watch::Receiver<Option<Arc<Trouble>>> {
        self.shared.troubles.watch()
    }

    /// Returns once the journal's store has said, after this call, that we lead: before anything is written elsewhere
    /// that another leader could not take back.
    pub async fn confirm(&self) -> Result<(), SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask { command: None, reply }).await.map_err(|_| SubmitError::Stopped)?;
        Ok(answer.await.map_err(|_| SubmitError::Stopped)?.map(drop)?)
    }

    /// Committed facts. Hold it shortly: commits wait.
    pub async fn state(&self) -> RwLockReadGuard<'_, State> {
        RwLockReadGuard::map(self.shared.core.read().await, Core::state)
    }

    /// The leader's clock.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
    /// Silence after which a node's attempts are placed elsewhere.
    pub fn lease(&self) -> Milliseconds {
        self.shared.lease()
    }
    /// Something soft changed: plan again.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }
    /// A session began, ended or changed its offer.
    pub fn session_changed(&self, node: &NodeId) {
        self.shared.metrics.sessions.set(self.nodes().connected() as i64);
        self.shared.changed_nodes.add(node.clone());
        self.wake();
    }
    /// Live nodes.
    pub fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }
    /// Verdicts on models.
    pub fn models(&self) -> &ModelRegistry {
        &self.shared.models
    }
    /// TenantQueues.
    pub fn tenants(&self) -> &Tenants {
        &self.shared.tenants
    }
    /// Blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.shared.blobs
    }
    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
    /// Scrapes of agents.
    pub fn scrapes(&self) -> &Scrapes {
        &self.shared.scrapes
    }
    /// Models on their way to attempts.
    pub fn downloads(&self) -> &Downloads {
        &self.shared.downloads
    }
    /// Our CA.
    pub fn ca(&self) -> &CertificateAuthority {
        &self.shared.ca
    }
    /// Our cell.
    pub fn cell(&self) -> &CellId {
        &self.shared.cell
    }
    /// Jobs whose status may have changed.
    pub fn changed_jobs(&self) -> &Changed<JobId> {
        &self.shared.changed_jobs
    }
    /// Nodes whose status may have changed.
    pub fn changed_nodes(&self) -> &Changed<NodeId> {
        &self.shared.changed_nodes
    }
    /// Why a job's tasks wait, as of the last cycle that looked.
    pub fn why(&self, job: &JobId) -> Option<WhyNot> {
        self.shared.why.lock().unwrap_or_else(PoisonError::into_inner).get(job).map(|noted| noted.why.clone())
    }

    /// Why nothing of a job was looked at in the last cycle, where that is for a person to change.
    pub fn held(&self, job: &JobId) -> Option<Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }
    /// Every entry of the ledger that there ever was; `None` once this process leads no more.
    pub fn history(&self) -> Option<Arc<dyn History>> {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// What the last cycle looked at, in its order.
    pub fn order(&self) -> Arc<Order> {
        self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first frame down a session.
    pub fn welcome(&self, capabilities: &[&str]) -> proto::Welcome {
        proto::Welcome {
            epoch: Some((&self.shared.epoch).into()),
            heartbeat_interval_ms: self.shared.timing.heartbeat.as_millis() as u64,
            lease_ms: self.shared.timing.lease.as_millis() as u64,
            capabilities: capabilities.iter().map(|text| text.to_string()).collect(),
            scheduler_version: env!("CARGO_PKG_VERSION").into(),
            cell_id: self.shared.cell.to_string(),
        }
    }

    /// After a hello: what runs there by the journal and is not on its list never arrived, or was lost with a restart of
    /// the agent: it is sent again, and the same id makes that harmless. What is listed and not current is stopped.
    pub async fn reconcile_attempts(&self, node: &NodeId, listed: &[AttemptId]) {
        let state = self.state().await;
        for running in state.running_on(node).filter(|running| !listed.contains(&running.attempt)) {
            self.shared.dispatch(&state, &running.attempt);
        }
        for attempt in listed.iter().filter(|attempt| state.current(attempt).is_none_or(|r| r.node != *node)) {
            self.forget_attempt(node, attempt);
        }
    }

    /// Tells an agent that an attempt is of no more use: what runs of it stops, what is kept of it is dropped.
    pub fn forget_attempt(&self, node: &NodeId, attempt: &AttemptId) {
        self.nodes().send(node, Down::Ack(proto::Ack { attempt: attempt.to_string() }));
    }

    /// What a node downloads for its attempts now, of a heartbeat; or nothing, when its session ended.
    pub async fn downloading(&self, node: &NodeId, list: Vec<(AttemptId, Download)>) {
        let list: Vec<_> = if list.is_empty() {
            list
        } else {
            let state = self.state().await;
            let own = |attempt: &AttemptId| state.current(attempt).is_some_and(|running| running.node == *node);
            list.into_iter().filter(|(attempt, _)| own(attempt)).collect()
        };
        for job in self.shared.downloads.report(node, &list, self.now()) {
            self.shared.changed_jobs.add(job);
        }
        self.shared.metrics.downloads.set(i64::try_from(self.shared.downloads.count()).unwrap_or(i64::MAX));
    }

    /// After a heartbeat: a frame can be lost on either side's full queue, so what should run there for a while and is
    /// not named is sent again.
    pub async fn redeliver(&self, node: &NodeId, named: &BTreeSet<String>) {
        let now = self.now();
        // Not while a commit is under way, which may take as long as the store does: a session that waited for it would not
        // hear that its node lives. The next heartbeat comes soon.
        let Ok(core) = self.shared.core.try_read() else { return };
        let state = core.state();
        let old = state.running_on(node).filter(|running| now.since(running.placed_at).0 > REDELIVER.0);
        for running in old.filter(|running| !named.contains(&running.attempt.to_string())) {
            self.shared.dispatch(state, &running.attempt);
        }
    }
}

impl Shared {
    fn lease(&self) -> Milliseconds {
        Milliseconds(self.timing.lease.as_millis() as u64)
    }

    fn dispatch(&self, state: &State, attempt: &AttemptId) {
        let Some(running) = state.current(attempt) else { return };
        let Some(frame) = assignment(state, running, &self.epoch) else { return };
        if self.nodes.send(&running.node, Down::Assignment(frame)) {
            self.nodes.estimates().dispatched(attempt, &running.node, self.clock.now());
        } else {
            // The session is gone or slow: the attempt is sent with its next hello, or lost with its lease.
            tracing::info!(%attempt, node = %running.node, "assignment not sent yet");
        }
    }

    fn cancel(&self, node: &NodeId, attempt: &AttemptId, reason: &str) {
        self.nodes.send(node, Down::Cancel(proto::Cancel { attempt: attempt.to_string(), reason: reason.into() }));
    }

    /// Effects of a commit, in order.
    fn release(&self, state: &State, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Dispatch { attempt, .. } => {
                    self.metrics.placements.inc();
                    self.observe_wait(state, attempt);
                    self.dispatch(state, attempt);
                }
                Effect::Acknowledge { node, attempt } => {
                    self.nodes.send(node, Down::Ack(proto::Ack { attempt: attempt.to_string() }));
                }
                Effect::Cancel { node, attempt, reason, message } => {
                    self.metrics.attempts.with_label_values(&[reason.as_str()]).inc();
                    self.cancel(node, attempt, message);
                }
                Effect::Succeeded { attempt } => self.succeeded(state, attempt),
                Effect::JobChanged { job } => self.job_changed(state, job),
                Effect::Joined { node, .. } | Effect::Revoked { node } => self.changed_nodes.add(node.clone()),
            }
        }
    }

    /// How long the task's first attempt waited since its job was admitted.
    fn observe_wait(&self, state: &State, attempt: &AttemptId) {
        let first = state.task(&attempt.task).is_some_and(|task| task.attempts == 1);
        if let (true, Some(job), Some(running)) = (first, state.job(&attempt.task.job), state.current(attempt)) {
            let waited = running.placed_at.since(job.admitted_at).as_duration();
            self.metrics.placement_wait_seconds.observe(waited.as_secs_f64());
        }
    }

    fn succeeded(&self, state: &State, attempt: &AttemptId) {
        self.metrics.attempts.with_label_values(&["Succeeded"]).inc();
        if let Some(TaskState::Succeeded(success)) = state.task(&attempt.task).map(|task| &task.state) {
            let took = success.finished_at.since(success.placed_at).as_duration();
            self.metrics.attempt_seconds.observe(took.as_secs_f64());
            self.changed_nodes.add(success.node.clone());
            self.nodes.accepted(&success.node);
            let owner = state.nodes().get(&success.node).map_or("", |node| &node.owner);
            if let Some(verdict) = self.nodes.estimates().succeeded(success, owner) {
                self.metrics.predicted(&verdict);
            }
        }
    }

    fn job_changed(&self, state: &State, job: &JobId) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match state.job(job) {
            Some(known) => known.result.as_ref().map(|(result, _)| result),
            None => {
                counted.remove(job);
                None
            }
        };
        if let Some(result) = result
            && counted.insert(job.clone())
        {
            self.metrics.jobs_finished.with_label_values(&[result_label(result)]).inc();
        }
        if result.is_some() || state.job(job).is_none() {
            self.why.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
            self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
        }
        self.changed_jobs.add(job.clone());
    }
}

/// The metrics label of a result.
pub fn result_label(result: &JobResult) -> &'static str {
    match result {
        JobResult::Complete => "Complete",
        JobResult::Failed { .. } => "Failed",
        JobResult::Cancelled { .. } => "Cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_where_the_journal_is_ahead_of_the_machine() {
        let journal = wall().after(Milliseconds(300_000));
        let clock = Clock::after(journal);
        let first = clock.now();
        assert!(first >= journal);
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.now().since(first) >= Milliseconds(5), "leases run out before the machine has caught up");
        assert!(Clock::after(Timestamp(0)).now() >= wall().max(Timestamp(1)), "else it is the machine's");
    }
}
