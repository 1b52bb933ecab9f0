//! The functions that are not left to the library.
//!
//! In: a call with its arguments. Out: its result. Invariant: texts are measured in characters, as
//! CEL has it; conversions that lose something are errors.

use super::error::EvalError;
use super::eval::Run;
use super::expr::{Call, Function};
use super::library;
use super::value::Val;
use crate::gotext;
use crate::schema::regexes;
use std::rc::Rc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// Evaluates the arguments and calls the function.
pub(crate) fn call<'a>(run: &mut Run<'a>, call: &'a Call) -> Outcome<'a> {
    // The default of `orValue` and `or` is evaluated only where it is needed.
    if let (Function::OptionalOrValue | Function::OptionalOr, [first, second]) =
        (&call.function, call.arguments.as_slice())
    {
        return match run.eval(first)? {
            Val::Optional(None) => run.eval(second),
            Val::Optional(Some(inner)) if matches!(call.function, Function::OptionalOrValue) => {
                Ok(inner.as_ref().clone())
            }
            found @ Val::Optional(_) => Ok(found),
            _ => Err(EvalError::NoOverload),
        };
    }
    let mut arguments = Vec::with_capacity(call.arguments.len());
    for argument in &call.arguments {
        let value = run.eval(argument)?;
        run.charge(value.weight())?;
        arguments.push(value);
    }
    match (&call.function, arguments.as_slice()) {
        (Function::Library(library), arguments) => library::call(library, arguments),
        (Function::OptionalNone, []) => Ok(Val::Optional(None)),
        (function, [value]) => unary(function, value),
        (function, [first, second]) => text_test(function, call, first, second),
        _ => Err(EvalError::NoOverload),
    }
}

fn unary<'a>(function: &Function, value: &Val<'a>) -> Outcome<'a> {
    match function {
        Function::Size => match value.len() {
            Some(length) => Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX))),
            None => Err(EvalError::NoOverload),
        },
        Function::Type => Ok(match value {
            Val::Type(_) => Val::Type("type"),
            other => Val::Type(other.type_name()),
        }),
        Function::Dyn => Ok(value.clone()),
        Function::Bool => to_bool(value),
        Function::Int => to_int(value),
        Function::Uint => to_uint(value),
        Function::Double => to_double(value),
        Function::Text => to_text(value),
        Function::OptionalOf => Ok(Val::Optional(Some(Rc::new(value.clone())))),
        Function::OptionalOfNonZero if is_zero(value) => Ok(Val::Optional(None)),
        Function::OptionalOfNonZero => Ok(Val::Optional(Some(Rc::new(value.clone())))),
        Function::OptionalValue => match value {
            Val::Optional(Some(inner)) => Ok(inner.as_ref().clone()),
            Val::Optional(None) => Err("optional.none() dereference".into()),
            _ => Err(EvalError::NoOverload),
        },
        Function::OptionalHasValue => match value {
            Val::Optional(inner) => Ok(Val::Bool(inner.is_some())),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn text_test<'a>(function: &Function, call: &Call, first: &Val<'a>, second: &Val<'a>) -> Outcome<'a> {
    let (Val::Text(text), Val::Text(other)) = (first, second) else { return Err(EvalError::NoOverload) };
    let (text, other) = (text.as_ref(), other.as_ref());
    Ok(Val::Bool(match (function, &call.pattern) {
        (Function::Contains, _) => text.contains(other),
        (Function::StartsWith, _) => text.starts_with(other),
        (Function::EndsWith, _) => text.ends_with(other),
        (Function::Matches, Some(pattern)) => pattern.is_match(text),
        (Function::Matches, None) => match regexes::compile(other) {
            Ok(pattern) => pattern.is_match(text),
            Err(e) => return Err(format!("error parsing regexp: {e}").into()),
        },
        _ => return Err(EvalError::NoOverload),
    }))
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Optional(None) => true,
        Val::Double(d) => *d == 0.0,
        Val::Text(_) | Val::Bytes(_) | Val::Array(..) | Val::List(_) | Val::Object(..) | Val::Map(_) => {
            value.len() == Some(0)
        }
        _ => false,
    }
}

fn to_bool<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Bool(_) => Ok(value.clone()),
        Val::Text(text) => match text.as_ref() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => Err(conversion("string", "bool")),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn conversion(from: &str, to: &str) -> EvalError {
    format!("type conversion error from '{from}' to '{to}'").into()
}

fn to_int<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(u) => i64::try_from(*u).map(Val::Int).map_err(|_| "integer overflow".into()),
        Val::Double(d) if d.is_finite() && d.abs() < 9.223_372_036_854_775e18 => Ok(Val::Int(*d as i64)),
        Val::Double(_) => Err("integer overflow".into()),
        Val::Text(text) => {
            let digits = text.strip_prefix('+').unwrap_or(text);
            digits.parse().map(Val::Int).map_err(|_| conversion("string", "int"))
        }
        Val::Foreign(cel::Value::Timestamp(time)) => Ok(Val::Int(time.timestamp())),
        Val::Foreign(cel::Value::Duration(duration)) => {
            duration.num_nanoseconds().map(Val::Int).ok_or_else(|| "integer overflow".into())
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn to_uint<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Uint(_) => Ok(value.clone()),
        Val::Int(i) => u64::try_from(*i).map(Val::Uint).map_err(|_| "unsigned integer overflow".into()),
        Val::Double(d) if *d >= 0.0 && *d < 1.844_674_407_370_955e19 => Ok(Val::Uint(*d as u64)),
        Val::Double(_) => Err("unsigned integer overflow".into()),
        Val::Text(text) => text.parse().map(Val::Uint).map_err(|_| conversion("string", "uint")),
        _ => Err(EvalError::NoOverload),
    }
}

fn to_double<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Double(_) => Ok(value.clone()),
        Val::Int(i) => Ok(Val::Double(*i as f64)),
        Val::Uint(u) => Ok(Val::Double(*u as f64)),
        Val::Text(text) => text.parse().map(Val::Double).map_err(|_| conversion("string", "double")),
        _ => Err(EvalError::NoOverload),
    }
}

fn to_text<'a>(value: &Val<'a>) -> Outcome<'a> {
    let text = match value {
        Val::Text(_) => return Ok(value.clone()),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => gotext::float(*d, -4),
        Val::Bool(b) => b.to_string(),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err("invalid UTF-8 in bytes, cannot convert to string".into()),
        },
        Val::Foreign(_) => return library::text(value),
        _ => return Err(EvalError::NoOverload),
    };
    Ok(Val::Text(text.into()))
}
