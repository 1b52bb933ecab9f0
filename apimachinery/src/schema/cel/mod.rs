//! `x-kubernetes-validations`.
//!
//! In: a schema's rules, later an object and the stored one. Out: compiled rules, later the errors
//! of those that do not hold. Invariant: rules are compiled once; evaluation is bounded in time and
//! never panics.
//!
//! ```text
//! rule text ─ cel's parser ─ lower (names, types) ─ Expr        once, in Schema::compile
//! object + Node ─ value ─ eval ─ call, ops, library ─ error     per object
//! ```
//!
//! The parser is that of the `cel` crate and most functions are kube-cel's. Evaluation is our own:
//! it reads the object in place through its schema, as Kubernetes does (escaped names, `byte` and
//! `date-time` texts, sets and map lists without order, optional selection), and counts its steps.

mod call;
mod error;
mod escape;
mod eval;
mod expr;
mod field_path;
mod functions;
mod library;
mod lower;
mod ops;
mod rule;
mod types;
mod value;
mod walk;

pub(crate) use rule::{Rules, compile};
pub(crate) use walk::validate;
