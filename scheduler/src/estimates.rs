//! Runs that were predicted and what they took → better predictions. Soft state: costs the journal nothing.
//!
//! in → plans, dispatches, accepted results · out → corrections of the placement's view, and how good predictions were ·
//! invariant: of bounded size, and a look-up or two for each run; a run counts from its first dispatch to its accepted
//! result, by our clock. Failed, lost and cancelled attempts count for nothing, and no price depends on any of this.
//!
//! After a restart or a takeover the prior stands: the journal knows neither what was predicted nor on which device a
//! result was made. A percentile of its own takes a model 19 runs, a correction three to eight on each device.

use nightshift_placement::estimate::{Claims, Expectation, NodeEstimate, Observation, Verdict};
use nightshift_placement::latency::{ASSUMED_LINK_BANDWIDTH, ASSUMED_LOAD_BANDWIDTH};
use nightshift_placement::{Correction, Estimator, ModelEstimate, NodeView, Placed, Plan, Request};
use nightshift_state::{Success, Timings};
use nightshift_types::{AttemptId, Digest, JobId, Milliseconds, NodeId, TaskId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Predictions kept of runs that have not ended; of more the oldest are forgotten, and their runs tell nothing.
const MAX_PROMISES: usize = 65_536;

/// A run's prediction, until it ends.
#[derive(Debug)]
struct Promise {
    number: u64,
    model: Digest,
    node: NodeId,
    device: String,
    expected: Expectation,
    dispatched: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Inner {
    estimator: Estimator,
    promises: BTreeMap<TaskId, Promise>,
    /// By age; what was replaced or has ended is passed over.
    order: VecDeque<(u64, TaskId)>,
    numbers: u64,
}

/// What is known from runs.
#[derive(Debug, Default)]
pub struct Estimates(Mutex<Inner>);

/// What is known just now, for many look-ups.
pub struct Known<'a>(MutexGuard<'a, Inner>);

impl Estimates {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds it shortly: results wait.
    pub fn known(&self) -> Known<'_> {
        Known(self.lock())
    }

    /// Before a plan: what is known of each request's model; what was not seen for long is forgotten.
    pub fn prepare(&self, requests: &mut [Request], now: Timestamp) {
        let mut inner = self.lock();
        inner.estimator.forget(now);
        for request in requests {
            request.estimate = inner.estimator.model(&request.spec.model_digest);
        }
    }

    /// After a plan: what it promises is remembered. Of what the core declines nothing comes.
    pub fn promise(&self, plan: &Plan, requests: &[Request]) {
        if plan.placements.is_empty() {
            return;
        }
        let models: BTreeMap<&JobId, Digest> =
            requests.iter().map(|request| (&request.task.job, request.spec.model_digest)).collect();
        let mut inner = self.lock();
        for placed in &plan.placements {
            if let Some(&model) = models.get(&placed.task.job) {
                inner.remember(placed, model);
            }
        }
        inner.forget();
    }

    /// The assignment went down the session; only the first time counts.
    pub fn dispatched(&self, attempt: &AttemptId, node: &NodeId, now: Timestamp) {
        if let Some(promise) = self.lock().promises.get_mut(&attempt.task).filter(|promise| promise.node == *node) {
            promise.dispatched.get_or_insert(now);
        }
    }

    /// A result was accepted; how its prediction did, if there was one.
    pub fn succeeded(&self, success: &Success, owner: &str) -> Option<Verdict> {
        let mut inner = self.lock();
        let promise = inner.promises.remove(&success.attempt.task).filter(|promise| promise.node == success.node)?;
        let since = promise.dispatched?.max(success.placed_at);
        let total = success.finished_at.since(since).0.saturating_mul(1_000_000);
        Some(inner.estimator.observe(&Observation {
            model: promise.model,
            node: &promise.node,
            owner,
            device: &promise.device,
            expected: &promise.expected,
            claims: claims(&success.timings),
            total,
            now: success.finished_at,
        }))
    }

    /// What is known of a model, and of how many runs and devices.
    pub fn model(&self, model: &Digest) -> (ModelEstimate, usize, usize) {
        let inner = self.lock();
        let (runs, devices) = inner.estimator.evidence(model);
        (inner.estimator.model(model), runs, devices)
    }

    /// What is known of a node beside its devices.
    pub fn node(&self, node: &NodeId) -> NodeEstimate {
        self.lock().estimator.node(node)
    }

    /// What a device takes as a factor of what its benchmark says.
    pub fn device(&self, node: &NodeId, device: &str) -> Correction {
        self.lock().estimator.device(node, device)
    }
}

impl Inner {
    fn remember(&mut self, placed: &Placed, model: Digest) {
        let expected = self.estimator.expect(&model, &placed.node, &placed.device, placed.predicted);
        let (node, device) = (placed.node.clone(), placed.device.clone());
        self.numbers += 1;
        let number = self.numbers;
        let promise = Promise { number, model, node, device, expected, dispatched: None };
        self.order.push_back((number, placed.task.clone()));
        self.promises.insert(placed.task.clone(), promise);
    }

    /// Keeps within bounds; each entry is passed over once.
    fn forget(&mut self) {
        let Self { promises, order, .. } = self;
        if order.len() > 2 * MAX_PROMISES {
            order.retain(|(number, task)| promises.get(task).is_some_and(|promise| promise.number == *number));
        }
        while promises.len() > MAX_PROMISES
            && let Some((number, task)) = order.pop_front()
        {
            if promises.get(&task).is_some_and(|promise| promise.number == number) {
                promises.remove(&task);
            }
        }
    }
}

impl Known<'_> {
    /// Milliseconds of a device's own time that a run on `node` takes; `None`: it was not predicted here.
    pub fn busy_ms(&self, task: &TaskId, node: &NodeId) -> Option<u64> {
        let promise = self.0.promises.get(task).filter(|promise| promise.node == *node)?;
        Some(promise.expected.predicted.service.div_ceil(1_000_000))
    }

    /// From its placement to its result, all in all; `None`: it was not predicted here.
    pub fn expected(&self, task: &TaskId, node: &NodeId) -> Option<Milliseconds> {
        let promise = self.0.promises.get(task).filter(|promise| promise.node == *node)?;
        Some(Milliseconds(promise.expected.predicted.expected().div_ceil(1_000_000)))
    }

    /// Puts what is known of a node and its devices on top of what was measured of it.
    pub fn correct(&self, view: &mut NodeView) {
        let known = self.0.estimator.node(&view.id);
        view.round_trip.0 = view.round_trip.0.saturating_add(known.handling.0);
        let measured = |rate: u64, assumed: u64| if rate > 0 { rate } else { assumed };
        if known.link != Correction::NONE {
            let rate = measured(view.link_bandwidth.unwrap_or(0), ASSUMED_LINK_BANDWIDTH);
            view.link_bandwidth = Some(known.link.rate(rate));
        }
        if known.load != Correction::NONE {
            view.measured.load_bandwidth =
                known.load.rate(measured(view.measured.load_bandwidth, ASSUMED_LOAD_BANDWIDTH));
        }
        for device in &mut view.devices {
            device.correction = self.0.estimator.device(&view.id, &device.name);
        }
    }
}

/// Nanoseconds.
fn claims(timings: &Timings) -> Claims {
    let nanos = |micros: u64| micros.saturating_mul(1_000);
    Claims {
        wait: nanos(timings.queue_us),
        transfer: nanos(timings.fetch_us),
        load: nanos(timings.load_us),
        service: nanos(timings.compute_us.saturating_add(timings.codec_us)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_placement::{DeviceView, Prediction};
    use nightshift_state::{OutputBody, OutputRef};
    use nightshift_types::{Bytes, CellId, PicoPoints};

    const MS: u64 = 1_000_000;
    const MODEL: Digest = Digest([7; 32]);

    fn task(index: u32) -> TaskId {
        TaskId { job: JobId::new("j").unwrap(), index }
    }

    fn node() -> NodeId {
        NodeId::new("n").unwrap()
    }

    fn attempt(index: u32) -> AttemptId {
        AttemptId { cell: CellId::new("cell").unwrap(), task: task(index), number: 1 }
    }

    /// A second of service, and nothing else.
    fn placed(index: u32) -> Placed {
        let predicted = Prediction { service: 1_000 * MS, ..Prediction::default() };
        let (memory, quote) = (Bytes(0), PicoPoints::ZERO);
        Placed { task: task(index), node: node(), device: "cpu0".into(), memory, quote, predicted, evict: Vec::new() }
    }

    fn success(index: u32, placed: u64, finished: u64) -> Success {
        Success {
            attempt: attempt(index),
            node: node(),
            output: OutputRef { body: OutputBody::Inline(Vec::new()), content_type: String::new() },
            cost: PicoPoints::ZERO,
            timings: Timings::default(),
            placed_at: Timestamp(placed),
            finished_at: Timestamp(finished),
        }
    }

    #[test]
    fn a_run_counts_from_its_first_dispatch() {
        let known = Estimates::default();
        known.lock().remember(&placed(0), MODEL);
        assert_eq!(known.known().busy_ms(&task(0), &node()), Some(1_000));
        for (node, at) in [("other", 1), ("n", 500), ("n", 900)] {
            known.dispatched(&attempt(0), &NodeId::new(node).unwrap(), Timestamp(at));
        }
        let verdict = known.succeeded(&success(0, 100, 1_700), "o").unwrap();
        assert_eq!((verdict.took, verdict.p95, verdict.within), (1_200 * MS, 1_500 * MS, true));
        assert_eq!(known.succeeded(&success(0, 100, 1_700), "o"), None, "once");
        assert_eq!(known.model(&MODEL).1, 1);
        known.lock().remember(&placed(1), MODEL);
        assert_eq!(known.succeeded(&success(1, 0, 9), "o"), None, "it was never sent");
    }

    #[test]
    fn promises_are_bounded() {
        let mut inner = Inner::default();
        for round in 0..3 {
            for index in 0..MAX_PROMISES as u32 {
                inner.remember(&placed(index + round), MODEL);
                inner.forget();
            }
        }
        assert!(inner.promises.len() <= MAX_PROMISES && inner.order.len() <= 2 * MAX_PROMISES);
    }

    #[test]
    fn what_is_known_is_put_on_top_of_what_was_measured() {
        let known = Estimates::default();
        let mut view = NodeView::new(node());
        view.devices.push(DeviceView { name: "cpu0".into(), ..DeviceView::default() });
        let before = view.clone();
        known.known().correct(&mut view);
        assert_eq!(view, before);
        // Loading takes longer and longer than is said; it is the longest part of these runs.
        for index in 0..40 {
            let mut cold = placed(index);
            cold.predicted = Prediction { load: 5_000 * MS, service: 1_000 * MS, ..Prediction::default() };
            known.lock().remember(&cold, MODEL);
            known.dispatched(&attempt(index), &node(), Timestamp(0));
            assert!(known.succeeded(&success(index, 0, 16_000), "o").is_some());
        }
        known.known().correct(&mut view);
        assert!(view.measured.load_bandwidth < ASSUMED_LOAD_BANDWIDTH / 2, "{view:?}");
        assert_eq!((view.link_bandwidth, view.devices[0].correction), (None, Correction::NONE));
    }
}
