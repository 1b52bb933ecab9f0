//! Which pod leads, as Services see it: the leader's pod carries a label that they select by.
//!
//! in → this pod's name · out → `nightshift.dev/role` on the scheduler's pods · invariant: only the leader sets it; the
//! label routes traffic and decides nothing: a pod that has it and does not lead has no port open to agents.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use nightshift_crds::FIELD_MANAGER;
use serde_json::json;

/// The label that the chart's Services select by.
pub const ROLE_LABEL: &str = "nightshift.dev/role";
/// Its value on the pod that leads.
pub const LEADER: &str = "leader";

/// This process's pod.
#[derive(Debug, Clone)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Label selector of the pods that are schedulers of the same pool; empty: all of the namespace's.
    pub selector: String,
}

impl PodRef {
    /// Puts the label on this pod and takes it from every other.
    pub async fn lead(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let mut selector = format!("{ROLE_LABEL}={LEADER}");
        if !self.selector.is_empty() {
            selector = format!("{selector},{}", self.selector);
        }
        let labelled = pods.list_metadata(&ListParams::default().labels(&selector)).await?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        for other in labelled.iter().map(ResourceExt::name_any).filter(|name| *name != self.name) {
            let none = Patch::Merge(json!({ "metadata": { "labels": { ROLE_LABEL: null } } }));
            match pods.patch_metadata(&other, &params, &none).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
        let own = Patch::Merge(json!({ "metadata": { "labels": { ROLE_LABEL: LEADER } } }));
        pods.patch_metadata(&self.name, &params, &own).await.map(drop)
    }
}
