//! Fixtures: small specs and ids, a core that journals into memory.
#![allow(dead_code)]

use nightshift_state::{
    Batch, Command, Core, Effect, Head, Outcome, OutputBody, OutputRef, Placement, Rejection, State, Timings,
};
use nightshift_types::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const POINT: i128 = 1_000_000_000_000;

pub fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}
pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}
pub fn task(name: &str, index: u32) -> TaskId {
    TaskId { job: job(name), index }
}
pub fn cell() -> CellId {
    CellId::new("local").unwrap()
}
pub fn attempt(name: &str, index: u32, number: u32) -> AttemptId {
    AttemptId { cell: cell(), task: task(name, index), number }
}
pub fn epoch(revision: u64) -> Epoch {
    Epoch { journal: "j".into(), revision }
}

pub fn spec(inputs: usize) -> JobSpec {
    let input = |i: usize| InputRef { digest: Digest([i as u8; 32]), size: Bytes(100 + i as u64) };
    let port = |name: &str, codec| Port {
        name: name.into(),
        codec,
        dtype: Dtype::Float32,
        shape: vec![1, -1],
        constant: (name == "sr").then(|| "16000".into()),
        options: BTreeMap::from([("sampleRate".into(), "16000".into())]),
    };
    JobSpec {
        namespace: "default".into(),
        name: "test".into(),
        generation: 1,
        model_name: "vad".into(),
        model_digest: Digest([7; 32]),
        model_size: Bytes::mebi(2),
        variant: "fp32".into(),
        model: ModelSpec {
            method: "forward".into(),
            inputs: vec![port("audio", Codec::Wav), port("sr", Codec::Tensor)],
            outputs: vec![port("speech", Codec::Segments)],
            batching: Default::default(),
        },
        memory: Bytes::mebi(64),
        per_item: Bytes(0),
        reference: Milliseconds(1500),
        inputs: (0..inputs).map(input).collect(),
        parameters: BTreeMap::from([("threshold".into(), "0.5".into())]),
        objective: Objective::Cheapest,
        max_latency: Some(Milliseconds(900)),
        max_price_per_hour: Some(PicoPoints(POINT)),
        max_cost: None,
        device_classes: vec![DeviceClass::Cpu],
        node_selector: BTreeMap::from([("zone".into(), "a".into())]),
        tolerations: vec![Toleration {
            key: "gpu".into(),
            operator: TolerationOperator::Exists,
            value: String::new(),
            effect: Some(TaintEffect::NoExecute),
        }],
        min_trust_tier: TrustTier::Vetted,
        min_reputation: None,
        regions: vec!["eu".into()],
        queue: "default".into(),
        priority: 0,
        parallelism: 10,
        min_parallelism: 0,
        backoff_limit: 6,
        suspend: false,
        active_deadline: None,
        pending_deadline: None,
        backoff_limit_per_index: None,
        max_failed_indexes: None,
    }
}

pub fn output(text: &str) -> OutputRef {
    OutputRef { body: OutputBody::Inline(text.as_bytes().to_vec()), content_type: "application/json".into() }
}

pub fn placement(name: &str, index: u32, on: &str, quote: i128) -> Placement {
    let (task, node, device) = (task(name, index), node(on), "cpu0".into());
    Placement { task, node, device, memory: Bytes::mebi(64), quote: PicoPoints(quote) }
}

pub fn admit(name: &str, spec: JobSpec) -> Command {
    Command::AdmitJob { job: job(name), spec: Arc::new(spec) }
}
pub fn place(name: &str, index: u32, on: &str, quote: i128) -> Command {
    Command::Place(vec![placement(name, index, on, quote)])
}
pub fn succeed(attempt: AttemptId, on: &str) -> Command {
    Command::Report { node: node(on), attempt, outcome: Outcome::Success(output("{}")), timings: Timings::default() }
}
pub fn fail(attempt: AttemptId, on: &str, reason: FailureReason) -> Command {
    let outcome = Outcome::Failure { reason, message: "as the test says".into() };
    Command::Report { node: node(on), attempt, outcome, timings: Timings::default() }
}
pub fn lose(on: &str) -> Command {
    Command::LoseAttempts { node: node(on), attempts: None, message: "lease ran out".into() }
}
pub fn join(name: &str) -> Command {
    Command::JoinNode { node: node(name), owner: format!("owner-{name}"), key_hash: [1; 32], tier: TrustTier::Operator }
}

/// A core whose journal is a list; every step ends in the invariants.
pub struct Bench {
    pub core: Core,
    pub head: Head,
    pub batches: Vec<Vec<u8>>,
    pub now: Timestamp,
}

impl Bench {
    pub fn new(nodes: &[&str]) -> Self {
        let now = Timestamp(1_000_000);
        let core = Core::lead(State::default(), Head::default(), cell(), epoch(1), now);
        let mut bench = Self { core, head: Head::default(), batches: Vec::new(), now };
        nodes.iter().for_each(|name| drop(bench.ok(join(name))));
        bench
    }

    pub fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.after(Milliseconds(milliseconds));
    }

    pub fn state(&self) -> &State {
        self.core.state()
    }

    /// Appends everything and checks that the batches chain.
    pub fn commit(&mut self) {
        while let Some(batch) = self.core.take_batch() {
            assert!(batch.bytes().len() <= nightshift_state::MAX_BATCH);
            let (head, _) = self.head.follow(batch.bytes()).expect("the chain holds");
            assert_eq!(head, batch.head());
            self.head = head;
            self.batches.push(batch.bytes().to_vec());
        }
    }

    pub fn submit(&mut self, command: Command) -> Result<Vec<Effect>, Rejection> {
        let submitted = self.core.submit(command, self.now);
        self.core.state().check_invariants().unwrap();
        let submitted = submitted?;
        self.commit();
        Ok(submitted.release(&self.head).expect("all is committed"))
    }

    pub fn ok(&mut self, command: Command) -> Vec<Effect> {
        self.submit(command).expect("accepted")
    }

    /// The state that the batches alone give; the invariants hold after each.
    pub fn replay(&self) -> State {
        let (mut state, mut head) = (State::default(), Head::default());
        for bytes in &self.batches {
            let (next, Batch { time, events, .. }) = head.follow(bytes).unwrap();
            events.iter().for_each(|event| state.apply(time, event));
            state.check_invariants().unwrap();
            head = next;
        }
        state
    }
}
