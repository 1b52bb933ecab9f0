//! What tests and the benchmark make pools and jobs of.
#![allow(dead_code)] // each program uses its own part

use nightshift_types::{Bytes, Digest, JobSpec, Milliseconds, ModelSpec, Objective, TrustTier};
use std::collections::BTreeMap;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// A job without inputs that asks for nothing and goes anywhere.
pub fn plain_spec() -> JobSpec {
    JobSpec {
        namespace: "default".into(),
        name: "job".into(),
        generation: 1,
        model_name: "model".into(),
        model_digest: Digest([0; 32]),
        model_size: Bytes(0),
        variant: "default".into(),
        model: ModelSpec {
            method: "forward".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            batching: Default::default(),
        },
        memory: Bytes(0),
        per_item: Bytes(0),
        reference: Milliseconds(0),
        inputs: Vec::new(),
        parameters: BTreeMap::new(),
        objective: Objective::Balanced,
        max_latency: None,
        max_price_per_hour: None,
        max_cost: None,
        device_classes: Vec::new(),
        node_selector: BTreeMap::new(),
        tolerations: Vec::new(),
        min_trust_tier: TrustTier::Public,
        min_reputation: None,
        regions: Vec::new(),
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
