//! Names, labels, annotations and the strict decoding message.

use crate::FieldError;
use serde_json::Value;

/// The message of a strict decoding error, as the real server words it.
pub fn strict_message(duplicates: &[String], unknown: &[String]) -> String {
    let duplicates = duplicates.iter().map(|p| format!("duplicate field {p:?}"));
    let unknown = unknown.iter().map(|p| format!("unknown field {p:?}"));
    let all: Vec<String> = duplicates.chain(unknown).collect();
    format!("strict decoding error: {}", all.join(", "))
}

/// Whether `name` is a lowercase RFC 1123 subdomain of at most 253 characters.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(label_shape)
}

/// Whether `name` is a lowercase RFC 1123 label of at most 63 characters.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && label_shape(name)
}

fn label_shape(label: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// Validates `object.metadata`.
pub fn validate_object_meta(_object: &Value, _namespaced: bool) -> Vec<FieldError> {
    Vec::new()
}
