//! In: a task that waited too long and fits nowhere yet → out: the device that will be able to take it soonest, kept from
//! the tasks behind it to the end of the plan.
//! Invariant: at most [`MOST`] tasks or gangs of a plan have something kept; the same nodes give the same choice.
//!
//! This is EASY backfilling (Lifka 1995; Mu'alem and Feitelson 2001), for more than one reservation:
//!
//! * A device would do if all that keeps the task from it is work on it: its memory, its slots, its queue. It is able when
//!   that work is done: after `queued_ms ÷ slots`, the prediction's own wait ([`crate::latency`]).
//! * The device that is able soonest is kept; of equals one that is not to be avoided, then by taints, id and position. If
//!   it has room for more of the overdue, it is kept for them too.
//! * Nothing else is placed on a kept device. EASY lets those pass that end before the reservation begins; here a task
//!   placed behind the device's work ends after that work by its own prediction, so none does. On all other devices the
//!   tasks behind go on as always.
//! * A gang that waited too long keeps the places it has, and devices for those that miss, or nothing.
//!
//! Nothing is remembered from one plan to the next. The least wait of the devices that would do falls as their work is
//! done: a kept device takes nothing new, and another is kept in its place only if its wait is less. Work that runs side by
//! side takes up to `slots` times the predicted wait; so that is the bound: `slots × queued_ms ÷ slots` of the device that
//! was kept first, if tasks take no longer than predicted.

use super::Load;
use super::decide::Spot;
use crate::filter::{Ask, ReasonKind, failures, untolerated_soft};
use crate::latency::wait_nanos;
use crate::view::{MAX_DEVICES, NodeView};
use crate::why::{AdmittedReason, WhyNot};
use nightshift_types::Bytes;
use std::collections::BTreeMap;

/// Tasks or gangs of a plan that something is kept for.
const MOST: usize = 8;
/// Looks at every node, for them and for those that nothing would help.
const MOST_LOOKS: usize = 16;

/// Something that is not given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// A whole device; its load before.
    Device(Spot, Load),
    /// A gang's place: a slot and memory of the device.
    Place(Spot, Bytes),
}

impl Keep {
    pub fn spot(&self) -> Spot {
        match *self {
            Self::Device(spot, _) | Self::Place(spot, _) => spot,
        }
    }

    /// The device's load without it, where it is `now`.
    pub fn lifted(&self, now: Load) -> Load {
        match *self {
            Self::Device(_, before) => before,
            Self::Place(_, memory) => now.without(memory, 0),
        }
    }
}

/// What is kept in a plan.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    kept: Vec<Keep>,
    /// Memory and slots of a device that are promised to the overdue.
    promised: BTreeMap<Spot, (Bytes, u32)>,
    reservations: usize,
    looks: usize,
}

impl Keeper {
    pub fn kept(&self) -> &[Keep] {
        &self.kept
    }

    pub fn into_kept(self) -> Vec<Keep> {
        self.kept
    }

    /// Whether to look for devices to keep: only work that ends is in the way, and few were kept before.
    pub fn may_keep(&self, why: &WhyNot) -> bool {
        let passing = why.admitted_reason() == AdmittedReason::WaitingForCapacity;
        passing && self.reservations < MOST && self.looks < MOST_LOOKS
    }

    /// A gang keeps a place.
    pub fn hold(&mut self, spot: Spot, memory: Bytes) {
        self.kept.push(Keep::Place(spot, memory));
        self.promise(spot, memory);
    }

    /// The last `count` places are not kept after all.
    pub fn release(&mut self, count: usize) {
        for keep in self.kept.split_off(self.kept.len().saturating_sub(count)) {
            if let (Keep::Place(_, memory), Some(promised)) = (keep, self.promised.get_mut(&keep.spot())) {
                *promised = (promised.0.saturating_sub(memory), promised.1.saturating_sub(1));
            }
        }
    }

    /// A device is kept for a task; false if it was before.
    pub fn close(&mut self, spot: Spot, before: Load, memory: Bytes) -> bool {
        self.promise(spot, memory);
        let known = self.kept.iter().any(|keep| matches!(keep, Keep::Device(other, _) if *other == spot));
        if !known {
            self.kept.push(Keep::Device(spot, before));
        }
        !known
    }

    fn promise(&mut self, spot: Spot, memory: Bytes) {
        let promised = self.promised.entry(spot).or_default();
        *promised = (promised.0.saturating_add(memory), promised.1 + 1);
    }

    /// Where `count` tasks like this one will be able to run soonest: a device as often as it will have room for them.
    pub fn soonest<'n>(
        &mut self,
        nodes: impl Iterator<Item = &'n NodeView>,
        ask: &Ask<'_>,
        count: usize,
    ) -> Option<Vec<Spot>> {
        self.looks += 1;
        let mut able = Vec::new();
        for (position, node) in nodes.enumerate() {
            let rank = (ask.avoid.contains(&node.id), untolerated_soft(node, ask.spec));
            for device in 0..node.devices.len().min(MAX_DEVICES) {
                let spot = Spot { node: position, device };
                let room = self.room(node, spot, ask);
                if room > 0 {
                    let device = &node.devices[device];
                    able.push(((wait_nanos(device.queued_ms, device.slots), rank, spot), room.min(count)));
                }
            }
        }
        able.sort_unstable();
        let spots = able.into_iter().flat_map(|((.., spot), room)| std::iter::repeat_n(spot, room)).take(count);
        let spots: Vec<Spot> = spots.collect();
        let enough = spots.len() == count;
        self.reservations += usize::from(enough);
        enough.then_some(spots)
    }

    /// How many such tasks a device will take when its work is done.
    fn room(&self, node: &NodeView, spot: Spot, ask: &Ask<'_>) -> usize {
        let device = &node.devices[spot.device];
        let (memory, slots) = self.promised.get(&spot).copied().unwrap_or_default();
        let left = device.total.saturating_sub(memory);
        if device.running == 0 || left < ask.spec.memory || device.slots <= slots {
            return 0;
        }
        let ends = |kind: ReasonKind| matches!(kind, ReasonKind::MemoryFree | ReasonKind::Slots | ReasonKind::TooBusy);
        if !failures(node, Some(device), ask).iter().all(|reason| ends(reason.kind())) {
            return 0;
        }
        let by_memory = left.0.checked_div(ask.spec.memory.0).unwrap_or(u64::MAX);
        by_memory.min(u64::from(device.slots - slots)) as usize
    }
}
