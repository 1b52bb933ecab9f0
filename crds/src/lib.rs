//! Rust types → CRD YAML. *In*: structs that say each field's meaning, unit, bound and default once.
//! *Out*: [`all`], the CustomResourceDefinitions, and the same types for whoever reads or writes the objects.
//! *Invariant*: what the API server accepts, the controller can run; `yaml/` is what [`all`] gives, or CI fails.
//!
//! * [`inference_job`]: one input or a batch, run to completion
//! * [`model_artifact`]: what to run
//! * [`compute_node`]: one machine, as its owner offers it
//! * [`tenant_queue`]: who may spend what
//! * [`common`]: words and amounts that several kinds share
//! * [`schema`]: what Kubernetes wants of a schema and a derive cannot say
//!
//! Take CustomResourceDefinitions from [`all`] only: a kind's own `crd()` lacks what [`schema`] adds.

pub mod common;
pub mod compute_node;
pub mod inference_job;
pub mod inference_job_status;
pub mod model_artifact;
pub mod model_tensor;
pub mod schema;
pub mod tenant_queue;

pub use common::*;
pub use compute_node::*;
pub use inference_job::*;
pub use inference_job_status::*;
pub use model_artifact::*;
pub use model_tensor::*;
pub use tenant_queue::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of every kind.
pub const GROUP: &str = "nightshift.dev";
/// The version served and stored.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every object.
pub const API_VERSION: &str = "nightshift.dev/v1alpha1";

/// Finalizer of an InferenceJob: its tasks are cancelled and settled before it goes. Bounded in time.
pub const FINALIZER: &str = "nightshift.dev/tasks";
/// `spec.managedBy` of the jobs that our own controller reconciles; unset means the same.
pub const MANAGED_BY: &str = "nightshift.dev/inference-job-controller";
/// Field manager of everything that the control plane applies.
pub const FIELD_MANAGER: &str = "nightshift";
/// Label of what belongs to a job: its name.
pub const LABEL_JOB_NAME: &str = "nightshift.dev/job-name";
/// Label of a ComputeNode: its device class.
pub const LABEL_DEVICE_CLASS: &str = "nightshift.dev/device-class";
/// Label of a ComputeNode: the region its owner declares.
pub const LABEL_REGION: &str = "nightshift.dev/region";
/// Prefix of the labels that an owner declares of their own node: claims, never facts.
pub const DECLARED_LABEL_PREFIX: &str = "declared.nightshift.dev/";
/// TenantQueue that pays for a job that names none; made at first start.
pub const DEFAULT_QUEUE: &str = nightshift_types::DEFAULT_QUEUE;

/// Every CustomResourceDefinition of this version, ready to apply, in the order in which documentation names them.
pub fn all() -> Vec<CustomResourceDefinition> {
    let crds = [InferenceJob::crd(), ModelArtifact::crd(), ComputeNode::crd(), TenantQueue::crd()];
    crds.into_iter().map(schema::finish).collect()
}

/// File name under `yaml/` of a CustomResourceDefinition, by the ecosystem's convention: `GROUP_PLURAL.yaml`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}
