//! What a validation found.
//!
//! In: errors and checks passed. Out: the same, merged. Invariant: no error twice; `matches` counts
//! as go-openapi does, since it decides which branch of an `anyOf` is reported.

use crate::{CauseReason, FieldError};
use serde_json::Value;

/// Errors, and how many checks a branch passed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) errors: Vec<FieldError>,
    pub(crate) matches: usize,
}

impl Outcome {
    pub(crate) fn valid(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        for error in other.errors {
            self.add(error);
        }
    }

    pub(crate) fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// `Invalid value: <value>: <path> in body <rest>`.
    pub(crate) fn invalid(&mut self, path: &str, value: &Value, rest: &str) {
        let detail = format!("{path} in body {rest}");
        self.add(FieldError::with_value(CauseReason::FieldValueInvalid, field(path), value, &detail));
    }

    /// An error without a field of its own, which the real server reports on the whole object.
    pub(crate) fn whole(&mut self, detail: &str) {
        self.add(FieldError::invalid("<nil>", "", detail));
    }
}

/// The field of a go-openapi path, which begins with a dot below additional properties.
pub(crate) fn field(path: &str) -> &str {
    match path.strip_prefix('.').unwrap_or(path) {
        "" => "<nil>",
        path => path,
    }
}
