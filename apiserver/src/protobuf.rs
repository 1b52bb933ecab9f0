//! In: a `k8s\0` protobuf body → out: the same object as JSON → invariant: bounded depth, never panics; unknown fields are
//! skipped. Only requests are decoded (client-go ≥ 0.32 sends core kinds so); answers are always JSON.
//!
//! The messages are a table (`protobuf.txt`: `Message: tag name type, …`; `!` keeps a zero value because the Go field is a
//! pointer or is always written), as the wire format needs no more than that.

use base64::Engine;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::LazyLock;

const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, Copy)]
enum Type {
    Str,
    Int,
    Bool,
    Float,
    Bytes,
    Time { micro: bool },
    Json,
    OrBool,
    OrArray,
    Message(&'static str),
}

struct Field {
    name: &'static str,
    list: bool,
    map: bool,
    keep: bool,
    kind: Type,
}

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

static MESSAGES: LazyLock<Messages> =
    LazyLock::new(|| include_str!("protobuf.txt").lines().filter_map(message).collect());

fn message(line: &'static str) -> Option<(&'static str, HashMap<u64, Field>)> {
    let (name, fields) = line.split_once(':')?;
    Some((name, fields.split(',').filter_map(field).collect()))
}

fn field(text: &'static str) -> Option<(u64, Field)> {
    let mut words = text.split_whitespace();
    let (tag, name, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (kind, keep) = kind.strip_suffix('!').map_or((kind, false), |k| (k, true));
    let (kind, list) = kind.strip_prefix("[]").map_or((kind, false), |k| (k, true));
    let (kind, map) = kind.strip_prefix("{}").map_or((kind, false), |k| (k, true));
    let kind = match kind {
        "str" => Type::Str,
        "int" => Type::Int,
        "bool" => Type::Bool,
        "float" => Type::Float,
        "bytes" => Type::Bytes,
        "time" => Type::Time { micro: false },
        "micro" => Type::Time { micro: true },
        "json" => Type::Json,
        "orbool" => Type::OrBool,
        "orarray" => Type::OrArray,
        message => Type::Message(message),
    };
    Some((tag, Field { name, list, map, keep, kind }))
}

/// Whether a body is in the protobuf envelope.
pub(crate) fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Decodes the envelope (`runtime.Unknown`) and the object in it.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let body = body.strip_prefix(MAGIC).ok_or("not a Kubernetes protobuf body")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Wire(body) {
        match item? {
            (1, Raw::Bytes(type_meta)) => {
                for item in Wire(type_meta) {
                    match item? {
                        (1, Raw::Bytes(b)) => api_version = text(b),
                        (2, Raw::Bytes(b)) => kind = text(b),
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    let name = match (api_version.as_str(), kind.as_str()) {
        ("events.k8s.io/v1", "Event") => "EventsEvent",
        (_, kind) => MESSAGES
            .get_key_value(kind)
            .map(|(k, _)| *k)
            .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?} in protobuf"))?,
    };
    let mut out = Map::new();
    out.insert("apiVersion".into(), api_version.into());
    out.insert("kind".into(), kind.into());
    out.extend(object(name, raw, 0)?);
    Ok(Value::Object(out))
}

fn object(name: &str, raw: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    let fields = MESSAGES.get(name).ok_or("unknown message")?;
    if depth > MAX_DEPTH {
        return Err("nested too deeply".into());
    }
    let mut out = Map::new();
    for item in Wire(raw) {
        let (tag, raw) = item?;
        let Some(f) = fields.get(&tag) else { continue };
        if f.map {
            let (key, v) = entry(f, raw, depth)?;
            let slot = out.entry(f.name).or_insert_with(|| json!({}));
            slot.as_object_mut().ok_or("mixed field")?.insert(key, v);
        } else if f.list {
            let v = value(f.kind, raw, depth)?;
            let slot = out.entry(f.name).or_insert_with(|| json!([]));
            slot.as_array_mut().ok_or("mixed field")?.push(v);
        } else {
            let v = value(f.kind, raw, depth)?;
            if f.keep || !is_zero(&v) {
                out.insert(f.name.into(), v);
            }
        }
    }
    Ok(out)
}

/// Go writes zero values of plain fields; JSON leaves them out.
fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn entry(f: &Field, raw: Raw, depth: usize) -> Result<(String, Value), String> {
    let Raw::Bytes(raw) = raw else { return Err("a map entry is a message".into()) };
    let mut key = String::new();
    let mut found = None;
    for item in Wire(raw) {
        match item? {
            (1, Raw::Bytes(b)) => key = text(b),
            (2, raw) => found = Some(value(f.kind, raw, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| if matches!(f.kind, Type::Message(_)) { json!({}) } else { "".into() })))
}

fn value(kind: Type, raw: Raw, depth: usize) -> Result<Value, String> {
    Ok(match (kind, raw) {
        (Type::Str, Raw::Bytes(b)) => text(b).into(),
        (Type::Int, Raw::Varint(n)) => (n as i64).into(),
        (Type::Bool, Raw::Varint(n)) => (n != 0).into(),
        (Type::Float, Raw::Fixed64(n)) => whole(f64::from_bits(n)),
        (Type::Bytes, Raw::Bytes(b)) => base64::engine::general_purpose::STANDARD.encode(b).into(),
        (Type::Time { micro }, Raw::Bytes(b)) => time(b, micro)?,
        (Type::Json, Raw::Bytes(b)) => raw_json(b)?,
        (Type::OrBool, Raw::Bytes(b)) => or(b, depth, false)?,
        (Type::OrArray, Raw::Bytes(b)) => or(b, depth, true)?,
        (Type::Message(m), Raw::Bytes(b)) => Value::Object(object(m, b, depth + 1)?),
        _ => return Err("proto: wrong wireType".into()),
    })
}

fn whole(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 9e15 { (f as i64).into() } else { f.into() }
}

fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

/// `JSON` and `FieldsV1` hold raw JSON in field 1.
fn raw_json(b: &[u8]) -> Result<Value, String> {
    for item in Wire(b) {
        if let (1, Raw::Bytes(raw)) = item? {
            return serde_json::from_slice(raw).map_err(|e| e.to_string());
        }
    }
    Ok(Value::Null)
}

/// `JSONSchemaPropsOrBool` and `…OrArray`.
fn or(b: &[u8], depth: usize, array: bool) -> Result<Value, String> {
    let mut list = Vec::new();
    let mut allows = Value::Bool(false);
    for item in Wire(b) {
        match item? {
            (1, Raw::Varint(n)) => allows = (n != 0).into(),
            (1, Raw::Bytes(raw)) if array => return Ok(Value::Object(object("SchemaProps", raw, depth + 1)?)),
            (2, Raw::Bytes(raw)) if array => list.push(Value::Object(object("SchemaProps", raw, depth + 1)?)),
            (2, Raw::Bytes(raw)) => return Ok(Value::Object(object("SchemaProps", raw, depth + 1)?)),
            _ => {}
        }
    }
    Ok(if array { list.into() } else { allows })
}

fn time(b: &[u8], micro: bool) -> Result<Value, String> {
    let (mut seconds, mut nanos, mut any) = (0i64, 0i32, false);
    for item in Wire(b) {
        any = true;
        match item? {
            (1, Raw::Varint(n)) => seconds = n as i64,
            (2, Raw::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    if !any {
        return Ok(Value::Null);
    }
    let t = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(t.strftime(format).to_string().into())
}

enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// Iterates over the fields of a message; stops after an error.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (b, rest) = self.0.split_first().ok_or("unexpected EOF")?;
            self.0 = rest;
            n |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err("proto: integer overflow".into())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("unexpected EOF")?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Raw<'a>), String> {
        let key = self.varint()?;
        let raw = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(self.take(8)?.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|e| e.to_string())?;
                Raw::Bytes(self.take(n)?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed32
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok((key >> 3, raw))
    }
}

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u64, Raw<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.field();
        if item.is_err() {
            self.0 = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_pb::api::core::v1::ConfigMap;
    use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use prost::Message;

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let mut meta = Vec::new();
        prost::encoding::string::encode(1, &api_version.to_owned(), &mut meta);
        prost::encoding::string::encode(2, &kind.to_owned(), &mut meta);
        let mut out = MAGIC.to_vec();
        prost::encoding::bytes::encode(1, &meta, &mut out);
        prost::encoding::bytes::encode(2, &raw.to_vec(), &mut out);
        out
    }

    #[test]
    fn a_config_map_as_client_go_sends_it() {
        let cm = ConfigMap {
            metadata: Some(ObjectMeta { name: Some("a".into()), namespace: Some(String::new()), ..Default::default() }),
            immutable: Some(false),
            data: [("k".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        };
        let v = decode(&envelope("v1", "ConfigMap", &cm.encode_to_vec())).unwrap();
        let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "immutable": false,
            "data": {"k": "v"}});
        assert_eq!(v, want);
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(decode(b"k8s\0\xff\xff").is_err());
        assert!(decode(&envelope("v1", "Pod", b"")).is_err());
        assert!(decode(&envelope("v1", "ConfigMap", b"\x0a\xff\x01")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body: Vec<u8>) {
            let _ = decode(&[MAGIC, &body].concat());
            let _ = decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &body));
        }
    }
}
