//! In: one node and one task → out: the node's devices that fit ([`Feasible`]), or the first [`Reason`] why none does.
//! Invariant: the filters run in one fixed order, that of [`ReasonKind`]; a device's reason is its first failing filter,
//! and a node's reason is that of the device which came furthest.
//!
//! [`filter`] is the whole pipeline. [`failures`] runs the same filters without stopping, to tell what one change would
//! bring; it is the slow path, for refused tasks alone.

mod device;
mod money;
mod reason;
mod rules;
mod state;
mod time;

pub use reason::{Class, Reason, ReasonKind};
pub(crate) use rules::{untolerated_hard, untolerated_soft};

use crate::estimate::ModelEstimate;
use crate::view::{DeviceView, MAX_DEVICES, NodeView, Request};
use nightshift_types::{Bytes, JobSpec, NodeId, PicoPoints};

/// A request as the filters read it: what is the same for every node is worked out once.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The job's intent.
    pub spec: &'a JobSpec,
    /// Bytes of this task's input.
    pub input: Bytes,
    /// Nodes taken only if no other fits.
    pub avoid: &'a [NodeId],
    /// What this task may cost at most; `None`: anything.
    pub budget: Option<PicoPoints>,
    /// What is known of its model.
    pub estimate: ModelEstimate,
}

impl<'a> Ask<'a> {
    /// `spent` is what the job was quoted since the request was made.
    pub fn new(request: &'a Request, spent: PicoPoints) -> Self {
        let spec = &*request.spec;
        let input = spec.inputs.get(request.task.index as usize).map_or(Bytes(0), |input| input.size);
        let budget = request.budget_left.or(spec.max_cost).map(|left| (left - spent).max(PicoPoints::ZERO));
        Self { spec, input, avoid: &request.avoid, budget, estimate: request.estimate }
    }
}

impl<'a> From<&'a Request> for Ask<'a> {
    fn from(request: &'a Request) -> Self {
        Self::new(request, PicoPoints::ZERO)
    }
}

/// Some of a node's devices, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceSet(u64);

impl DeviceSet {
    /// Adds the device at `position`, which is below [`MAX_DEVICES`].
    pub fn insert(&mut self, position: usize) {
        self.0 |= 1 << position;
    }
    /// None in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Positions, rising.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let position = (left != 0).then(|| left.trailing_zeros() as usize);
            left &= left.wrapping_sub(1);
            position
        })
    }
}

/// A node that qualifies.
#[derive(Debug, Clone, Copy)]
pub struct Feasible<'a> {
    /// The node.
    pub node: &'a NodeView,
    /// Its devices that do; at least one.
    pub devices: DeviceSet,
}

/// The pipeline, in the order of [`ReasonKind`].
pub fn filter<'a>(node: &'a NodeView, ask: &Ask<'_>) -> Result<Feasible<'a>, Reason> {
    if let Some(reason) = node_filters(node, ask).next() {
        return Err(reason);
    }
    let mut devices = DeviceSet::default();
    let mut furthest = Reason::DeviceClass;
    for (position, device) in node.devices.iter().enumerate().take(MAX_DEVICES) {
        match device_filters(node, device, ask).next() {
            None => devices.insert(position),
            Some(reason) => furthest = furthest.nearer(reason),
        }
    }
    if devices.is_empty() { Err(furthest) } else { Ok(Feasible { node, devices }) }
}

type NodeFilter = fn(&NodeView, &Ask<'_>) -> Option<Reason>;
type DeviceFilter = fn(&NodeView, &DeviceView, &Ask<'_>) -> Option<Reason>;

/// What is asked of the node as a whole; lazy, so that the first failure ends the work.
fn node_filters<'a>(node: &'a NodeView, ask: &'a Ask<'_>) -> impl Iterator<Item = Reason> + use<'a> {
    const ORDER: [NodeFilter; 9] = [
        state::unschedulable,
        state::not_ready,
        state::unavailable,
        rules::trust_tier,
        rules::reputation,
        device::any_of_class,
        rules::node_selector,
        rules::taints,
        rules::region,
    ];
    ORDER.into_iter().filter_map(move |check| check(node, ask))
}

/// What is asked of each device.
fn device_filters<'a>(
    node: &'a NodeView,
    device: &'a DeviceView,
    ask: &'a Ask<'_>,
) -> impl Iterator<Item = Reason> + use<'a> {
    const ORDER: [DeviceFilter; 7] = [
        device::class,
        device::memory_total,
        device::memory_free,
        device::slots,
        money::price,
        money::cost,
        time::latency,
    ];
    ORDER.into_iter().filter_map(move |check| check(node, device, ask))
}

/// Every filter that `device` of `node` fails, in order; without a device, what the node itself fails.
pub fn failures(node: &NodeView, device: Option<&DeviceView>, ask: &Ask<'_>) -> Vec<Reason> {
    let mut all: Vec<Reason> = node_filters(node, ask).collect();
    if let Some(device) = device {
        all.extend(device_filters(node, device, ask));
        all.sort_by_key(|reason| reason.kind());
        all.dedup_by_key(|reason| reason.kind());
    }
    all
}
