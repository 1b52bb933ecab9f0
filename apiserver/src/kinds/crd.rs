//! In: a CustomResourceDefinition → out: its defaults, its errors, its status, and the resources it makes served → invariant: a
//! definition that was accepted compiles; a definition is served when `NamesAccepted` and `Established`.

use super::{ALL_VERBS, Registry, Resource, Scale};
use crate::object::{as_map, at, child, now, str_at, strings};
use crate::status::field_error;
use crate::table::{self, Column};
use nightshift_apimachinery::{CauseReason, FieldError, Schema};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Blocks a CRD's deletion until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Fills in what the real server fills in.
pub(crate) fn default(crd: &mut Value) {
    let kind = str_at(crd, &["spec", "names", "kind"]).to_owned();
    let spec = child(as_map(crd), "spec");
    let names = child(spec, "names");
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
}

/// Errors of a new or changed definition.
pub(crate) fn validate(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut add = |reason, field: &str, message: String| errors.push(field_error(reason, field, message));
    let (group, plural) = (str_at(crd, &["spec", "group"]), str_at(crd, &["spec", "names", "plural"]));
    for (path, field) in [
        (&["spec", "group"][..], "spec.group"),
        (&["spec", "names", "plural"], "spec.names.plural"),
        (&["spec", "names", "kind"], "spec.names.kind"),
        (&["spec", "scope"], "spec.scope"),
    ] {
        if str_at(crd, path).is_empty() {
            add(CauseReason::FieldValueRequired, field, "Required value".into());
        }
    }
    let want = format!("{plural}.{group}");
    let name = str_at(crd, &["metadata", "name"]);
    if name != want {
        let text = format!("Invalid value: {name:?}: must be spec.names.plural+\".\"+spec.group");
        add(CauseReason::FieldValueInvalid, "metadata.name", text);
    }
    let scope = str_at(crd, &["spec", "scope"]);
    if !matches!(scope, "" | "Namespaced" | "Cluster") {
        let text = format!("Unsupported value: {scope:?}: supported values: \"Cluster\", \"Namespaced\"");
        add(CauseReason::FieldValueNotSupported, "spec.scope", text);
    }
    for (path, field) in [(&["spec", "group"][..], "spec.group"), (&["spec", "scope"], "spec.scope")] {
        if let Some(old) = old
            && str_at(old, path) != str_at(crd, path)
        {
            let text = format!("Invalid value: {:?}: field is immutable", str_at(crd, path));
            add(CauseReason::FieldValueInvalid, field, text);
        }
    }
    if str_at(crd, &["spec", "conversion", "strategy"]) == "Webhook" {
        let text = "Unsupported value: \"Webhook\": supported values: \"None\"".to_owned();
        add(CauseReason::FieldValueNotSupported, "spec.conversion.strategy", text);
    }
    validate_versions(crd, &mut errors);
    errors
}

fn validate_versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let versions = at(crd, &["spec", "versions"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let storage = versions.iter().filter(|v| v.get("storage") == Some(&true.into())).count();
    if storage != 1 {
        let text = "Invalid value: must have exactly one version marked as storage version";
        errors.push(field_error(CauseReason::FieldValueInvalid, "spec.versions", text));
    }
    for (i, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{i}].schema.openAPIV3Schema");
        match at(version, &["schema", "openAPIV3Schema"]) {
            None => {
                errors.push(field_error(CauseReason::FieldValueRequired, field, "Required value: schemas are required"))
            }
            Some(schema) => {
                if let Err(e) = Schema::compile(schema) {
                    let path = e.path.strip_prefix("openAPIV3Schema").unwrap_or(&e.path);
                    let field = format!("{field}{path}");
                    errors.push(field_error(CauseReason::FieldValueInvalid, field, e.message));
                }
            }
        }
        for (j, column) in
            at(version, &["additionalPrinterColumns"]).and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let path = str_at(column, &["jsonPath"]);
            if table::json_path(path).is_none() {
                let field = format!("spec.versions[{i}].additionalPrinterColumns[{j}].jsonPath");
                errors.push(field_error(
                    CauseReason::FieldValueInvalid,
                    field,
                    format!("Invalid value: {path:?}: must be a simple json path"),
                ));
            }
        }
    }
}

/// Sets `status` of a definition that passed validation: names are accepted unless another definition has them.
pub(crate) fn set_status(crd: &mut Value, taken: &Registry) {
    let group = str_at(crd, &["spec", "group"]).to_owned();
    let names = at(crd, &["spec", "names"]).cloned().unwrap_or_default();
    let own_key = format!("{group}/{}", str_at(&names, &["plural"]));
    let conflict =
        taken.all().filter(|r| r.group == group && *r.store_key != *own_key).find_map(|r| name_conflict(&names, r));
    let mut stored = strings(at(crd, &["status", "storedVersions"]));
    for v in at(crd, &["spec", "versions"]).and_then(Value::as_array).into_iter().flatten() {
        let name = str_at(v, &["name"]);
        if v.get("storage") == Some(&true.into()) && !stored.iter().any(|s| s == name) {
            stored.push(name.into());
        }
    }
    let conditions = match &conflict {
        None => [
            condition(crd, "NamesAccepted", "True", "NoConflicts", "no conflicts found"),
            condition(crd, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        Some((reason, message)) => [
            condition(crd, "NamesAccepted", "False", reason, message),
            condition(crd, "Established", "False", "NotAccepted", "not all names are accepted"),
        ],
    };
    let accepted = if conflict.is_some() { json!({"plural": "", "kind": ""}) } else { names };
    let status = json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored});
    as_map(crd).insert("status".into(), status);
}

fn name_conflict(names: &Value, other: &Resource) -> Option<(&'static str, String)> {
    let taken = |n: &str| other.plural == n || other.singular == n || other.short_names.iter().any(|s| s == n);
    let used = |n: &str| format!("{n:?} is already in use");
    let kinds = [other.kind.as_str(), other.list_kind.as_str()];
    for (field, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        if taken(str_at(names, &[field])) {
            return Some((reason, used(str_at(names, &[field]))));
        }
    }
    if let Some(short) = strings(names.get("shortNames")).iter().find(|s| taken(s)) {
        return Some(("ShortNamesConflict", used(short)));
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if kinds.contains(&str_at(names, &[field])) {
            return Some((reason, used(str_at(names, &[field]))));
        }
    }
    None
}

/// A condition; its time is kept while its status stays.
fn condition(crd: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let old = at(crd, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    let since = old
        .filter(|c| str_at(c, &["type"]) == kind && str_at(c, &["status"]) == status)
        .map(|c| str_at(c, &["lastTransitionTime"]).to_owned())
        .find(|t| !t.is_empty());
    json!({"lastTransitionTime": since.unwrap_or_else(now), "message": message, "reason": reason, "status": status,
        "type": kind})
}

fn established(crd: &Value) -> bool {
    at(crd, &["status", "conditions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|c| str_at(c, &["type"]) == "Established" && str_at(c, &["status"]) == "True")
}

/// The resources an established definition serves, one a served version.
pub(crate) fn resources(crd: &Value) -> Vec<Resource> {
    if !established(crd) {
        return Vec::new();
    }
    let versions = at(crd, &["spec", "versions"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let storage = versions.iter().find(|v| v.get("storage") == Some(&true.into()));
    let storage = storage.map_or("", |v| str_at(v, &["name"]));
    versions
        .iter()
        .filter(|v| v.get("served") == Some(&true.into()))
        .filter_map(|v| resource(crd, v, storage))
        .collect()
}

fn resource(crd: &Value, version: &Value, storage: &str) -> Option<Resource> {
    let text = |path: &[&str]| str_at(crd, path).to_owned();
    let (group, plural, kind) =
        (text(&["spec", "group"]), text(&["spec", "names", "plural"]), text(&["spec", "names", "kind"]));
    let name = str_at(version, &["name"]);
    let schema = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_default();
    let deprecated = version.get("deprecated") == Some(&true.into());
    let deprecation = deprecated.then(|| match str_at(version, &["deprecationWarning"]) {
        "" => format!("{group}/{name} {kind} is deprecated"),
        own => own.to_owned(),
    });
    let scale = at(version, &["subresources", "scale"]).map(|s| Scale {
        spec: str_at(s, &["specReplicasPath"]).into(),
        status: str_at(s, &["statusReplicasPath"]).into(),
        selector: s.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
    });
    let selectable = at(version, &["selectableFields"]).and_then(Value::as_array).into_iter().flatten();
    Some(Resource {
        version: name.into(),
        storage_version: storage.into(),
        list_kind: text(&["spec", "names", "listKind"]),
        singular: text(&["spec", "names", "singular"]),
        short_names: strings(at(crd, &["spec", "names", "shortNames"])),
        categories: strings(at(crd, &["spec", "names", "categories"])),
        namespaced: str_at(crd, &["spec", "scope"]) == "Namespaced",
        store_key: format!("{group}/{plural}").into(),
        core: None,
        schema: Schema::compile(&schema).ok(),
        schema_tag: tag(&schema),
        open_api: schema,
        status: at(version, &["subresources", "status"]).is_some(),
        scale,
        columns: columns(version),
        selectable: selectable.map(|s| str_at(s, &["jsonPath"]).trim_start_matches('.').to_owned()).collect(),
        verbs: ALL_VERBS,
        deprecation,
        group,
        plural,
        kind,
    })
}

/// The first eight bytes of the schema's digest; never 0, which means "no schema".
fn tag(schema: &Value) -> u64 {
    let digest = Sha256::digest(schema.to_string().as_bytes());
    digest.first_chunk::<8>().map_or(1, |b| u64::from_le_bytes(*b)).max(1)
}

fn columns(version: &Value) -> Vec<Column> {
    let own = at(version, &["additionalPrinterColumns"]).and_then(Value::as_array);
    let mut all = vec![Column::name()];
    match own {
        Some(list) => all.extend(list.iter().map(|c| {
            let priority = c.get("priority").and_then(Value::as_i64).unwrap_or(0);
            let word = |f: &str| str_at(c, &[f]).to_owned();
            Column::path(
                &word("name"),
                &word("type"),
                &word("format"),
                &word("description"),
                priority,
                &word("jsonPath"),
            )
        })),
        None => all.push(Column::age()),
    }
    all
}

/// Orders versions as discovery does: stable over beta over alpha, newer first; others last.
pub(crate) fn version_priority(version: &str) -> (u8, u64, u64) {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            s if s.starts_with("beta") => Some((2, major, s[4..].parse().ok()?)),
            s if s.starts_with("alpha") => Some((1, major, s[5..].parse().ok()?)),
            _ => None,
        }
    };
    parse().unwrap_or((0, 0, 0))
}

/// A registry of the stored definitions.
pub(crate) fn registry(crds: &[Arc<crate::store::Stored>]) -> Registry {
    let custom = crds
        .iter()
        .filter_map(|s| serde_json::from_slice::<Value>(&s.bytes).ok())
        .flat_map(|crd| resources(&crd))
        .map(Arc::new)
        .collect();
    Registry::new(custom)
}
