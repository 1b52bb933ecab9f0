//! JSON patch, RFC 6902.
//!
//! In: an object and a list of operations. Out: the object after all of them. Invariant: all or
//! none; no operation makes the object deeper than a body may be, and copying is bounded.
//!
//! Where the real server is more lenient than the RFC this one is too: a test for null holds where
//! the key is absent, `replace` of an absent key adds it, and negative indices count from the end.

use super::PatchError;
use crate::strict::MAX_DEPTH;
use serde_json::Value;

/// The most operations in a patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// The most that all `copy` operations together may add, in bytes of JSON.
const MAX_COPIED: usize = 3 << 20;
/// The most elements that all operations together may look at or move.
const MAX_WORK: usize = 50_000_000;

/// Applies a JSON patch.
///
/// # Errors
/// `Malformed` where the patch is no list of operations, `TooLarge` where it has too many or asks
/// for too much, `Conflict` where an operation does not apply or a test fails.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed("error decoding patch: a JSON patch is a list of operations".into()));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let parsed: Vec<Operation<'_>> = operations.iter().map(Operation::parse).collect::<Result<_, _>>()?;
    let mut run = Run { document: target.clone(), copied: 0, work: 0 };
    for operation in &parsed {
        run.apply(operation)?;
    }
    *target = run.document;
    Ok(())
}

/// A path into the document: its text, and its parts unescaped.
struct Path<'p> {
    text: &'p str,
    parts: Vec<String>,
}

impl<'p> Path<'p> {
    fn parse(text: &'p str) -> Result<Self, PatchError> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(PatchError::Malformed(format!("JSON pointer {text:?} must start with '/'")));
        }
        let parts = text.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        Ok(Self { text, parts })
    }

    /// The path of the container, and the key in it; `None` for the whole document.
    fn split(&self) -> Option<(&[String], &str)> {
        self.parts.split_last().map(|(key, parents)| (parents, key.as_str()))
    }
}

enum Operation<'p> {
    Add(Path<'p>, &'p Value),
    Remove(Path<'p>),
    Replace(Path<'p>, &'p Value),
    Move(Path<'p>, Path<'p>),
    Copy(Path<'p>, Path<'p>),
    Test(Path<'p>, &'p Value),
}

impl<'p> Operation<'p> {
    fn parse(raw: &'p Value) -> Result<Self, PatchError> {
        let text = |key: &str| raw.get(key).and_then(Value::as_str);
        let malformed = |what: &str| PatchError::Malformed(format!("error decoding patch: {what} in operation {raw}"));
        let path = |key: &str| Path::parse(text(key).ok_or_else(|| malformed(&format!("missing {key:?}")))?);
        let value = || raw.get("value").ok_or_else(|| malformed("missing \"value\""));
        Ok(match text("op") {
            Some("add") => Operation::Add(path("path")?, value()?),
            Some("remove") => Operation::Remove(path("path")?),
            Some("replace") => Operation::Replace(path("path")?, value()?),
            Some("move") => Operation::Move(path("from")?, path("path")?),
            Some("copy") => Operation::Copy(path("from")?, path("path")?),
            // Some clients leave out a null.
            Some("test") => Operation::Test(path("path")?, raw.get("value").unwrap_or(&Value::Null)),
            Some(other) => return Err(malformed(&format!("unexpected kind {other:?}"))),
            None => return Err(malformed("missing \"op\"")),
        })
    }
}

struct Run {
    document: Value,
    copied: usize,
    work: usize,
}

impl Run {
    fn apply(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        match operation {
            Operation::Add(path, value) => self.add("add", path, (*value).clone()),
            Operation::Remove(path) => self.remove("remove", path).map(drop),
            Operation::Replace(path, value) => self.replace(path, value),
            Operation::Move(from, path) => {
                // An ancestor of the destination cannot be moved into itself.
                if path.parts.len() > from.parts.len() && path.parts.starts_with(&from.parts) {
                    return Err(missing("move", path));
                }
                let value = self.remove("move", from)?;
                self.add("move", path, value)
            }
            Operation::Copy(from, path) => self.copy(from, path),
            Operation::Test(path, value) => self.test(path, value),
        }
    }

    fn charge(&mut self, work: usize) -> Result<(), PatchError> {
        self.work = self.work.saturating_add(work);
        if self.work > MAX_WORK {
            return Err(PatchError::TooLarge("the patch moves too many elements".into()));
        }
        Ok(())
    }

    /// The container that a path leads through.
    fn container(&mut self, parents: &[String]) -> Option<&mut Value> {
        let mut at = &mut self.document;
        for part in parents {
            at = match at {
                Value::Object(fields) => fields.get_mut(part)?,
                Value::Array(list) => {
                    let i = index(part, list.len(), false)?;
                    list.get_mut(i)?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    fn get(&mut self, path: &Path<'_>) -> Option<&Value> {
        self.container(&path.parts).map(|value| &*value)
    }

    fn add(&mut self, operation: &str, path: &Path<'_>, value: Value) -> Result<(), PatchError> {
        let mut looked_at = 0;
        let allowed = MAX_DEPTH.saturating_sub(path.parts.len());
        let shallow = path.parts.len() <= MAX_DEPTH && no_deeper(&value, allowed, &mut looked_at);
        self.charge(looked_at)?;
        if !shallow {
            return Err(PatchError::TooLarge(format!("the result is nested deeper than {MAX_DEPTH} levels")));
        }
        let Some((parents, key)) = path.split() else {
            self.document = value;
            return Ok(());
        };
        let moved = match self.container(parents) {
            Some(Value::Object(fields)) => {
                fields.insert(key.to_owned(), value);
                0
            }
            Some(Value::Array(list)) => {
                let i = if key == "-" { Some(list.len()) } else { index(key, list.len(), true) };
                let i = i.filter(|i| *i <= list.len()).ok_or_else(|| invalid_index(operation, path, key))?;
                list.insert(i, value);
                list.len() - i
            }
            _ => return Err(missing(operation, path)),
        };
        self.charge(moved)
    }

    fn remove(&mut self, operation: &str, path: &Path<'_>) -> Result<Value, PatchError> {
        let Some((parents, key)) = path.split() else { return Err(missing(operation, path)) };
        let (value, moved) = match self.container(parents) {
            Some(Value::Object(fields)) => {
                let value = fields.shift_remove(key).ok_or_else(|| {
                    PatchError::Conflict(format!(
                        "error in {operation} for path: '{}': Unable to remove nonexistent key: {key}: missing value",
                        path.text
                    ))
                })?;
                (value, fields.len())
            }
            Some(Value::Array(list)) => {
                let i = index(key, list.len(), false).filter(|i| *i < list.len());
                let i = i.ok_or_else(|| invalid_index(operation, path, key))?;
                (list.remove(i), list.len() - i)
            }
            _ => return Err(missing(operation, path)),
        };
        self.charge(moved)?;
        Ok(value)
    }

    fn replace(&mut self, path: &Path<'_>, value: &Value) -> Result<(), PatchError> {
        let Some((parents, key)) = path.split() else {
            self.document = value.clone();
            return Ok(());
        };
        match self.container(parents) {
            Some(Value::Object(_)) => self.add("replace", path, value.clone()),
            Some(Value::Array(list)) => match index(key, list.len(), false).filter(|i| *i < list.len()) {
                Some(_) => self.set(path, value.clone()),
                None => Err(missing_key("replace", path)),
            },
            _ => Err(missing("replace", path)),
        }
    }

    /// Puts a value where there is one.
    fn set(&mut self, path: &Path<'_>, value: Value) -> Result<(), PatchError> {
        let mut looked_at = 0;
        let allowed = MAX_DEPTH.saturating_sub(path.parts.len());
        if path.parts.len() > MAX_DEPTH || !no_deeper(&value, allowed, &mut looked_at) {
            return Err(PatchError::TooLarge(format!("the result is nested deeper than {MAX_DEPTH} levels")));
        }
        self.charge(looked_at)?;
        match self.container(&path.parts) {
            Some(slot) => {
                *slot = value;
                Ok(())
            }
            None => Err(missing_key("replace", path)),
        }
    }

    fn copy(&mut self, from: &Path<'_>, path: &Path<'_>) -> Result<(), PatchError> {
        let left = MAX_COPIED.saturating_sub(self.copied);
        let Some(value) = self.get(from) else { return Err(missing_key("copy", from)) };
        let mut size = 0;
        measure(value, left, &mut size);
        if size > left {
            return Err(PatchError::TooLarge(format!(
                "Unable to complete the copy, the accumulated size increase of copy exceeds the limit {MAX_COPIED}"
            )));
        }
        let value = value.clone();
        self.copied += size;
        self.add("copy", path, value)
    }

    fn test(&mut self, path: &Path<'_>, expected: &Value) -> Result<(), PatchError> {
        let failed = || PatchError::Conflict(format!("testing value {} failed: test failed", path.text));
        let Some((parents, key)) = path.split() else {
            return if same(&self.document, expected) { Ok(()) } else { Err(failed()) };
        };
        let found = match self.container(parents) {
            Some(Value::Object(fields)) => fields.get(key).unwrap_or(&Value::Null),
            Some(Value::Array(list)) => index(key, list.len(), false)
                .and_then(|i| list.get(i))
                .ok_or_else(|| invalid_index("test", path, key))?,
            _ => {
                let text = path.text;
                let message = format!("test operation does not apply: is missing path: {text}: missing value");
                return Err(PatchError::Conflict(message));
            }
        };
        if same(found, expected) { Ok(()) } else { Err(failed()) }
    }
}

/// An index into a list of that length; when adding, the end is a place too.
fn index(key: &str, length: usize, adding: bool) -> Option<usize> {
    let digits = key.strip_prefix('-').unwrap_or(key);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if leading_zero || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: usize = digits.parse().ok()?;
    if key.starts_with('-') { (length + usize::from(adding)).checked_sub(number) } else { Some(number) }
}

fn missing(operation: &str, path: &Path<'_>) -> PatchError {
    let text = path.text;
    PatchError::Conflict(format!(
        "{operation} operation does not apply: doc is missing path: \"{text}\": missing value"
    ))
}

fn missing_key(operation: &str, path: &Path<'_>) -> PatchError {
    let text = path.text;
    PatchError::Conflict(format!("{operation} operation does not apply: doc is missing key: {text}: missing value"))
}

fn invalid_index(operation: &str, path: &Path<'_>, key: &str) -> PatchError {
    PatchError::Conflict(format!(
        "error in {operation} for path: '{}': Unable to access invalid index: {key}: invalid index referenced",
        path.text
    ))
}

/// Equality by value: `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Whether a value has at most so many levels; counts what it looked at.
fn no_deeper(value: &Value, levels: usize, looked_at: &mut usize) -> bool {
    *looked_at += 1;
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(list) => list.iter().all(|v| no_deeper(v, levels - 1, looked_at)),
        Value::Object(fields) => fields.values().all(|v| no_deeper(v, levels - 1, looked_at)),
        _ => true,
    }
}

/// The size of a value in JSON, roughly; stops beyond `limit`.
fn measure(value: &Value, limit: usize, size: &mut usize) {
    *size += match value {
        Value::String(text) => text.len() + 3,
        _ => 5,
    };
    match value {
        Value::Array(list) => {
            for item in list {
                if *size > limit {
                    return;
                }
                measure(item, limit, size);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                if *size > limit {
                    return;
                }
                *size += key.len() + 4;
                measure(item, limit, size);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
