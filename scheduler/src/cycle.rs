//! The pipeline: queue → filter → score → plan → commit → dispatch.
//!
//! in → the fold, live nodes, the queues' terms, the time · out → placements to commit, and why the others wait ·
//! invariant: everything between the snapshot and the commit is `nightshift-placement`'s: pure. What a [`Cycle`] keeps is
//! soft: a leader that starts without it places as well, but looks at more.

use crate::displace::{self, Displaced, Nominations};
use crate::nodes::Nodes;
use nightshift_placement::queue::{Held, Order, Queue, QueuedJob, Refusal, Tenant};
use nightshift_placement::{
    AdmittedReason, Batch, Plan, ReasonKind, Request, WaitingJob, WaitingTask, Weights, WhyNot,
};
use nightshift_state::{Job, Placement, State, TaskState};
use nightshift_types::{Bytes, JobId, Milliseconds, PicoPoints, StopPolicy, TaskId, TenantQueue, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Tasks looked at in one cycle; the next cycle follows if there are more. So many that those which no node takes do not hide
/// those behind them: a look at what was refused before in the same plan costs next to nothing.
pub const MAX_REQUESTS: usize = 1 << 16;

/// What one cycle decided.
#[derive(Default)]
pub struct Decided {
    /// To be committed.
    pub placements: Vec<Placement>,
    /// Jobs of which at least one task was placed or refused, and the refusal if there was one.
    pub verdicts: BTreeMap<JobId, Option<WhyNot>>,
    /// What makes way for those that found no place.
    pub displaced: Vec<Displaced>,
    /// What was looked at, and why the other jobs were not.
    pub order: Arc<Order>,
}

/// What could make a refused task fit, counted: a number that rose since means look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct News {
    /// Changes of nodes: joined, another ask or policy.
    nodes: u64,
    /// Passing ones: available again, another model.
    passing: u64,
    /// Attempts that ended, as far as this leader placed them or found them running.
    ended: u64,
    /// Changes of queues' terms.
    terms: u64,
}

/// A job's last looks that found no node.
#[derive(Debug, Clone)]
struct Refused {
    count: u32,
    at: Timestamp,
    /// What was true then.
    news: News,
    /// Capacity would help.
    capacity: bool,
    /// What passes by itself may help: capacity, a warm model, another reputation. Anything that ends is news.
    passes: bool,
    /// What its queue could spend then; `None`: any amount.
    left: Option<PicoPoints>,
    /// Of the spec that was refused; another one is another question.
    generation: i64,
}

/// What is kept from one cycle to the next.
#[derive(Debug, Default)]
pub struct Cycle {
    queue: Queue,
    refused: HashMap<JobId, Refused>,
    /// Attempts that were running at the last cycle or placed since.
    placed: u64,
    ended: u64,
    nominations: Nominations,
    /// The queues' terms of the last cycle, and how often they changed.
    terms: (Arc<BTreeMap<String, TenantQueue>>, u64),
}

impl Cycle {
    /// One cycle's decisions.
    pub fn decide(
        &mut self,
        state: &State,
        nodes: &Nodes,
        queues: &Arc<BTreeMap<String, TenantQueue>>,
        now: Timestamp,
        lease: Milliseconds,
    ) -> Decided {
        let running = state.unfinished().map(|job| u64::from(job.running)).sum();
        self.ended += self.placed.saturating_sub(running);
        self.placed = running;
        if !Arc::ptr_eq(&self.terms.0, queues) {
            self.terms = (queues.clone(), self.terms.1 + 1);
        }
        let (lasting, passing) = (nodes.changes(), nodes.passing_changes());
        let news = News { nodes: lasting, passing, ended: self.ended, terms: self.terms.1 };
        let mut purses = Purses::new(state, now);
        self.nominations.expire(now);
        let tenants = tenants(state, queues, now);
        let jobs: Vec<QueuedJob> = state.unfinished().map(|job| self.queued(job, news, &mut purses, now)).collect();
        let mut order = self.queue.next(&tenants, &jobs, now, MAX_REQUESTS);
        within_their_means(&mut purses, &mut order.requests);
        if order.requests.is_empty() {
            return Decided { order: Arc::new(order), ..Decided::default() };
        }
        nodes.estimates().prepare(&mut order.requests, now);
        let snapshot = nodes.snapshot(state, now, lease);
        let before = displace::possible(state, &order.requests).then(|| snapshot.clone());
        let plan = nodes.pool().plan_order(snapshot, &order, &Weights::default(), &Batch::default());
        nodes.estimates().promise(&plan, &order.requests);
        let nominations = &mut self.nominations;
        let displaced = before
            .map(|before| displace::for_refused(state, nodes, &tenants, (before, &plan), &order.requests, nominations));
        let mut decided = decided(plan, order);
        decided.displaced = displaced.unwrap_or_default();
        self.remember(&decided, state, news, &mut purses);
        decided
    }

    /// Those of the decided placements that were taken are on their nodes now; what the declined had is free for others.
    pub fn committed(&mut self, order: &Order, placed: impl Fn(&TaskId) -> bool, declined: usize) {
        self.ended += declined as u64;
        self.placed += order.requests.iter().filter(|request| placed(&request.task)).count() as u64;
        self.queue.placed(order, placed);
    }

    /// No more of its tasks than may start: a batch of thousands costs a cycle no more than one of tens.
    fn queued(&self, job: &Job, news: News, purses: &mut Purses<'_>, now: Timestamp) -> QueuedJob {
        let refusal = self.refused.get(&job.id).filter(|refused| refused.generation == job.spec.generation);
        // A refused one shows one task, another each time; the first few are enough to choose from.
        let most = job.spec.parallelism.saturating_sub(job.running).max(1) as usize;
        let waiting = job.tasks.iter().enumerate().filter_map(|(index, task)| match task.state {
            TaskState::Waiting { not_before } if not_before <= now => {
                Some(WaitingTask { index: index as u32, not_before, avoid: task.avoid.clone() })
            }
            _ => None,
        });
        QueuedJob {
            job: WaitingJob {
                id: job.id.clone(),
                spec: job.spec.clone(),
                submitted: job.admitted_at,
                running: job.running,
                committed: job.cost + job.reserved,
                waiting: waiting.take(most).collect(),
            },
            unfinished: job.running + job.waiting(),
            active_since: job.active_since,
            pending_since: job.pending_since,
            refusal: refusal.map(|refused| Refusal {
                count: refused.count,
                at: refused.at,
                changed: refused.helped_by(news, purses.left(&job.spec.queue)),
                capacity: refused.capacity,
            }),
            nominated: self.nominations.of(&job.id),
        }
    }

    fn remember(&mut self, decided: &Decided, state: &State, news: News, purses: &mut Purses<'_>) {
        // One that got some of its tasks a place was not refused, though others wait.
        let placed: HashSet<&JobId> = decided.placements.iter().map(|placement| &placement.task.job).collect();
        for (id, verdict) in &decided.verdicts {
            let verdict = verdict.as_ref().filter(|_| !placed.contains(id));
            let (Some(why), Some(job)) = (verdict, state.job(id)) else {
                self.refused.remove(id);
                continue;
            };
            let count = self.refused.get(id).map_or(0, |refused| refused.count);
            let capacity = why.admitted_reason() == AdmittedReason::WaitingForCapacity;
            let soft = [ReasonKind::Reputation, ReasonKind::TooSlow];
            let passes = capacity || why.counts.iter().any(|count| soft.contains(&count.kind));
            let (left, generation) = (purses.left(&job.spec.queue), job.spec.generation);
            let count = count.saturating_add(1);
            let refused = Refused { count, at: purses.now, news, capacity, passes, left, generation };
            self.refused.insert(id.clone(), refused);
        }
        if self.refused.len() > 2 * state.unfinished_count() {
            self.refused.retain(|id, _| state.job(id).is_some_and(|job| job.result.is_none()));
        }
    }
}

impl Refused {
    fn helped_by(&self, news: News, left: Option<PicoPoints>) -> bool {
        let richer = self.left.is_some_and(|before| left.is_none_or(|left| left > before));
        richer
            || (news.nodes, news.terms) != (self.news.nodes, self.news.terms)
            || (self.passes && (news.ended, news.passing) != (self.news.ended, self.news.passing))
    }
}

/// Every queue that has terms or a job, with what it uses now.
fn tenants(state: &State, queues: &BTreeMap<String, TenantQueue>, now: Timestamp) -> BTreeMap<String, Tenant> {
    let new = |name: &str| {
        // Its hold, quotas and price went with its object: nothing starts until it is there again.
        let gone = || TenantQueue { stop: StopPolicy::Hold, ..TenantQueue::default() };
        let queue = queues.get(name).cloned().unwrap_or_else(gone);
        Tenant { queue, usage: state.usage(name, now), ..Tenant::default() }
    };
    let mut tenants: BTreeMap<String, Tenant> = BTreeMap::new();
    for job in state.unfinished() {
        let name = job.spec.queue.as_str();
        if !tenants.contains_key(name) {
            tenants.insert(name.to_owned(), new(name));
        }
    }
    for running in state.running() {
        let job = state.job(&running.attempt.task.job);
        if let Some(tenant) = job.and_then(|job| tenants.get_mut(job.spec.queue.as_str())) {
            tenant.running += 1;
            // What it was given when it was placed; the spec's memory may have changed since.
            tenant.memory = Bytes(tenant.memory.0.saturating_add(running.memory.0));
        }
    }
    tenants
}

/// What each queue can spend at this moment, looked up once.
struct Purses<'s> {
    state: &'s State,
    now: Timestamp,
    known: HashMap<String, Option<PicoPoints>>,
}

impl<'s> Purses<'s> {
    fn new(state: &'s State, now: Timestamp) -> Self {
        Self { state, now, known: HashMap::new() }
    }

    /// `None`: any amount.
    fn left(&mut self, queue: &str) -> Option<PicoPoints> {
        if let Some(left) = self.known.get(queue) {
            return *left;
        }
        let left = self.state.spendable(queue, self.now);
        self.known.insert(queue.to_owned(), left);
        left
    }
}

/// No task is planned at a quote that its queue cannot pay. Several of one queue may be too much together: the core
/// declines those, and the next cycle knows what is left.
fn within_their_means(purses: &mut Purses<'_>, requests: &mut [Request]) {
    for request in requests {
        let left = [request.budget_left, request.spec.max_cost, purses.left(&request.spec.queue)];
        request.budget_left = left.into_iter().flatten().min();
    }
}

fn decided(plan: Plan, order: Order) -> Decided {
    let mut decided = Decided { order: Arc::new(order), ..Decided::default() };
    for placed in plan.placements {
        decided.verdicts.entry(placed.task.job.clone()).or_insert(None);
        let (task, node, device) = (placed.task, placed.node, placed.device);
        decided.placements.push(Placement { task, node, device, memory: placed.memory, quote: placed.quote });
    }
    for (task, why) in plan.refused {
        decided.verdicts.entry(task.job).or_insert(None).get_or_insert(why);
    }
    decided
}

/// Whether a person should read it in the job's conditions; the others pass by themselves, or stand there already.
pub fn worth_saying(held: &Held) -> bool {
    use Held::{KeptFor, MemoryQuota, QueueStopped, TaskQuota};
    matches!(held, QueueStopped(_) | TaskQuota { .. } | MemoryQuota { .. } | KeptFor(_))
}
