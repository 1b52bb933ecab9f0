//! Which worker runs a task: one for each model and device, at most so many in all.
//!
//! *In*: tasks. *Out*: their results. *Invariant*: at most `max_workers` processes at any moment, dying ones included; tasks
//! of one model start in the order they came; an idle worker makes room, the least recently used first, and a busy one
//! after [`TURN`] where others wait.
//!
//! While a [`Lane`] has tasks, one driver has its worker: loads the model, takes batch after batch, and leaves the worker
//! idle *before* it gives the last results, so that whoever has a result may evict the model at once.

use crate::engine::{EngineConfig, Failed, Output, Task};
use crate::worker::handle::Handle;
use crate::worker::lane::{Lane, Member, Waiter};
use crate::worker::spawner::Spawner;
use nightshift_types::{Bytes, Digest, FailureReason};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

type Key = (Digest, String);
type Outcome = Result<Output, Failed>;
/// Results on their way to those who wait for them.
type Given = Vec<(oneshot::Sender<Outcome>, Outcome)>;

/// A worker keeps its place so long, though other models wait for one.
const TURN: Duration = Duration::from_secs(2);

/// The workers of one engine.
#[derive(Debug)]
pub struct Pool {
    config: EngineConfig,
    spawner: Spawner,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
    places: Arc<Semaphore>,
    /// Lanes that wait for a place.
    hungry: AtomicUsize,
    /// A worker has become idle.
    idle: Notify,
    /// Counts batches, for "least recently used".
    clock: AtomicU64,
    started: AtomicU64,
}

impl Pool {
    /// Starts no process.
    pub fn new(config: EngineConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.max_workers.max(1)));
        Self {
            config,
            spawner: Spawner::new(),
            lanes: Mutex::default(),
            places,
            hungry: AtomicUsize::new(0),
            idle: Notify::new(),
            clock: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Lane>>> {
        // Nothing panics while it holds this lock.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one task. Whoever drops the future has gone: a worker that runs for nobody is killed.
    pub async fn run(self: &Arc<Self>, task: Task) -> Outcome {
        let key = (task.model_digest, task.device.clone());
        let (member, outcome) = Member::new(task);
        let lane = {
            // Under the lock, so that no lane is forgotten between being found and being used.
            let mut lanes = self.lanes();
            let lane = lanes.entry(key.clone()).or_default().clone();
            if lane.push(member) {
                tokio::spawn(Driver { pool: self.clone(), key, lane: lane.clone(), over: false }.drive());
            }
            lane
        };
        let mut ticket = Ticket { outcome, lane };
        let gone = || Err(Failed::new(FailureReason::Internal, "the engine gave up this task"));
        (&mut ticket.outcome).await.unwrap_or_else(|_| gone())
    }

    /// A place for one more process; ends an idle worker for it, or waits until there is one.
    async fn place(&self) -> OwnedSemaphorePermit {
        let _hungry = Counted::new(&self.hungry);
        loop {
            let idle = self.idle.notified();
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            if let Some(worker) = self.take_idle(|_| true, 1).pop() {
                worker.end().await;
                continue;
            }
            tokio::select! {
                place = self.places.clone().acquire_owned() => {
                    if let Ok(place) = place {
                        return place;
                    }
                }
                () = idle => {}
            }
        }
    }

    /// Takes up to `most` idle workers out of their lanes, the least recently used first.
    fn take_idle(&self, wanted: impl Fn(&Key) -> bool, most: usize) -> Vec<Handle> {
        let mut lanes = self.lanes();
        let mut order: Vec<(u64, Key)> = lanes
            .iter()
            .filter(|(key, _)| wanted(key))
            .filter_map(|(key, lane)| {
                let state = lane.state();
                state.idle.is_some().then(|| (state.used, key.clone()))
            })
            .collect();
        order.sort_unstable();
        let mut taken = Vec::new();
        for (_, key) in order.into_iter().take(most) {
            let Some(lane) = lanes.get(&key) else { continue };
            let mut state = lane.state();
            let Some(worker) = state.idle.take() else { continue };
            taken.push(worker);
            state.loaded = false;
            let forgotten = !state.driven;
            drop(state);
            if forgotten {
                lanes.remove(&key);
            }
        }
        taken
    }

    /// Workers that ever started and loaded their model.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Models with a worker, busy or idle.
    pub fn loaded(&self) -> Vec<Key> {
        let loaded = |(key, lane): (&Key, &Arc<Lane>)| lane.state().loaded.then(|| key.clone());
        let mut keys: Vec<Key> = self.lanes().iter().filter_map(loaded).collect();
        keys.sort_unstable();
        keys
    }

    /// Ends the idle workers of a model, or of all; marks the busy ones of the model. Answers how many were ended.
    pub async fn evict(&self, digest: Option<Digest>) -> usize {
        if let Some(digest) = digest {
            for (_, lane) in self.lanes().iter().filter(|(key, _)| key.0 == digest) {
                let mut state = lane.state();
                state.evict = state.driven;
            }
        }
        let workers = self.take_idle(|key| digest.is_none_or(|digest| key.0 == digest), usize::MAX);
        let count = workers.len();
        for worker in workers {
            worker.end().await;
        }
        count
    }

    /// Waits until no process is left. Call it when no task runs any more.
    pub async fn emptied(&self) {
        self.evict(None).await;
        let all = u32::try_from(self.config.max_workers.max(1)).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
    }
}

/// Drives one lane while it has tasks.
struct Driver {
    pool: Arc<Pool>,
    key: Key,
    lane: Arc<Lane>,
    /// It has ended as it should.
    over: bool,
}

/// A worker, since when it has its place, and what its start took, as long as no result has told.
struct Engaged {
    handle: Handle,
    since: Instant,
    load: Duration,
}

impl Driver {
    async fn drive(mut self) {
        let mut worker = None;
        let mut given = Given::new();
        loop {
            if self.rests(&mut worker, &mut given).await {
                self.over = true;
                return;
            }
            give(&mut given);
            // Between two batches a worker makes way for a model that waits.
            let done = |engaged: &Engaged| engaged.since.elapsed() >= TURN;
            if self.pool.hungry.load(Ordering::Relaxed) > 0 && worker.as_ref().is_some_and(done) {
                self.lane.state().loaded = false;
                if let Some(Engaged { handle, .. }) = worker.take() {
                    handle.end().await;
                }
            }
            let mut engaged = match worker.take() {
                Some(engaged) => engaged,
                None => match self.engage().await {
                    Some(engaged) => engaged,
                    None => continue,
                },
            };
            let Some(batch) = self.lane.batch().await else {
                worker = Some(engaged);
                continue;
            };
            self.lane.state().used = self.pool.clock.fetch_add(1, Ordering::Relaxed);
            if self.run(&mut engaged, batch, &mut given).await {
                worker = Some(engaged);
            } else {
                self.lane.state().loaded = false;
                drop(engaged);
            }
        }
    }

    /// Where nobody waits: leaves the worker idle, or ends it if it was to be evicted, and gives the last results.
    async fn rests(&self, worker: &mut Option<Engaged>, given: &mut Given) -> bool {
        // Gone before its results are known: then its memory is another's.
        if std::mem::take(&mut self.lane.state().evict)
            && let Some(Engaged { handle, .. }) = worker.take()
        {
            self.lane.state().loaded = false;
            handle.end().await;
        }
        {
            let mut lanes = self.pool.lanes();
            let mut state = self.lane.state();
            if state.wanted() {
                return false;
            }
            state.driven = false;
            state.loaded = worker.is_some();
            state.idle = worker.take().map(|engaged| engaged.handle);
            if state.idle.is_none() {
                lanes.remove(&self.key);
            }
        }
        give(given);
        self.pool.idle.notify_waiters();
        true
    }

    /// The idle worker, or a new one with the model; `None`: nobody waits, or the one in front has been told why there is none.
    async fn engage(&self) -> Option<Engaged> {
        let idle = self.lane.state().idle.take();
        if let Some(handle) = idle {
            // One that died while it was idle is no task's failure.
            if handle.is_fit() {
                return Some(Engaged { handle, since: Instant::now(), load: Duration::ZERO });
            }
            self.lane.state().loaded = false;
            handle.end().await;
        }
        let source = self.lane.source()?;
        let starting = async {
            let place = self.pool.place().await;
            self.lane.state().evict = false;
            let began = Instant::now();
            (Handle::start(&self.pool.config, &self.pool.spawner, place, &source).await, began.elapsed())
        };
        let (started, load) = tokio::select! {
            biased;
            started = starting => started,
            () = self.lane.unwanted() => return None,
        };
        match started {
            Ok(handle) => {
                self.pool.started.fetch_add(1, Ordering::Relaxed);
                let mut state = self.lane.state();
                state.loaded = true;
                if !handle.together() {
                    state.never_together();
                }
                tracing::debug!(model = %source.digest, device = source.device, ?load, "model loaded");
                Some(Engaged { handle, since: Instant::now(), load })
            }
            Err(failed) => {
                if let Some(member) = self.lane.pop() {
                    let _ = member.waiter.reply.send(Err(failed));
                }
                None
            }
        }
    }

    /// Runs a batch and notes the results; false: the worker is no more.
    async fn run(&self, engaged: &mut Engaged, batch: Vec<Member>, given: &mut Given) -> bool {
        let load = std::mem::take(&mut engaged.load);
        let retried = batch.iter().any(|member| member.waiter.alone);
        let memory = memory_of(&batch);
        let (tasks, waiters): (Vec<Task>, Vec<Waiter>) =
            batch.into_iter().map(|member| (member.task, member.waiter)).unzip();
        let began = Instant::now();
        let finished = tokio::select! {
            biased;
            finished = engaged.handle.run(&tasks, memory) => finished,
            () = self.lane.deserted(&waiters) => {
                self.lane.state().tried(retried, false);
                return false;
            }
        };
        let took = began.elapsed();
        match finished {
            Ok(results) => {
                let count = u32::try_from(results.len()).unwrap_or(1).max(1);
                self.lane.state().tried(retried, results.iter().all(Result::is_ok));
                for (waiter, mut result) in waiters.into_iter().zip(results) {
                    if let Ok(Output { timings, .. }) = &mut result {
                        let whole = timings.compute + timings.codec * count;
                        timings.compute /= count;
                        // Its wait, and what the batch took beyond its own share.
                        let waited = began.saturating_duration_since(waiter.came);
                        timings.load = load.min(waited);
                        let before = waited.saturating_sub(load);
                        let others = whole.min(took).saturating_sub(timings.compute + timings.codec);
                        timings.queue = before + others;
                    }
                    given.push((waiter.reply, result));
                }
                true
            }
            Err(broken) => {
                tracing::debug!(tasks = tasks.len(), failed = %broken.failed, broken.healthy, "a run failed");
                if tasks.len() == 1 {
                    self.lane.state().tried(retried, false);
                    given.extend(waiters.into_iter().map(|waiter| (waiter.reply, Err(broken.failed.clone()))));
                } else {
                    let members =
                        tasks.into_iter().zip(waiters).map(|(task, waiter)| Member { task, waiter }).collect();
                    self.lane.state().retry(members, &broken);
                }
                broken.healthy
            }
        }
    }
}

impl Drop for Driver {
    /// Also when it panics, or its runtime ends: whoever waits is told, and the next task starts another driver.
    fn drop(&mut self) {
        if !self.over {
            self.pool.lanes().remove(&self.key);
            self.lane.state().abandon();
        }
    }
}

/// Who waits for a task; the driver is told when they go.
struct Ticket {
    outcome: oneshot::Receiver<Outcome>,
    lane: Arc<Lane>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.outcome.close();
        self.lane.changed.notify_one();
    }
}

/// Counted as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn give(given: &mut Given) {
    for (reply, outcome) in given.drain(..) {
        // Whoever has gone needs none.
        let _ = reply.send(outcome);
    }
}

/// What all of them may take together: what is shared once, and each one's own.
fn memory_of(batch: &[Member]) -> Bytes {
    if batch.iter().any(|member| member.task.memory_limit == Bytes(0)) {
        return Bytes(0);
    }
    let own = |member: &Member| member.task.memory_limit.saturating_sub(member.task.memory_shared);
    let shared = batch.iter().map(|member| member.task.memory_shared.min(member.task.memory_limit)).max();
    shared.unwrap_or_default() + batch.iter().map(own).sum()
}
