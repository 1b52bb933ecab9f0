//! Pure functions on Kubernetes objects held as [`serde_json::Value`].
//!
//! In: request bodies, schemas, patches and stored objects. Out: decoded, pruned, defaulted and
//! patched objects, and the field errors a real API server would report, word for word.
//! Invariant: no I/O, no clock and no randomness; nothing here panics on any input.
//!
//! ```text
//! body ─ strict::decode ─ patch:: ─ schema::{prune, default, validate, cel} ─ stored object
//!                                    fields::validate_object_meta
//! ```

mod error;
pub mod fields;
mod gotext;
pub mod patch;
pub mod schema;
pub mod strict;

pub use error::{CauseReason, FieldError};
pub use fields::{is_dns_label, is_dns_subdomain, strict_message, validate_object_meta, validate_object_meta_update};
pub use patch::{PatchError, PatchMeta, json_patch, merge_patch, strategic_merge_patch};
pub use schema::{Schema, SchemaError};
pub use strict::{DecodeError, Decoded, decode_json, decode_yaml};
