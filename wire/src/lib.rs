//! The agent protocol: messages, limits, TLS, and the only conversions between protocol and domain.
//!
//! in → protobuf frames and certificates · out → domain types of `nightshift-types` · invariant: what leaves this crate
//! towards the domain has been checked; a malformed frame is an error that names the field, never a panic.

pub mod convert;
pub mod pki;
pub mod token;

/// Generated from `proto/agent.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    tonic::include_proto!("nightshift.agent.v1");
}

/// Longest control frame on a session, in bytes.
pub const MAX_CONTROL_FRAME: usize = 64 * 1024;
/// Largest output that travels inside an `Outcome`, in bytes; larger ones go through `PutResult`.
pub const MAX_INLINE_OUTPUT: usize = 32 * 1024;
/// Size of a chunk of a blob, in bytes.
pub const CHUNK: usize = 256 * 1024;
/// Largest gRPC message either side decodes: a chunk and its framing.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// What this build can do; exchanged at hello.
pub const CAPABILITIES: &[&str] = &[
    "torchscript",
    "codec-tensor",
    "codec-json",
    "codec-wav",
    "codec-audio",
    "codec-image",
    "codec-text",
    "codec-labels",
    "codec-segments",
];

pub use convert::WireError;
