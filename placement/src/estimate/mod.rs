//! In: runs that were predicted, and what they took → out: corrections that make the next predictions better.
//! Invariant: pure, integers only, of bounded size; the same runs in the same order give the same estimates. The edge's
//! clock decides: an agent's claims alone never make its node look fast. A price never depends on any of this.
//!
//! ```text
//! service of a model on a device  =  reference time × correction(model) × slowness(benchmark) × correction(device)
//! 95th percentile of a run        =  expected time × percentile(model)
//! link, load                      =  the node's rates × correction(node);  round trip + handling(node)
//! ```
//!
//! * Each correction is a weighted median of log-ratios, observed ÷ prior, over a window of the last runs, drawn to the
//!   prior while there are few ([`window`]). Two factors for a table of models × devices: an additive two-way fit of
//!   logarithms by medians, in turns (Tukey's median polish: "Exploratory Data Analysis", 1977, ch. 11), as runs come.
//! * A model's is the median over devices, where each owner has the same weight: one node, or one owner's many, moves it
//!   little. A device's is what is left when that of the **other** owners' devices is taken off: a model of one's own
//!   makes no device of one's own look fast.
//! * The percentile is conformal, of the model's own last runs ([`conformal`]); a model with fewer than 19 has that of the
//!   first runs of other models, and where there are none 150 %.
//! * What a run says of which part, and how little claims can do: [`evidence`].
//! * Two factors, and not one for each pair of model and device: so a correction is in the price of a unit of work
//!   ([`crate::latency::Rates`]), and of units in a task ([`crate::latency::Work`]), and an index bounds many nodes at once.
//! * What was not seen for a quarter of an hour is forgotten by half, and so on: who is avoided for being slow, or a model
//!   that is refused as too slow, is tried again ([`Estimator::forget`]).
//! * What is read changes only by more than 3 %: an index follows without work for noise.

mod conformal;
mod evidence;
mod factor;
mod lru;
mod model;
mod node;
mod window;

pub use factor::{Correction, Percentile};

use crate::latency::Prediction;
use evidence::evidence;
use factor::{Octaves, clamp, octaves};
use lru::Lru;
use model::Model;
use nightshift_types::{Digest, Milliseconds, NodeId, Timestamp};
use node::Node;

/// After so long without a run half of what is known is forgotten.
pub const HALF_LIFE: Milliseconds = Milliseconds(900_000);
/// Models, and nodes, looked at in one call of [`Estimator::forget`].
const AT_ONCE: usize = 256;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Models; about 5 KiB each.
    pub models: usize,
    /// Nodes; below a KiB each.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { models: 4_096, nodes: 65_536 }
    }
}

/// What is known of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ModelEstimate {
    /// Of its reference time.
    pub service: Correction,
    /// Of its runs' expected times.
    pub p95: Percentile,
}

/// What is known of a node beside its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NodeEstimate {
    /// Of what a byte costs over its link.
    pub link: Correction,
    /// Of what a byte costs from disk into a device.
    pub load: Correction,
    /// Beyond the round trip: commits, processes, frames.
    pub handling: Milliseconds,
}

/// Where a run's time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Round trip and handling.
    Base,
    /// Bytes over the link.
    Link,
    /// The model into the device.
    Load,
    /// Computing.
    Service,
}

/// A prediction, and the corrections that are in it: to be kept until the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// What the run should take.
    pub predicted: Prediction,
    service: Octaves,
    link: Octaves,
    load: Octaves,
    handling: Milliseconds,
}

/// How an agent says that the time went, nanoseconds: claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claims {
    /// Waiting for the device.
    pub wait: u64,
    /// Fetching input and model.
    pub transfer: u64,
    /// Loading the model.
    pub load: u64,
    /// Decoding, computing, encoding.
    pub service: u64,
}

/// A run whose result was accepted. Failed and cancelled ones tell nothing.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Its model.
    pub model: Digest,
    /// Where it ran.
    pub node: &'a NodeId,
    /// Whose the node is.
    pub owner: &'a str,
    /// The device's name.
    pub device: &'a str,
    /// What [`Estimator::expect`] said when it was placed.
    pub expected: &'a Expectation,
    /// The agent's claims.
    pub claims: Claims,
    /// From dispatch to the accepted result by the edge's clock, nanoseconds.
    pub total: u64,
    /// When the result was accepted.
    pub now: Timestamp,
}

/// How a prediction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Within its 95th percentile.
    pub within: bool,
    /// What it took, nanoseconds.
    pub took: u64,
    /// Its predicted 95th percentile, nanoseconds; at least 1.
    pub p95: u64,
}

/// What is known of models and nodes from their runs.
#[derive(Debug, Clone)]
pub struct Estimator {
    models: Lru<Digest, Model>,
    nodes: Lru<NodeId, Node>,
    /// First runs of models.
    newcomers: conformal::Calibration,
    devices: u64,
    /// The first owner, by hash; and whether there are others.
    owner: Option<u64>,
    owners: bool,
}

impl Default for Estimator {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Estimator {
    /// Knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            models: Lru::new(limits.models),
            nodes: Lru::new(limits.nodes),
            newcomers: conformal::Calibration::default(),
            devices: 0,
            owner: None,
            owners: false,
        }
    }

    /// What decisions read of a model: for [`crate::Request::estimate`].
    pub fn model(&self, model: &Digest) -> ModelEstimate {
        let newcomer = self.newcomers.percentile().unwrap_or_default().max(Percentile::PRIOR);
        match self.models.get(model) {
            Some(known) => known.estimate(newcomer),
            None => ModelEstimate { service: Correction::NONE, p95: newcomer },
        }
    }

    /// What decisions read of a node.
    pub fn node(&self, node: &NodeId) -> NodeEstimate {
        self.nodes.get(node).map(Node::estimate).unwrap_or_default()
    }

    /// What decisions read of a device: for [`crate::DeviceView::correction`].
    pub fn device(&self, node: &NodeId, device: &str) -> Correction {
        Correction::of(self.nodes.get(node).map_or(0, |node| node.service(device)))
    }

    /// Runs of a model, and devices it ran on, that its estimate is from; of devices at most 32.
    pub fn evidence(&self, model: &Digest) -> (usize, usize) {
        self.models.get(model).map_or((0, 0), Model::seen)
    }

    /// Models and nodes that something is known of.
    pub fn len(&self) -> (usize, usize) {
        (self.models.len(), self.nodes.len())
    }

    /// Nothing was observed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// A run was placed with this prediction, made with the corrections as they are now.
    pub fn expect(&self, model: &Digest, node: &NodeId, device: &str, predicted: Prediction) -> Expectation {
        let of_model = self.models.get(model).map_or(0, Model::service);
        let known = self.nodes.get(node);
        let (link, load, handling) = known.map_or((0, 0, Milliseconds(0)), Node::rates);
        let own = known.map_or(0, |node| node.service(device));
        let service = clamp(i32::from(of_model) + i32::from(own));
        Expectation { predicted, service, link, load, handling }
    }

    /// A run ended well.
    pub fn observe(&mut self, run: &Observation<'_>) -> Verdict {
        let predicted = &run.expected.predicted;
        let verdict = Verdict { within: run.total <= predicted.p95(), took: run.total, p95: predicted.p95().max(1) };
        let owner = fnv(run.owner.as_bytes());
        self.learn(run, owner);
        let ratio = octaves(run.total, predicted.expected());
        let model = self.models.touch(&run.model, run.now);
        if model.is_new() {
            self.newcomers.push(ratio, verdict.within, owner);
        }
        model.calibrate(ratio, verdict.within, owner);
        verdict
    }

    fn learn(&mut self, run: &Observation<'_>, owner: u64) {
        self.owners |= *self.owner.get_or_insert(owner) != owner;
        let Some(found) = evidence(&run.expected.predicted, &run.claims, run.total) else { return };
        let then = run.expected;
        let node = self.nodes.touch(run.node, run.now);
        match found.part {
            Part::Base => {
                let measured = found.predicted.saturating_sub(then.handling.0.saturating_mul(1_000_000));
                node.handled(found.observed, measured);
            }
            Part::Link => node.sent(found.observed, found.predicted, then.link),
            Part::Load => node.loaded(found.observed, found.predicted, then.load),
            Part::Service => {
                let Some((device, own)) = node.device(run.device, &mut self.devices) else { return };
                let surprise = clamp(i32::from(octaves(found.observed, found.predicted)) + i32::from(then.service));
                let model = self.models.touch(&run.model, run.now);
                if let Some(others) = model.observe(device, owner, surprise, own, !self.owners) {
                    node.served(device, clamp(i32::from(surprise) - i32::from(others)));
                }
            }
        }
    }

    /// What was not seen for [`HALF_LIFE`] is forgotten by half; some of it, if there is much: call it again and again.
    pub fn forget(&mut self, now: Timestamp) {
        let then = Timestamp(now.0.saturating_sub(HALF_LIFE.0));
        for _ in 0..AT_ONCE {
            let model = self.models.take_unused(then);
            let node = self.nodes.take_unused(then);
            if model.is_none() && node.is_none() {
                break;
            }
            if let Some((id, mut model)) = model
                && model.forget()
            {
                *self.models.touch(&id, now) = model;
            }
            if let Some((id, mut node)) = node
                && node.forget()
            {
                *self.nodes.touch(&id, now) = node;
            }
        }
    }

    /// Every node that something is known of.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, NodeEstimate)> {
        self.nodes.iter().map(|(id, node)| (id, node.estimate()))
    }
}

/// `found`, if it differs from what was said so far by more than 3 %; else what was said.
fn settled(said: Octaves, found: Octaves) -> Octaves {
    if said.abs_diff(found) > 12 { found } else { said }
}

/// FNV-1a: the same everywhere.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
