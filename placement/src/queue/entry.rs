//! In: a job, its queue's stop policy, now → out: what of it may start, or why nothing may ([`Held`]).
//! Invariant: never more than `parallelism` at once; a gang is whole or waits; a refused job shows one task, or one
//! gang.

use super::{AGEING, BACK_OFF_LEAST, BACK_OFF_MOST, DEADLINE_NEAR, Held, QueuedJob, Refusal};
use nightshift_types::{JobId, Milliseconds, StopPolicy, Timestamp};

/// What a job comes to.
pub(super) enum Intake<'a> {
    /// It waits for nothing.
    Idle,
    Held(Held),
    Ready(Entry<'a>),
}

/// A job of which something may start.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// Among the jobs of the order.
    pub position: usize,
    pub queued: &'a QueuedJob,
    /// Since when it waits; of one older than the ageing bound its last placement counts as the beginning.
    pub since: Timestamp,
    /// Tasks handed out.
    pub picked: u32,
    /// Tasks it may hand out yet.
    room: u32,
    /// Tasks that go together; 1: each alone.
    pub block: u32,
    /// Those of its waiting tasks that a place was made free for, and how many of them were handed out.
    nominees: (Vec<usize>, usize),
    /// The next of its other waiting tasks.
    next: Option<usize>,
    /// Why it gives nothing more though it has room.
    pub held: Option<Held>,
}

/// Decides whether a job may start anything, its quota apart.
pub(super) fn intake<'a>(
    position: usize,
    queued: &'a QueuedJob,
    stop: StopPolicy,
    served: impl Fn(&JobId) -> Option<Timestamp>,
    now: Timestamp,
) -> Intake<'a> {
    let job = &queued.job;
    let waits = waiting(queued);
    if waits == 0 {
        return Intake::Idle;
    }
    if job.spec.suspend {
        return Intake::Held(Held::Suspended);
    }
    if stop != StopPolicy::None {
        return Intake::Held(Held::QueueStopped(stop));
    }
    // One that is started goes on one by one; before that as many as are missing go together.
    let missing = job.spec.min_parallelism.saturating_sub(job.running);
    let block = missing.min(waits).max(1);
    let room = job.spec.parallelism.saturating_sub(job.running);
    if room < block {
        let (running, parallelism) = (job.running, job.spec.parallelism);
        return Intake::Held(Held::OverParallelism { running, together: block, parallelism });
    }
    let ready = job.waiting.iter().filter(|task| task.not_before <= now).take(block as usize).count() as u32;
    if ready == 0 {
        return Intake::Held(Held::NotReady { until: job.waiting.iter().map(|task| task.not_before).min() });
    }
    if ready < block {
        return Intake::Held(Held::GangNotReady { ready, together: block });
    }
    let nominated = |at: usize| queued.nominated.contains(&job.waiting[at].index) && job.waiting[at].not_before <= now;
    let mut nominees = Vec::new();
    if block == 1 && !queued.nominated.is_empty() {
        nominees.extend((0..job.waiting.len()).filter(|&at| nominated(at)).take(room as usize));
    }
    if nominees.is_empty()
        && let Some(until) = queued.refusal.and_then(|refusal| back_off(refusal, now))
    {
        let refusals = queued.refusal.map_or(0, |refusal| refusal.count);
        return Intake::Held(Held::BackOff { refusals, until });
    }
    // A young job is not overdue, whenever it was served: most need no look.
    let served = if now.since(job.submitted) > AGEING { served(&job.id) } else { None };
    Intake::Ready(Entry::new(position, queued, (block, room), nominees, served.unwrap_or_default(), now))
}

/// Its tasks that wait, back-off included.
pub(super) fn waiting(queued: &QueuedJob) -> u32 {
    queued.unfinished.saturating_sub(queued.job.running).max(queued.job.waiting.len() as u32)
}

/// When a refused job is looked at again, if that is not now.
fn back_off(refusal: Refusal, now: Timestamp) -> Option<Timestamp> {
    if refusal.changed || refusal.count == 0 {
        return None;
    }
    let gap = BACK_OFF_LEAST.0.saturating_mul(1 << (refusal.count - 1).min(16)).min(BACK_OFF_MOST.0);
    let until = refusal.at.after(Milliseconds(gap));
    // A clock that was set back must not hold it for longer than the longest gap.
    (now < until && refusal.at <= now).then_some(until)
}

impl<'a> Entry<'a> {
    fn new(
        position: usize,
        queued: &'a QueuedJob,
        (block, room): (u32, u32),
        nominees: Vec<usize>,
        served: Timestamp,
        now: Timestamp,
    ) -> Self {
        let job = &queued.job;
        let refusals = queued.refusal.map_or(0, |refusal| refusal.count);
        let begun = served.max(job.submitted);
        let mut since = Timestamp(u64::MAX);
        for task in job.waiting.iter().filter(|task| task.not_before <= now) {
            since = since.min(task.not_before);
            if since <= begun {
                break;
            }
        }
        let (room, first) = match (refusals, block) {
            (0, 1) => (room, 0),
            // Another one each time, so that one that fits nowhere does not hide the others.
            (_, 1) => (nominees.len().max(1) as u32, refusals as usize % job.waiting.len()),
            _ => (block, 0),
        };
        let (since, nominees) = (since.max(begun), (nominees, 0));
        let mut entry = Self { position, queued, since, picked: 0, room, block, nominees, next: None, held: None };
        entry.next = entry.ready_from(first, now).or_else(|| entry.ready_from(0, now));
        entry
    }

    fn ready_from(&self, first: usize, now: Timestamp) -> Option<usize> {
        let waiting = &self.queued.job.waiting;
        (first..waiting.len()).find(|at| waiting[*at].not_before <= now && !self.nominees.0.contains(at))
    }

    /// Whether it may hand out more.
    pub fn able(&self) -> bool {
        self.held.is_none() && self.room >= self.block && (self.next.is_some() || self.nominated())
    }

    /// Whether nothing of it was placed for so long that it goes first.
    pub fn overdue(&self, now: Timestamp) -> bool {
        self.picked == 0 && now.since(self.since) > AGEING && !self.hopeless(now)
    }

    /// Whether waiting does not help it, as far as is known: no node could take it even if it were free. One that may
    /// fit again since is found by a look in its usual turn; had it none for so long, a quota is in its way.
    fn hopeless(&self, now: Timestamp) -> bool {
        let known = |refusal: Refusal| !(refusal.changed && now.since(refusal.at) > AGEING);
        self.queued.refusal.is_some_and(|refusal| !refusal.capacity && known(refusal))
    }

    /// Its next task, or its whole gang: positions among its waiting tasks. Only while it is able.
    pub fn take(&mut self, now: Timestamp) -> Vec<usize> {
        let mut taken = Vec::with_capacity(self.block as usize);
        while let Some(task) = self.next
            && taken.len() < self.block as usize
        {
            taken.push(task);
            self.next = self.ready_from(task + 1, now);
        }
        self.picked += taken.len() as u32;
        // After a gang its other tasks wait until it is known to have started.
        self.room = if self.block > 1 { 0 } else { self.room.saturating_sub(1) };
        taken
    }

    /// Whether a place was made free for a task that it did not hand out.
    pub fn nominated(&self) -> bool {
        self.nominees.1 < self.nominees.0.len() && self.room > 0
    }

    /// The next of those: its position among the waiting tasks. Only while there is one.
    pub fn take_nominee(&mut self) -> Vec<usize> {
        let taken: Vec<usize> = self.nominees.0.iter().skip(self.nominees.1).take(1).copied().collect();
        self.nominees.1 += taken.len();
        self.picked += taken.len() as u32;
        self.room = self.room.saturating_sub(1);
        taken
    }

    /// Those that were not handed out wait for their turns like the others.
    pub fn end_nominees(&mut self, now: Timestamp) {
        if self.nominees.1 < self.nominees.0.len() {
            self.nominees.0.truncate(self.nominees.1);
            self.next = self.ready_from(0, now);
        }
    }

    /// Milliseconds that it can still lose before it misses a deadline, if that is near; none if it misses it anyway.
    pub fn slack(&self, now: Timestamp) -> Option<u64> {
        let (job, spec) = (&self.queued.job, &self.queued.job.spec);
        let end = |since: Option<Timestamp>, limit: Option<Milliseconds>| since?.after(limit?).0.checked_sub(now.0);
        // It is met by one placement; the other only by the end of the last task.
        let pending = end(self.queued.pending_since, spec.pending_deadline).filter(|_| self.picked + job.running == 0);
        let tasks = waiting(self.queued).saturating_add(job.running);
        let rounds = u64::from(tasks.div_ceil(spec.parallelism.max(1)));
        let work = rounds.saturating_mul(spec.reference.0);
        let active = end(self.queued.active_since, spec.active_deadline).and_then(|left| left.checked_sub(work));
        [pending, active].into_iter().flatten().min().filter(|&slack| slack <= DEADLINE_NEAR.0)
    }
}
