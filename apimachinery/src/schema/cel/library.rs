//! Calls into kube-cel's function library.
//!
//! In: a call and its arguments. Out: its result, or an error. Invariant: a panic inside the
//! library becomes an error; building the library's context, which is slow, happens once a thread.

use super::error::EvalError;
use super::expr::Library;
use super::functions::{self, argument_name};
use super::value::Val;
use cel::objects::{Key, OptionalValue};
use cel::{Context, ExecutionError};
use kube_cel::KubeCelExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

thread_local! {
    static CONTEXT: Context<'static> = Context::default().with_all();
}

/// Calls a function.
pub(crate) fn call<'a>(library: &Library, arguments: &[Val<'a>]) -> Result<Val<'a>, EvalError> {
    let arguments: Vec<cel::Value> = arguments.iter().map(export).collect::<Result<_, _>>()?;
    guarded(&library.name, || {
        CONTEXT.with(|context| {
            let mut scope = context.new_inner_scope();
            for (i, argument) in arguments.into_iter().enumerate() {
                scope.add_variable_from_value(argument_name(i), argument);
            }
            scope.resolve(&library.call)
        })
    })
}

/// A point in time, in RFC 3339.
pub(crate) fn timestamp<'a>(text: &str) -> Result<Val<'a>, EvalError> {
    let text = Arc::new(text.to_owned());
    guarded("timestamp", || cel::functions::time::timestamp(text))
}

/// A duration in any form that the format accepts.
pub(crate) fn duration<'a>(text: &str) -> Result<Val<'a>, EvalError> {
    let nanoseconds =
        crate::schema::formats::duration(text).ok_or_else(|| EvalError::from(format!("Invalid duration {text}")))?;
    let text = Arc::new(format!("{nanoseconds}ns"));
    guarded("duration", || cel::functions::time::duration(text))
}

/// `string(value)` of what the library made.
pub(crate) fn text<'a>(value: &Val<'a>) -> Result<Val<'a>, EvalError> {
    static CALL: LazyLock<Library> = LazyLock::new(|| functions::unary("string"));
    call(&CALL, std::slice::from_ref(value))
}

fn guarded<'a>(name: &str, run: impl FnOnce() -> Result<cel::Value, ExecutionError>) -> Result<Val<'a>, EvalError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(import(&value)),
        Ok(Err(error)) => Err(explain(name, error)),
        Err(_) => Err(format!("internal error in function '{name}'").into()),
    }
}

const QUANTITY: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The error in cel-go's words, where they differ.
fn explain(name: &str, error: ExecutionError) -> EvalError {
    match error {
        ExecutionError::FunctionError { .. } if name == "quantity" => QUANTITY.into(),
        ExecutionError::FunctionError { message, .. } => match message.split_once(" out of range for string") {
            Some((index, _)) => {
                let index = index.rsplit(' ').next().unwrap_or_default();
                format!("index out of range: {index}").into()
            }
            None => message.into(),
        },
        ExecutionError::NoSuchOverload
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::InvalidArgumentCount { .. } => EvalError::NoOverload,
        other => other.to_string().into(),
    }
}

/// A value as the library takes it.
pub(crate) fn export(value: &Val<'_>) -> Result<cel::Value, EvalError> {
    Ok(match value {
        Val::Null => cel::Value::Null,
        Val::Bool(b) => cel::Value::Bool(*b),
        Val::Int(i) => cel::Value::Int(*i),
        Val::Uint(u) => cel::Value::UInt(*u),
        Val::Double(d) => cel::Value::Float(*d),
        Val::Text(text) => cel::Value::String(Arc::new(text.to_string())),
        Val::Bytes(bytes) => cel::Value::Bytes(Arc::new(bytes.to_vec())),
        Val::Array(..) | Val::List(_) => match value.elements() {
            Some(elements) => {
                let list = elements?.iter().map(export).collect::<Result<Vec<_>, _>>()?;
                cel::Value::List(Arc::new(list))
            }
            None => cel::Value::Null,
        },
        Val::Object(..) | Val::Map(_) => export_map(value)?,
        Val::Optional(None) => cel::Value::Opaque(Arc::new(OptionalValue::none())),
        Val::Optional(Some(inner)) => cel::Value::Opaque(Arc::new(OptionalValue::of(export(inner)?))),
        Val::Type(name) => cel::Value::String(Arc::new((*name).to_owned())),
        Val::Foreign(value) => value.clone(),
        Val::Opaque(_) => return Err(EvalError::NoOverload),
    })
}

fn export_map(value: &Val<'_>) -> Result<cel::Value, EvalError> {
    let mut map = std::collections::HashMap::new();
    for (key, value) in value.entries().transpose()?.unwrap_or_default() {
        let key = match key {
            Val::Text(text) => Key::from(text.into_owned()),
            Val::Int(i) => Key::Int(i),
            Val::Uint(u) => Key::Uint(u),
            Val::Bool(b) => Key::Bool(b),
            _ => return Err(EvalError::NoOverload),
        };
        map.insert(key, export(&value)?);
    }
    Ok(cel::Value::Map(map.into()))
}

/// A value that the library gave.
fn import<'a>(value: &cel::Value) -> Val<'a> {
    match value {
        cel::Value::Null => Val::Null,
        cel::Value::Bool(b) => Val::Bool(*b),
        cel::Value::Int(i) => Val::Int(*i),
        cel::Value::UInt(u) => Val::Uint(*u),
        cel::Value::Float(d) => Val::Double(*d),
        cel::Value::String(text) => Val::Text(text.to_string().into()),
        cel::Value::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
        cel::Value::List(list) => Val::List(Rc::new(list.iter().map(import).collect())),
        cel::Value::Map(map) => {
            let entry = |(key, value): (&Key, &cel::Value)| {
                let key = match key {
                    Key::Int(i) => Val::Int(*i),
                    Key::Uint(u) => Val::Uint(*u),
                    Key::Bool(b) => Val::Bool(*b),
                    Key::String(text) => Val::Text(text.to_string().into()),
                };
                (key, import(value))
            };
            Val::Map(Rc::new(map.map.iter().map(entry).collect()))
        }
        other => match <&OptionalValue>::try_from(other) {
            Ok(optional) => Val::Optional(optional.value().map(|v| Rc::new(import(v)))),
            Err(_) => Val::Foreign(other.clone()),
        },
    }
}
