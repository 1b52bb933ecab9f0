//! In: k8s-openapi's types → out: OpenAPI v3 component schemas of the core kinds, and structural schemas to decode with →
//! invariant: every `$ref` given out is defined; descriptions are kept for `kubectl explain`.

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Secret, ServiceAccount},
    events::v1::Event as EventsEvent,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, ObjectMeta, Status};
use nightshift_apimachinery::Schema;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
pub(crate) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const REF: &str = "#/components/schemas/";

/// All definitions by name, in OpenAPI v3 form.
pub(crate) fn definitions() -> &'static Map<String, Value> {
    static ALL: LazyLock<Map<String, Value>> = LazyLock::new(build);
    &ALL
}

fn build() -> Map<String, Value> {
    let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
    generator.subschema_for::<ConfigMap>();
    generator.subschema_for::<Secret>();
    generator.subschema_for::<ServiceAccount>();
    generator.subschema_for::<Namespace>();
    generator.subschema_for::<Event>();
    generator.subschema_for::<EventsEvent>();
    generator.subschema_for::<Lease>();
    generator.subschema_for::<CustomResourceDefinition>();
    generator.subschema_for::<SelfSubjectReview>();
    generator.subschema_for::<SelfSubjectAccessReview>();
    generator.subschema_for::<SelfSubjectRulesReview>();
    generator.subschema_for::<ObjectMeta>();
    generator.subschema_for::<ListMeta>();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Status>();
    let mut all = generator.take_definitions(true);
    for (name, schema) in &mut all {
        tidy(schema);
        merge_keys(name, schema);
        // The real server publishes these without a type, as they may be of any.
        if anything(name)
            && let Some(m) = schema.as_object_mut()
        {
            m.shift_remove("type");
            m.shift_remove("oneOf");
        }
    }
    all
}

/// Definitions that stand for JSON of any type.
fn anything(definition: &str) -> bool {
    definition.contains(".v1.JSONSchemaPropsOr") || definition.ends_with(".v1.JSON")
}

/// Puts what stands beside a `$ref` into the form the real server uses, `allOf` with one member.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(m) => {
            m.values_mut().for_each(tidy);
            // A property may be called `$ref` too (JSONSchemaProps has one): then it is no string.
            if m.len() > 1
                && m.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = m.shift_remove("$ref")
            {
                m.insert("allOf".into(), json!([{ "$ref": reference }]));
            }
        }
        Value::Array(a) => a.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The strategic-merge annotations kubectl's apply reads; k8s-openapi leaves them out.
fn merge_keys(name: &str, schema: &mut Value) {
    let keyed: &[(&str, Option<&str>)] = match name {
        OBJECT_META => &[("ownerReferences", Some("uid")), ("finalizers", None)],
        "io.k8s.api.core.v1.ServiceAccount" => &[("secrets", Some("name")), ("imagePullSecrets", None)],
        "io.k8s.api.core.v1.NamespaceStatus" => &[("conditions", Some("type"))],
        _ => return,
    };
    for (field, key) in keyed {
        let Some(p) = schema.pointer_mut(&format!("/properties/{field}")).and_then(Value::as_object_mut) else {
            continue;
        };
        if *field != "imagePullSecrets" {
            p.insert("x-kubernetes-patch-strategy".into(), "merge".into());
        }
        if let Some(key) = key {
            p.insert("x-kubernetes-patch-merge-key".into(), (*key).into());
        }
    }
}

/// A schema without references, to prune, find unknown fields and check types with.
pub(crate) fn structural(definition: &str) -> Option<Schema> {
    let mut open = vec![definition.to_owned()];
    let mut schema = definitions().get(definition)?.clone();
    inline(&mut schema, &mut open);
    match Schema::compile(&schema) {
        Ok(s) => Some(s),
        Err(e) => {
            tracing::warn!(definition, error = %e, "a core kind's schema does not compile");
            None
        }
    }
}

/// Replaces references by what they name; inside itself a definition becomes "anything".
fn inline(schema: &mut Value, open: &mut Vec<String>) {
    match schema {
        Value::Object(m) => {
            let of_all = m.get("allOf").and_then(Value::as_array).filter(|a| a.len() == 1).map(|a| a[0].clone());
            if let Some(Value::Object(one)) = of_all
                && one.contains_key("$ref")
            {
                m.shift_remove("allOf");
                m.extend(one);
            }
            let name = m.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF)).map(str::to_owned);
            if let Some(name) = name {
                if open.contains(&name) || anything(&name) {
                    *schema = json!({"x-kubernetes-preserve-unknown-fields": true});
                    return;
                }
                if let Some(found) = definitions().get(&name) {
                    *schema = found.clone();
                    open.push(name);
                    inline(schema, open);
                    open.pop();
                }
                strip_bounds(schema);
                return;
            }
            m.values_mut().for_each(|v| inline(v, open));
            strip_bounds(schema);
        }
        Value::Array(a) => a.iter_mut().for_each(|v| inline(v, open)),
        _ => {}
    }
}

/// Decoding checks types and names only: what is required is the kind's own validation.
fn strip_bounds(schema: &mut Value) {
    let Value::Object(m) = schema else { return };
    if m.contains_key("properties") || m.contains_key("type") {
        if m.get("required").is_some_and(Value::is_array) {
            m.shift_remove("required");
        }
        if m.get("format").is_some_and(Value::is_string) {
            m.shift_remove("format");
        }
        if m.get("type").is_some_and(Value::is_string) {
            m.entry("nullable").or_insert(true.into());
        }
    } else if !m.contains_key("$ref")
        && m.get("description").is_some_and(Value::is_string)
        && !m.contains_key("x-kubernetes-int-or-string")
    {
        // JSON of any shape, such as a schema's default.
        m.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::core;

    #[test]
    fn every_core_kind_decodes_by_its_schema() {
        for r in core::resources() {
            assert!(r.schema.is_some(), "{}", r.kind);
        }
    }

    #[test]
    fn a_definition_loses_nothing() {
        let all = core::resources();
        let crd = all.iter().find(|r| r.core == Some(core::Core::Crd)).and_then(|r| r.schema.as_ref()).unwrap();
        let v = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "a.b", "annotations": {"x": "y"}, "ownerReferences": [{"uid": "u", "kind": "K", "name": "n", "apiVersion": "v1"}]},
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object", "default": {"any": [1, {"x": null}]}, "enum": [1, "a", {"b": 2}], "maximum": 1.5,
                "additionalProperties": false, "example": "x", "nullable": true, "x-kubernetes-preserve-unknown-fields": true,
                "$ref": "#/x", "items": {"type": "string", "default": 3}, "anyOf": [{"required": ["x"], "default": {"deep": true}}],
                "x-kubernetes-validations": [{"rule": "true", "messageExpression": "'x'", "optionalOldSelf": true}]}}}]}});
        assert_eq!(crd.unknown_fields(&v), Vec::<String>::new());
        assert_eq!(crd.validate(&v, None), Vec::new());
        let mut pruned = v.clone();
        crd.prune(&mut pruned);
        assert_eq!(pruned, v);
        let wrong = json!({"spec": {"group": 7, "colour": 1}});
        assert_eq!(crd.unknown_fields(&wrong), ["spec.colour"]);
        assert_eq!(crd.validate(&wrong, None).len(), 1);
    }
}
