//! The tasks of one model on one device: who waits, who runs together, who has gone.
//!
//! *In*: tasks, and callers that lose interest. *Out*: batches for the [`super::pool`]'s driver. *Invariant*: tasks start
//! in the order they came; a batch's members agree in spec and parameters; who has gone is in no batch that starts
//! later. Whoever adds a task while nobody drives the lane starts its driver.
//!
//! A batch starts when it is full, when its oldest member has waited for the model's `maxDelayMilliseconds`, or at once
//! where the model allows no wait. Members that a failed batch leaves behind run alone, so that each gets its own blame.

use crate::engine::{Failed, Output, Task};
use crate::worker::handle::{Broken, Handle, Source};
use nightshift_types::FailureReason;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Most tasks in one call, whatever a model allows: control frames list each.
pub const MAX_BATCH: usize = 256;

type Reply = oneshot::Sender<Result<Output, Failed>>;

/// A task, and who waits for it.
#[derive(Debug)]
pub struct Member {
    /// What to run.
    pub task: Task,
    /// For whom.
    pub waiter: Waiter,
}

/// Who waits for a task's result.
#[derive(Debug)]
pub struct Waiter {
    /// Since when.
    pub came: Instant,
    /// Where the result goes; closed when nobody wants it any more.
    pub reply: Reply,
    /// The task's batch failed: it runs alone.
    pub alone: bool,
}

impl Waiter {
    /// Nobody waits any more.
    pub fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Member {
    /// A task that came now.
    pub fn new(task: Task) -> (Self, oneshot::Receiver<Result<Output, Failed>>) {
        let (reply, outcome) = oneshot::channel();
        (Self { task, waiter: Waiter { came: Instant::now(), reply, alone: false } }, outcome)
    }

    fn with(&self, other: &Self) -> bool {
        !other.waiter.alone && self.task.parameters == other.task.parameters && self.task.spec == other.task.spec
    }
}

/// One model on one device.
#[derive(Debug, Default)]
pub struct Lane {
    state: Mutex<State>,
    /// A task came, or somebody has gone.
    pub changed: Notify,
}

/// What a [`Lane`] knows.
#[derive(Debug, Default)]
pub struct State {
    waiting: VecDeque<Member>,
    /// The worker, while nobody drives.
    pub idle: Option<Handle>,
    /// A driver is at work.
    pub driven: bool,
    /// There is a worker with the model, idle or not.
    pub loaded: bool,
    /// End the worker as soon as it is idle.
    pub evict: bool,
    /// When it was last used, by the pool's count of batches.
    pub used: u64,
    /// Batches have taught that more do not fit; `None`: as many as the model allows.
    most: Option<usize>,
    /// What is left of a failed batch, to run alone.
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    left: usize,
    size: usize,
    reason: FailureReason,
    innocent: bool,
}

impl State {
    /// Forgets who has gone.
    fn prune(&mut self) {
        let trial = &mut self.trial;
        self.waiting.retain(|member| {
            let gone = member.waiter.is_gone();
            if gone && member.waiter.alone {
                Trial::ends(trial, None, &mut None);
            }
            !gone
        });
    }

    /// Whether somebody waits.
    pub fn wanted(&mut self) -> bool {
        self.prune();
        !self.waiting.is_empty()
    }

    fn most(&self, member: &Member) -> usize {
        if member.waiter.alone {
            return 1;
        }
        let allowed = if crate::worker::batch::stacks(&member.task.spec) {
            usize::try_from(member.task.spec.batching.max).unwrap_or(MAX_BATCH)
        } else {
            1
        };
        allowed.min(self.most.unwrap_or(MAX_BATCH)).clamp(1, MAX_BATCH)
    }

    /// The next batch, or how long to wait for more; `None`: nobody waits.
    fn next(&mut self) -> Option<Result<Vec<Member>, Duration>> {
        self.prune();
        let first = self.waiting.front()?;
        let most = self.most(first);
        let fits = |member: &&Member| first.with(member);
        let count = 1 + self.waiting.iter().skip(1).filter(fits).take(most - 1).count();
        let patience = Duration::from_millis(first.task.spec.batching.max_delay_ms);
        if let Some(rest) =
            patience.checked_sub(first.waiter.came.elapsed()).filter(|rest| count < most && !rest.is_zero())
        {
            return Some(Err(rest));
        }
        let first = self.waiting.pop_front()?;
        let (mut batch, mut others) = (Vec::with_capacity(count), VecDeque::with_capacity(self.waiting.len()));
        batch.push(first);
        for member in self.waiting.drain(..) {
            if batch.len() < count && batch[0].with(&member) { batch.push(member) } else { others.push_back(member) }
        }
        self.waiting = others;
        Some(Ok(batch))
    }

    /// A batch of several failed as a whole: its members run alone, before everybody else.
    pub fn retry(&mut self, members: Vec<Member>, broken: &Broken) {
        if broken.indivisible {
            self.most = Some(1);
        }
        let size = members.len();
        let reason = broken.failed.reason;
        self.trial = Some(Trial { left: size, size, reason, innocent: !broken.indivisible });
        for member in members.into_iter().rev() {
            let waiter = Waiter { alone: true, ..member.waiter };
            self.waiting.push_front(Member { task: member.task, waiter });
        }
    }

    /// A member of a failed batch ran alone: what that teaches.
    pub fn tried(&mut self, alone: bool, well: bool) {
        if alone {
            Trial::ends(&mut self.trial, Some(well), &mut self.most);
        }
    }

    /// The model keeps state: never together.
    pub fn never_together(&mut self) {
        self.most = Some(1);
    }

    /// Everybody's reply is dropped: the driver is no more.
    pub fn abandon(&mut self) {
        self.waiting.clear();
        (self.driven, self.loaded) = (false, false);
    }
}

impl Trial {
    /// One more of its members is done: well, badly, or gone (`None`). Where each does well alone, the batch was at fault:
    /// too large, or no batch at all.
    fn ends(trial: &mut Option<Trial>, well: Option<bool>, most: &mut Option<usize>) {
        let Some(now) = trial else { return };
        now.left = now.left.saturating_sub(1);
        now.innocent &= well == Some(true);
        if now.left > 0 {
            return;
        }
        if now.innocent {
            match now.reason {
                FailureReason::OutOfMemory => *most = Some((now.size / 2).max(1)),
                FailureReason::ModelExecutionFailed | FailureReason::OutputInvalid => *most = Some(1),
                // Whoever killed the worker says nothing of batches.
                _ => {}
            }
        }
        *trial = None;
    }
}

impl Lane {
    /// Nothing panics while it holds this lock.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task; true: the caller starts the driver.
    pub fn push(&self, member: Member) -> bool {
        let mut state = self.state();
        state.waiting.push_back(member);
        let first = !std::mem::replace(&mut state.driven, true);
        drop(state);
        self.changed.notify_one();
        first
    }

    /// The next batch, when it is time; `None`: nobody waits.
    pub async fn batch(&self) -> Option<Vec<Member>> {
        loop {
            let next = self.state().next();
            match next {
                None => return None,
                Some(Ok(batch)) => return Some(batch),
                Some(Err(rest)) => drop(tokio::time::timeout(rest, self.changed.notified()).await),
            }
        }
    }

    /// Returns when nobody waits any more.
    pub async fn unwanted(&self) {
        while self.state().wanted() {
            self.changed.notified().await;
        }
    }

    /// Returns when all of these have gone.
    pub async fn deserted(&self, waiters: &[Waiter]) {
        while !waiters.iter().all(Waiter::is_gone) {
            self.changed.notified().await;
        }
    }

    /// The model, as the task in front has it.
    pub fn source(&self) -> Option<Source> {
        self.state().waiting.front().map(|Member { task, .. }| Source {
            digest: task.model_digest,
            path: task.model_path.clone(),
            device: task.device.clone(),
            memory: task.memory_limit,
        })
    }

    /// Takes the one in front out: its model could not be loaded.
    pub fn pop(&self) -> Option<Member> {
        let mut state = self.state();
        let member = state.waiting.pop_front();
        if member.as_ref().is_some_and(|member| member.waiter.alone) {
            state.tried(true, false);
        }
        member
    }
}

#[cfg(test)]
mod tests;
