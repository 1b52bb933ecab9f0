//! In: a device's class, memory and slots → out: whether a task has room on it.
//! Invariant: "too little memory" at all and "too little free" exclude each other; only the second is cured by waiting.

use super::{Ask, Reason};
use crate::view::{DeviceView, NodeView};

fn accepted(device: &DeviceView, ask: &Ask<'_>) -> bool {
    let classes = &ask.spec.device_classes;
    classes.is_empty() || classes.contains(&device.class)
}

pub(super) fn any_of_class(node: &NodeView, ask: &Ask<'_>) -> Option<Reason> {
    (!node.devices.iter().any(|device| accepted(device, ask))).then_some(Reason::DeviceClass)
}

pub(super) fn class(_: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    (!accepted(device, ask)).then_some(Reason::DeviceClass)
}

pub(super) fn memory_total(_: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let need = ask.spec.memory;
    (device.total < need).then_some(Reason::MemoryTotal { need, largest: device.total, free: device.free })
}

pub(super) fn memory_free(_: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let need = ask.spec.memory;
    (device.total >= need && device.free < need).then_some(Reason::MemoryFree { need, free: device.free })
}

pub(super) fn slots(_: &NodeView, device: &DeviceView, _: &Ask<'_>) -> Option<Reason> {
    let (running, slots) = (device.running, device.slots);
    (running >= slots).then_some(Reason::Slots { running, slots })
}
