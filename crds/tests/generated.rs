//! The committed CRDs are what the types say, and what Kubernetes requires of a structural schema.

use nightshift_crds::schema::to_yaml;
use nightshift_crds::{all, file_name};
use serde_json::{Map, Value};
use std::path::Path;

#[test]
fn committed_yaml_is_generated_yaml() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for crd in all() {
        let name = file_name(&crd);
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(committed == to_yaml(&crd), "yaml/{name} differs: run `cargo run -p nightshift-crds --bin crdgen`");
        names.retain(|other| *other != name);
    }
    assert!(names.is_empty(), "yaml/ has files that no kind makes: {names:?}");
}

#[test]
fn names_columns_and_subresources_are_the_apis() {
    let columns = |crd: usize| -> Vec<(String, i64)> {
        let crd = serde_json::to_value(&all()[crd]).unwrap();
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
        columns
            .iter()
            .map(|column| (column["name"].as_str().unwrap().into(), column["priority"].as_i64().unwrap_or(0)))
            .collect()
    };
    let plain = |names: &str| names.split(' ').map(|name| (name.to_string(), 0)).collect::<Vec<_>>();
    let wide = |names: &str| names.split(' ').map(|name| (name.to_string(), 1)).collect::<Vec<_>>();
    assert_eq!(columns(0), [plain("State Model Done Cost Node Age"), wide("Reason Queue Started Finished")].concat());
    assert_eq!(columns(1), [plain("Format Ready Reason Cached Loaded Age"), wide("License Digest")].concat());
    assert_eq!(columns(2), plain("Class Memory Price Ready Available Reputation Earned Age"));
    let (few, more) = ("Weight Tier Pending Running Share Spent Active Age", "Stop Reserved Balance Budget Left");
    assert_eq!(columns(3), [plain(few), wide(more)].concat());

    for (crd, short) in all().iter().zip(["ij", "ma", "cnode", "tq"]) {
        assert_eq!(crd.spec.names.short_names.as_deref(), Some(&[short.to_string()][..]));
        assert!(crd.spec.names.categories.as_ref().unwrap().contains(&"nightshift".to_string()));
        let operators = matches!(short, "cnode" | "tq");
        assert_eq!(crd.spec.names.categories.as_ref().unwrap().contains(&"all".to_string()), !operators);
        assert_eq!(crd.spec.scope, if operators { "Cluster" } else { "Namespaced" });
        assert!(crd.spec.versions[0].subresources.as_ref().unwrap().status.is_some());
    }
}

#[test]
fn schemas_are_structural_bounded_and_described() {
    for crd in all() {
        let crd = serde_json::to_value(&crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let mut wrong = Vec::new();
        walk(kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].as_object().unwrap(), &mut wrong);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Keywords that a structural schema of ours uses; others are a mistake of the derive.
const KNOWN: &[&str] = &[
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

fn walk(path: &str, schema: &Map<String, Value>, wrong: &mut Vec<String>) {
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{path}: {what}"));
        }
    };
    for keyword in schema.keys() {
        check(KNOWN.contains(&keyword.as_str()), &format!("keyword {keyword}"));
    }
    let format = schema.get("format").and_then(Value::as_str);
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => {
            let bounded = ["maxLength", "enum"].iter().any(|bound| schema.contains_key(*bound));
            check(bounded || format == Some("date-time"), "string without maxLength");
        }
        Some("array") => {
            check(schema.contains_key("maxItems") && schema.contains_key("items"), "array without maxItems")
        }
        Some("integer") => check(matches!(format, Some("int32" | "int64")), "integer of an unsigned or unknown format"),
        Some("object") => {
            let map = schema.contains_key("additionalProperties");
            check(!map || schema.contains_key("maxProperties"), "map without maxProperties");
        }
        Some("boolean") => {}
        Some(other) => check(false, &format!("type {other}")),
        None => check(schema.contains_key("x-kubernetes-int-or-string"), "no type"),
    }
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_default();
        check(!message.is_empty() && !message.contains('{'), "rule without a message");
    }
    if let Some(keys) = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array) {
        let required = schema["items"]["required"].as_array();
        check(keys.iter().all(|key| required.is_some_and(|required| required.contains(key))), "optional map key");
    }
    for (name, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let below = below.as_object().unwrap();
        check(below.get("description").is_some_and(|text| text != ""), &format!("{name} without description"));
    }

    for (name, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{path}.{name}"), below.as_object().unwrap(), wrong);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(Value::Object(schema)) = schema.get(below) {
            walk(&format!("{path}.{below}"), schema, wrong);
        }
    }
}
