//! In: refusals, with what was looked at → out: the same ones, where nothing changed since.
//! Invariant: a remembered refusal is the one another look would give.
//!
//! So a batch of thousands before a full pool costs one look, and thousands of jobs that want the same cost one a plan: in a
//! plan nothing is given back but what it took itself, so that what was refused once is refused to its end.

use super::keep::Keep;
use crate::estimate::ModelEstimate;
use crate::filter::Ask;
use crate::view::Request;
use crate::why::WhyNot;
use nightshift_types::{Bytes, JobId, JobSpec, NodeId, PicoPoints, TaskId};
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What a refusal is about: the nodes as tasks took from them, and what is kept of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'k> {
    pub version: u64,
    pub kept: &'k [Keep],
}

/// Each job's last refusal, and each gang's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals {
    single: BTreeMap<JobId, Refusal>,
    gangs: BTreeMap<JobId, GangRefusal>,
    /// Of this plan, whoever wanted it.
    demands: HashMap<Demand, WhyNot>,
}

/// All of a request that the filters read.
#[derive(Debug, Clone)]
struct Demand {
    spec: Arc<JobSpec>,
    input: Bytes,
    budget: Option<PicoPoints>,
    estimate: ModelEstimate,
}

impl Demand {
    fn new(request: &Request, ask: &Ask<'_>) -> Self {
        let Ask { input, budget, estimate, .. } = *ask;
        Self { spec: Arc::clone(&request.spec), input, budget, estimate }
    }
}

impl PartialEq for Demand {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.spec, &*other.spec);
        let amounts = |spec: &JobSpec| (spec.memory, spec.reference, spec.model_digest, spec.model_size);
        let limits = |spec: &JobSpec| (spec.max_latency, spec.max_price_per_hour, spec.max_cost);
        let trust = |spec: &JobSpec| (spec.min_trust_tier, spec.min_reputation);
        (self.input, self.budget, self.estimate) == (other.input, other.budget, other.estimate)
            && (Arc::ptr_eq(&self.spec, &other.spec)
                || (amounts(a) == amounts(b)
                    && limits(a) == limits(b)
                    && trust(a) == trust(b)
                    && (&a.device_classes, &a.regions) == (&b.device_classes, &b.regions)
                    && (&a.node_selector, &a.tolerations) == (&b.node_selector, &b.tolerations)))
    }
}

impl Eq for Demand {}

impl Hash for Demand {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.spec.memory, self.spec.reference, self.spec.model_digest, self.input, self.budget).hash(hasher);
    }
}

#[derive(Debug, Clone)]
struct Refusal {
    spec: Arc<JobSpec>,
    input: Bytes,
    budget: Option<PicoPoints>,
    estimate: ModelEstimate,
    version: u64,
    kept: Vec<Keep>,
    why: WhyNot,
}

#[derive(Debug, Clone)]
struct GangRefusal {
    spec: Arc<JobSpec>,
    estimate: ModelEstimate,
    need: usize,
    /// Task, budget left and nodes to avoid.
    members: Vec<(TaskId, Option<PicoPoints>, Vec<NodeId>)>,
    version: u64,
    kept: Vec<Keep>,
    why: WhyNot,
}

fn members<'r>(requests: impl Iterator<Item = &'r Request>) -> Vec<(TaskId, Option<PicoPoints>, Vec<NodeId>)> {
    requests.map(|request| (request.task.clone(), request.budget_left, request.avoid.clone())).collect()
}

impl Refusals {
    /// A plan begins.
    pub fn begin(&mut self) {
        self.demands.clear();
    }

    /// What was said in this plan of a request that wants the same.
    pub fn alike(&self, request: &Request, ask: &Ask<'_>) -> Option<WhyNot> {
        self.demands.get(&Demand::new(request, ask)).cloned()
    }

    /// Of a request by itself: not of one of a gang, which may give back what it took.
    pub fn remember_alike(&mut self, request: &Request, ask: &Ask<'_>, why: &WhyNot) {
        self.demands.insert(Demand::new(request, ask), why.clone());
    }

    pub fn of(&self, request: &Request, ask: &Ask<'_>, seen: Seen<'_>) -> Option<WhyNot> {
        let last = self.single.get(&request.task.job)?;
        let demands = (last.input, last.budget, last.estimate) == (ask.input, ask.budget, ask.estimate);
        let same = Arc::ptr_eq(&last.spec, &request.spec) && demands;
        (same && last.version == seen.version && last.kept == seen.kept).then(|| last.why.clone())
    }

    pub fn remember(&mut self, request: &Request, ask: &Ask<'_>, seen: Seen<'_>, why: &WhyNot) {
        let (spec, kept, why) = (Arc::clone(&request.spec), seen.kept.to_vec(), why.clone());
        let Ask { input, budget, estimate, .. } = *ask;
        let refusal = Refusal { spec, input, budget, estimate, version: seen.version, kept, why };
        self.single.insert(request.task.job.clone(), refusal);
    }

    pub fn of_gang<'r>(
        &self,
        first: &Request,
        need: usize,
        all: impl Iterator<Item = &'r Request>,
        seen: Seen<'_>,
    ) -> Option<WhyNot> {
        let last = self.gangs.get(&first.task.job)?;
        let demands = (last.estimate, last.need) == (first.estimate, need) && last.members == members(all);
        let same = Arc::ptr_eq(&last.spec, &first.spec) && demands;
        (same && last.version == seen.version && last.kept == seen.kept).then(|| last.why.clone())
    }

    pub fn remember_gang<'r>(
        &mut self,
        first: &Request,
        need: usize,
        all: impl Iterator<Item = &'r Request>,
        seen: Seen<'_>,
        why: &WhyNot,
    ) {
        let (spec, kept, why) = (Arc::clone(&first.spec), seen.kept.to_vec(), why.clone());
        let (estimate, members) = (first.estimate, members(all));
        let refusal = GangRefusal { spec, estimate, need, members, version: seen.version, kept, why };
        self.gangs.insert(first.task.job.clone(), refusal);
    }

    /// What was refused while a gang was tried that did not start: the versions it was about will be others'.
    pub fn forget(&mut self, job: &JobId) {
        self.single.remove(job);
    }

    /// Forgets all but those of some version.
    pub fn keep(&mut self, version: u64) {
        self.single.retain(|_, refusal| refusal.version == version);
        self.gangs.retain(|_, refusal| refusal.version == version);
    }
}
