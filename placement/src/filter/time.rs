//! In: a prediction and the job's latency limit → out: whether the run should be in time.
//! Invariant: too slow when idle and too busy now exclude each other; only the second is cured by waiting.

use super::{Ask, Reason};
use crate::latency::predict;
use crate::view::{DeviceView, NodeView};

pub(super) fn latency(node: &NodeView, device: &DeviceView, ask: &Ask<'_>) -> Option<Reason> {
    let limit = ask.spec.max_latency?;
    let allowed = limit.0.saturating_mul(1_000);
    let prediction = predict(node, device, ask);
    let (now, idle) = (prediction.p95(), prediction.idle().p95());
    if idle > allowed {
        Some(Reason::TooSlow { limit, p95: millis(now) })
    } else {
        (now > allowed).then_some(Reason::TooBusy { limit, p95: millis(now) })
    }
}

/// Rounded up, so that a limit of this many milliseconds is kept.
fn millis(micros: u64) -> nightshift_types::Milliseconds {
    nightshift_types::Milliseconds(micros.div_ceil(1_000))
}
