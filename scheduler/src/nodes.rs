//! Soft state of nodes: sessions, heartbeats, offers, books of memory. Costs the journal nothing.
//!
//! in → hellos, heartbeats, the operator's ComputeNodes, running attempts of the fold · out → the placement's view ·
//! invariant: of two sessions of one node the higher number wins; what an agent claims is labelled as a claim.

pub mod census;
pub mod load;

use crate::estimates::{Estimates, Known};
use nightshift_crds::{DECLARED_LABEL_PREFIX, LABEL_DEVICE_CLASS, LABEL_REGION};
use nightshift_placement::{NodeView, Pool, Snapshot, Unavailable};
use nightshift_state::State;
use nightshift_types::{Device, Digest, Measured, Milliseconds, NodeId, Offer, Taint, Timestamp, TrustTier};
use nightshift_wire::proto::{self, SchedulerMessage};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tonic::Status;

/// After a refusal the node's book is out of date: nothing is placed there for this long, twice as long after each
/// further refusal until a result comes, and at most [`PARK_MOST`].
const PARK: Milliseconds = Milliseconds(1_000);
const PARK_MOST: Milliseconds = Milliseconds(60_000);
/// One that says something after so long may have been thought gone.
const SILENT: Milliseconds = Milliseconds(5_000);

/// What a node said in its hello.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    /// Of two sessions the higher wins.
    pub session_number: u64,
    /// Devices.
    pub devices: Vec<Device>,
    /// Measurements by the agent: claims until verified.
    pub measured: Measured,
    /// The owner's offer: a claim.
    pub offer: Offer,
    /// The agent's version.
    pub version: String,
    /// Operating system, as Go names it: linux, darwin.
    pub os: String,
    /// Processor, as Go names it: amd64, arm64.
    pub arch: String,
}

/// Models of a node, as of its last heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    /// On disk.
    pub cached: Vec<Digest>,
    /// In a device's memory: digest and device.
    pub loaded: Vec<(Digest, String)>,
}

/// What the operator says of a node, from its ComputeNode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Nothing new.
    pub unschedulable: bool,
    /// Kubernetes' taints.
    pub taints: Vec<Taint>,
    /// How far it is trusted.
    pub tier: TrustTier,
    /// The object's labels.
    pub labels: BTreeMap<String, String>,
}

/// Frames down a session, or the error it ends with.
pub type Sender = mpsc::Sender<Result<SchedulerMessage, Status>>;

/// One node as it is now.
#[derive(Debug)]
pub struct LiveNode {
    /// From its hello.
    pub announced: Announced,
    /// From its last heartbeat.
    pub resident: Resident,
    /// Why its owner lets it do nothing; `None`: it may work.
    pub unavailable: Option<(Unavailable, String)>,
    /// Round trip measured here.
    pub round_trip: Milliseconds,
    /// When it last said anything, by the leader's clock.
    pub heard: Timestamp,
    /// Down the session; dropped with it, which ends the agent's stream.
    sender: Option<Sender>,
    /// Which session this is: a later one of the same number is another.
    session: u64,
    connected: bool,
    parked_until: Timestamp,
    refusals: u32,
    ping: Option<(u64, Timestamp)>,
}

impl LiveNode {
    /// Whether its session is up.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Whether it is there: one that was silent for a whole lease is not, though its connection may not have noticed yet.
    fn answers(&self, now: Timestamp, lease: Milliseconds) -> bool {
        self.connected && now.since(self.heard).0 <= lease.0
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The operator's ComputeNodes were listed: before that a cordon or a demotion may not be known yet.
    listed: bool,
    live: BTreeMap<NodeId, LiveNode>,
    policies: BTreeMap<NodeId, Policy>,
    sessions: u64,
    /// Rises with everything that may let a node take what it could not take before, however free and fast.
    changes: u64,
    /// Rises with what passes by itself: a node is heard or available again, or has another model.
    passing: u64,
}

/// All nodes, what placement keeps of them between its cycles, and what is known from runs.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Inner>, Mutex<Pool>, Estimates);

/// A session that was opened; every later call names it, so that a replaced session changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKey {
    /// Whose.
    pub node: NodeId,
    id: u64,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Placement's index of the nodes, as of its last cycle; each cycle brings it to its own snapshot.
    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs took, and what the next should take.
    pub fn estimates(&self) -> &Estimates {
        &self.2
    }

    /// A hello: `None` if a session with a higher number is already there.
    pub fn connect(&self, node: &NodeId, announced: Announced, sender: Sender, now: Timestamp) -> Option<SessionKey> {
        let mut inner = self.lock();
        let newer = |live: &LiveNode| live.connected && live.announced.session_number > announced.session_number;
        if inner.live.get(node).is_some_and(newer) {
            return None;
        }
        inner.sessions += 1;
        inner.changes += 1;
        let id = inner.sessions;
        let live = LiveNode {
            announced,
            resident: Resident::default(),
            unavailable: None,
            round_trip: Milliseconds(0),
            heard: now,
            sender: Some(sender),
            session: id,
            connected: true,
            parked_until: Timestamp(0),
            refusals: 0,
            ping: None,
        };
        inner.live.insert(node.clone(), live);
        Some(SessionKey { node: node.clone(), id })
    }

    /// The session ended; its node stays known, unconnected, until its lease runs out. `why` is told to the agent.
    pub fn disconnect(&self, key: &SessionKey, why: Option<Status>) {
        self.with(key, |live| {
            live.connected = false;
            if let (Some(sender), Some(why)) = (live.sender.take(), why) {
                let _ = sender.try_send(Err(why));
            }
        });
    }

    fn with<T>(&self, key: &SessionKey, change: impl FnOnce(&mut LiveNode) -> T) -> Option<T> {
        self.lock().live.get_mut(&key.node).filter(|live| live.session == key.id).map(change)
    }

    /// Whether this session is still the node's own.
    pub fn is_current(&self, key: &SessionKey) -> bool {
        self.with(key, |live| live.connected).unwrap_or(false)
    }

    /// Anything came up the session.
    pub fn heard(&self, key: &SessionKey, now: Timestamp) {
        let silent = self.with(key, |live| now.since(std::mem::replace(&mut live.heard, now)).0 > SILENT.0);
        self.lock().passing += u64::from(silent == Some(true));
    }

    /// A heartbeat: models, availability, and the answer to a ping. True if placement should look again.
    pub fn heartbeat(
        &self,
        key: &SessionKey,
        resident: Resident,
        unavailable: Option<(Unavailable, String)>,
        pong: u64,
        now: Timestamp,
    ) -> bool {
        let news = self.with(key, |live| {
            let parked = live.parked_until > Timestamp(0);
            let unparked = parked && live.parked_until <= now;
            if unparked {
                live.parked_until = Timestamp(0);
            }
            let news = unparked || live.unavailable != unavailable || live.resident != resident;
            live.resident = resident;
            live.unavailable = unavailable;
            if let Some((nonce, sent)) = live.ping
                && nonce == pong
            {
                let sample = now.since(sent).0;
                // Smoothed as TCP's round trip (RFC 6298, alpha = 1/8).
                let smoothed = if live.round_trip.0 == 0 { sample } else { (7 * live.round_trip.0 + sample) / 8 };
                live.round_trip = Milliseconds(smoothed);
                live.ping = None;
            }
            news
        });
        let news = news.unwrap_or(false);
        self.lock().passing += u64::from(news);
        news
    }

    /// The owner changed the offer.
    pub fn offer(&self, key: &SessionKey, offer: Offer) {
        self.with(key, |live| live.announced.offer = offer);
        self.lock().changes += 1;
    }

    /// The node refused an assignment: out for a while, the longer the more often.
    pub fn park(&self, node: &NodeId, now: Timestamp) {
        if let Some(live) = self.lock().live.get_mut(node) {
            let wait = PARK.0.checked_shl(live.refusals.min(16)).unwrap_or(PARK_MOST.0).min(PARK_MOST.0);
            live.refusals = live.refusals.saturating_add(1);
            live.parked_until = now.after(Milliseconds(wait));
        }
    }

    /// The node gave a result: its book and ours agree again.
    pub fn accepted(&self, node: &NodeId) {
        if let Some(live) = self.lock().live.get_mut(node) {
            live.refusals = 0;
        }
    }

    /// Sends a frame down a node's session; false if there is none. One so slow that its queue is full is ended: what
    /// it missed is sent after its next hello.
    pub fn send(&self, node: &NodeId, message: proto::scheduler_message::Kind) -> bool {
        let mut inner = self.lock();
        let Some(live) = inner.live.get_mut(node).filter(|live| live.connected) else { return false };
        let sent = live
            .sender
            .as_ref()
            .is_some_and(|sender| sender.try_send(Ok(SchedulerMessage { kind: Some(message) })).is_ok());
        if !sent {
            live.connected = false;
            live.sender = None;
        }
        sent
    }

    /// Pings every connected node once; the answers measure round trips.
    pub fn ping_all(&self, nonce: u64, now: Timestamp) {
        for live in self.lock().live.values_mut().filter(|live| live.connected) {
            let ping = proto::scheduler_message::Kind::Ping(proto::Ping { nonce });
            let frame = Ok(SchedulerMessage { kind: Some(ping) });
            if live.sender.as_ref().is_some_and(|sender| sender.try_send(frame).is_ok()) {
                live.ping = Some((nonce, now));
            }
        }
    }

    /// The operator's ComputeNodes are known: nodes may get work from now on.
    pub fn policies_listed(&self) {
        let mut inner = self.lock();
        inner.listed = true;
        inner.changes += 1;
    }

    /// What the operator's object says now; true if that is news.
    pub fn set_policy(&self, node: &NodeId, policy: Policy) -> bool {
        let mut inner = self.lock();
        let changed = inner.policies.insert(node.clone(), policy.clone()).as_ref() != Some(&policy);
        inner.changes += u64::from(changed);
        changed
    }

    /// A number that rises whenever a node may take what it could not take before, were it free: it joined, has another
    /// ask or policy.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// A number that rises with what helps those alone that wait for a free or a faster node: one became available, or
    /// has another model. With each heartbeat of a busy pool: nothing to look again for where no node would do.
    pub fn passing_changes(&self) -> u64 {
        self.lock().passing
    }

    /// When the node was last heard, if ever in this leader's time.
    pub fn last_heard(&self, node: &NodeId) -> Option<Timestamp> {
        self.lock().live.get(node).map(|live| live.heard)
    }

    /// Number of connected nodes.
    pub fn connected(&self) -> usize {
        self.lock().live.values().filter(|live| live.connected).count()
    }

    /// Reads one node.
    pub fn read<T>(&self, node: &NodeId, look: impl FnOnce(Option<&LiveNode>) -> T) -> T {
        look(self.lock().live.get(node))
    }

    /// Connected nodes that have one of these files on disk, and that have one in memory.
    pub fn holders(&self, files: &[Digest]) -> (usize, usize) {
        let inner = self.lock();
        let connected = || inner.live.values().filter(|live| live.connected).map(|live| &live.resident);
        let cached = connected().filter(|resident| resident.cached.iter().any(|file| files.contains(file)));
        let loaded = connected().filter(|resident| resident.loaded.iter().any(|(file, _)| files.contains(file)));
        (cached.count(), loaded.count())
    }

    /// Devices whose agents book a model once for all attempts.
    pub fn sharing(&self) -> HashSet<(NodeId, String)> {
        let inner = self.lock();
        let shares = |(id, live): (&NodeId, &LiveNode)| {
            let devices = live.announced.devices.iter().filter(|device| load::most_attempts(device).is_some());
            devices.map(|device| (id.clone(), device.name.clone())).collect::<Vec<_>>()
        };
        inner.live.iter().flat_map(shares).collect()
    }

    /// Device classes of every connected node.
    pub fn classes(&self) -> Vec<nightshift_types::DeviceClass> {
        let inner = self.lock();
        let connected = inner.live.values().filter(|live| live.connected);
        connected.flat_map(|live| live.announced.devices.iter().map(|device| device.class)).collect()
    }

    /// What placement sees: every node of the fold that was not revoked, in id order.
    pub fn snapshot(&self, state: &State, now: Timestamp, lease: Milliseconds) -> Snapshot {
        let (inner, known) = (self.lock(), self.2.known());
        let joined = state.nodes().iter().filter(|(_, node)| !node.revoked);
        let views = joined.map(|(id, node)| {
            let policy = inner.policies.get(id).cloned();
            let policy = policy.unwrap_or_else(|| Policy { tier: node.tier, ..Policy::default() });
            let mut view = view(id, policy, inner.live.get(id), state, &known, now);
            view.reputation = node.reputation();
            view.ready = inner.listed && inner.live.get(id).is_some_and(|live| live.answers(now, lease));
            view
        });
        Snapshot::new(views.collect(), now)
    }
}

fn view(
    id: &NodeId,
    policy: Policy,
    live: Option<&LiveNode>,
    state: &State,
    known: &Known<'_>,
    now: Timestamp,
) -> NodeView {
    let mut view = NodeView::new(id.clone());
    view.unschedulable = policy.unschedulable;
    view.tier = policy.tier;
    view.taints = policy.taints;
    view.labels = policy.labels;
    let Some(live) = live else { return view };
    let parked = live.parked_until > now;
    view.unavailable = live.unavailable.as_ref().map(|(why, _)| *why).or(parked.then_some(Unavailable::Parked));
    view.price_per_hour = live.announced.offer.price_per_hour;
    view.region = live.announced.offer.region.clone();
    view.labels.extend(labels(id, &live.announced));
    view.measured = live.announced.measured;
    view.round_trip = live.round_trip;
    view.cached = live.resident.cached.clone();
    view.devices =
        live.announced.devices.iter().map(|device| load::device_view(id, device, live, state, known)).collect();
    known.correct(&mut view);
    view
}

/// Labels the control plane gives a node; a ComputeNode shows them too.
pub fn labels(id: &NodeId, announced: &Announced) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = announced
        .offer
        .labels
        .iter()
        .map(|(key, value)| (format!("{DECLARED_LABEL_PREFIX}{key}"), value.clone()))
        .collect();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(key.into(), value.into());
        }
    };
    put("kubernetes.io/hostname", id.as_str());
    put("kubernetes.io/os", &announced.os);
    put("kubernetes.io/arch", &announced.arch);
    put(LABEL_REGION, &announced.offer.region);
    if let Some(device) = announced.devices.first() {
        put(LABEL_DEVICE_CLASS, device.class.as_str());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(number: u64) -> Announced {
        Announced { session_number: number, ..Announced::default() }
    }

    #[test]
    fn the_higher_session_wins() {
        let nodes = Nodes::default();
        let node = NodeId::new("n").unwrap();
        let (sender, _receiver) = mpsc::channel(1);
        let first = nodes.connect(&node, announce(5), sender.clone(), Timestamp(1)).unwrap();
        assert!(nodes.connect(&node, announce(4), sender.clone(), Timestamp(1)).is_none());
        let second = nodes.connect(&node, announce(6), sender.clone(), Timestamp(2)).unwrap();
        assert!(!nodes.is_current(&first) && nodes.is_current(&second));
        nodes.disconnect(&first, None);
        assert_eq!(nodes.connected(), 1);
        nodes.disconnect(&second, None);
        assert_eq!(nodes.connected(), 0);
        assert!(nodes.connect(&node, announce(4), sender, Timestamp(3)).is_some());
    }

    #[test]
    fn a_slow_agent_is_told_from_a_fast_one() {
        let nodes = Nodes::default();
        let node = NodeId::new("n").unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        let key = nodes.connect(&node, announce(1), sender, Timestamp(0)).unwrap();
        nodes.ping_all(7, Timestamp(100));
        nodes.heartbeat(&key, Resident::default(), None, 7, Timestamp(112));
        assert_eq!(nodes.read(&node, |live| live.unwrap().round_trip), Milliseconds(12));
        let ack = || proto::scheduler_message::Kind::Ack(proto::Ack::default());
        assert!(!nodes.send(&node, ack()), "its queue is full");
        assert!(!nodes.is_current(&key), "what it missed comes after its next hello");
        assert!(receiver.try_recv().is_ok() && receiver.try_recv().is_err());
    }

    #[test]
    fn another_model_is_news_for_those_alone_that_wait_for_a_free_or_faster_node() {
        let nodes = Nodes::default();
        let node = NodeId::new("n").unwrap();
        let (sender, _receiver) = mpsc::channel(1);
        let key = nodes.connect(&node, announce(1), sender, Timestamp(0)).unwrap();
        let (lasting, passing) = (nodes.changes(), nodes.passing_changes());
        let resident = Resident { cached: vec![Digest([1; 32])], loaded: Vec::new() };
        assert!(nodes.heartbeat(&key, resident.clone(), None, 0, Timestamp(1)), "placement looks again");
        assert_eq!((nodes.changes(), nodes.passing_changes()), (lasting, passing + 1));
        let away = Some((Unavailable::OwnerActive, String::new()));
        nodes.heartbeat(&key, resident.clone(), away.clone(), 0, Timestamp(2));
        nodes.heartbeat(&key, resident, away, 0, Timestamp(3));
        assert_eq!((nodes.changes(), nodes.passing_changes()), (lasting, passing + 2));
        nodes.offer(&key, Offer::default());
        assert_eq!((nodes.changes(), nodes.passing_changes()), (lasting + 1, passing + 2));
    }

    #[test]
    fn refusals_keep_a_node_out_ever_longer() {
        let nodes = Nodes::default();
        let node = NodeId::new("n").unwrap();
        let (sender, _receiver) = mpsc::channel(1);
        let key = nodes.connect(&node, announce(1), sender, Timestamp(0)).unwrap();
        let parked = || nodes.read(&node, |live| live.unwrap().parked_until);
        nodes.park(&node, Timestamp(0));
        assert_eq!(parked(), Timestamp(1_000));
        assert!(!nodes.heartbeat(&key, Resident::default(), None, 0, Timestamp(500)), "a heartbeat is no amends");
        nodes.park(&node, Timestamp(1_000));
        assert_eq!(parked(), Timestamp(3_000));
        (0..70).for_each(|_| nodes.park(&node, Timestamp(0)));
        assert_eq!(parked(), Timestamp(60_000));
        nodes.accepted(&node);
        nodes.park(&node, Timestamp(0));
        assert_eq!(parked(), Timestamp(1_000));
    }
}
