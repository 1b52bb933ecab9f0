//! Ids, units, resources and reasons that every other crate speaks in. Depends on nothing of ours, does no I/O.
//!
//! * [`ids`]: who and what (`JobId`, `AttemptId`, `NodeId`, `Digest`, `Epoch` …)
//! * [`units`]: how much (`Bytes`, `PicoPoints`, `Milliseconds`, `Timestamp`)
//! * [`device`]: on what (`DeviceClass`, `Device`, `Measured`)
//! * [`job`]: the domain form of an InferenceJob, as the controller admits it
//! * [`model`]: the domain form of a ModelArtifact
//! * [`queue`]: the domain form of a TenantQueue; [`budget`]: what it may spend
//! * [`reputation`]: how far a node's work has earned trust
//! * [`reason`]: why an attempt failed, and whose fault that is

pub mod budget;
pub mod device;
pub mod ids;
pub mod job;
pub mod model;
pub mod queue;
pub mod reason;
pub mod reputation;
pub mod units;

pub use budget::{Budget, BudgetPeriod, DEFAULT_QUEUE};
pub use device::{Device, DeviceClass, Measured, Offer, TrustTier};
pub use ids::{AccountId, AttemptId, CellId, Digest, Epoch, IdError, JobId, NodeId, TaskId, TokenId};
pub use job::{InputRef, JobSpec, NodeSelector, Objective, Taint, TaintEffect, Toleration, TolerationOperator};
pub use model::{Batching, Codec, CodecOptions, Dtype, ModelSpec, Port, Variant};
pub use queue::{QueueTier, Quota, StopPolicy, TenantQueue, Usage, decayed};
pub use reason::{FailureReason, Fault};
pub use reputation::{Evidence, Reputation};
pub use units::{Bytes, Milliseconds, PicoPoints, Timestamp, UnitError};
