//! What Kubernetes wants of a schema and a derive cannot say. *In*: a derived CustomResourceDefinition. *Out*: one that is
//! structural, has no `nullable` and no unsigned formats, and whose CEL messages name the field they are about.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

/// A Kubernetes quantity: a number or a text such as `6Gi`, not negative.
pub fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0",
            "message": "{path} must be a non-negative quantity, such as 512Mi, 6Gi or 8000000000",
        }],
    })
}

/// Strings by name: at most `ENTRIES` of them, at most `LENGTH` long.
pub fn text_map<const ENTRIES: usize, const LENGTH: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": LENGTH},
        "maxProperties": ENTRIES,
    })
}

/// Kubernetes' conditions: one of each type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "minLength": 1, "maxLength": 64, "description": "What the condition is about, in CamelCase."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "True, False or Unknown."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "metadata.generation that the condition is about."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When status last changed."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Why, in one CamelCase word."},
                "message": {"type": "string", "maxLength": 4096, "description": "Why, for people, with the numbers and the remedy."},
            },
        },
    })
}

/// Kubernetes' label selector.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "additionalProperties": {"type": "string", "maxLength": 63},
                "maxProperties": 32,
                "description": "Labels that must have these values, all of them.",
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "description": "Conditions on labels that must all hold.",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "minLength": 1, "maxLength": 317, "description": "Key of the label."},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"], "description": "In, NotIn: the label's value is, or is not, one of values. Exists, DoesNotExist: the label is there, or not."},
                        "values": {"type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic", "items": {"type": "string", "maxLength": 63}, "description": "Values for In and NotIn."},
                    },
                    "x-kubernetes-validations": [
                        {"rule": "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
                         "message": "a selector with operator In or NotIn needs values: add some"},
                        {"rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",
                         "message": "a selector with operator Exists or DoesNotExist has no values: remove them"},
                    ],
                },
            },
        },
    })
}

/// Kubernetes' tolerations.
pub fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "key": {"type": "string", "maxLength": 317, "description": "Key of the taint. Unset, with operator Exists: every taint."},
                "operator": {"type": "string", "enum": ["Equal", "Exists"], "description": "Equal, also the meaning of unset: key and value are the taint's. Exists: the key is."},
                "value": {"type": "string", "maxLength": 63, "description": "Value of the taint."},
                "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"], "description": "Effect of the taint. Unset: every effect."},
                "tolerationSeconds": {"type": "integer", "format": "int64", "description": "Seconds that a taint of effect NoExecute is tolerated. Unset: forever."},
            },
            "x-kubernetes-validations": [
                {"rule": "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
                 "message": "a toleration without key must have operator Exists: add a key, or set operator to Exists"},
                {"rule": "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                 "message": "a toleration with operator Exists has no value: remove value, or set operator to Equal"},
            ],
        },
    })
}

/// Kubernetes' taints.
pub fn taints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["key", "effect"],
        "items": {
            "type": "object",
            "required": ["key", "effect"],
            "properties": {
                "key": {"type": "string", "minLength": 1, "maxLength": 317, "description": "Key of the taint."},
                "value": {"type": "string", "maxLength": 63, "description": "Value of the taint."},
                "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"], "description": "NoSchedule: nothing new is placed. PreferNoSchedule: only if nothing else fits. NoExecute: what runs is moved away too."},
                "timeAdded": {"type": "string", "format": "date-time", "description": "When the taint was added."},
            },
        },
    })
}

/// A list of the reasons for which an attempt can fail.
pub fn failure_reasons(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<_> = nightshift_types::FailureReason::ALL.iter().map(|reason| reason.as_str()).collect();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": words},
    })
}

/// Makes a derived CustomResourceDefinition what [`crate::all`] promises.
///
/// # Panics
/// If the definition is not one of this crate's.
pub fn finish(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CustomResourceDefinition is JSON");
    for version in value["spec"]["versions"].as_array_mut().expect("a CustomResourceDefinition has versions") {
        let columns = version["additionalPrinterColumns"].as_array_mut();
        for column in columns.into_iter().flatten() {
            // Priority 0 is what unset means; the API server drops it too.
            let column = column.as_object_mut().expect("a column is an object");
            column.retain(|name, value| name != "priority" || *value != 0);
        }
        let schema = version["schema"]["openAPIV3Schema"].as_object_mut().expect("a version has a schema");
        tidy(schema, "");
    }
    serde_json::from_value(value).expect("tidying keeps it a CustomResourceDefinition")
}

/// One schema and all below it.
fn tidy(schema: &mut Map<String, Value>, path: &str) {
    // An option is a field that may be missing, not one that may be null.
    schema.remove("nullable");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if schema.contains_key("x-kubernetes-int-or-string") {
        // The one form of it that a structural schema may have; the derive empties it.
        schema.insert("anyOf".into(), serde_json::json!([{"type": "integer"}, {"type": "string"}]));
    }
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = unwrap_lines(text);
    }
    let rules = schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        if let Some(Value::String(message)) = rule.get_mut("message") {
            *message = message.replace("{path}", path);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, below) in properties.iter_mut() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            tidy(below.as_object_mut().expect("a property is a schema"), &path);
        }
    }
    if let Some(Value::Object(below)) = schema.get_mut("items") {
        tidy(below, &format!("{path}[]"));
    }
    if let Some(Value::Object(below)) = schema.get_mut("additionalProperties") {
        tidy(below, &format!("{path}.*"));
    }
}

/// A doc comment's line ends are the source's, not the reader's: paragraphs stay, lines within them join.
fn unwrap_lines(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// The committed form of a CustomResourceDefinition.
///
/// # Panics
/// Never, for a definition of this crate.
pub fn to_yaml(crd: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(crd).expect("a CustomResourceDefinition is JSON");
    whole_numbers(&mut value);
    let yaml = serde_yaml::to_string(&value).expect("JSON is YAML");
    format!("# Generated from the Rust types by `cargo run -p nightshift-crds --bin crdgen`. Do not edit.\n{yaml}")
}

/// k8s-openapi holds `minimum` and `maximum` as floats; `minimum: 0.0` is not what anybody writes.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0) {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
