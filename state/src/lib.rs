//! The sync core's memory: commands are decided into events, events are journaled, and folded into the state.
//!
//! ```text
//! Command ─▶ decide(&State) ─▶ Events ─▶ Core (working State, batches) ─▶ Journal::append ─▶ Effects released
//! ```
//!
//! * [`command`]: what may be asked, and the answers
//! * [`decide()`]: checks everything; pure
//! * [`event`]: facts, as the journal keeps them; `proto/journal.proto` is their form on disk
//! * [`State`]: the fold of the facts, which cannot fail; [`State::check_invariants`] proves it consistent
//! * [`ledger`]: points, in double entry
//! * [`Core`]: state and open batch together; effects come out only against a durable head
//! * [`journal`]: where batches live: a redb file, or etcd

pub mod archive;
mod backup;
pub mod batch;
pub mod command;
pub mod compact;
mod convert;
mod core;
pub mod decide;
mod digest;
pub mod event;
mod fold;
pub mod hooks;
mod invariants;
pub mod journal;
pub mod ledger;
pub mod snapshot;
mod spec;
mod spend;
pub mod state;

pub use archive::{Archive, ArchiveHead, History, LedgerHistory, Past, Segment};
pub use backup::{Source, Verified, restore};
pub use batch::{Batch, EncodedBatch, Head, MAX_BATCH};
pub use command::{Command, Decision, Effect, Outcome, Placement, Rejection};
pub use convert::{DecodeError, decode_event, encode_event};
pub use core::{Core, Folded, Submitted};
pub use decide::decide;
pub use event::{Event, JobResult, JobTerms, JobUpdate, OutputBody, OutputRef, Timings};
pub use journal::{
    EmbeddedJournal, EmbeddedStore, EtcdJournal, EtcdOptions, EtcdStore, Journal, JournalError, Reader, Records, Store,
    stand_by,
};
pub use ledger::{EntryKind, Ledger, LedgerEntry, Posted, QueueBook};
pub use snapshot::{Frozen, Manifest};
pub use state::{Failure, Job, Node, POISON_LOSSES, Running, State, Success, Task, TaskState, Token, WaitingTask};
