//! A rule's `fieldPath`.
//!
//! In: a JSON path such as `.spec['a.b'].c` and the node it starts from. Out: the path as messages
//! show it. Invariant: it leads to a field that the schema has.

use crate::schema::list_type::push_field;
use crate::schema::node::{Additional, Node};

/// Normalizes a path and proves that it exists.
pub(crate) fn normalize(path: &str, mut node: &Node) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = step(rest)?;
        if let Some(property) = node.property(&name) {
            push_field(&mut out, &name, true);
            node = property;
        } else if let (None, Additional::Schema(values)) = (&node.properties, &node.additional) {
            push_field(&mut out, &name, false);
            node = values;
        } else {
            return Err("does not refer to a valid field".into());
        }
        rest = after;
    }
    if out.is_empty() {
        return Err("must not be empty".into());
    }
    Ok(out)
}

/// The first name of a path, and what follows it.
fn step(path: &str) -> Result<(String, &str), String> {
    if let Some(after) = path.strip_prefix('.') {
        let end = after.find(['.', '[']).unwrap_or(after.len());
        if end == 0 {
            return Err("unexpected end of JSON path".into());
        }
        return Ok((after[..end].to_owned(), &after[end..]));
    }
    let Some(after) = path.strip_prefix("['") else {
        return Err(format!("expected [ or . but got: {path}"));
    };
    let mut name = String::new();
    let mut chars = after.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped @ ('\'' | '\\'))) => name.push(escaped),
                _ => return Err("invalid string literal: invalid escape char".into()),
            },
            '\'' => {
                let rest = after[i + 1..].strip_prefix(']');
                return rest.map(|rest| (name, rest)).ok_or_else(|| "expected ] after a quoted name".into());
            }
            c => name.push(c),
        }
    }
    Err("unexpected end of JSON path".into())
}
