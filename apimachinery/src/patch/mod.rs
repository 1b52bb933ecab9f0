//! The three patch types of Kubernetes.
//!
//! In: an object and a patch. Out: the patched object, or why the patch was refused. Invariant: a
//! refused patch leaves the object as it was; work and depth are bounded whatever the patch says.

mod json;
mod merge;
mod order;
mod strategic;

pub use json::{MAX_OPERATIONS, json_patch};
pub use merge::merge_patch;
pub use strategic::{PatchMeta, strategic_merge_patch};

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400 `BadRequest`.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not apply to this object: 422.
    #[error("{0}")]
    Conflict(String),
    /// The patch asks for too much: 413 `RequestEntityTooLarge`.
    #[error("{0}")]
    TooLarge(String),
}
