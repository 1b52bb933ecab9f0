//! Values while a rule runs.
//!
//! In: parts of an object with their schema, constants, results of functions. Out: typed values.
//! Invariant: nothing of the object is copied until an operation needs it.

use super::error::EvalError;
use super::escape::escape;
use super::library;
use super::types::property;
use crate::schema::formats;
use crate::schema::formats::Kind;
use crate::schema::node::{Additional, Node, Type};
use crate::schema::scalars::is_integer;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::rc::Rc;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Rc<[u8]>),
    /// A list of the object; its node has the schema of the items.
    Array(&'a [Value], &'a Node),
    /// An object or map of the object.
    Object(&'a Map<String, Value>, &'a Node),
    List(Rc<Vec<Val<'a>>>),
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    Optional(Option<Rc<Val<'a>>>),
    Type(&'static str),
    /// Times, durations, quantities, addresses: what the library made.
    Foreign(cel::Value),
    /// Data without a schema: it can only be compared.
    Opaque(&'a Value),
}

impl<'a> Val<'a> {
    /// The value of a part of an object.
    pub(crate) fn of(value: &'a Value, node: &'a Node) -> Result<Val<'a>, EvalError> {
        match (value, node.type_) {
            (Value::Null, _) if node.nullable => Ok(Val::Null),
            (Value::Null, _) => Err("invalid data, got null for schema with nullable=false".into()),
            (Value::String(text), _) if node.int_or_string => Ok(Val::Text(text.into())),
            (Value::Number(n), _) if node.int_or_string => match n.as_i64() {
                Some(i) => Ok(Val::Int(i)),
                None => Err("invalid data, expected XIntOrString value to be either a string or integer".into()),
            },
            (_, _) if node.int_or_string => {
                Err("invalid data, expected XIntOrString value to be either a string or integer".into())
            }
            (Value::Object(fields), Some(Type::Object)) => Ok(Val::Object(fields, node)),
            (Value::Array(list), Some(Type::Array)) => Ok(Val::Array(list, node)),
            (Value::String(text), Some(Type::String)) => string(text, node),
            (Value::Number(n), Some(Type::Number)) => Ok(Val::Double(n.as_f64().unwrap_or(0.0))),
            (Value::Number(_), Some(Type::Integer)) => integer(value),
            (Value::Bool(b), Some(Type::Boolean)) => Ok(Val::Bool(*b)),
            (_, None) if node.preserve_unknown => Ok(Val::Opaque(value)),
            (_, Some(type_)) => Err(unexpected(value, type_)),
            (_, None) => Err("invalid type, expected object, array, number, integer, boolean or string".into()),
        }
    }

    /// The name of the value's type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Text(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Array(..) | Val::List(_) => "list",
            Val::Object(..) | Val::Map(_) => "map",
            Val::Optional(_) => "optional_type",
            Val::Type(_) => "type",
            Val::Foreign(cel::Value::Timestamp(_)) => "google.protobuf.Timestamp",
            Val::Foreign(cel::Value::Duration(_)) => "google.protobuf.Duration",
            Val::Foreign(_) | Val::Opaque(_) => "unknown",
        }
    }

    /// The elements of a list.
    pub(crate) fn elements(&self) -> Option<Result<Cow<'_, [Val<'a>]>, EvalError>> {
        match self {
            Val::List(list) => Some(Ok(Cow::Borrowed(list))),
            Val::Array(list, node) => Some(convert(list, node).map(Cow::Owned)),
            _ => None,
        }
    }

    /// The keys of a map, as rules see them, with their values.
    pub(crate) fn entries(&self) -> Option<Result<Vec<(Val<'a>, Val<'a>)>, EvalError>> {
        match self {
            Val::Map(entries) => Some(Ok(entries.as_ref().clone())),
            Val::Object(fields, node) => Some(convert_fields(fields, node)),
            _ => None,
        }
    }

    /// How many elements or keys.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Val::List(list) => Some(list.len()),
            Val::Array(list, _) => Some(list.len()),
            Val::Map(entries) => Some(entries.len()),
            Val::Object(fields, _) => Some(fields.len()),
            Val::Text(text) => Some(text.chars().count()),
            Val::Bytes(bytes) => Some(bytes.len()),
            _ => None,
        }
    }

    /// A roughly proportional measure of the work that reading this value takes, its elements not
    /// included.
    pub(crate) fn weight(&self) -> u64 {
        let length = match self {
            Val::Text(text) => text.len() / 10,
            Val::Bytes(bytes) => bytes.len() / 10,
            other => other.len().unwrap_or(0),
        };
        1 + length as u64
    }

    /// The same with all elements included.
    pub(crate) fn deep_weight(&self) -> u64 {
        match self {
            Val::Array(list, _) => 1 + list.iter().map(deep).sum::<u64>(),
            Val::Object(fields, _) => 1 + fields.values().map(deep).sum::<u64>(),
            Val::List(list) => 1 + list.iter().map(Val::deep_weight).sum::<u64>(),
            Val::Map(entries) => 1 + entries.iter().map(|(_, value)| value.deep_weight()).sum::<u64>(),
            Val::Opaque(value) => deep(value),
            other => other.weight(),
        }
    }
}

fn deep(value: &Value) -> u64 {
    match value {
        Value::Array(list) => 1 + list.iter().map(deep).sum::<u64>(),
        Value::Object(fields) => 1 + fields.values().map(deep).sum::<u64>(),
        Value::String(text) => 1 + text.len() as u64 / 10,
        _ => 1,
    }
}

fn unexpected(value: &Value, type_: Type) -> EvalError {
    let expected = match type_ {
        Type::Object => return "invalid data, expected a map for the provided schema with type=object".into(),
        Type::Array => return "invalid data, expected an array for the provided schema with type=array".into(),
        Type::String => "string",
        Type::Number => "float",
        Type::Integer => "int",
        Type::Boolean => "bool",
    };
    let got = match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
    };
    format!("invalid data, expected {expected}, got {got}").into()
}

fn integer<'a>(value: &Value) -> Result<Val<'a>, EvalError> {
    match (value.as_i64(), value.as_f64()) {
        (Some(i), _) => Ok(Val::Int(i)),
        (None, Some(f)) if is_integer(f) => Ok(Val::Int(f as i64)),
        _ => Err("invalid data, expected int, got float64".into()),
    }
}

fn string<'a>(text: &'a str, node: &Node) -> Result<Val<'a>, EvalError> {
    match node.format.as_ref().map(|f| f.kind) {
        Some(Kind::Byte) => match formats::bytes(text) {
            Some(bytes) => Ok(Val::Bytes(bytes.into())),
            None => Err(format!("Invalid byte formatted string {text}").into()),
        },
        Some(Kind::Duration) => library::duration(text),
        Some(Kind::Date) => library::timestamp(&format!("{text}T00:00:00Z")),
        Some(Kind::DateTime) => library::timestamp(text),
        _ => Ok(Val::Text(text.into())),
    }
}

fn convert<'a>(list: &'a [Value], node: &'a Node) -> Result<Vec<Val<'a>>, EvalError> {
    match &node.items {
        Some(items) => list.iter().map(|value| Val::of(value, items)).collect(),
        None => Err("invalid array type, expected Items with a non-empty Schema".into()),
    }
}

/// The node of a key, and whether the key is a property, whose null is absence.
pub(crate) fn field_node<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match &node.additional {
        Additional::Schema(values) if node.properties.is_none() => Some(values),
        _ => property(node, key),
    }
}

/// Whether the object has named properties, rather than arbitrary keys.
pub(crate) fn is_record(node: &Node) -> bool {
    node.properties.is_some() || node.resource_root
}

fn convert_fields<'a>(fields: &'a Map<String, Value>, node: &'a Node) -> Result<Vec<(Val<'a>, Val<'a>)>, EvalError> {
    let mut entries = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let Some(child) = field_node(node, key) else { continue };
        if value.is_null() && is_record(node) {
            continue;
        }
        let name = match escape(key) {
            Some(escaped) if is_record(node) => Cow::Owned(escaped),
            _ => Cow::Borrowed(key.as_str()),
        };
        entries.push((Val::Text(name), Val::of(value, child)?));
    }
    Ok(entries)
}
