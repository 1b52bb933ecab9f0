//! Operators on values.
//!
//! In: one or two values. Out: their result. Invariant: no overflow, no division by zero and no
//! index out of bounds passes unnoticed; each is an error with cel-go's text.

use super::error::EvalError;
use super::expr::{Binary, Select};
use super::library::export;
use super::value::{Val, field_node, is_record};
use crate::schema::node::ListType;
use std::cmp::Ordering;
use std::rc::Rc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// Every operator but the logical ones.
pub(crate) fn binary<'a>(operator: Binary, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    let ordered = |test: fn(Ordering) -> bool| match compare(a, b)? {
        Some(order) => Ok(Val::Bool(test(order))),
        None => Ok(Val::Bool(false)),
    };
    match operator {
        Binary::Equal => equal(a, b).map(Val::Bool),
        Binary::NotEqual => equal(a, b).map(|same| Val::Bool(!same)),
        Binary::Less => ordered(Ordering::is_lt),
        Binary::LessEqual => ordered(Ordering::is_le),
        Binary::Greater => ordered(Ordering::is_gt),
        Binary::GreaterEqual => ordered(Ordering::is_ge),
        Binary::In => contains(b, a).map(Val::Bool),
        Binary::Add => add(a, b),
        _ => arithmetic(operator, a, b),
    }
}

fn arithmetic<'a>(operator: Binary, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => int(operator, *a, *b).map(Val::Int),
        (Val::Uint(a), Val::Uint(b)) => uint(operator, *a, *b).map(Val::Uint),
        (Val::Double(a), Val::Double(b)) => match operator {
            Binary::Subtract => Ok(Val::Double(a - b)),
            Binary::Multiply => Ok(Val::Double(a * b)),
            Binary::Divide => Ok(Val::Double(a / b)),
            _ => Err(EvalError::NoOverload),
        },
        (Val::Foreign(a), Val::Foreign(b)) if operator == Binary::Subtract => {
            time(a.clone() - b.clone(), "timestamp overflow")
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn int(operator: Binary, a: i64, b: i64) -> Result<i64, EvalError> {
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide if b == 0 => return Err("division by zero".into()),
        Binary::Divide => a.checked_div(b),
        Binary::Modulo if b == 0 => return Err("modulus by zero".into()),
        Binary::Modulo => a.checked_rem(b),
        _ => return Err(EvalError::NoOverload),
    };
    result.ok_or_else(|| "integer overflow".into())
}

fn uint(operator: Binary, a: u64, b: u64) -> Result<u64, EvalError> {
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide if b == 0 => return Err("division by zero".into()),
        Binary::Divide => a.checked_div(b),
        Binary::Modulo if b == 0 => return Err("modulus by zero".into()),
        Binary::Modulo => a.checked_rem(b),
        _ => return Err(EvalError::NoOverload),
    };
    result.ok_or_else(|| "unsigned integer overflow".into())
}

fn time<'a>(result: cel::ResolveResult, overflow: &str) -> Outcome<'a> {
    match result {
        Ok(value) => Ok(Val::Foreign(value)),
        Err(cel::ExecutionError::Overflow(..)) => Err(overflow.into()),
        Err(_) => Err(EvalError::NoOverload),
    }
}

fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Text(a), Val::Text(b)) => Ok(Val::Text(format!("{a}{b}").into())),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([a.as_ref(), b.as_ref()].concat().into())),
        (Val::Int(a), Val::Int(b)) => int(Binary::Add, *a, *b).map(Val::Int),
        (Val::Uint(a), Val::Uint(b)) => uint(Binary::Add, *a, *b).map(Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::Foreign(a), Val::Foreign(b)) => time(a.clone() + b.clone(), "timestamp overflow"),
        _ => concatenate(a, b),
    }
}

/// Lists one after the other; sets are united, map lists merged.
fn concatenate<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    let (Some(first), Some(second)) = (a.elements(), b.elements()) else { return Err(EvalError::NoOverload) };
    let mut list = first?.into_owned();
    let (list_type, keys): (ListType, &[String]) = match a {
        Val::Array(_, node) => (node.list_type, &node.list_map_keys),
        _ => (ListType::Atomic, &[]),
    };
    for item in second?.iter() {
        let place = match list_type {
            ListType::Atomic => None,
            ListType::Set => position(&list, |known| equal(known, item))?,
            ListType::Map => position(&list, |known| same_keys(known, item, keys))?,
        };
        match place.and_then(|i| list.get_mut(i)) {
            Some(known) => *known = item.clone(),
            None => list.push(item.clone()),
        }
    }
    Ok(Val::List(Rc::new(list)))
}

fn position<'a>(
    list: &[Val<'a>],
    test: impl Fn(&Val<'a>) -> Result<bool, EvalError>,
) -> Result<Option<usize>, EvalError> {
    for (i, known) in list.iter().enumerate() {
        if test(known)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[String]) -> Result<bool, EvalError> {
    match (a, b) {
        (Val::Object(a, _), Val::Object(b, _)) => Ok(keys.iter().all(|key| a.get(key) == b.get(key))),
        _ => Ok(false),
    }
}

/// `a == b`; values of different types are different, numbers are compared by value.
pub(crate) fn equal(a: &Val<'_>, b: &Val<'_>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Text(a), Val::Text(b)) => a == b,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Foreign(a), Val::Foreign(b)) => a == b,
        (Val::Optional(None), Val::Optional(None)) => true,
        (Val::Optional(Some(a)), Val::Optional(Some(b))) => return equal(a, b),
        (Val::Opaque(a), Val::Opaque(b)) => a == b,
        (Val::Array(a, x), Val::Array(b, y)) if std::ptr::eq(*x, *y) && std::ptr::eq(*a, *b) => true,
        (Val::Object(a, x), Val::Object(b, y)) if std::ptr::eq(*x, *y) && std::ptr::eq(*a, *b) => true,
        (Val::Array(..) | Val::List(_), Val::Array(..) | Val::List(_)) => return equal_lists(a, b),
        (Val::Object(..) | Val::Map(_), Val::Object(..) | Val::Map(_)) => return equal_maps(a, b),
        _ => numeric(a, b) == Some(Ordering::Equal),
    })
}

fn equal_lists(a: &Val<'_>, b: &Val<'_>) -> Result<bool, EvalError> {
    let (Some(first), Some(second)) = (a.elements(), b.elements()) else { return Ok(false) };
    let (first, second) = (first?, second?);
    if first.len() != second.len() {
        return Ok(false);
    }
    let ordered = !matches!(a, Val::Array(_, node) if node.list_type != ListType::Atomic);
    if ordered {
        for (a, b) in first.iter().zip(second.iter()) {
            if !equal(a, b)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    // Sets and map lists have no order.
    for item in second.iter() {
        if position(&first, |known| equal(known, item))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &Val<'_>, b: &Val<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (key, value) in a.entries().transpose()?.unwrap_or_default() {
        match find(b, &key)? {
            Some(other) if equal(&value, &other)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn numeric(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
        _ => None,
    }
}

fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_))
}

/// The order of two values; `None` only beside a NaN.
fn compare(a: &Val<'_>, b: &Val<'_>) -> Result<Option<Ordering>, EvalError> {
    match (a, b) {
        _ if is_number(a) && is_number(b) => Ok(numeric(a, b)),
        (Val::Text(a), Val::Text(b)) => Ok(Some(a.cmp(b))),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Some(a.cmp(b))),
        (Val::Bool(a), Val::Bool(b)) => Ok(Some(a.cmp(b))),
        (Val::Foreign(a), Val::Foreign(b)) => a.partial_cmp(b).map(Some).ok_or(EvalError::NoOverload),
        _ => Err(EvalError::NoOverload),
    }
}

/// `item in container`.
fn contains(container: &Val<'_>, item: &Val<'_>) -> Result<bool, EvalError> {
    if let Some(elements) = container.elements() {
        return Ok(position(&elements?, |known| equal(known, item))?.is_some());
    }
    match container {
        Val::Object(..) | Val::Map(_) => Ok(find(container, item)?.is_some()),
        _ => Err(EvalError::NoOverload),
    }
}

/// The value of a key of a map.
pub(crate) fn find<'a>(map: &Val<'a>, key: &Val<'_>) -> Result<Option<Val<'a>>, EvalError> {
    match (map, key) {
        (Val::Object(_, node), Val::Text(key)) if is_record(node) => match super::escape::unescape(key) {
            Some(name) => field(map, &name),
            None => Ok(None),
        },
        (Val::Object(..), Val::Text(key)) => field(map, key),
        (Val::Object(..), _) => Err(EvalError::NoOverload),
        (Val::Map(entries), key) => {
            for (known, value) in entries.iter() {
                if equal(known, key)? {
                    return Ok(Some(value.clone()));
                }
            }
            Ok(None)
        }
        _ => Err(EvalError::NoOverload),
    }
}

/// The value of a field by its name in the object.
fn field<'a>(object: &Val<'a>, name: &str) -> Result<Option<Val<'a>>, EvalError> {
    let Val::Object(fields, node) = object else { return Err(EvalError::NoOverload) };
    match (fields.get(name), field_node(node, name)) {
        // A null property is an absent one.
        (Some(value), Some(_)) if value.is_null() && is_record(node) => Ok(None),
        (Some(value), Some(child)) => Val::of(value, child).map(Some),
        _ => Ok(None),
    }
}

/// The value that a selection finds, if any.
pub(crate) fn select<'a>(operand: &Val<'a>, select: &Select) -> Result<Option<Val<'a>>, EvalError> {
    match operand {
        Val::Object(_, node) if is_record(node) => match &select.property {
            Some(name) => field(operand, name),
            None => Ok(None),
        },
        Val::Object(..) => field(operand, &select.identifier),
        Val::Map(_) => find(operand, &Val::Text(select.identifier.as_str().into())),
        _ => Err(EvalError::NoOverload),
    }
}

/// `a[i]`; `None` where there is no such element.
pub(crate) fn index<'a>(operand: &Val<'a>, index: &Val<'_>) -> Result<Option<Val<'a>>, EvalError> {
    if matches!(operand, Val::Object(..) | Val::Map(_)) {
        return find(operand, index);
    }
    let position = match index {
        Val::Int(i) => usize::try_from(*i).ok(),
        Val::Uint(u) => usize::try_from(*u).ok(),
        Val::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
        _ => return Err(EvalError::NoOverload),
    };
    match operand {
        Val::List(list) => Ok(position.and_then(|i| list.get(i)).cloned()),
        Val::Array(list, node) => match (position.and_then(|i| list.get(i)), &node.items) {
            (Some(value), Some(items)) => Val::of(value, items).map(Some),
            _ => Ok(None),
        },
        _ => Err(EvalError::NoOverload),
    }
}

/// `-a`.
pub(crate) fn negate<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(i) => i.checked_neg().map(Val::Int).ok_or_else(|| "integer overflow".into()),
        Val::Double(d) => Ok(Val::Double(-d)),
        _ => Err(EvalError::NoOverload),
    }
}

/// A key as an error shows it.
pub(crate) fn show(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => text.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => crate::gotext::float(*d),
        Val::Bool(b) => b.to_string(),
        other => export(other).map(|v| format!("{v:?}")).unwrap_or_default(),
    }
}
