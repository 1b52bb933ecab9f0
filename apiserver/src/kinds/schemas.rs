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
    }
    all
}

/// Puts what stands beside a `$ref` into the form the real server uses, `allOf` with one member.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(m) => {
            m.values_mut().for_each(tidy);
            if m.len() > 1
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
            let name =
                m.shift_remove("$ref").and_then(|r| r.as_str().and_then(|r| r.strip_prefix(REF)).map(str::to_owned));
            if let Some(name) = name {
                if open.contains(&name) {
                    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
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
