//! Structural schemas.
//!
//! In: the JSON of a CRD's schema, later objects. Out: a compiled [`Schema`], later pruned and
//! defaulted objects and their errors. Invariant: every stage is a file of its own and follows the
//! real server's stage of that name; a compiled schema is immutable and may be shared.

mod cel;
mod compile;
mod default;
mod formats;
mod list_type;
mod metadata;
mod node;
mod outcome;
mod prune;
mod ratchet;
mod regexes;
mod scalars;
mod validate;

use crate::{CauseReason, FieldError};
use serde_json::Value;

/// Why a schema does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SchemaError {
    /// Where in the schema, such as `openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule`.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl SchemaError {
    fn new(path: &str, message: &str) -> Self {
        Self { path: path.to_owned(), message: message.to_owned() }
    }
}

/// A compiled structural schema, with its CEL rules, of one CRD version or core kind.
///
/// Shared between threads; every method takes it by reference.
#[derive(Debug)]
pub struct Schema {
    root: node::Node,
    rules: cel::Rules,
}

impl Schema {
    /// Compiles the raw JSON of `spec.versions[].schema.openAPIV3Schema`.
    ///
    /// # Errors
    /// The first mistake, with its path in the schema: no structural schema, a pattern or a rule
    /// that does not compile, a rule that speaks of fields that do not exist.
    pub fn compile(open_api_v3_schema: &Value) -> Result<Schema, SchemaError> {
        compile::schema(open_api_v3_schema)
    }

    /// Removes the fields that the schema does not name and returns their paths, such as
    /// `spec.foo`: those of `metadata` first, the others sorted. `apiVersion`, `kind` and
    /// `metadata` stay.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::prune(&self.root, object)
    }

    /// The paths that [`Schema::prune`] would remove.
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        prune::unknown(&self.root, object)
    }

    /// Drops nulls that the schema forbids and fills in defaults. Of `metadata` it drops what is
    /// null or empty, as a decoded `ObjectMeta` would.
    pub fn default(&self, object: &mut Value) {
        default::default(&self.root, object);
    }

    /// Validates an object; `old` is the stored one on update.
    ///
    /// Structural errors come first. CEL rules run unless one of those is a wrong type, a missing
    /// or unsupported value or a size, as the real server has it. What an update left unchanged is
    /// not held against it.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = validate::validate(&self.root, object, old);
        if !self.root.has_rules {
            return errors;
        }
        if errors.iter().any(blocks_rules) {
            let detail = "some validation rules were not checked because the object was invalid; \
                          correct the existing errors to complete validation";
            errors.push(FieldError::with_value(CauseReason::FieldValueInvalid, "<nil>", &Value::Null, detail));
        } else {
            errors.extend(cel::validate(&self.root, &self.rules, object, old));
        }
        errors
    }
}

fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.reason,
        CauseReason::FieldValueNotSupported
            | CauseReason::FieldValueRequired
            | CauseReason::FieldValueTooLong
            | CauseReason::FieldValueTooMany
            | CauseReason::FieldValueTypeInvalid
    )
}

/// What has the wrong type in `object.metadata`.
pub(crate) fn metadata_errors(object: &Value) -> Vec<FieldError> {
    match object.get("metadata") {
        None | Some(Value::Null) => Vec::new(),
        Some(metadata) => validate::at(metadata::schema(), metadata, "metadata"),
    }
}
