//! Joined nodes → ComputeNodes, and the operator's wishes in them → placement.
//!
//! in → the fold's nodes, live sessions, ComputeNode specs · out → objects and their status · invariant: heartbeats are
//! not written: a node whose offer and conditions stay the same costs one write a minute at most.

use super::conditions::{self, Wanted};
use super::{Context, convert, merge_diff, status};
use crate::nodes::{LiveNode, Policy, labels};
use futures::StreamExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event as WatchEvent};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use nightshift_crds::{
    ComputeNode, ComputeNodeSpec, ComputeNodeStatus, FIELD_MANAGER, FractionString, NodeDevice, NodeMeasured,
    NodeOffer, NodeResources, OwnerReference, PointsString, Quantity, TrustTier, node_condition,
};
use nightshift_state::Node;
use nightshift_types::{Bytes, NodeId, Timestamp};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two writes of what is merely newer: reputations, round trips.
const SLOW: Duration = Duration::from_secs(60);
/// Earnings follow a result this soon, all of a burst together.
const BURST: Duration = Duration::from_millis(500);
/// Round trips are shown as the least of these that is not less.
const BUCKETS: [u64; 8] = [1, 5, 10, 25, 50, 100, 250, 1000];

/// Keeps ComputeNodes until `shutdown`.
pub async fn run(context: Context, shutdown: CancellationToken) {
    let api: Api<ComputeNode> = Api::all(context.client.clone());
    let mut events = std::pin::pin!(watch(api, watcher::Config::default()).default_backoff());
    let mut keeper =
        Keeper { context: context.clone(), objects: BTreeMap::new(), written: BTreeMap::new(), listed: false };
    let mut timer = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = events.next() => keeper.seen(event).await,
            changed = context.leader.changed_nodes().take() => {
                keeper.write(changed).await;
                tokio::time::sleep(BURST).await;
            }
            _ = timer.tick() => keeper.write_all().await,
        }
    }
}

struct Keeper {
    context: Context,
    objects: BTreeMap<NodeId, ComputeNode>,
    written: BTreeMap<NodeId, Instant>,
    /// Nothing is created before the first list ended: what is not listed yet may be there.
    listed: bool,
}

impl Keeper {
    async fn seen(&mut self, event: Result<WatchEvent<ComputeNode>, watcher::Error>) {
        match event {
            Ok(WatchEvent::Apply(object) | WatchEvent::InitApply(object)) => self.take_in(object),
            Ok(WatchEvent::Delete(object)) => {
                if let Ok(id) = NodeId::new(object.name_any()) {
                    self.objects.remove(&id);
                    // A machine that is still joined comes back as the operator never having said anything of it.
                    self.write([id].into()).await;
                }
            }
            Ok(WatchEvent::Init) => {}
            Ok(WatchEvent::InitDone) => {
                self.listed = true;
                self.context.leader.nodes().policies_listed();
                self.context.leader.wake();
                self.write_all().await;
            }
            Err(error) => {
                tracing::warn!(%error, "watching ComputeNodes; trying again");
                self.context.leader.metrics().watch_errors.with_label_values(&["ComputeNode"]).inc();
            }
        }
    }

    fn take_in(&mut self, object: ComputeNode) {
        let Ok(id) = NodeId::new(object.name_any()) else { return };
        let policy = Policy {
            unschedulable: object.spec.unschedulable,
            taints: convert::taints(&object.spec.taints),
            tier: object.spec.trust_tier.into(),
            labels: object.labels().clone(),
        };
        if self.context.leader.nodes().set_policy(&id, policy) {
            self.context.leader.wake();
        }
        self.objects.insert(id, object);
    }

    async fn write_all(&mut self) {
        let ids = self.context.leader.state().await.nodes().keys().cloned().collect();
        self.write(ids).await;
    }

    async fn write(&mut self, ids: BTreeSet<NodeId>) {
        if !self.listed {
            return;
        }
        for id in ids {
            if let Err(error) = self.write_one(&id).await {
                tracing::warn!(node = %id, %error, "ComputeNode not written; trying again");
                self.context.leader.metrics().reconcile_errors.with_label_values(&["ComputeNode"]).inc();
            }
        }
    }

    async fn write_one(&mut self, id: &NodeId) -> Result<(), kube::Error> {
        let Some(joined) = self.context.leader.state().await.node(id).cloned() else { return Ok(()) };
        let api: Api<ComputeNode> = Api::all(self.context.client.clone());
        if !self.objects.contains_key(id) && !joined.revoked {
            let created = create(&self.context, &api, id, &joined).await?;
            self.take_in(created);
        }
        let Some(object) = self.objects.get(id) else { return Ok(()) };
        let before = object.status.clone().unwrap_or_default();
        let now = self.context.leader.now();
        let after = self.context.leader.nodes().read(id, |live| status_of(&before, object, &joined, live, now));
        let recent = self.written.get(id).is_some_and(|at| at.elapsed() < SLOW);
        if recent && !urgent(&before, &after) {
            return Ok(());
        }
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let Some(change) = merge_diff(&value(&before)?, &value(&after)?) else { return Ok(()) };
        let body = Patch::Merge(json!({ "status": change }));
        let written = api.patch_status(id.as_str(), &PatchParams::apply(FIELD_MANAGER), &body).await;
        match written {
            Ok(object) => self.take_in(object),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.objects.remove(id);
            }
            Err(error) => return Err(error),
        }
        self.written.insert(id.clone(), Instant::now());
        Ok(())
    }
}

async fn create(
    context: &Context,
    api: &Api<ComputeNode>,
    id: &NodeId,
    joined: &Node,
) -> Result<ComputeNode, kube::Error> {
    let tier = match joined.tier {
        nightshift_types::TrustTier::Public => TrustTier::Public,
        nightshift_types::TrustTier::Vetted => TrustTier::Vetted,
        nightshift_types::TrustTier::Operator => TrustTier::Operator,
    };
    let owner_ref = Some(OwnerReference { name: joined.owner.clone() });
    let mut object =
        ComputeNode::new(id.as_str(), ComputeNodeSpec { trust_tier: tier, owner_ref, ..ComputeNodeSpec::default() });
    let known = context.leader.nodes().read(id, |live| live.map(|live| labels(id, &live.announced)));
    object.metadata.labels = known;
    match api.create(&PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }, &object).await
    {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(id.as_str()).await,
        other => other,
    }
}

/// Whether a change is one that people and schedulers wait for.
fn urgent(before: &ComputeNodeStatus, after: &ComputeNodeStatus) -> bool {
    let words = |status: &ComputeNodeStatus| -> Vec<(String, String)> {
        status.conditions.iter().map(|c| (c.status.clone(), c.reason.clone())).collect()
    };
    words(before) != words(after)
        || before.offer != after.offer
        || before.devices != after.devices
        || before.measured != after.measured
        || before.earned != after.earned
}

/// Whole MiB: `12053Mi` says what `12342046Ki` does.
fn quantity(bytes: Bytes) -> Option<Quantity> {
    let whole = Bytes::mebi(bytes.0 >> 20);
    Some(Quantity(if whole.0 > 0 { whole } else { bytes }.to_string()))
}

fn status_of(
    before: &ComputeNodeStatus,
    object: &ComputeNode,
    joined: &Node,
    live: Option<&LiveNode>,
    now: Timestamp,
) -> ComputeNodeStatus {
    let mut after = before.clone();
    after.earned = Some(PointsString::from(joined.earned));
    after.reputation = Some(FractionString(joined.reputation().to_string()));
    after.observed_generation = object.metadata.generation;
    let generation = object.metadata.generation;
    let mut set = |type_, status: Option<bool>, reason: &str, message: &str| {
        let wanted = Wanted { type_, status, reason, message };
        conditions::set(&mut after.conditions, wanted, generation, &status::time(now));
    };
    let connected = live.filter(|live| live.connected() && !joined.revoked);
    match connected {
        Some(_) => set(node_condition::READY, Some(true), "AgentConnected", "the agent is connected"),
        None if joined.revoked => set(node_condition::READY, Some(false), "Revoked", "the operator revoked this node"),
        None => set(node_condition::READY, Some(false), "AgentDisconnected", "the agent is not connected"),
    }
    match connected.map(|live| &live.unavailable) {
        None => set(node_condition::AVAILABLE, None, "AgentDisconnected", "the agent is not connected"),
        Some(None) => set(node_condition::AVAILABLE, Some(true), "Idle", "the owner lets it work"),
        Some(Some((why, message))) => set(node_condition::AVAILABLE, Some(false), &format!("{why:?}"), message),
    }
    if let Some(live) = connected {
        announce(&mut after, live);
    }
    after
}

/// What the agent said, each thing where the API has it.
fn announce(status: &mut ComputeNodeStatus, live: &LiveNode) {
    let announced = &live.announced;
    let device = |device: &nightshift_types::Device| NodeDevice {
        name: device.name.clone(),
        class: device.class.into(),
        attributes: device
            .attributes
            .iter()
            .take(32)
            .map(|(k, v)| (k.clone(), v.chars().take(128).collect()))
            .collect(),
        memory: quantity(device.memory),
    };
    status.devices = announced.devices.iter().map(device).collect();
    let memory: Bytes = announced.devices.iter().map(|device| device.memory).sum();
    status.allocatable = Some(NodeResources { device_memory: quantity(memory), ..NodeResources::default() });
    let signed = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX)).filter(|n| *n > 0);
    let measured = announced.measured;
    status.measured = Some(NodeMeasured {
        gigaflops: signed(measured.gigaflops),
        memory_bandwidth: signed(measured.memory_bandwidth),
        load_bandwidth: signed(measured.load_bandwidth),
    });
    status.offer = Some(NodeOffer {
        price_per_hour: Some(PointsString::from(announced.offer.price_per_hour)),
        availability: Vec::new(),
        region: Some(announced.offer.region.clone()).filter(|region| !region.is_empty()),
    });
    let bucket = BUCKETS.iter().find(|bucket| **bucket >= live.round_trip.0).copied().unwrap_or(live.round_trip.0);
    status.network_milliseconds = signed(bucket);
}
