//! Decisions, and nothing else: which task is next, which nodes it fits, which is best, and why none does.
//!
//! ```text
//! queue ─▶ filter ─▶ score ─▶ plan            what does not fit ─▶ why
//!   next tasks   feasible   best   placements                       counted reasons
//! ```
//!
//! * [`view`]: what a decision sees of the pool ([`Snapshot`]) and of a task ([`Request`])
//! * [`queue`]: waiting jobs → the next tasks, in an order that can be explained
//! * [`mod@filter`]: a node and a task → the devices that fit, or the first [`Reason`] why none does
//! * [`latency`]: what a task's run on a device should take
//! * [`mod@estimate`]: what runs took → corrections of what the next should take
//! * [`mod@index`]: many nodes, kept up to date → the same best device, without a look at each
//! * [`score`]: a device that fits → an ordered [`Score`]
//! * [`mod@plan`]: a snapshot and tasks → a [`Plan`], by looking at every node
//! * [`mod@preempt`]: a refused task of higher priority → the tasks of one device to displace for it
//! * [`pool`]: the same plans from an index that lives on between them: what the scheduler uses
//! * [`batch`]: the places of many tasks → places that cost less together
//! * [`why`]: the refused → counted reasons, a word for the job's condition, and what would help
//!
//! Here belongs what can be decided from its arguments alone. There is no clock, no randomness and no I/O, and no
//! dependency beyond the standard library, `thiserror` and `nightshift-types`: so the simulator, the tests and
//! production run the same code, and a plan can be replayed.

pub mod batch;
pub mod estimate;
pub mod filter;
pub mod index;
pub mod latency;
pub mod plan;
pub mod pool;
pub mod preempt;
pub mod queue;
pub mod score;
pub mod view;
pub mod why;

pub use batch::Batch;
pub use estimate::{Correction, Estimator, ModelEstimate, Percentile};
pub use filter::{Ask, DeviceSet, Feasible, Reason, ReasonKind, filter};
pub use index::{Cursor, Found, Index, IndexError, Place};
pub use latency::Prediction;
pub use plan::{Placed, Plan, plan};
pub use pool::Pool;
pub use queue::{WaitingJob, WaitingTask};
pub use score::{Score, Weights};
pub use view::{DeviceView, NodeView, Request, Snapshot, Unavailable, ViewError};
pub use why::{AdmittedReason, Change, Count, Nearest, Suggestion, Together, WhyNot};
