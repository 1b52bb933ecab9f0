//! A pool whose true speeds nobody told: nodes whose benchmarks are off, models whose counts of work are, noise, drift,
//! devices that compute one task after another, disks and links that are not what was measured. Time is simulated.

use crate::common::{Random, plain_spec};
use nightshift_placement::estimate::{Claims, Expectation, Observation, Verdict};
use nightshift_placement::{DeviceView, Estimator, NodeView, Placed, Request, Snapshot, Weights, plan};
use nightshift_types::{
    Bytes, DeviceClass, Digest, InputRef, JobId, JobSpec, Measured, Milliseconds, NodeId, Objective, TaskId, Timestamp,
    TrustTier,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

const MS: u64 = 1_000_000;
/// Tasks looked at after each event.
const AT_ONCE: usize = 2;

/// What a pool is like.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub nodes: usize,
    pub models: usize,
    pub runs: usize,
    /// What is asked for as a share of its devices' time, were it spread evenly; the fast ones get most.
    pub load: f64,
    /// Standard deviation of the logarithm of a run's service time.
    pub noise: f64,
    /// The same of how much longer a model takes on accelerators than on processors, against what benchmarks say.
    pub unlike: f64,
    /// Events between two lasting changes of some machine's speed.
    pub steady: u64,
    /// Owners of the nodes.
    pub owners: usize,
    /// Whether predictions use what was observed.
    pub corrected: bool,
}

/// One run that ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub model: usize,
    pub verdict: Verdict,
    pub expected: u64,
    /// Model not in the device's memory when it was placed.
    pub cold: bool,
}

/// The truth about a node.
struct Truth {
    owner: String,
    /// Its device takes so many times what its benchmark says.
    slower: f64,
    link: f64,
    disk: f64,
    handling: u64,
    noise: f64,
    free_at: u64,
    /// Claims whatever makes it look fast.
    lies: bool,
}

struct Model {
    spec: Arc<JobSpec>,
    /// It takes so many times what its count of work says, on a processor and on an accelerator.
    slower: [f64; 2],
}

struct Run {
    model: usize,
    node: usize,
    placed: Placed,
    expected: Expectation,
    since: u64,
    claims: Claims,
    cold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Bytes and model are there.
    Ready(usize),
    Ended(usize),
    Arrives,
}

pub struct World {
    random: Random,
    setting: Setting,
    nodes: Vec<NodeView>,
    truths: Vec<Truth>,
    models: Vec<Model>,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    runs: BTreeMap<usize, Run>,
    waiting: VecDeque<Request>,
    arrived: usize,
    gap: f64,
    number: usize,
    pub estimator: Estimator,
    pub ended: Vec<Ended>,
}

/// Standard normal (Box and Muller, 1958).
pub fn normal(random: &mut Random) -> f64 {
    let mut unit = || ((random.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

fn lognormal(random: &mut Random, median: f64, sigma: f64) -> f64 {
    median * (sigma * normal(random)).exp()
}

fn node(random: &mut Random, number: usize, owners: usize) -> (NodeView, Truth) {
    let accelerator = random.percent(40);
    let (class, gibi, speed) =
        if accelerator { (DeviceClass::Cuda, 16, 8_000.0) } else { (DeviceClass::Cpu, 32, 150.0) };
    let boasts = if random.percent(8) { 20.0 } else { 1.0 };
    let measured = Measured {
        gigaflops: (lognormal(random, speed, 0.5) * boasts) as u64,
        memory_bandwidth: 0,
        load_bandwidth: lognormal(random, 1e9, 0.4) as u64,
    };
    let device = DeviceView {
        name: "dev0".into(),
        class,
        total: Bytes::gibi(gibi),
        free: Bytes::gibi(gibi),
        slots: 2,
        ..DeviceView::default()
    };
    let view = NodeView {
        tier: TrustTier::Vetted,
        price_per_hour: nightshift_types::PicoPoints(lognormal(random, 2e11, 0.4) as i128),
        round_trip: Milliseconds(1 + random.next() % 40),
        measured,
        devices: vec![device],
        ..NodeView::new(NodeId::new(format!("node-{number}")).unwrap())
    };
    let truth = Truth {
        owner: format!("owner-{}", random.below(owners)),
        slower: lognormal(random, 1.0, 0.35) * boasts,
        link: lognormal(random, 5e7, 0.6),
        disk: measured.load_bandwidth as f64 * lognormal(random, 0.6, 0.3),
        handling: 2 + random.next() % 12,
        noise: 1.0 + random.below(2) as f64 / 2.0,
        free_at: 0,
        lies: random.percent(8),
    };
    (view, truth)
}

fn model(random: &mut Random, number: usize, unlike: f64) -> Model {
    let reference = lognormal(random, 1_500.0, 1.2).clamp(20.0, 60_000.0);
    let size = lognormal(random, 2e8, 1.0) as u64;
    let slower = lognormal(random, 1.0, 0.6);
    let mut digest = [0; 32];
    digest[0] = number as u8;
    let spec = JobSpec {
        name: format!("job-{number}"),
        model_digest: Digest(digest),
        model_size: Bytes(size),
        memory: Bytes(size * 5 / 4 + (300 << 20)),
        reference: Milliseconds(reference as u64),
        objective: [Objective::Fastest, Objective::Balanced, Objective::Cheapest][number % 3],
        inputs: vec![InputRef { digest: Digest([1; 32]), size: Bytes(lognormal(random, 2e5, 1.0) as u64) }],
        ..plain_spec()
    };
    let unlike = (unlike * normal(random)).exp();
    Model { spec: spec.into(), slower: [slower, slower * unlike] }
}

impl World {
    pub fn new(seed: u64, setting: Setting) -> Self {
        let mut random = Random(seed);
        let (nodes, truths): (Vec<_>, Vec<_>) =
            (0..setting.nodes).map(|number| node(&mut random, number, setting.owners)).unzip();
        let models: Vec<Model> = (0..setting.models).map(|number| model(&mut random, number, setting.unlike)).collect();
        // What a run takes on average over models and nodes, nanoseconds.
        let mut sum = 0.0;
        for (model, view, truth) in
            models.iter().flat_map(|m| nodes.iter().zip(&truths).map(move |(view, truth)| (m, view, truth)))
        {
            sum += service(model, view, truth);
        }
        let mean = sum / (setting.models * setting.nodes) as f64;
        let gap = mean / setting.nodes as f64 / setting.load;
        let events = [Reverse((0, 0, Event::Arrives))].into();
        let (runs, waiting) = (BTreeMap::new(), VecDeque::new());
        Self {
            random,
            setting,
            nodes,
            truths,
            models,
            events,
            runs,
            waiting,
            arrived: 0,
            gap,
            number: 0,
            estimator: Estimator::default(),
            ended: Vec::new(),
        }
    }

    /// Until all have ended.
    pub fn run(&mut self) {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Arrives => self.arrives(now),
                Event::Ready(run) => self.computes(run, now),
                Event::Ended(run) => self.ends(run, now),
            }
            self.drift();
            self.estimator.forget(Timestamp(now / MS));
            self.place(now);
        }
        assert!(self.runs.is_empty() && self.ended.len() == self.setting.runs);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((time, self.number, event)));
    }

    /// Some machines are used by their owners for a while; some are slower for good.
    fn drift(&mut self) {
        if self.random.next().is_multiple_of(self.setting.steady) {
            let at = self.random.below(self.truths.len());
            self.truths[at].slower *= if self.random.percent(50) { 1.6 } else { 1.0 / 1.6 };
        }
    }

    fn arrives(&mut self, now: u64) {
        // Few models have most of the work.
        let skew = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let model = (skew * skew * self.models.len() as f64) as usize;
        let task = TaskId { job: JobId::new(format!("job-{model}")).unwrap(), index: 0 };
        self.waiting.push_back(Request {
            task,
            spec: self.models[model].spec.clone(),
            avoid: Vec::new(),
            budget_left: None,
            gang: 0,
            overdue: false,
            estimate: Default::default(),
        });
        self.arrived += 1;
        if self.arrived < self.setting.runs {
            let unit = ((self.random.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
            let gap = (self.gap * -unit.ln()) as u64;
            self.at(now + gap, Event::Arrives);
        }
    }

    fn place(&mut self, now: u64) {
        if self.waiting.is_empty() {
            return;
        }
        let some = self.waiting.len().min(AT_ONCE);
        let mut requests: Vec<Request> = self.waiting.drain(..some).collect();
        let mut nodes = self.nodes.clone();
        if self.setting.corrected {
            for request in &mut requests {
                request.estimate = self.estimator.model(&request.spec.model_digest);
            }
            for view in &mut nodes {
                let known = self.estimator.node(&view.id);
                view.round_trip.0 += known.handling.0;
                view.link_bandwidth = Some(known.link.rate(125_000_000));
                view.measured.load_bandwidth = known.load.rate(view.measured.load_bandwidth);
                view.devices[0].correction = self.estimator.device(&view.id, "dev0");
            }
        }
        let plan = plan(&Snapshot::new(nodes, Timestamp(now / MS)), &requests, &Weights::default());
        // Tasks of a job are alike; those that fit nowhere now keep their turn.
        for (task, _) in plan.refused.into_iter().rev() {
            let at = requests.iter().position(|request| request.task == task).unwrap();
            self.waiting.push_front(requests.remove(at));
        }
        for placed in plan.placements {
            self.begin(placed, now);
        }
    }

    fn begin(&mut self, placed: Placed, now: u64) {
        let model: usize = placed.task.job.as_str()[4..].parse().unwrap();
        let node = self.nodes.iter().position(|view| view.id == placed.node).unwrap();
        let spec = &self.models[model].spec;
        let (view, truth) = (&mut self.nodes[node], &self.truths[node]);
        let wobble = |random: &mut Random, sigma: f64| (sigma * normal(random)).exp();
        let warm = view.devices[0].warm.contains(&spec.model_digest);
        let here = warm || view.cached.contains(&spec.model_digest);
        let bytes = spec.inputs[0].size.0 + if here { 0 } else { spec.model_size.0 };
        let transfer = (bytes as f64 / truth.link * 1e9 * wobble(&mut self.random, 0.3)) as u64;
        let load = if warm { 0.0 } else { spec.model_size.0 as f64 / truth.disk * 1e9 * wobble(&mut self.random, 0.2) };
        let load = load as u64;
        let device = &mut view.devices[0];
        device.running += 1;
        device.free.0 -= placed.memory.0;
        device.queued_ms += placed.predicted.service.div_ceil(MS);
        let expected = self.estimator.expect(&spec.model_digest, &view.id, "dev0", placed.predicted);
        let claims = Claims { transfer, load, ..Claims::default() };
        self.number += 1;
        let number = self.number;
        self.runs.insert(number, Run { model, node, placed, expected, since: now, claims, cold: !warm });
        let half = (view.round_trip.0 + truth.handling) * MS / 2;
        self.at(now + half + transfer + load, Event::Ready(number));
    }

    /// One after another.
    fn computes(&mut self, number: usize, now: u64) {
        let run = self.runs.get_mut(&number).unwrap();
        let (model, view, truth) = (&self.models[run.model], &mut self.nodes[run.node], &mut self.truths[run.node]);
        let sigma = self.setting.noise * truth.noise;
        let service = (service(model, view, truth) * (sigma * normal(&mut self.random)).exp()) as u64;
        let start = now.max(truth.free_at);
        truth.free_at = start + service;
        run.claims.wait = start - now;
        run.claims.service = service;
        let digest = model.spec.model_digest;
        for (list, most) in [(&mut view.cached, 6), (&mut view.devices[0].warm, 3)] {
            list.retain(|other| *other != digest);
            list.push(digest);
            if list.len() > most {
                list.remove(0);
            }
        }
        let half = (view.round_trip.0 + truth.handling) * MS / 2;
        self.at(start + service + half, Event::Ended(number));
    }

    fn ends(&mut self, number: usize, now: u64) {
        let run = self.runs.remove(&number).unwrap();
        let (view, truth) = (&mut self.nodes[run.node], &self.truths[run.node]);
        let device = &mut view.devices[0];
        device.running -= 1;
        device.free.0 += run.placed.memory.0;
        device.queued_ms -= run.placed.predicted.service.div_ceil(MS);
        // The edge's clock counts milliseconds.
        let total = (now / MS - run.since / MS) * MS;
        let lie = Claims { wait: total, transfer: total, load: total, service: 0 };
        let verdict = self.estimator.observe(&Observation {
            model: self.models[run.model].spec.model_digest,
            node: &view.id,
            owner: &truth.owner,
            device: "dev0",
            expected: &run.expected,
            claims: if truth.lies { lie } else { run.claims },
            total,
            now: Timestamp(now / MS),
        });
        let expected = run.expected.predicted.expected();
        self.ended.push(Ended { model: run.model, verdict, expected, cold: run.cold });
    }
}

/// What a run takes there, but for noise, nanoseconds.
fn service(model: &Model, view: &NodeView, truth: &Truth) -> f64 {
    let class = usize::from(view.devices[0].class == DeviceClass::Cuda);
    let benchmark = model.spec.reference.0 as f64 * 1e6 * 100.0 / view.measured.gigaflops as f64;
    (benchmark * truth.slower * model.slower[class]).max(1e6)
}
