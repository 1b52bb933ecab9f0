//! In: queues with what they may and what they used, the jobs that run or wait → out: an [`Order`]: the next tasks, as
//! requests in the order they are placed in, and for every other waiting job why it is [`Held`].
//! Invariant: integers only; the same arguments and the same [`Queue`] give the same order; no queue, job or task
//! starves.
//!
//! ```text
//! tier      Paid, then Free          of FREE_TURN placements in a row one is for a Free queue that waited AGEING
//!  └ queue  least virtual start      weighted fair shares (fair.rs)
//!     └ job priority, urgency, fewest running, first come (line.rs)
//!                                    of AGEING_TURN placements in a row one is for the job that waited longest
//!        └ task  lowest index; a gang together (entry.rs)
//! ```
//!
//! **Shares.** Between queues of a tier: start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing",
//! SIGCOMM 1996), which is stride scheduling (Waldspurger, Weihl: MIT/LCS/TM-528, 1995) with a virtual time. A
//! placement is charged its reference time ÷ weight. While two queues both have tasks that can be placed, in **every**
//! window `|Wᵢ/wᵢ − Wⱼ/wⱼ| ≤ (Lᵢ + CREDIT)/wᵢ + (Lⱼ + CREDIT)/wⱼ`, where W is the reference time placed in it and L the
//! largest charge (a task's reference time; of a gang that of all its tasks). So each of n backlogged queues has its
//! share within 5 % of itself in every window of at least `20 × (L + CREDIT) × (Σw/w_min + n)` of reference time placed
//! ([`window`]). A queue that was idle starts at the virtual time of the others, at most [`CREDIT`] of reference time
//! ahead, and only as far as it used less than its share lately ([`decayed`](nightshift_types::queue::decayed) usage).
//! One that had the pool to itself owes nothing for it.
//!
//! **What is counted** is reference time, not memory held: it is what a task is priced by, it does not depend on which
//! nodes happen to be there, and memory of one device is no use to a task on another. Dominant shares (Ghodsi et al.:
//! NSDI 2011) need one pool of each resource; here a quota bounds a queue's memory instead.
//!
//! **Ageing**, inside a queue. A job waits since its first ready task became ready, or since one of its tasks was last
//! placed. After [`AGEING`] it is overdue, unless its last look found that no node
//! could take it whatever is free ([`Refusal::capacity`]): nothing is kept for what waiting does not help, until something
//! changed and it was not looked at for [`AGEING`]. While it may start and is not held:
//! * of its own or a lower priority nothing that began to wait later is looked at before it;
//! * of a higher priority at most `(AGEING_TURN − 1) × (older overdue jobs + 1)` tasks are, counting over cycles what
//!   was placed.
//!
//! Overdue counts inside a queue only, so that shares hold also when everything is overdue. Between queues of a tier
//! the shares are the bound; from Paid to Free it is [`FREE_TURN`] × (Free queues that wait longer + 1) placements:
//! while Paid queues take everything, Free ones have turns, not shares. The job that waited longest in each queue is
//! marked [`Request::overdue`]: the planner keeps what it needs from those behind it (a reservation as in EASY
//! backfilling, Lifka 1995). One for each queue, so that reservations cannot take the pool.
//!
//! **Nominated** tasks ([`QueuedJob::nominated`]) stand before all others, if their quotas have room: what makes way for
//! them was stopped, and would be for nothing if another took the place (kube-scheduler's `nominatedNodeName`). They are
//! charged like others, and are no more than what was displaced for them.
//!
//! **Back-off**, as kube-scheduler's queue has it: a job refused before is looked at with one task (or gang), the next
//! one each time; if nothing changed that could help, only after a gap that doubles up to [`BACK_OFF_MOST`].

mod arbiter;
mod check;
mod entry;
mod fair;
mod held;
mod job;
mod line;
mod price;
mod why;

pub use arbiter::Arbiter;
pub use check::OrderError;
pub use fair::{CREDIT, window};
pub use held::Held;
pub use job::{QueuedJob, Refusal, WaitingJob, WaitingTask};

pub use why::{Rank, Turn, Why};

use crate::estimate::ModelEstimate;
use crate::view::Request;
use entry::Intake;
use fair::{Fair, Share};
use line::{Line, Pick};
use nightshift_types::{Bytes, JobId, JobSpec, Milliseconds, QueueTier, TaskId, TenantQueue, Timestamp};
use price::Lowered;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// After so long without a placement a ready job, or a Free queue, is overdue.
pub const AGEING: Milliseconds = Milliseconds(60_000);
/// Of so many tasks of one queue placed in a row at least one is the longest overdue, if any is.
pub const AGEING_TURN: u32 = 4;
/// Of so many tasks placed in a row at least one is of a Free queue, if one is overdue.
pub const FREE_TURN: u32 = 10;
/// A deadline counts when no more slack than this is left.
pub const DEADLINE_NEAR: Milliseconds = Milliseconds(60_000);
/// First gap after a refusal; it doubles with each.
pub const BACK_OFF_LEAST: Milliseconds = Milliseconds(1_000);
/// The longest: a job that nothing helps is still looked at so often.
pub const BACK_OFF_MOST: Milliseconds = Milliseconds(30_000);

/// One queue, as of now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenant {
    /// What the operator grants it.
    pub queue: TenantQueue,
    /// Decayed usage now, milliseconds of reference time: [`nightshift_types::queue::Usage::at`].
    pub usage: u64,
    /// Its tasks that hold a device.
    pub running: u32,
    /// Device memory they hold.
    pub memory: Bytes,
}

/// What is looked at next.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// In the order they should be placed in. No more than the limit, but that the last gang is whole.
    pub requests: Vec<Request>,
    /// Why each request stands where it stands.
    pub ranks: Vec<Rank>,
    /// Jobs with tasks that wait and none in `requests`, and why. In the order of the jobs.
    pub held: Vec<(JobId, Held)>,
    shares: Vec<Share>,
    /// Of its queues those of the Free tier that are overdue, longest first.
    overdue_free: Vec<usize>,
    paid_in_a_row: u32,
    now: Timestamp,
}

impl Order {
    /// Why the request at `position` stands there: in words, for `nightshift explain`.
    pub fn why(&self, position: usize) -> Option<Why<'_>> {
        Why::new(self, position)
    }

    /// Whose request is tried next, as they find their places or not.
    pub fn arbiter(&self) -> Arbiter<'_> {
        Arbiter::new(self)
    }

    /// Where a task stands in it.
    pub fn position(&self, task: &TaskId) -> Option<usize> {
        self.requests.iter().position(|request| &request.task == task)
    }
}

/// What is kept from one order to the next. Soft: a leader that starts without it begins with everyone level but for
/// usage, which is journaled.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    fair: Fair,
    lowered: Lowered,
}

impl Queue {
    /// At most `limit` tasks that may be placed at `now`, in order; the last gang is whole, if that takes it beyond. A
    /// queue that `tenants` lacks is a default one. Changes nothing that a later order depends on.
    pub fn next(
        &mut self,
        tenants: &BTreeMap<String, Tenant>,
        jobs: &[QueuedJob],
        now: Timestamp,
        limit: usize,
    ) -> Order {
        self.fair.prune(tenants, jobs, now);
        self.lowered.prune(jobs);
        let (mut lines, mut held) = self.lines(tenants, jobs, now);
        self.fair.weigh(lines.iter_mut().map(|line| &mut line.share));
        let mut order = Order { now, ..Order::default() };
        let mut turns = Turns::new(&lines, self.fair.paid_in_a_row(), now);
        order.paid_in_a_row = self.fair.paid_in_a_row();
        order.overdue_free = turns.overdue.iter().copied().collect();
        for (number, line) in lines.iter_mut().enumerate() {
            while order.requests.len() < limit
                && let Some(pick) = line.nominee(now)
            {
                line.share.charge(&pick);
                turns.took(number, &line.share, pick.tasks);
                self.emit(&mut order, line, number, &pick);
            }
        }
        while order.requests.len() < limit {
            let Some(turn) = turns.next(&lines) else { break };
            let Some(pick) = lines[turn].pick(now) else {
                turns.end(turn);
                continue;
            };
            lines[turn].share.charge(&pick);
            turns.took(turn, &lines[turn].share, pick.tasks);
            self.emit(&mut order, &lines[turn], turn, &pick);
        }
        let looked_at = order.requests.len();
        for line in &mut lines {
            line.leave(looked_at, &mut held);
        }
        order.held = jobs.iter().zip(held).filter_map(|(queued, held)| Some((queued.job.id.clone(), held?))).collect();
        order.shares = lines.into_iter().map(|line| line.share).collect();
        order
    }

    /// The requests of `order` for which `placed` is true were placed: their queues and jobs were served. Call it
    /// before the next order, with what was committed.
    pub fn placed(&mut self, order: &Order, placed: impl Fn(&TaskId) -> bool) {
        // In the turns in which they found their places: virtual time must not run ahead of a queue whose first tasks did not.
        let mut arbiter = order.arbiter();
        while let Some(position) = arbiter.turn() {
            let (request, rank) = (&order.requests[position], &order.ranks[position]);
            if placed(&request.task) {
                arbiter.placed(position);
                self.fair.placed(&order.shares[rank.share as usize], rank, request, order.now);
            }
        }
    }

    /// One line for each queue that has a job which may start, in the order of their names; why other jobs may not, by
    /// position.
    fn lines<'a>(
        &self,
        tenants: &'a BTreeMap<String, Tenant>,
        jobs: &'a [QueuedJob],
        now: Timestamp,
    ) -> (Vec<Line<'a>>, Vec<Option<Held>>) {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut lines: Vec<Line<'a>> = Vec::new();
        let mut held = vec![None; jobs.len()];
        for (position, queued) in jobs.iter().enumerate() {
            let name = queued.job.spec.queue.as_str();
            let number = *numbers.entry(name).or_insert_with(|| {
                lines.push(Line::new(name, tenants.get(name)));
                lines.len() - 1
            });
            let served = |id: &JobId| self.fair.served(id);
            match entry::intake(position, queued, lines[number].stop(), served, now) {
                Intake::Idle => {}
                Intake::Held(why) => held[position] = Some(why),
                Intake::Ready(entry) => lines[number].entries.push(entry),
            }
        }
        lines.retain(|line| !line.entries.is_empty());
        lines.sort_by(|a, b| a.share.name.cmp(&b.share.name));
        for line in &mut lines {
            line.sort(self.fair.aged(&line.share.name), now);
        }
        (lines, held)
    }

    fn emit(&mut self, order: &mut Order, line: &Line<'_>, number: usize, pick: &Pick<'_>) {
        let job = &pick.queued.job;
        let spec: Arc<JobSpec> = self.lowered.of(job, line.limit());
        let gang = if pick.gang { pick.tasks } else { 0 };
        let since = pick.since.max(self.fair.served(&job.id).unwrap_or_default());
        for (nth, &task) in pick.indices.iter().enumerate() {
            let task = &job.waiting[task];
            order.ranks.push(Rank {
                share: number as u32,
                place: line.share.handed - pick.tasks + nth as u32 + 1,
                turn: pick.turn,
                priority: job.spec.priority,
                waited: order.now.since(since),
                overdue_waits: pick.overdue_waits,
            });
            order.requests.push(Request {
                task: TaskId { job: job.id.clone(), index: task.index },
                spec: Arc::clone(&spec),
                avoid: task.avoid.clone(),
                budget_left: spec.max_cost.map(|limit| limit - job.committed),
                gang,
                overdue: pick.reserve,
                estimate: ModelEstimate::default(),
            });
        }
    }
}

/// Whose turn it is among the queues: the tiers, and in each the least virtual start.
struct Turns {
    /// Virtual start and number, by tier; an entry whose start is not its line's is out of date.
    tiers: [BinaryHeap<Reverse<(u128, usize)>>; 2],
    /// Free queues that are overdue, longest first.
    overdue: VecDeque<usize>,
    ended: Vec<bool>,
    paid_in_a_row: u32,
}

impl Turns {
    fn new(lines: &[Line<'_>], paid_in_a_row: u32, now: Timestamp) -> Self {
        let of = |tier| {
            let lines = lines.iter().enumerate().filter(|(_, line)| line.share.tier == tier);
            lines.map(|(number, line)| Reverse((line.share.start, number))).collect()
        };
        let mut overdue: Vec<_> =
            lines.iter().enumerate().filter(|(_, line)| line.share.tier == QueueTier::Free).collect();
        overdue.retain(|(_, line)| line.waits_since().is_some_and(|since| now.since(since) > AGEING));
        overdue.sort_by_key(|(number, line)| (line.waits_since(), *number));
        Self {
            tiers: [of(QueueTier::Paid), of(QueueTier::Free)],
            overdue: overdue.into_iter().map(|(number, _)| number).collect(),
            ended: vec![false; lines.len()],
            paid_in_a_row,
        }
    }

    fn next(&mut self, lines: &[Line<'_>]) -> Option<usize> {
        while self.overdue.front().is_some_and(|&number| self.ended[number] || lines[number].share.handed > 0) {
            self.overdue.pop_front();
        }
        if self.paid_in_a_row + 1 >= FREE_TURN
            && let Some(&number) = self.overdue.front()
        {
            return Some(number);
        }
        for tier in &mut self.tiers {
            while let Some(Reverse((start, number))) = tier.pop() {
                if !self.ended[number] && lines[number].share.start == start {
                    return Some(number);
                }
            }
        }
        None
    }

    fn took(&mut self, number: usize, share: &Share, tasks: u32) {
        self.tiers[fair::tier(share.tier)].push(Reverse((share.start, number)));
        self.paid_in_a_row = fair::paid_in_a_row(self.paid_in_a_row, share.tier, tasks);
    }

    /// It has nothing more to give.
    fn end(&mut self, number: usize) {
        self.ended[number] = true;
    }
}
