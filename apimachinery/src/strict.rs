//! Decoding of request bodies.
//!
//! In: the bytes of a body, JSON or YAML. Out: the document and the paths of fields that stand in
//! it twice, the last of which wins. Invariant: depth, and what YAML's aliases expand to, is
//! bounded; a body that goes beyond is an error, not a crash.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The deepest nesting of a document.
pub const MAX_DEPTH: usize = 200;
/// The most values in a document, aliases expanded.
const MAX_VALUES: usize = 1_000_000;
/// The most text in a document, aliases expanded, in bytes.
const MAX_TEXT: usize = 32 << 20;
/// More unclosed brackets than this are no document; some may stand inside texts.
const MAX_UNCLOSED: usize = 2_000;
/// More duplicate fields are not listed.
const MAX_DUPLICATES: usize = 100;

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The document; of duplicate fields the last one.
    pub value: Value,
    /// Paths of fields that stood more than once, such as `spec.objective`.
    pub duplicate_fields: Vec<String>,
}

/// Why a body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// What is wrong, with line and column where they are known.
    pub message: String,
}

/// Decodes JSON.
///
/// # Errors
/// No JSON, something after the document, or a document that is too deep or too large.
pub fn decode_json(body: &[u8]) -> Result<Decoded, DecodeError> {
    let mut decoder = serde_json::Deserializer::from_slice(body);
    // Our own limit is the one that counts.
    decoder.disable_recursion_limit();
    let mut state = State::default();
    let value = Node { state: &mut state, depth: 0 }.deserialize(&mut decoder).map_err(json_error)?;
    decoder.end().map_err(json_error)?;
    Ok(Decoded { value, duplicate_fields: state.duplicates })
}

fn json_error(error: serde_json::Error) -> DecodeError {
    DecodeError { message: format!("json parse error: {error}") }
}

/// Decodes YAML, of which JSON is a part: one document, with its merge keys (`<<`) merged.
///
/// # Errors
/// No YAML, more than one document, values that JSON does not have, or a document that is too deep
/// or, aliases expanded, too large.
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, DecodeError> {
    let error = |e: &dyn fmt::Display| DecodeError { message: format!("yaml parse error: {e}") };
    if unclosed(body) > MAX_UNCLOSED {
        return Err(error(&format!("nested deeper than {MAX_DEPTH} levels")));
    }
    let mut found: Option<Decoded> = None;
    for document in serde_yaml::Deserializer::from_slice(body) {
        let mut state = State { merge: true, ..State::default() };
        let value = Node { state: &mut state, depth: 0 }.deserialize(document).map_err(|e| error(&e))?;
        match &found {
            // An empty document is what a separator at the end leaves.
            Some(_) if value.is_null() => {}
            Some(first) if !first.value.is_null() => return Err(error(&"a body holds one document, not several")),
            _ => found = Some(Decoded { value, duplicate_fields: state.duplicates }),
        }
    }
    Ok(found.unwrap_or(Decoded { value: Value::Null, duplicate_fields: Vec::new() }))
}

/// How far opening brackets outnumber closing ones, at most, anywhere in a text. The parser's time
/// grows with the square of it.
fn unclosed(body: &[u8]) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in body {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// What is known while decoding.
struct State {
    path: String,
    duplicates: Vec<String>,
    values: usize,
    text: usize,
    /// Whether `<<` merges.
    merge: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { path: String::new(), duplicates: Vec::new(), values: MAX_VALUES, text: MAX_TEXT, merge: false }
    }
}

impl State {
    fn take<E: Error>(&mut self, text: usize) -> Result<(), E> {
        match (self.values.checked_sub(1), self.text.checked_sub(text)) {
            (Some(values), Some(text)) => {
                self.values = values;
                self.text = text;
                Ok(())
            }
            _ => Err(E::custom("the document is too large")),
        }
    }

    fn duplicate(&mut self) {
        if self.duplicates.len() < MAX_DUPLICATES && !self.duplicates.contains(&self.path) {
            self.duplicates.push(self.path.clone());
        }
    }
}

/// One value to be decoded.
struct Node<'s> {
    state: &'s mut State,
    depth: usize,
}

impl Node<'_> {
    fn below<E: Error>(&mut self) -> Result<Node<'_>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Node { state: &mut *self.state, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.state.take(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.state.take(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.state.take(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.state.take(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.state.take(0)?;
        match serde_json::Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(E::custom(format!("JSON has no number {value}"))),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.state.take(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.state.take(0)?;
        let mut list = Vec::new();
        let length = self.state.path.len();
        loop {
            self.state.path.push_str(&format!("[{}]", list.len()));
            let next = items.next_element_seed(self.below()?)?;
            self.state.path.truncate(length);
            match next {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        self.state.take(0)?;
        let mut fields = Map::new();
        let mut merges = Vec::new();
        let length = self.state.path.len();
        while let Some(key) = entries.next_key_seed(Key)? {
            self.state.take(key.len())?;
            if length > 0 {
                self.state.path.push('.');
            }
            self.state.path.push_str(&key);
            if fields.contains_key(&key) {
                self.state.duplicate();
            }
            let value = entries.next_value_seed(self.below()?)?;
            self.state.path.truncate(length);
            if self.state.merge && key == "<<" {
                merges.push(value);
            } else {
                fields.insert(key, value);
            }
        }
        for merged in merges {
            merge(&mut fields, merged)?;
        }
        Ok(Value::Object(fields))
    }
}

/// Adds the fields of a merge key that are not there yet.
fn merge<E: Error>(fields: &mut Map<String, Value>, merged: Value) -> Result<(), E> {
    match merged {
        Value::Object(map) => {
            for (key, value) in map {
                fields.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|item| merge(fields, item)),
        _ => Err(E::custom("map merge requires map or sequence of maps as the value")),
    }
}

/// The key of a map: a text, or a scalar that becomes one.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as key")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<String, E> {
        Ok(crate::gotext::float(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates() {
        let body = br#"{"spec":{"a":1,"objective":"x","objective":"y","l":[{"k":1},{"k":1,"k":2}]},"spec":{"b":2}}"#;
        let decoded = decode_json(body).expect("JSON");
        assert_eq!(decoded.duplicate_fields, ["spec.objective", "spec.l[1].k", "spec"]);
        assert_eq!(decoded.value, json!({"spec": {"b": 2}}));
        let decoded = decode_yaml(b"spec:\n  a: 1\n  a: 2\n").expect("YAML");
        assert_eq!(decoded.duplicate_fields, ["spec.a"]);
        assert_eq!(decoded.value, json!({"spec": {"a": 2}}));
    }

    #[test]
    fn depth_is_bounded() {
        for depth in [150, 199] {
            let body = "[".repeat(depth) + &"]".repeat(depth);
            assert!(decode_json(body.as_bytes()).is_ok());
        }
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let body = open.repeat(100_000) + "1" + &close.repeat(100_000);
            let error = decode_json(body.as_bytes()).expect_err("too deep");
            assert!(error.message.contains("nested deeper than 200 levels"), "{error}");
            assert!(decode_yaml(body.as_bytes()).is_err());
        }
    }

    #[test]
    fn aliases_are_bounded() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..20 {
            let last = format!("*a{}", i - 1);
            laughs += &format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", "));
        }
        assert!(decode_yaml(laughs.as_bytes()).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), ["*a"; 1000].join(", "));
        assert!(decode_yaml(long.as_bytes()).is_err());
        let fair = decode_yaml(b"a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n").expect("YAML");
        assert_eq!(fair.value, json!({"a": {"x": 1}, "b": {"x": 1}, "c": {"y": 2, "x": 1}}));
    }

    #[test]
    fn documents() {
        assert_eq!(decode_yaml(b"---\na: 1\n---\n").map(|d| d.value), Ok(json!({"a": 1})));
        assert_eq!(decode_yaml(b"").map(|d| d.value), Ok(Value::Null));
        assert_eq!(decode_yaml(b"1: x\ntrue: y\n").map(|d| d.value), Ok(json!({"1": "x", "true": "y"})));
        assert!(decode_yaml(b"a: 1\n---\nb: 2\n").is_err());
        assert!(decode_yaml(b"a: .nan\n").is_err());
        assert!(decode_yaml(b"a: [\n").is_err());
        for body in [&b""[..], b"{", b"{} x", b"\xff", b"{\"a\":1e999}", b"nul"] {
            assert!(decode_json(body).is_err(), "{body:?}");
        }
    }
}
