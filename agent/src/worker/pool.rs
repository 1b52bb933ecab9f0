//! Which worker runs a task: one for each model and device, at most so many in all.
//!
//! *In*: tasks. *Out*: their results. *Invariant*: at most `max_workers` processes at any moment, dying ones included; tasks
//! of one model wait in the order they came; an idle worker makes room, the least recently used first.

use crate::engine::{EngineConfig, Failed, Output, Task};
use crate::worker::handle::Handle;
use crate::worker::spawner::Spawner;
use nightshift_types::Digest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

type Key = (Digest, String);

/// The workers of one engine.
#[derive(Debug)]
pub struct Pool {
    config: EngineConfig,
    spawner: Spawner,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    places: Arc<Semaphore>,
    /// A worker has become idle.
    idle: Notify,
    /// Counts tasks, for "least recently used".
    clock: AtomicU64,
    started: AtomicU64,
}

/// One model on one device; its lock is the queue of its tasks.
#[derive(Debug, Default)]
struct Slot {
    worker: tokio::sync::Mutex<Option<Handle>>,
    loaded: AtomicBool,
    /// End the worker as soon as it is idle.
    evict: AtomicBool,
    used: AtomicU64,
}

impl Pool {
    /// Starts no process.
    pub fn new(config: EngineConfig) -> Self {
        let places = Arc::new(Semaphore::new(config.max_workers.max(1)));
        Self {
            config,
            spawner: Spawner::new(),
            slots: Mutex::default(),
            places,
            idle: Notify::new(),
            clock: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        // Nothing panics while it holds this lock.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one task. Dropping the future while the task is on a worker kills that worker.
    pub async fn run(&self, task: &Task) -> Result<Output, Failed> {
        let key = (task.model_digest, task.device.clone());
        // Declared before the slot, so that it looks at the slot when this task has let go of it.
        let _tidy = Tidy { pool: self, key: &key };
        let slot = self.slots().entry(key.clone()).or_default().clone();
        self.run_on(&slot, task).await
    }

    async fn run_on(&self, slot: &Slot, task: &Task) -> Result<Output, Failed> {
        let came = Instant::now();
        let mut turn = slot.worker.lock().await;
        let mut busy = Busy { slot, handle: turn.take() };
        // A worker that died while it was idle is no task's failure.
        if let Some(dead) = busy.handle.take_if(|handle| !handle.is_fit()) {
            slot.loaded.store(false, Ordering::Relaxed);
            dead.end().await;
        }
        let mut waited = came.elapsed();
        let mut load = std::time::Duration::ZERO;
        if busy.handle.is_none() {
            let place = self.place().await;
            waited = came.elapsed();
            slot.evict.store(false, Ordering::Relaxed);
            busy.handle = Some(Handle::start(&self.config, &self.spawner, place, task).await?);
            self.started.fetch_add(1, Ordering::Relaxed);
            load = came.elapsed() - waited;
            slot.loaded.store(true, Ordering::Relaxed);
            tracing::debug!(task = %task.label, model = %task.model_digest, device = %task.device, ?load, "model loaded");
        }
        let Some(handle) = busy.handle.as_mut() else { unreachable!("set above") };
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        match handle.run(task).await {
            Ok(mut output) => {
                (output.timings.load, output.timings.queue) = (load, waited);
                *turn = busy.keep();
                Ok(output)
            }
            Err((failed, healthy)) => {
                tracing::debug!(task = %task.label, %failed, healthy, "task failed");
                if healthy {
                    *turn = busy.keep();
                }
                Err(failed)
            }
        }
    }

    /// A place for one more process; ends an idle worker for it, or waits until there is one.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let idle = self.idle.notified();
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            if let Some(worker) = self.take_idle(|_, _| true, 1).pop() {
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

    /// Takes up to `most` idle workers out of their slots, the least recently used first.
    fn take_idle(&self, wanted: impl Fn(&Key, &Slot) -> bool, most: usize) -> Vec<Handle> {
        let mut slots = self.slots();
        let mut order: Vec<(u64, Key)> = slots
            .iter()
            .filter(|(key, slot)| wanted(key, slot))
            .map(|(key, slot)| (slot.used.load(Ordering::Relaxed), key.clone()))
            .collect();
        order.sort_unstable();
        let mut taken = Vec::new();
        for (_, key) in order {
            let Some(slot) = slots.get(&key) else { continue };
            let worker = slot.worker.try_lock().ok().and_then(|mut worker| worker.take());
            if let Some(worker) = worker.filter(|_| taken.len() < most) {
                slot.loaded.store(false, Ordering::Relaxed);
                taken.push(worker);
                if Arc::strong_count(slot) == 1 {
                    slots.remove(&key);
                }
            }
            if taken.len() == most {
                break;
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
        let mut keys: Vec<Key> = {
            let slots = self.slots();
            let loaded = slots.iter().filter(|(_, slot)| slot.loaded.load(Ordering::Relaxed));
            loaded.map(|(key, _)| key.clone()).collect()
        };
        keys.sort_unstable();
        keys
    }

    /// Ends the idle workers of a model, or of all; marks the busy ones of the model. Answers how many were ended.
    pub async fn evict(&self, digest: Option<Digest>) -> usize {
        let wanted = |key: &Key, slot: &Slot| {
            let of_model = digest == Some(key.0);
            if of_model {
                slot.evict.store(true, Ordering::Relaxed);
            }
            of_model || digest.is_none()
        };
        let workers = self.take_idle(wanted, usize::MAX);
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

/// A worker with a task; if the task's future is dropped, or its worker is unfit, the worker is killed here.
struct Busy<'a> {
    slot: &'a Slot,
    handle: Option<Handle>,
}

impl Busy<'_> {
    /// Back into the slot, unless it was to be evicted.
    fn keep(&mut self) -> Option<Handle> {
        if self.slot.evict.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.handle.take()
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.handle.take().is_some() {
            self.slot.loaded.store(false, Ordering::Relaxed);
        }
    }
}

/// After a task, in whatever way it ended: wakes who waits for a place, and forgets a slot that nobody uses.
struct Tidy<'a> {
    pool: &'a Pool,
    key: &'a Key,
}

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        let mut slots = self.pool.slots();
        if let Some(slot) = slots.get(self.key)
            && Arc::strong_count(slot) == 1
            && !slot.loaded.load(Ordering::Relaxed)
        {
            slots.remove(self.key);
        }
        drop(slots);
        self.pool.idle.notify_waiters();
    }
}
