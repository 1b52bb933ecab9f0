//! Compiling a schema.
//!
//! In: the raw JSON of `openAPIV3Schema`. Out: a [`Node`] tree with regular expressions and CEL
//! programs compiled, and defaults pruned of unknown fields. Invariant: whatever compiles can be
//! evaluated without a further look at the JSON; the first mistake is named with its path.

use super::cel;
use super::formats::Format;
use super::node::{Additional, Bounds, ListType, Node, Pattern, Properties, Type};
use super::{Schema, SchemaError, prune, regexes};
use serde_json::{Map, Value};

/// Where paths of errors begin.
const ROOT: &str = "openAPIV3Schema";

/// Deeper schemas are refused; no object that passes decoding could reach them.
const MAX_DEPTH: usize = 100;

/// The stack on which a schema is compiled: the rules' parser recurses deeply.
const STACK: usize = 64 << 20;

/// Compiles the schema of a whole resource.
pub(crate) fn schema(schema: &Value) -> Result<Schema, SchemaError> {
    let failed = || SchemaError::new(ROOT, "internal error while compiling the schema");
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("schema".into()).stack_size(STACK);
        let worker = worker.spawn_scoped(scope, || root(schema)).map_err(|_| failed())?;
        worker.join().map_err(|_| failed())?
    })
}

fn root(schema: &Value) -> Result<Schema, SchemaError> {
    let mut root = structural(schema, ROOT, 0)?;
    if root.type_ != Some(Type::Object) {
        return Err(SchemaError::new(&format!("{ROOT}.type"), "must be \"object\" at the root"));
    }
    root.resource_root = true;
    root.embedded_resource = true;
    prune::prune_defaults(&mut root);
    root.number_rules(&mut 0);
    let rules = cel::compile(&root, ROOT)?;
    Ok(Schema { root, rules })
}

/// Compiles a schema that is not a resource's root and has no rules.
pub(crate) fn spine(schema: &Value) -> Result<Node, SchemaError> {
    structural(schema, "", 0)
}

/// A node of the structural spine.
fn structural(schema: &Value, path: &str, depth: usize) -> Result<Node, SchemaError> {
    let node = plain(schema, path, depth)?;
    if node.type_.is_none() && !node.int_or_string && !node.preserve_unknown {
        return Err(SchemaError::new(&format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if node.list_type == ListType::Map {
        list_map(&node, path)?;
    }
    Ok(node)
}

/// A map list's keys must be required, or have defaults, and be scalars.
fn list_map(node: &Node, path: &str) -> Result<(), SchemaError> {
    let here = format!("{path}.x-kubernetes-list-map-keys");
    if node.list_map_keys.is_empty() {
        return Err(SchemaError::new(&here, "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = &node.items else {
        return Err(SchemaError::new(&format!("{path}.items"), "must be set if x-kubernetes-list-type is map"));
    };
    for key in &node.list_map_keys {
        let Some(property) = items.property(key) else {
            return Err(SchemaError::new(&here, "entries must all be names of item properties"));
        };
        if !items.required.contains(key) && property.default.is_none() {
            let at = format!("{path}.items.properties[{key}].default");
            return Err(SchemaError::new(
                &at,
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ));
        }
    }
    Ok(())
}

/// A node, whether of the spine or of a nested value validation.
fn plain(schema: &Value, path: &str, depth: usize) -> Result<Node, SchemaError> {
    let Value::Object(fields) = schema else {
        return Err(SchemaError::new(path, "must be an object"));
    };
    if depth > MAX_DEPTH {
        return Err(SchemaError::new(path, &format!("must not be nested deeper than {MAX_DEPTH} levels")));
    }
    for forbidden in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems"] {
        if fields.contains_key(forbidden) {
            return Err(SchemaError::new(&format!("{path}.{forbidden}"), "is not supported"));
        }
    }
    let int_or_string = flag(fields, "x-kubernetes-int-or-string");
    let type_ = type_of(fields, path)?;
    let mut node = Node {
        type_,
        int_or_string,
        nullable: flag(fields, "nullable"),
        format: text(fields, "format").and_then(|name| Format::supported(name, type_, int_or_string)),
        required: strings(fields, "required"),
        bounds: bounds(fields),
        pattern: pattern(fields, path)?,
        enumeration: fields.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        default: fields.get("default").filter(|v| !v.is_null()).cloned(),
        preserve_unknown: flag(fields, "x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag(fields, "x-kubernetes-embedded-resource"),
        resource_root: flag(fields, "x-kubernetes-embedded-resource"),
        list_type: list_type(fields, path)?,
        list_map_keys: strings(fields, "x-kubernetes-list-map-keys"),
        raw_rules: fields.get("x-kubernetes-validations").and_then(Value::as_array).cloned().unwrap_or_default(),
        ..Node::default()
    };
    children(&mut node, fields, path, depth)?;
    junctors(&mut node, fields, path, depth)?;
    Ok(node)
}

fn children(node: &mut Node, fields: &Map<String, Value>, path: &str, depth: usize) -> Result<(), SchemaError> {
    // Inside a nested value validation the types are those of the spine and not repeated.
    let spine = node.type_.is_some() || node.int_or_string || node.preserve_unknown;
    let compile = |schema: &Value, path: &str| {
        if spine { structural(schema, path, depth + 1) } else { plain(schema, path, depth + 1) }
    };
    if let Some(Value::Object(properties)) = fields.get("properties") {
        let mut list = Vec::with_capacity(properties.len());
        for (name, schema) in properties {
            list.push((name.clone(), compile(schema, &format!("{path}.properties[{name}]"))?));
        }
        node.properties = Some(Properties::new(list));
    }
    node.additional = match fields.get("additionalProperties") {
        None | Some(Value::Null) => Additional::Absent,
        Some(Value::Bool(true)) => Additional::Any,
        Some(Value::Bool(false)) => Additional::Forbidden,
        Some(schema) => Additional::Schema(Box::new(compile(schema, &format!("{path}.additionalProperties"))?)),
    };
    match fields.get("items") {
        None | Some(Value::Null) if spine && node.type_ == Some(Type::Array) => {
            return Err(SchemaError::new(&format!("{path}.items"), "must be specified"));
        }
        None | Some(Value::Null) => {}
        Some(schema) => node.items = Some(Box::new(compile(schema, &format!("{path}.items"))?)),
    }
    Ok(())
}

fn junctors(node: &mut Node, fields: &Map<String, Value>, path: &str, depth: usize) -> Result<(), SchemaError> {
    let nested = |key: &str| -> Result<Vec<Node>, SchemaError> {
        let list = fields.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let one = |(i, schema)| plain(schema, &format!("{path}.{key}[{i}]"), depth + 1);
        list.iter().enumerate().map(one).collect()
    };
    node.all_of = nested("allOf")?;
    node.any_of = nested("anyOf")?;
    node.one_of = nested("oneOf")?;
    if let Some(schema) = fields.get("not").filter(|v| !v.is_null()) {
        node.not = Some(Box::new(plain(schema, &format!("{path}.not"), depth + 1)?));
    }
    Ok(())
}

fn type_of(fields: &Map<String, Value>, path: &str) -> Result<Option<Type>, SchemaError> {
    match text(fields, "type") {
        None | Some("") => Ok(None),
        Some(name) => Type::parse(name).map(Some).ok_or_else(|| {
            let supported = "supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"";
            SchemaError::new(&format!("{path}.type"), &format!("unsupported value: {name:?}: {supported}"))
        }),
    }
}

fn list_type(fields: &Map<String, Value>, path: &str) -> Result<ListType, SchemaError> {
    match text(fields, "x-kubernetes-list-type") {
        None | Some("atomic") => Ok(ListType::Atomic),
        Some("set") => Ok(ListType::Set),
        Some("map") => Ok(ListType::Map),
        Some(other) => {
            let message = format!("unsupported value: {other:?}: supported values: \"atomic\", \"map\", \"set\"");
            Err(SchemaError::new(&format!("{path}.x-kubernetes-list-type"), &message))
        }
    }
}

fn pattern(fields: &Map<String, Value>, path: &str) -> Result<Option<Pattern>, SchemaError> {
    let Some(source) = text(fields, "pattern").filter(|p| !p.is_empty()) else { return Ok(None) };
    match regexes::compile(source) {
        Ok(regex) => Ok(Some(Pattern { source: source.to_owned(), regex })),
        Err(e) => {
            let message = format!("must be a valid regular expression, but isn't: {e}");
            Err(SchemaError::new(&format!("{path}.pattern"), &message))
        }
    }
}

fn bounds(fields: &Map<String, Value>) -> Bounds {
    let float = |key| fields.get(key).and_then(Value::as_f64);
    let integer = |key| fields.get(key).and_then(Value::as_i64);
    Bounds {
        minimum: float("minimum"),
        exclusive_minimum: flag(fields, "exclusiveMinimum"),
        maximum: float("maximum"),
        exclusive_maximum: flag(fields, "exclusiveMaximum"),
        multiple_of: float("multipleOf"),
        min_length: integer("minLength"),
        max_length: integer("maxLength"),
        min_items: integer("minItems"),
        max_items: integer("maxItems"),
        min_properties: integer("minProperties"),
        max_properties: integer("maxProperties"),
    }
}

fn flag(fields: &Map<String, Value>, key: &str) -> bool {
    fields.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key).and_then(Value::as_str)
}

fn strings(fields: &Map<String, Value>, key: &str) -> Vec<String> {
    let list = fields.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
