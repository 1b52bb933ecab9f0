//! In: a prediction and the job's latency limit → out: whether the run should be in time.
//! Invariant: too slow when idle and too busy now exclude each other; only the second is cured by waiting.

use super::{Ask, Reason};
use crate::latency::predict;
use crate::view::{DeviceView, NodeView};

pub(super) fn latency(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let limit = ask.spec.max_latency?;
    let allowed = ask.estimate.p95.within(u128::from(limit.0) * 1_000_000);
    let prediction = predict(node, device, ask);
    let p95 = millis(prediction.p95());
    if prediction.idle().expected() > allowed {
        Some(Reason::TooSlow { limit, p95 })
    } else {
        (prediction.expected() > allowed).then_some(Reason::TooBusy { limit, p95 })
    }
}

/// Rounded up, so that a limit of this many milliseconds is kept.
fn millis(nanos: u64) -> nightshift_types::Milliseconds {
    nightshift_types::Milliseconds(nanos.div_ceil(1_000_000))
}
