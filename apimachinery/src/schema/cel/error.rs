//! Why a rule could not be evaluated.
//!
//! In: what went wrong. Out: the text of cel-go. Invariant: running out of budget ends the rule
//! whatever stands around it; every other error may be absorbed by `&&` and `||`.

use std::fmt;
use std::rc::Rc;

/// An error of evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EvalError {
    /// No operator or function for values of these types.
    NoOverload,
    /// The rule took too long.
    CostLimit,
    /// Anything else, as cel-go words it.
    Other(Rc<str>),
}

impl From<String> for EvalError {
    fn from(text: String) -> Self {
        EvalError::Other(text.into())
    }
}

impl From<&str> for EvalError {
    fn from(text: &str) -> Self {
        EvalError::Other(text.into())
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::NoOverload => f.write_str("no such overload"),
            EvalError::CostLimit => f.write_str("operation cancelled: actual cost limit exceeded"),
            EvalError::Other(text) => f.write_str(text),
        }
    }
}
