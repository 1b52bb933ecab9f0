//! What engine and worker say to each other: JSON in small frames; bytes go through shared memory.
//!
//! *In*, to the worker: [`Request`]. *Out*, from it: [`Reply`], one for each request, but [`Reply::NeedOutput`], which is
//! answered with [`Request::Grow`]. *Invariant*: a worker that breaks the order, or names more bytes than its segment has,
//! is killed; it may be running hostile code.

use crate::engine::Failed;
use crate::worker::message;
use nightshift_types::{FailureReason, ModelSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A larger segment serves one task; both sides then let go of it, and the next task brings another.
pub const KEPT_SEGMENT: usize = 8 << 20;

/// From the engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Load the model whose file comes with this; the first request.
    Load(Load),
    /// Run one task, or several together. New segments come with it as descriptors: the input's first.
    Run(Run),
    /// The larger output segment that was asked for comes with this.
    Grow {
        /// Its size.
        size: usize,
    },
}

/// What to load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// `sha256:…` of the file.
    pub digest: String,
    /// The engine's name of the device.
    pub device: String,
    /// Threads to compute with.
    pub threads: usize,
    /// Bytes of memory beyond the empty process; 0: no limit.
    pub memory: u64,
    /// Most bytes of a result.
    pub max_output: usize,
}

/// One task, or several of one spec and the same parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The model's calling convention; `None`: as in the task before.
    pub spec: Option<ModelSpec>,
    /// The job's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Bytes of each task's input; they stand one behind the other in the input segment.
    pub inputs: Vec<usize>,
    /// Size of the input segment that comes with this; `None`: the one from before.
    pub new_input: Option<usize>,
    /// Size of the output segment that comes with this; `None`: the one from before.
    pub new_output: Option<usize>,
    /// Bytes of memory beyond the empty process; 0: no limit.
    pub memory: u64,
}

/// From the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The model is loaded.
    Ready {
        /// Whether its tasks may ever run together: not where it keeps state.
        together: bool,
    },
    /// The results are this long and do not fit the output segment.
    NeedOutput {
        /// Bytes.
        bytes: usize,
    },
    /// The results are in the output segment.
    Done(Done),
    /// What the model returned cannot be taken apart: run these tasks one by one.
    Indivisible,
    /// The task, or the loading, failed.
    Failed {
        /// A `FailureReason`'s word.
        reason: String,
        /// For the job's owner.
        message: String,
        /// Whether the worker can take another task.
        healthy: bool,
    },
}

/// Finished tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// In their order.
    pub results: Vec<Part>,
    /// Microseconds in the model's method.
    pub compute: u64,
    /// Microseconds in the codecs.
    pub codec: u64,
}

/// One task's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Part {
    /// The next bytes in the output segment.
    Output {
        /// How many.
        bytes: usize,
        /// Their media type.
        content_type: String,
    },
    /// This one failed, the others did not.
    Failed {
        /// A `FailureReason`'s word.
        reason: String,
        /// For the job's owner.
        message: String,
    },
}

/// What a worker may blame a failure on; anything else is ours to say.
const CREDIBLE: &[FailureReason] = &[
    FailureReason::InputInvalid,
    FailureReason::ModelLoadFailed,
    FailureReason::ModelExecutionFailed,
    FailureReason::OutputInvalid,
    FailureReason::DigestMismatch,
    FailureReason::OutOfMemory,
    FailureReason::Internal,
];

/// A worker's failure as we pass it on.
pub fn failure(reason: &str, text: &str) -> Failed {
    let reason = reason.parse().ok().filter(|reason| CREDIBLE.contains(reason));
    Failed::new(reason.unwrap_or(FailureReason::Internal), message::clean(text))
}

/// A media type that may go into a header, or a plain one.
pub fn content_type(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/+-.;= ".contains(&b);
    if !text.is_empty() && text.len() <= 100 && text.bytes().all(plain) {
        text.to_owned()
    } else {
        crate::codec::OCTETS.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_cannot_blame_whom_it_likes() {
        assert_eq!(failure("InputInvalid", "x").reason, FailureReason::InputInvalid);
        for reason in ["OwnerActive", "Cancelled", "NodeLost", "nonsense", ""] {
            assert_eq!(failure(reason, "x").reason, FailureReason::Internal);
        }
        assert_eq!(content_type("application/json"), "application/json");
        assert_eq!(content_type("x\r\nSet-Cookie: y"), "application/octet-stream");
    }
}
