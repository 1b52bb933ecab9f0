//! In: the core kinds and the stored CustomResourceDefinitions → out: the registry, which knows every resource served →
//! invariant: immutable; a change of a CRD makes a new registry before the change is answered.

pub(crate) mod core;
pub(crate) mod crd;
pub(crate) mod rules;
pub(crate) mod schemas;

use crate::table::Column;
use nightshift_apimachinery::Schema;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

pub(crate) use self::core::Core;

/// One resource in one served version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub group: String,
    pub version: String,
    /// The version objects are stored in.
    pub storage_version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Names the shelf of the store: `group/plural`.
    pub store_key: Arc<str>,
    /// Which core kind it is; `None` for custom resources.
    pub core: Option<Core>,
    pub schema: Option<Schema>,
    /// Identifies `schema` for [`crate::store::Stored::tag`].
    pub schema_tag: u64,
    /// The raw OpenAPI v3 schema; of core kinds it stands in [`schemas`].
    pub open_api: Value,
    pub status: bool,
    pub scale: Option<Scale>,
    pub columns: Vec<Column>,
    /// Fields beyond name and namespace that field selectors may name.
    pub selectable: Vec<String>,
    pub verbs: &'static [&'static str],
    /// Sent as a `Warning` with each answer.
    pub deprecation: Option<String>,
}

/// JSON paths (dotted) of the scale subresource.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    pub fn storage_api_version(&self) -> String {
        match self.core {
            Some(Core::EventsEvent) => "v1".into(),
            _ => group_version(&self.group, &self.storage_version),
        }
    }

    /// Whether stored bytes of this schema tag can be answered as they are.
    pub fn serves_raw(&self, tag: u64) -> bool {
        tag == self.schema_tag && self.version == self.storage_version && self.core != Some(Core::EventsEvent)
    }

    /// The name of its schema in OpenAPI: group reversed, version, kind.
    pub fn definition(&self) -> String {
        if let Some(core) = self.core {
            return core.definition().into();
        }
        let mut parts: Vec<&str> = self.group.split('.').rev().collect();
        parts.extend([self.version.as_str(), self.kind.as_str()]);
        parts.join(".")
    }

    pub fn is_review(&self) -> bool {
        self.core.is_some_and(Core::is_review)
    }

    pub fn supports_field(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && (self.namespaced || self.core.is_some()))
            || self.selectable.iter().any(|f| f == field)
    }
}

pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

/// Everything served.
#[derive(Debug)]
pub(crate) struct Registry {
    by_path: HashMap<(String, String, String), Arc<Resource>>,
    /// Per group and version, in order of discovery.
    pub versions: BTreeMap<(String, String), Vec<Arc<Resource>>>,
    pub documents: OnceLock<crate::discovery::Documents>,
    pub open_api: OnceLock<BTreeMap<String, crate::openapi::Document>>,
}

impl Registry {
    pub fn new(custom: Vec<Arc<Resource>>) -> Registry {
        let all = core::resources().iter().cloned().chain(custom);
        let mut by_path = HashMap::new();
        let mut versions: BTreeMap<_, Vec<Arc<Resource>>> = BTreeMap::new();
        for r in all {
            by_path.insert((r.group.clone(), r.version.clone(), r.plural.clone()), r.clone());
            versions.entry((r.group.clone(), r.version.clone())).or_default().push(r);
        }
        for list in versions.values_mut() {
            list.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
        Registry { by_path, versions, documents: OnceLock::new(), open_api: OnceLock::new() }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.into(), version.into(), plural.into()))
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.versions.values().flatten()
    }

    /// The resource of a kind named by an ownerReference.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.versions.get(&(group.into(), version.into()))?.iter().find(|r| r.kind == kind)
    }

    /// One resource (any version) per store key, for sweeps over the store.
    pub fn by_store_key(&self, key: &str) -> Option<&Arc<Resource>> {
        self.all().find(|r| &*r.store_key == key && r.version == r.storage_version && r.core != Some(Core::EventsEvent))
    }

    /// Versions of a group, the preferred one first.
    pub fn group_versions(&self, group: &str) -> Vec<&str> {
        let mut all: Vec<&str> = self.versions.keys().filter(|(g, _)| g == group).map(|(_, v)| v.as_str()).collect();
        all.sort_by_key(|v| std::cmp::Reverse(crd::version_priority(v)));
        all
    }

    /// Groups other than the core one, in the real server's order: its own first, then the custom ones by name.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.versions.keys().map(|(g, _)| g.as_str()).filter(|g| !g.is_empty()).collect();
        groups.dedup();
        groups.sort_by_key(|g| (!g.ends_with(".k8s.io"), *g));
        groups
    }
}
