//! A device as placement sees it, and what running attempts take of it where its agent books a model once for all of them.
//!
//! in → attempts of one device with their jobs' specs · out → bytes and slots taken · invariant: never more than the
//! attempts' own reservations and their number, which is what they take of an agent that does not share.
//!
//! A loaded model's weights and context stand on a device once; each attempt adds what its manifest calls `perItem`. Of a
//! model with `batching`, so many attempts as one call may have take one slot: they wait for, and run in, one call.

use super::LiveNode;
use crate::estimates::Known;
use nightshift_placement::{Correction, DeviceView};
use nightshift_state::{Running, State};
use nightshift_types::{Bytes, Device, Digest, JobSpec, NodeId};
use nightshift_wire::convert::ATTEMPTS_ATTRIBUTE;
use std::collections::BTreeMap;

/// Attempts one device holds at once where its agent does not say: one computes, others fetch, decode and encode.
const DEFAULT_SLOTS: u32 = 4;

/// Attempts that a device may hold at once, if its agent shares a model among them.
pub fn most_attempts(device: &Device) -> Option<u32> {
    device.attributes.get(ATTEMPTS_ATTRIBUTE)?.parse().ok()
}

/// Attempts of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub count: u32,
    /// Most of them in one call.
    pub together: u32,
    /// What stands there once.
    base: Bytes,
    own: Bytes,
}

/// What attempts take of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    groups: BTreeMap<Digest, Group>,
    count: u32,
}

impl Load {
    /// One more: its job's spec, and what was reserved for it.
    pub fn add(&mut self, spec: &JobSpec, memory: Bytes) {
        self.more(spec.model_digest, memory, spec.per_item, spec.model.batching.max);
    }

    fn more(&mut self, model: Digest, memory: Bytes, per_item: Bytes, together: u32) {
        let group = self.groups.entry(model).or_default();
        let (own, together) = (per_item.min(memory), together.max(1));
        group.base = group.base.max(memory.saturating_sub(own));
        group.own = group.own + own;
        // Of two manifests of one file the smaller batch holds.
        group.together = if group.count == 0 { together } else { group.together.min(together) };
        group.count += 1;
        self.count += 1;
    }

    /// Bytes taken.
    pub fn memory(&self) -> Bytes {
        self.groups.values().map(|group| group.base + group.own).sum()
    }

    /// Slots taken, of `slots`; all of them where the device holds as many attempts as it may.
    pub fn slots(&self, slots: u32, most: u32) -> u32 {
        let taken: u32 = self.groups.values().map(|group| group.count.div_ceil(group.together)).sum();
        if self.count >= most { taken.max(slots) } else { taken }
    }

    /// Of one model.
    pub fn group(&self, model: &Digest) -> Group {
        self.groups.get(model).copied().unwrap_or_default()
    }
}

/// Of these attempts; those whose job is gone count as they were placed.
pub fn of<'s>(state: &State, running: impl Iterator<Item = &'s Running>) -> Load {
    let mut load = Load::default();
    for running in running {
        match state.job(&running.attempt.task.job) {
            Some(job) => load.add(&job.spec, running.memory),
            None => load.more(Digest([0; 32]), running.memory, running.memory, 1),
        }
    }
    load
}

/// What placement sees of a device.
pub(super) fn device_view(
    id: &NodeId,
    device: &Device,
    live: &LiveNode,
    state: &State,
    known: &Known<'_>,
) -> DeviceView {
    let here = || state.running_on(id).filter(|running| running.device == device.name);
    let slots = device.attributes.get("slots").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SLOTS);
    let (held, running) = match most_attempts(device) {
        Some(most) => {
            let load = of(state, here());
            (load.memory(), load.slots(slots, most))
        }
        None => (here().map(|running| running.memory).sum(), here().count() as u32),
    };
    let queued = here().filter_map(|running| {
        let task = &running.attempt.task;
        known.busy_ms(task, id).or_else(|| state.job(&task.job).map(|job| job.spec.reference.0))
    });
    let loaded = live.resident.loaded.iter().filter(|(_, name)| *name == device.name);
    DeviceView {
        name: device.name.clone(),
        class: device.class,
        total: device.memory,
        free: device.memory.saturating_sub(held),
        running,
        slots,
        queued_ms: queued.sum(),
        gigaflops: None,
        correction: Correction::NONE,
        warm: loaded.map(|(digest, _)| *digest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(attempts: &[(u8, u64, u64, u32)]) -> Load {
        let mut load = Load::default();
        for (model, memory, per_item, together) in attempts {
            load.more(Digest([*model; 32]), Bytes(*memory), Bytes(*per_item), *together);
        }
        load
    }

    #[test]
    fn a_model_is_there_once_and_each_attempt_adds_its_own() {
        assert_eq!(load(&[]).memory(), Bytes(0));
        assert_eq!(load(&[(1, 10, 2, 1); 3]).memory(), Bytes(8 + 3 * 2));
        assert_eq!(load(&[(1, 10, 2, 1), (2, 10, 2, 1)]).memory(), Bytes(20), "of two models two");
        assert_eq!(load(&[(1, 10, 0, 1); 3]).memory(), Bytes(10));
        assert_eq!(load(&[(1, 10, 99, 1); 3]).memory(), Bytes(30), "never more than was reserved");
    }

    #[test]
    fn what_runs_in_one_call_takes_one_slot() {
        let slots = |attempts: &[(u8, u64, u64, u32)]| load(attempts).slots(4, 64);
        assert_eq!([slots(&[(1, 1, 0, 0); 3]), slots(&[(1, 1, 0, 8); 8]), slots(&[(1, 1, 0, 8); 9])], [3, 1, 2]);
        assert_eq!(slots(&[(1, 1, 0, 8), (2, 1, 0, 8), (1, 1, 0, 8)]), 2);
        assert_eq!(slots(&[(1, 1, 0, 8), (1, 1, 0, 2), (1, 1, 0, 8)]), 2, "the smaller batch holds");
        assert_eq!(load(&[(1, 1, 0, 99); 16]).slots(4, 16), 4, "as many as it may hold");
    }
}
