//! Structural schemas.

use crate::FieldError;
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

/// A compiled structural schema.
#[derive(Debug)]
pub struct Schema;

impl Schema {
    /// Compiles the raw JSON of `spec.versions[].schema.openAPIV3Schema`.
    pub fn compile(open_api_v3_schema: &Value) -> Result<Schema, SchemaError> {
        if !open_api_v3_schema.is_object() {
            return Err(SchemaError {
                path: "openAPIV3Schema".into(),
                message: "must be an object".into(),
            });
        }
        Ok(Schema)
    }
    /// Removes unknown fields and returns their paths.
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }
    /// The paths of unknown fields.
    pub fn unknown_fields(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Fills in defaults.
    pub fn default(&self, _object: &mut Value) {}
    /// Validates.
    pub fn validate(&self, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }
}
