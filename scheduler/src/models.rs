//! What the control plane knows of every ModelArtifact: soft state, rebuilt from the custom resources at each start.
//!
//! in → verdicts of the model controller · out → lookups for admission · invariant: only a proved model is `Ready`.

use nightshift_types::{InputRef, Milliseconds, ModelSpec, TrustTier, Variant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A model that jobs can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyModel {
    /// How it is called.
    pub spec: ModelSpec,
    /// Its files, in the manifest's order; never empty.
    pub variants: Vec<ReadyVariant>,
    /// Least trusted node that may read it.
    pub min_trust_tier: TrustTier,
    /// Whether jobs of other namespaces may run it.
    pub public: bool,
}

/// One file of a model, in the blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyVariant {
    /// What it needs.
    pub variant: Variant,
    /// Where it is.
    pub file: InputRef,
    /// Time of one item on the reference machine: what it is priced by (market.md).
    pub reference: Milliseconds,
}

/// Verdict on a ModelArtifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can run.
    Ready(Arc<ReadyModel>),
    /// Not yet; jobs wait.
    Waiting {
        /// CamelCase, as in the condition.
        reason: String,
        /// In words.
        message: String,
    },
    /// Never, as its spec is immutable; jobs fail with this reason.
    Broken {
        /// CamelCase, as in the condition.
        reason: String,
        /// In words.
        message: String,
    },
}

/// Key of a ModelArtifact: namespace and name.
pub type ModelKey = (String, String);

/// All verdicts.
#[derive(Debug, Default)]
pub struct ModelRegistry(Mutex<BTreeMap<ModelKey, Readiness>>);

impl ModelRegistry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelKey, Readiness>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a verdict; true if it is another than before.
    pub fn set(&self, key: ModelKey, readiness: Readiness) -> bool {
        self.lock().insert(key, readiness.clone()).as_ref() != Some(&readiness)
    }

    /// Forgets a deleted model.
    pub fn remove(&self, key: &ModelKey) {
        self.lock().remove(key);
    }

    /// The verdict on the model a job in `namespace` names: its own namespace's first, else a public one elsewhere.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(ModelKey, Readiness)> {
        let models = self.lock();
        let own = (namespace.to_string(), name.to_string());
        if let Some(readiness) = models.get(&own) {
            return Some((own, readiness.clone()));
        }
        let public = |readiness: &Readiness| matches!(readiness, Readiness::Ready(model) if model.public);
        let mut others = models.iter().filter(|((_, other), readiness)| other == name && public(readiness));
        others.next().map(|(key, readiness)| (key.clone(), readiness.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(public: bool) -> Readiness {
        let spec =
            ModelSpec { method: "forward".into(), inputs: vec![], outputs: vec![], batching: Default::default() };
        Readiness::Ready(Arc::new(ReadyModel { spec, variants: vec![], min_trust_tier: TrustTier::Public, public }))
    }

    #[test]
    fn own_namespace_first_then_public() {
        let models = ModelRegistry::default();
        assert!(models.set(("a".into(), "m".into()), ready(false)));
        assert!(!models.set(("a".into(), "m".into()), ready(false)));
        assert_eq!(models.find("b", "m"), None);
        models.set(("c".into(), "m".into()), ready(true));
        assert_eq!(models.find("b", "m").unwrap().0.0, "c");
        assert_eq!(models.find("a", "m").unwrap().0.0, "a");
        models.remove(&("a".into(), "m".into()));
        assert_eq!(models.find("a", "m").unwrap().0.0, "c");
    }
}
