//! In: what the control plane knows of nodes and of one task → out: the plain values that every decision reads.
//! Invariant: a snapshot's nodes stand in the order of their ids, each once; nothing here is changed by a decision.

use crate::estimate::{Correction, ModelEstimate};
use nightshift_types::{
    Bytes, DeviceClass, Digest, JobSpec, Measured, Milliseconds, NodeId, PicoPoints, Reputation, Taint, TaskId,
    Timestamp, TrustTier,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// Devices of one node that are looked at; the API allows 16.
pub const MAX_DEVICES: usize = 64;

/// The pool at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// In the order of their ids, each id once.
    pub nodes: Vec<NodeView>,
    /// The leader's clock when the snapshot was taken.
    pub now: Timestamp,
}

impl Snapshot {
    /// Sorts the nodes by id.
    pub fn new(mut nodes: Vec<NodeView>, now: Timestamp) -> Self {
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Self { nodes, now }
    }

    /// Checks what every decision relies on.
    pub fn check_invariants(&self) -> Result<(), ViewError> {
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return Err(ViewError::Order { before: pair[0].id.clone(), after: pair[1].id.clone() });
        }
        for node in &self.nodes {
            if node.devices.len() > MAX_DEVICES {
                return Err(ViewError::Devices { node: node.id.clone(), count: node.devices.len() });
            }
            if let Some(device) = node.devices.iter().find(|device| device.free > device.total) {
                return Err(ViewError::Free { node: node.id.clone(), device: device.name.clone() });
            }
        }
        Ok(())
    }
}

/// A snapshot that no decision should be made from.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ViewError {
    /// Not sorted, or a node twice.
    #[error("node {after} stands after {before}: nodes must be in the order of their ids, each once")]
    Order {
        /// The one before.
        before: NodeId,
        /// The one that should not follow it.
        after: NodeId,
    },
    /// More devices than a decision looks at.
    #[error("node {node} has {count} devices; at most {MAX_DEVICES} are looked at")]
    Devices {
        /// The node.
        node: NodeId,
        /// How many it has.
        count: usize,
    },
    /// More free memory than there is.
    #[error("device {device} of node {node} has more free memory than memory")]
    Free {
        /// The node.
        node: NodeId,
        /// The device's name.
        device: String,
    },
}

/// Why a connected node takes no work just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unavailable {
    /// Its owner uses it.
    OwnerActive,
    /// Outside the hours its owner offers.
    OutsideWindow,
    /// It runs on battery.
    OnBattery,
    /// It is too hot.
    Hot,
    /// It is leaving: finishes what it runs, takes nothing new.
    Draining,
    /// Its breaker is open after failures, or its book of memory is out of date after a refusal.
    Parked,
}

/// What a decision sees of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// The node.
    pub id: NodeId,
    /// Connected and announced in this epoch.
    pub ready: bool,
    /// The operator wants nothing new on it.
    pub unschedulable: bool,
    /// Why it takes no work just now; `None`: it does.
    pub unavailable: Option<Unavailable>,
    /// How far the operator trusts it.
    pub tier: TrustTier,
    /// How far its work has earned trust.
    pub reputation: Reputation,
    /// Its ask; a negative one counts as zero.
    pub price_per_hour: PicoPoints,
    /// Where it stands.
    pub region: String,
    /// What `nodeSelector` is compared with; the owner's own already stand under `declared.nightshift.dev/`.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes' taints.
    pub taints: Vec<Taint>,
    /// What was measured of it; 0: not measured.
    pub measured: Measured,
    /// There and back between control plane and agent.
    pub round_trip: Milliseconds,
    /// From the edge to the node, bytes a second; `None`: not measured.
    pub link_bandwidth: Option<u64>,
    /// Its devices, at most [`MAX_DEVICES`].
    pub devices: Vec<DeviceView>,
    /// Models on its disk.
    pub cached: Vec<Digest>,
}

impl NodeView {
    /// A ready node of the least trust, without a name, that has nothing: for struct update syntax.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            ready: true,
            unschedulable: false,
            unavailable: None,
            tier: TrustTier::default(),
            reputation: Reputation::default(),
            price_per_hour: PicoPoints::ZERO,
            region: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            measured: Measured::default(),
            round_trip: Milliseconds::default(),
            link_bandwidth: None,
            devices: Vec::new(),
            cached: Vec::new(),
        }
    }
}

/// What a decision sees of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceView {
    /// Unique in its node.
    pub name: String,
    /// Its kind.
    pub class: DeviceClass,
    /// Memory its owner lets Nightshift use.
    pub total: Bytes,
    /// `total` less what running and promised attempts hold. An idle warm model counts as free: the agent evicts it when
    /// the memory is needed.
    pub free: Bytes,
    /// Attempts placed on it that have not ended; of a model whose tasks run together, those of one call count as one.
    pub running: u32,
    /// Attempts it may hold at once, as its agent says; so counted.
    pub slots: u32,
    /// Work promised to the device and not done, in milliseconds of its own time.
    pub queued_ms: u64,
    /// The device's own speed, GFLOP/s, where it was measured apart from its node's.
    pub gigaflops: Option<u64>,
    /// Of what its measured speed makes of a task's computing time: from runs that were observed.
    pub correction: Correction,
    /// Models resident in its memory.
    pub warm: Vec<Digest>,
}

/// One task that wants a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The task.
    pub task: TaskId,
    /// Its job's intent.
    pub spec: Arc<JobSpec>,
    /// Nodes where it was lost or refused: taken only if no other fits.
    pub avoid: Vec<NodeId>,
    /// What is left of `maxCost` after every quote placed or settled so far; `None`: nothing is spent yet.
    pub budget_left: Option<PicoPoints>,
    /// Gang start: at least this many of the job's requests in this plan are placed, or none of them. 0 and 1: each alone.
    pub gang: u32,
    /// It waited longer than the ageing bound: what it needs and cannot take yet is kept from the requests behind it.
    pub overdue: bool,
    /// What is known of its model from runs that were observed.
    pub estimate: ModelEstimate,
}
