//! Field errors: in, a reason, a path and a detail; out, the cause of a `Status`.
//! Invariant: `message` never repeats the path; `Display` joins the two as the real server does.

use std::fmt;

/// Why a field was refused; the `reason` of a `Status` cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
}

impl fmt::Display for CauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One field error, as Kubernetes' `field.Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The reason of the cause.
    pub reason: CauseReason,
    /// The path, such as `spec.input.items[3]`; `<nil>` for the whole object.
    pub field: String,
    /// The detail without the path, such as `Required value`.
    pub message: String,
}

impl FieldError {
    /// Joins the three.
    pub fn new(reason: CauseReason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
