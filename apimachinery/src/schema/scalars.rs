//! Bounds of strings and numbers.
//!
//! In: a node and a scalar. Out: its errors, worded as go-openapi words them. Invariant: a bound
//! that is absent is not checked; of a string the first broken bound is reported.

use super::formats::Kind;
use super::node::{Node, Type};
use super::outcome::{Outcome, field};
use crate::{CauseReason, FieldError, gotext};
use serde_json::{Number, Value, json};

/// Length and pattern.
pub(crate) fn string(node: &Node, text: &str, path: &str, out: &mut Outcome) {
    let bounds = &node.bounds;
    if bounds.max_length.is_none() && bounds.min_length.is_none() && node.pattern.is_none() {
        return;
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = bounds.max_length.filter(|max| length > *max) {
        let bytes = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {bytes}");
        out.add(FieldError::new(CauseReason::FieldValueTooLong, field(path), &detail));
    } else if let Some(min) = bounds.min_length.filter(|min| length < *min) {
        out.invalid(path, &json!(text), &format!("should be at least {min} chars long"));
    } else if let Some(pattern) = node.pattern.as_ref().filter(|p| !p.regex.is_match(text)) {
        out.invalid(path, &json!(text), &format!("should match '{}'", pattern.source));
    }
}

/// Format.
pub(crate) fn format(node: &Node, text: &str, path: &str, out: &mut Outcome) {
    let Some(format) = &node.format else { return };
    if !format.accepts(text) {
        let detail = format!("{path} in body must be of type {}: {}", format.name, gotext::quote(text));
        let error = FieldError::with_value(CauseReason::FieldValueTypeInvalid, field(path), &json!(text), &detail);
        out.add(error);
    }
}

/// The range of the type, then `multipleOf`, `minimum` and `maximum`.
pub(crate) fn number(node: &Node, number: &Number, path: &str, out: &mut Outcome) {
    let integral = node.type_ == Some(Type::Integer);
    if !in_range(node, number, integral) {
        let (of, format) = match (&node.format, integral) {
            (Some(format), true) => ("integer", format!("with format {}", format.name)),
            (Some(format), false) => ("number", format!("with format {}", format.name)),
            (None, _) => ("integer", "(default format)".to_owned()),
        };
        out.whole(&format!("Checked value must be of type {of} {format} in {path}"));
    }
    multiple(node, number, path, out);
    least_and_most(node, number, path, out);
    out.matches += 1;
}

fn in_range(node: &Node, number: &Number, integral: bool) -> bool {
    let value = number.as_f64().unwrap_or(0.0);
    match node.format.as_ref().map(|f| f.kind) {
        Some(Kind::Int32) => value.fract() == 0.0 && value >= f64::from(i32::MIN) && value <= f64::from(i32::MAX),
        Some(Kind::Float) => value.abs() <= f64::from(f32::MAX),
        _ if integral => number.as_i64().is_some() || value.fract() == 0.0 && value.abs() < i64::MAX as f64,
        _ => true,
    }
}

fn multiple(node: &Node, number: &Number, path: &str, out: &mut Outcome) {
    let Some(factor) = node.bounds.multiple_of else { return };
    // Of an integer the real server cuts the factor to an integer too.
    let (holds, text, positive) = match number.as_i64() {
        Some(value) => {
            let factor = factor as i64;
            (factor > 0 && value % factor == 0, factor.to_string(), factor > 0)
        }
        None => {
            let value = number.as_f64().unwrap_or(0.0);
            (is_integer(value / factor), gotext::float(factor), factor > 0.0)
        }
    };
    if !positive {
        let detail = format!("factor MultipleOf declared for {path} must be positive: {text}");
        out.add(FieldError::with_text(CauseReason::FieldValueInvalid, field(path), &text, &detail));
    } else if !holds {
        out.invalid(path, &Value::Number(number.clone()), &format!("should be a multiple of {text}"));
    }
}

/// Within go-openapi's tolerance.
pub(crate) fn is_integer(value: f64) -> bool {
    if value.is_nan() || value.is_infinite() || value.abs() > 9_007_199_254_740_991.0 {
        return false;
    }
    let whole = value.trunc();
    let difference = (value - whole).abs();
    difference == 0.0 || difference < 1e-9 * (value.abs() + whole.abs())
}

fn least_and_most(node: &Node, number: &Number, path: &str, out: &mut Outcome) {
    let bounds = &node.bounds;
    let value = || Value::Number(number.clone());
    if let Some(min) = bounds.minimum {
        let (low, text) = below(number, min, bounds.exclusive_minimum);
        if low {
            let relation = if bounds.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            out.invalid(path, &value(), &format!("should be {relation} {text}"));
        }
    }
    if let Some(max) = bounds.maximum {
        let (high, text) = above(number, max, bounds.exclusive_maximum);
        if high {
            let relation = if bounds.exclusive_maximum { "less than" } else { "less than or equal to" };
            out.invalid(path, &value(), &format!("should be {relation} {text}"));
        }
    }
}

/// Integers are compared as such, with the bound cut to an integer, as the real server does.
fn below(number: &Number, min: f64, exclusive: bool) -> (bool, String) {
    match number.as_i64() {
        Some(value) => {
            let min = min as i64;
            (value < min || exclusive && value == min, min.to_string())
        }
        None => {
            let value = number.as_f64().unwrap_or(0.0);
            (value < min || exclusive && value == min, gotext::float(min))
        }
    }
}

fn above(number: &Number, max: f64, exclusive: bool) -> (bool, String) {
    match number.as_i64() {
        Some(value) => {
            let max = max as i64;
            (value > max || exclusive && value == max, max.to_string())
        }
        None => {
            let value = number.as_f64().unwrap_or(0.0);
            (value > max || exclusive && value == max, gotext::float(max))
        }
    }
}
