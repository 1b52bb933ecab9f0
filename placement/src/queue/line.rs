//! In: one queue's jobs that may start something → out: its tasks, one pick after another.
//! Invariant: what a quota has no room for is not picked; an overdue job is passed over by no other of its own or a
//! lower priority, and by fewer than [`AGEING_TURN`] placements of a higher one.

use super::entry::Entry;
use super::fair::{Aged, Share, passed_over};
use super::{AGEING_TURN, Held, QueuedJob, Tenant, Turn};
use nightshift_types::{Bytes, JobId, PicoPoints, Quota, StopPolicy, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Tasks of one job that are next.
pub(super) struct Pick<'a> {
    pub queued: &'a QueuedJob,
    /// Positions among its waiting tasks.
    pub indices: Vec<usize>,
    pub tasks: u32,
    pub gang: bool,
    pub since: Timestamp,
    pub turn: Turn,
    /// Another job of the queue is overdue, and was passed over or comes next.
    pub overdue_waits: bool,
    /// What it needs should be kept for it.
    pub reserve: bool,
}

/// What jobs of one queue are compared by; the least is next. Out of date once its job was picked again.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    priority: Reverse<i32>,
    /// Since when an overdue one waits; the others after them.
    overdue: Timestamp,
    /// Slack of one whose deadline is near; the others after them.
    slack: u64,
    running: u32,
    submitted: Timestamp,
    id: &'a JobId,
    entry: usize,
    picked: u32,
}

/// One queue in an order.
pub(super) struct Line<'a> {
    pub share: Share,
    pub entries: Vec<Entry<'a>>,
    tenant: Option<&'a Tenant>,
    used: (u64, Bytes),
    heap: BinaryHeap<Reverse<Key<'a>>>,
    /// Overdue jobs, longest first.
    overdue: BinaryHeap<Reverse<(Timestamp, &'a JobId, usize)>>,
    passed_over: u32,
    served: Timestamp,
    reserved: bool,
    /// Jobs with tasks that a place was made free for, the last goes first.
    nominated: Vec<usize>,
}

impl<'a> Line<'a> {
    pub fn new(name: &str, tenant: Option<&'a Tenant>) -> Self {
        let used = tenant.map_or((0, Bytes(0)), |tenant| (tenant.running.into(), tenant.memory));
        Self {
            share: tenant.map_or_else(|| Share::new(name, &Tenant::default()), |tenant| Share::new(name, tenant)),
            entries: Vec::new(),
            tenant,
            used,
            heap: BinaryHeap::new(),
            overdue: BinaryHeap::new(),
            passed_over: AGEING_TURN,
            served: Timestamp(0),
            reserved: false,
            nominated: Vec::new(),
        }
    }

    pub fn stop(&self) -> StopPolicy {
        self.tenant.map_or(StopPolicy::None, |tenant| tenant.queue.stop)
    }

    /// Highest ask its jobs may accept.
    pub fn limit(&self) -> Option<PicoPoints> {
        self.tenant.and_then(|tenant| tenant.queue.max_price_per_hour)
    }

    /// Puts its jobs in order; once, after the last was added.
    pub fn sort(&mut self, aged: Aged, now: Timestamp) {
        let keys = self.entries.iter().enumerate().map(|(number, entry)| Reverse(key(entry, number, now)));
        self.heap = keys.collect();
        let overdue = self.entries.iter().enumerate().filter(|(_, entry)| entry.overdue(now));
        self.overdue = overdue.map(|(n, entry)| Reverse((entry.since, &entry.queued.job.id, n))).collect();
        (self.passed_over, self.served) = (aged.passed_over, aged.served);
        self.nominated = (0..self.entries.len()).filter(|&number| self.entries[number].nominated()).collect();
        let rank = |entry: &Entry<'a>| (entry.queued.job.spec.priority, Reverse((entry.since, &entry.queued.job.id)));
        self.nominated.sort_by(|&a, &b| rank(&self.entries[a]).cmp(&rank(&self.entries[b])));
    }

    /// Since when it has an overdue job and nothing of it was placed.
    pub fn waits_since(&self) -> Option<Timestamp> {
        self.overdue.peek().map(|Reverse((since, ..))| (*since).max(self.served))
    }

    /// Its next task or gang; none: nothing more in this order, and every job that gave nothing knows why.
    pub fn pick(&mut self, now: Timestamp) -> Option<Pick<'a>> {
        loop {
            let (number, turn, overdue_waits) = self.choose()?;
            let entry = &self.entries[number];
            let Some(held) = self.over_quota(entry) else {
                return Some(self.take(number, turn, overdue_waits, now));
            };
            let able_alone = self.over_quota_alone(entry).is_none();
            let id = entry.queued.job.id.clone();
            self.entries[number].held = Some(held);
            if turn == Turn::Aged && able_alone {
                // Others would fill the room that it waits for.
                for other in self.entries.iter_mut().filter(|other| other.held.is_none()) {
                    other.held = Some(Held::KeptFor(id.clone()));
                }
            }
        }
    }

    /// Its next task that a place was made free for, if the quota has room for it.
    pub fn nominee(&mut self, now: Timestamp) -> Option<Pick<'a>> {
        while let Some(&number) = self.nominated.last() {
            if self.entries[number].nominated() && self.over_quota(&self.entries[number]).is_none() {
                self.tidy();
                let overdue_waits = self.overdue.peek().is_some_and(|Reverse((_, _, oldest))| *oldest != number);
                return Some(self.take(number, Turn::Nominated, overdue_waits, now));
            }
            self.nominated.pop();
            self.entries[number].end_nominees(now);
            if self.entries[number].picked > 0 && self.entries[number].able() {
                self.heap.push(Reverse(key(&self.entries[number], number, now)));
            }
        }
        None
    }

    /// Forgets what is out of date.
    fn tidy(&mut self) {
        while let Some(Reverse(key)) = self.heap.peek() {
            let entry = &self.entries[key.entry];
            if entry.able() && entry.picked == key.picked {
                break;
            }
            self.heap.pop();
        }
        while let Some(&Reverse((_, _, number))) = self.overdue.peek() {
            if self.entries[number].able() && self.entries[number].picked == 0 {
                break;
            }
            self.overdue.pop();
        }
    }

    /// Whose turn it is inside the queue.
    fn choose(&mut self) -> Option<(usize, Turn, bool)> {
        self.tidy();
        let Reverse(best) = self.heap.peek()?;
        let turn = if best.slack < u64::MAX { Turn::Deadline } else { Turn::Priority };
        let Some(&Reverse((_, _, oldest))) = self.overdue.peek() else { return Some((best.entry, turn, false)) };
        let higher = best.priority < Reverse(self.entries[oldest].queued.job.spec.priority);
        match higher && self.passed_over + 1 < AGEING_TURN {
            true => Some((best.entry, turn, true)),
            false => Some((oldest, Turn::Aged, true)),
        }
    }

    fn take(&mut self, number: usize, turn: Turn, overdue_waits: bool, now: Timestamp) -> Pick<'a> {
        let entry = &mut self.entries[number];
        let longest = self.overdue.peek().is_some_and(|Reverse((_, _, longest))| *longest == number);
        let reserve = longest && !self.reserved;
        let (queued, since, gang) = (entry.queued, entry.since, entry.block > 1);
        let indices = if turn == Turn::Nominated { entry.take_nominee() } else { entry.take(now) };
        let tasks = indices.len() as u32;
        if entry.able() {
            let key = key(entry, number, now);
            self.heap.push(Reverse(key));
        }
        self.reserved |= reserve;
        self.used.0 += u64::from(tasks);
        self.used.1 = self.used.1 + Bytes(queued.job.spec.memory.0.saturating_mul(tasks.into()));
        self.passed_over = passed_over(self.passed_over, turn, overdue_waits);
        Pick { queued, indices, tasks, gang, since, turn, overdue_waits, reserve }
    }

    fn over_quota(&self, entry: &Entry<'_>) -> Option<Held> {
        exceeded(self.tenant?.queue.quota, self.used, entry)
    }

    /// Whether the quota is too small for it though the queue held nothing else.
    fn over_quota_alone(&self, entry: &Entry<'_>) -> Option<Held> {
        exceeded(self.tenant?.queue.quota, (0, Bytes(0)), entry)
    }

    /// Tells why those of its jobs that gave nothing did not.
    pub fn leave(&mut self, looked_at: usize, held: &mut [Option<Held>]) {
        for entry in self.entries.iter_mut().filter(|entry| entry.picked == 0) {
            held[entry.position] = Some(entry.held.take().unwrap_or(Held::Later { looked_at }));
        }
    }
}

fn key<'a>(entry: &Entry<'a>, number: usize, now: Timestamp) -> Key<'a> {
    let job = &entry.queued.job;
    Key {
        priority: Reverse(job.spec.priority),
        overdue: if entry.overdue(now) { entry.since } else { Timestamp(u64::MAX) },
        slack: entry.slack(now).unwrap_or(u64::MAX),
        running: job.running.saturating_add(entry.picked),
        submitted: job.submitted,
        id: &job.id,
        entry: number,
        picked: entry.picked,
    }
}

fn exceeded(quota: Quota, used: (u64, Bytes), entry: &Entry<'_>) -> Option<Held> {
    let need = entry.block;
    if let Some(limit) = quota.tasks
        && used.0 + u64::from(need) > u64::from(limit)
    {
        return Some(Held::TaskQuota { used: used.0, need, limit });
    }
    let limit = quota.device_memory?;
    let (used, need) = (used.1, Bytes(entry.queued.job.spec.memory.0.saturating_mul(need.into())));
    (used + need > limit).then_some(Held::MemoryQuota { used, need, limit })
}
