//! Field errors.
//!
//! In: a reason, a path and a detail. Out: the cause of a `Status`. Invariant: `message` never
//! repeats the path; `Display` joins the two as the real server does.

use crate::gotext;
use serde_json::Value;
use std::fmt;

/// Why a field was refused; the `reason` of a `Status` cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CauseReason {
    /// A required value is absent.
    FieldValueRequired,
    /// The value breaks a rule.
    FieldValueInvalid,
    /// The value is not one of an enumeration.
    FieldValueNotSupported,
    /// The value has another JSON type.
    FieldValueTypeInvalid,
    /// The string is too long.
    FieldValueTooLong,
    /// The list or map has too many entries.
    FieldValueTooMany,
    /// The value must be unique and is not.
    FieldValueDuplicate,
    /// The value may not be given here.
    FieldValueForbidden,
}

impl CauseReason {
    /// The word in `status.details.causes[].reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FieldValueRequired => "FieldValueRequired",
            Self::FieldValueInvalid => "FieldValueInvalid",
            Self::FieldValueNotSupported => "FieldValueNotSupported",
            Self::FieldValueTypeInvalid => "FieldValueTypeInvalid",
            Self::FieldValueTooLong => "FieldValueTooLong",
            Self::FieldValueTooMany => "FieldValueTooMany",
            Self::FieldValueDuplicate => "FieldValueDuplicate",
            Self::FieldValueForbidden => "FieldValueForbidden",
        }
    }

    /// The words with which a message of this reason begins.
    fn title(self) -> &'static str {
        match self {
            Self::FieldValueRequired => "Required value",
            Self::FieldValueInvalid | Self::FieldValueTypeInvalid => "Invalid value",
            Self::FieldValueNotSupported => "Unsupported value",
            Self::FieldValueTooLong => "Too long",
            Self::FieldValueTooMany => "Too many",
            Self::FieldValueDuplicate => "Duplicate value",
            Self::FieldValueForbidden => "Forbidden",
        }
    }
}

impl fmt::Display for CauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One field error, as Kubernetes' `field.Error`: becomes a `Status` cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The reason of the cause.
    pub reason: CauseReason,
    /// The path, such as `spec.input.items[3]`; `<nil>` for the whole object.
    pub field: String,
    /// The detail without the path, such as `Required value` or `Invalid value: -1: must be …`.
    pub message: String,
}

impl FieldError {
    /// An error that shows no value: `Required value`, `Forbidden: detail`.
    pub fn new(reason: CauseReason, field: impl Into<String>, detail: &str) -> Self {
        let title = reason.title();
        let message = if detail.is_empty() { title.to_owned() } else { format!("{title}: {detail}") };
        Self { reason, field: field.into(), message }
    }

    /// An error that shows the value: `Invalid value: 0: detail`.
    pub fn with_value(reason: CauseReason, field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::with_text(reason, field, &gotext::bad_value(value), detail)
    }

    /// As `with_value`, of a value already rendered.
    pub(crate) fn with_text(reason: CauseReason, field: impl Into<String>, value: &str, detail: &str) -> Self {
        let mut message = format!("{}: {value}", reason.title());
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self { reason, field: field.into(), message }
    }

    /// `Invalid value: "text": detail`.
    pub fn invalid(field: impl Into<String>, text: &str, detail: &str) -> Self {
        Self::with_text(CauseReason::FieldValueInvalid, field, &gotext::quote(text), detail)
    }

    /// `Required value: detail`.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(CauseReason::FieldValueRequired, field, detail)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
