//! In: nothing → out: the descriptors of the few core kinds served → invariant: names, verbs, scopes and short names are those
//! of the real API server.

use super::{ALL_VERBS, Resource, schemas};
use crate::table;
use std::sync::{Arc, LazyLock};

/// The core kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Core {
    Namespace,
    ConfigMap,
    Secret,
    ServiceAccount,
    Event,
    /// The events.k8s.io form of [`Core::Event`]; one store.
    EventsEvent,
    Lease,
    Crd,
    SelfSubjectReview,
    SelfSubjectAccessReview,
    SelfSubjectRulesReview,
}

struct Row {
    core: Core,
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    status: bool,
    selectable: &'static [&'static str],
    definition: &'static str,
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const EVENTS_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(Core::Namespace, "", "Namespace", "namespaces", &["ns"], false, true, &["status.phase", "name"], "io.k8s.api.core.v1.Namespace"),
    row(Core::ConfigMap, "", "ConfigMap", "configmaps", &["cm"], true, false, &[], "io.k8s.api.core.v1.ConfigMap"),
    row(Core::Secret, "", "Secret", "secrets", &[], true, false, &["type"], "io.k8s.api.core.v1.Secret"),
    row(Core::ServiceAccount, "", "ServiceAccount", "serviceaccounts", &["sa"], true, false, &[], "io.k8s.api.core.v1.ServiceAccount"),
    row(Core::Event, "", "Event", "events", &["ev"], true, false, EVENT_FIELDS, "io.k8s.api.core.v1.Event"),
    row(Core::EventsEvent, "events.k8s.io", "Event", "events", &["ev"], true, false, EVENTS_FIELDS, "io.k8s.api.events.v1.Event"),
    row(Core::Lease, "coordination.k8s.io", "Lease", "leases", &[], true, false, &[], "io.k8s.api.coordination.v1.Lease"),
    row(Core::Crd, "apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"], false, true, &[],
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"),
    row(Core::SelfSubjectReview, "authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", &[], false, false, &[],
        "io.k8s.api.authentication.v1.SelfSubjectReview"),
    row(Core::SelfSubjectAccessReview, "authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], false, false, &[],
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview"),
    row(Core::SelfSubjectRulesReview, "authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], false, false, &[],
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview"),
];

#[allow(clippy::too_many_arguments)] // a table's row
const fn row(
    core: Core,
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    status: bool,
    selectable: &'static [&'static str],
    definition: &'static str,
) -> Row {
    Row { core, group, kind, plural, short, namespaced, status, selectable, definition }
}

impl Core {
    pub fn is_review(self) -> bool {
        matches!(self, Core::SelfSubjectReview | Core::SelfSubjectAccessReview | Core::SelfSubjectRulesReview)
    }

    /// Its schema's name in OpenAPI.
    pub fn definition(self) -> &'static str {
        ROWS.iter().find(|r| r.core == self).map_or("", |r| r.definition)
    }
}

fn resource(row: &Row) -> Resource {
    let plural = if row.core == Core::EventsEvent { "/events".into() } else { format!("{}/{}", row.group, row.plural) };
    Resource {
        group: row.group.into(),
        version: "v1".into(),
        storage_version: "v1".into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase(),
        short_names: row.short.iter().map(|s| (*s).to_owned()).collect(),
        categories: if row.core == Core::Crd { vec!["api-extensions".into()] } else { Vec::new() },
        namespaced: row.namespaced,
        store_key: plural.into(),
        core: Some(row.core),
        schema: schemas::structural(row.definition),
        schema_tag: 0,
        open_api: serde_json::Value::Null,
        status: row.status,
        scale: None,
        columns: table::core_columns(row.core),
        selectable: row.selectable.iter().map(|s| (*s).to_owned()).collect(),
        verbs: match row.core {
            c if c.is_review() => &["create"],
            Core::Namespace => &["create", "delete", "get", "list", "patch", "update", "watch"],
            _ => ALL_VERBS,
        },
        deprecation: None,
    }
}

/// The core resources, made once.
pub(crate) fn resources() -> &'static [Arc<Resource>] {
    static ALL: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| ROWS.iter().map(|r| Arc::new(resource(r))).collect());
    &ALL
}
