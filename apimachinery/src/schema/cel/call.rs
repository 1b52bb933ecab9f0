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
    run.charge(cost(call, &arguments))?;
    match (&call.function, arguments.as_slice()) {
        (Function::Library(library), [format, list]) if library.name == "format" => {
            library::call(library, &[format.clone(), times_as_text(list)?])
        }
        (Function::Library(library), arguments) => library::call(library, arguments),
        (Function::OptionalNone, []) => Ok(Val::Optional(None)),
        (Function::Split, [text, separator]) => split(text, separator, None),
        (Function::Split, [text, separator, Val::Int(limit)]) => split(text, separator, Some(*limit)),
        (function, [value]) => unary(function, value),
        (function, [first, second]) => text_test(function, call, first, second),
        _ => Err(EvalError::NoOverload),
    }
}

/// The arguments of `format`, with times and durations in cel-go's words.
fn times_as_text<'a>(list: &Val<'a>) -> Outcome<'a> {
    let Some(elements) = list.elements() else { return Err(EvalError::NoOverload) };
    let text = |value: &Val<'a>| match value {
        Val::Foreign(cel::Value::Timestamp(_) | cel::Value::Duration(_)) => to_text(value),
        other => Ok(other.clone()),
    };
    Ok(Val::List(Rc::new(elements?.iter().map(text).collect::<Result<_, _>>()?)))
}

/// What a call costs beyond reading its arguments.
fn cost(call: &Call, arguments: &[Val<'_>]) -> u64 {
    let product = || arguments.iter().map(Val::weight).fold(1, u64::saturating_mul);
    match (&call.function, arguments) {
        // Compiling a pattern is slow.
        (Function::Matches, _) if call.pattern.is_none() => 10_000,
        (Function::Library(library), arguments) => match (library.name.as_str(), arguments) {
            ("lists.range", [Val::Int(n)]) => n.unsigned_abs(),
            ("replace", [Val::Text(text), Val::Text(old), Val::Text(new), ..]) => {
                (text.matches(old.as_ref()).count() as u64).saturating_mul(new.len() as u64) / 10
            }
            ("find" | "findAll", _) => 1_000,
            ("distinct", [list]) => list.weight().saturating_mul(list.weight()) / 10,
            (name, _) if name.starts_with("sets.") => product() / 10,
            // Arguments are copied for the library.
            _ => arguments.iter().map(Val::deep_weight).sum(),
        },
        _ => 0,
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
        Function::Timestamp => to_timestamp(value),
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
        Val::Double(d) => gotext::float(*d),
        Val::Bool(b) => b.to_string(),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err("invalid UTF-8 in bytes, cannot convert to string".into()),
        },
        Val::Foreign(cel::Value::Timestamp(time)) => rfc3339(&time.to_rfc3339()),
        Val::Foreign(cel::Value::Duration(duration)) => seconds(duration.num_nanoseconds().unwrap_or(i64::MAX)),
        Val::Foreign(_) => return library::text(value),
        _ => return Err(EvalError::NoOverload),
    };
    Ok(Val::Text(text.into()))
}

fn to_timestamp<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Foreign(cel::Value::Timestamp(_)) => Ok(value.clone()),
        Val::Text(text) => library::timestamp(text),
        Val::Int(seconds) => match jiff::Timestamp::from_second(*seconds) {
            Ok(time) => library::timestamp(&time.to_string()),
            Err(_) => Err("timestamp overflow".into()),
        },
        _ => Err(EvalError::NoOverload),
    }
}

/// A time as Go's `RFC3339Nano` writes it: `Z` for UTC, no trailing zeros.
fn rfc3339(text: &str) -> String {
    let text = text.replace("+00:00", "Z");
    let Some((whole, rest)) = text.split_once('.') else { return text };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at(end);
    match fraction.trim_end_matches('0') {
        "" => format!("{whole}{zone}"),
        fraction => format!("{whole}.{fraction}{zone}"),
    }
}

/// A duration in seconds, as cel-go writes it.
fn seconds(nanoseconds: i64) -> String {
    format!("{}s", nanoseconds as f64 / 1e9)
}

fn split<'a>(text: &Val<'a>, separator: &Val<'a>, limit: Option<i64>) -> Outcome<'a> {
    let (Val::Text(text), Val::Text(separator)) = (text, separator) else { return Err(EvalError::NoOverload) };
    let limit = limit.filter(|limit| *limit >= 0).map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
    let parts: Vec<String> = if limit == 0 {
        Vec::new()
    } else if separator.is_empty() {
        let mut rest = text.chars();
        let mut parts: Vec<String> = rest.by_ref().take(limit.saturating_sub(1)).map(String::from).collect();
        parts.extend(Some(rest.collect::<String>()).filter(|rest| !rest.is_empty()));
        parts
    } else {
        text.splitn(limit, separator.as_ref()).map(str::to_owned).collect()
    };
    Ok(Val::List(Rc::new(parts.into_iter().map(|part| Val::Text(part.into())).collect())))
}
