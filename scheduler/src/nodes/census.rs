//! How many nodes are in which state, what their devices hold, and which of them Prometheus should know.
//!
//! in → the fold's nodes, live sessions, policies · out → [`Census`], [`Target`]s · invariant: every node that joined is
//! counted in exactly one state; one that was lost stays a target until it returns, is cordoned or is revoked.

use super::{Inner, LiveNode, Nodes};
use nightshift_crds::{LABEL_DEVICE_CLASS, LABEL_REGION};
use nightshift_state::State;
use nightshift_types::{Bytes, DeviceClass, Milliseconds, NodeId, Timestamp};
use std::collections::BTreeMap;

/// What a node is good for now; the first that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// The operator took its right to speak.
    Revoked,
    /// No session, or silent for a whole lease.
    Lost,
    /// The operator wants nothing new on it.
    Cordoned,
    /// Its owner lets it do nothing now.
    Unavailable,
    /// Set aside after a refusal.
    Parked,
    /// Takes work.
    Ready,
}

impl NodeState {
    /// Every state, in order.
    pub const ALL: [Self; 6] =
        [Self::Revoked, Self::Lost, Self::Cordoned, Self::Unavailable, Self::Parked, Self::Ready];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "Revoked",
            Self::Lost => "Lost",
            Self::Cordoned => "Cordoned",
            Self::Unavailable => "Unavailable",
            Self::Parked => "Parked",
            Self::Ready => "Ready",
        }
    }
}

/// Devices of one class on connected nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCensus {
    /// How many.
    pub devices: u64,
    /// Memory their owners let us use.
    pub capacity: Bytes,
    /// What running attempts hold of it.
    pub allocated: Bytes,
}

/// All nodes, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Nodes in each state; every state is there.
    pub states: BTreeMap<NodeState, u64>,
    /// Devices of each class that somebody has.
    pub devices: BTreeMap<DeviceClass, DeviceCensus>,
}

/// An agent that Prometheus should scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its node.
    pub node: NodeId,
    /// Class of its first device; empty while nobody has heard of one.
    pub device_class: String,
    /// Its owner's word for where it stands; may be empty.
    pub region: String,
}

impl Nodes {
    /// Counts every node that ever joined.
    pub fn census(&self, state: &State, now: Timestamp, lease: Milliseconds) -> Census {
        let inner = self.lock();
        let mut census = Census { states: NodeState::ALL.map(|state| (state, 0)).into(), ..Census::default() };
        for (id, node) in state.nodes() {
            let found = if node.revoked { NodeState::Revoked } else { inner.state_of(id, now, lease) };
            *census.states.entry(found).or_default() += 1;
            if matches!(found, NodeState::Revoked | NodeState::Lost) {
                continue;
            }
            for device in inner.live.get(id).iter().flat_map(|live| &live.announced.devices) {
                let held = state.running_on(id).filter(|running| running.device == device.name);
                let entry = census.devices.entry(device.class).or_default();
                entry.devices += 1;
                entry.capacity = entry.capacity + device.memory;
                entry.allocated = entry.allocated + held.map(|running| running.memory).sum();
            }
        }
        census
    }

    /// Nodes whose agents should answer, in id order: all that joined, but for the revoked, and those that went after
    /// the operator had cordoned them.
    pub fn targets(&self, state: &State) -> Vec<Target> {
        let inner = self.lock();
        let joined = state.nodes().iter().filter(|(_, node)| !node.revoked).map(|(id, _)| id);
        let expected = joined.filter(|id| inner.connected(id) || !inner.cordoned(id));
        expected.map(|id| inner.target(id)).collect()
    }
}

impl Inner {
    fn connected(&self, id: &NodeId) -> bool {
        self.live.get(id).is_some_and(LiveNode::connected)
    }

    fn cordoned(&self, id: &NodeId) -> bool {
        self.policies.get(id).is_some_and(|policy| policy.unschedulable)
    }

    fn state_of(&self, id: &NodeId, now: Timestamp, lease: Milliseconds) -> NodeState {
        let live = self.live.get(id).filter(|live| live.answers(now, lease));
        match live {
            None => NodeState::Lost,
            Some(_) if self.cordoned(id) => NodeState::Cordoned,
            Some(live) if live.unavailable.is_some() => NodeState::Unavailable,
            Some(live) if live.parked_until > now => NodeState::Parked,
            Some(_) => NodeState::Ready,
        }
    }

    /// What this leader has not heard yet stands in the node's object since an earlier time.
    fn target(&self, id: &NodeId) -> Target {
        let announced = self.live.get(id).map(|live| &live.announced);
        let label = |key: &str| self.policies.get(id).and_then(|policy| policy.labels.get(key)).cloned();
        let class = announced.and_then(|announced| announced.devices.first()).map(|device| device.class.to_string());
        let region = announced.map(|announced| announced.offer.region.clone()).filter(|region| !region.is_empty());
        Target {
            node: id.clone(),
            device_class: class.or_else(|| label(LABEL_DEVICE_CLASS)).unwrap_or_default(),
            region: region.or_else(|| label(LABEL_REGION)).unwrap_or_default(),
        }
    }
}
