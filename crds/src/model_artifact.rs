//! ModelArtifact: what to run. *Invariant*: its spec never changes, so a name, once Ready, always means the same bytes.

use crate::common::{Condition, DecimalString, DeviceClass, DigestString, Quantity, SecretReference, SourceUri};
use crate::common::{TrustTier, words};
use crate::model_tensor::ModelTensor;
use crate::schema;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model's file, what goes in and comes out, and what it needs. Immutable.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "nightshift.dev",
    version = "v1alpha1",
    kind = "ModelArtifact",
    doc = "A ModelArtifact is a model that jobs can run: where its file is, what goes in and comes out, and what it needs.",
    namespaced,
    status = "ModelArtifactStatus",
    shortname = "ma",
    category = "nightshift",
    category = "all",
    derive = "PartialEq",
    selectable = ".spec.visibility",
    printcolumn = r#"{"name":"Format","type":"string","jsonPath":".spec.format"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Cached","type":"integer","jsonPath":".status.cachedNodes","description":"Nodes that have the file"}"#,
    printcolumn = r#"{"name":"Loaded","type":"integer","jsonPath":".status.loadedNodes","description":"Nodes that have it in memory"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"License","type":"string","jsonPath":".spec.license","priority":1}"#,
    printcolumn = r#"{"name":"Digest","type":"string","jsonPath":".spec.digest","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self == oldSelf",
     "message": "spec is immutable: create a ModelArtifact of another name, such as one that ends in its version, and point new jobs' spec.modelRef.name at it"},
    {"rule": "self.inputs.all(i, !(i.codec in ['labels', 'segments']))", "fieldPath": ".inputs",
     "message": "spec.inputs: codecs labels and segments are for outputs: use tensor, wav, audio, image, text or json"},
    {"rule": "self.outputs.all(o, !(o.codec in ['wav', 'audio', 'text']))", "fieldPath": ".outputs",
     "message": "spec.outputs: codecs wav, audio and text are for inputs: use tensor, json, image, labels or segments"},
    {"rule": "!self.inputs.exists(i, i.codec == 'text') || self.inputs.all(i, has(i.constant) || i.codec == 'text')", "fieldPath": ".inputs",
     "message": "spec.inputs: one text makes all inputs of codec text, and no others: give the others a constant"},
    {"rule": "!self.inputs.exists(i, has(i.text) && has(i.text.padding) && i.text.padding == 'max') || self.inputs.exists(i, has(i.text) && has(i.text.maxTokens))", "fieldPath": ".inputs",
     "message": "spec.inputs: text.padding max needs text.maxTokens: set it"},
    {"rule": "self.inputs.exists(i, !has(i.constant))", "fieldPath": ".inputs",
     "message": "spec.inputs must have an input without constant, which the job's input goes to: add one"},
    {"rule": "self.outputs.all(o, !has(o.constant))", "fieldPath": ".outputs",
     "message": "spec.outputs: constant is for inputs: remove it"},
]))]
pub struct ModelArtifactSpec {
    /// What the file is: TorchScript.
    #[serde(default = "default_format")]
    pub format: ModelFormat,

    /// Where the file is read from, once.
    pub source: ModelSource,

    /// Digest of the file, sha256: and 64 hexadecimal digits. A file that differs is never run.
    pub digest: DigestString,

    /// Method of the module that is called.
    #[serde(default = "default_method")]
    #[schemars(
        length(min = 1, max = 128),
        extend("x-kubernetes-validations" = [
            {"rule": "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
             "message": "{path} must be the name of a method: letters, digits and _, such as forward"},
        ])
    )]
    pub method: String,

    /// The method's arguments, in its order.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<ModelTensor>,

    /// What it returns; several are the elements of a tuple, in its order.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub outputs: Vec<ModelTensor>,

    /// Versions of the model for different devices or precisions. Unset: the file at source, on any device, its memory
    /// measured when it is proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub variants: Vec<ModelVariant>,

    /// How two results of one input are compared when results are verified. Unset: Exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparator: Option<Comparator>,

    /// How much work one input is. Unset: measured when the model is proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<ModelWork>,

    /// How inputs may be run together. Unset: one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,

    /// License of the model, as an SPDX expression such as Apache-2.0. Owners may refuse licenses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub license: Option<String>,

    /// Who may run it: Private, jobs of this namespace; Public, jobs of every namespace.
    #[serde(default = "default_visibility")]
    pub visibility: Visibility,

    /// Least trusted nodes that may read the model: Public, Vetted or Operator. Of job and model the stricter one wins.
    /// Unset: the job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_trust_tier: Option<TrustTier>,
}

impl ModelArtifactSpec {
    /// A spec with every default, for code that writes models; the same defaults as the API server's.
    pub fn new(uri: SourceUri, digest: DigestString, inputs: Vec<ModelTensor>, outputs: Vec<ModelTensor>) -> Self {
        Self {
            format: default_format(),
            source: ModelSource { uri, credentials_secret_ref: None },
            digest,
            method: default_method(),
            inputs,
            outputs,
            variants: Vec::new(),
            comparator: None,
            work: None,
            batching: None,
            license: None,
            visibility: default_visibility(),
            min_trust_tier: None,
        }
    }
}

fn default_format() -> ModelFormat {
    ModelFormat::TorchScript
}

fn default_method() -> String {
    "forward".into()
}

fn default_visibility() -> Visibility {
    Visibility::Private
}

words! {
    /// What a model's file is.
    ModelFormat {
        /// A TorchScript archive, as `torch.jit.save` writes it.
        TorchScript = "TorchScript",
    }
}

words! {
    /// Who may run a model.
    Visibility {
        /// Jobs of its own namespace.
        Private = "Private",
        /// Jobs of every namespace.
        Public = "Public",
    }
}

/// Where a file is read from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// Where the file is read from, once, by the control plane: store:, http(s):, s3:, data: or, where the operator allows
    /// it, file:.
    pub uri: SourceUri,
    /// Secret in this namespace with the credentials for uri. The control plane's own are never used for a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
}

/// The model for some devices, at some precision.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.uri) == has(self.digest)",
     "message": "a variant has both uri and digest, or neither and is the file at spec.source: add the missing one or remove the other"},
]))]
pub struct ModelVariant {
    /// Name of the variant, unique in the model.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [
            {"rule": "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
             "message": "{path} must be lowercase letters, digits, - and ., such as cuda-float16"},
        ])
    )]
    pub name: String,
    /// Precision of its weights: Float32, Float16, BFloat16, Int8 or Int4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Digest of its own file. Unset, with uri: the file at spec.source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<DigestString>,
    /// Where its own file is read from, with spec.source's credentials. Unset, with digest: the file at spec.source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<SourceUri>,
    /// Device memory it needs. Unset: measured when the model is proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ModelMemory>,
    /// Kinds of device it runs on: cpu, cuda, mps. Unset: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub device_classes: Vec<DeviceClass>,
}

words! {
    /// Precision of a model's weights.
    Precision {
        /// 32 bit floating point.
        Float32 = "Float32",
        /// 16 bit floating point.
        Float16 = "Float16",
        /// Brain floating point.
        BFloat16 = "BFloat16",
        /// 8 bit integers.
        Int8 = "Int8",
        /// 4 bit integers.
        Int4 = "Int4",
    }
}

/// Device memory of a model, in three parts that are booked separately.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelMemory {
    /// Bytes of the weights, once for each loaded copy, as a quantity such as 2Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub weights: Option<Quantity>,
    /// Bytes of each input of a batch while it is computed, as a quantity such as 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub per_item: Option<Quantity>,
    /// Bytes of a worker process itself, once for each, as a quantity such as 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub context: Option<Quantity>,
}

/// How two results are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Comparator {
    /// Exact, the same bytes; Numeric, the largest relative difference; Cosine, one less the cosine of the angle;
    /// PerceptualHash, the share of differing bits of an image's hash.
    pub kind: ComparatorKind,
    /// Largest difference that counts as equal, as a decimal in quotes. Unset: 0. Exact has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<DecimalString>,
}

words! {
    /// What the difference of two results is.
    ComparatorKind {
        /// The same bytes or not.
        Exact = "Exact",
        /// The largest relative difference of two elements.
        Numeric = "Numeric",
        /// One less the cosine of the angle between them.
        Cosine = "Cosine",
        /// The share of differing bits of the images' hashes.
        PerceptualHash = "PerceptualHash",
    }
}

/// How much work one input is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelWork {
    /// Floating point operations of one input, in units of 10^9, as a decimal in quotes such as "0.05".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigaflops_per_item: Option<DecimalString>,
}

/// How inputs may be run together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batching {
    /// Most inputs in one call. The first size of each input's shape is the batch's.
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1, max = 4096))]
    pub max: i32,
    /// Milliseconds an input may wait for others.
    #[serde(default)]
    #[schemars(range(min = 0, max = 60_000))]
    pub max_delay_milliseconds: i64,
}

fn default_batch() -> i32 {
    1
}

/// What is known of the model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelArtifactStatus {
    /// Nodes that have the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cached_nodes: Option<i32>,
    /// Nodes that have it in device memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub loaded_nodes: Option<i32>,
    /// What was measured, by variant and device class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["variant", "deviceClass"])
    )]
    pub profile: Vec<ModelProfile>,
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What was measured of one variant on one class of device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelProfile {
    /// Name of the variant; `default` for a model that has none.
    #[schemars(length(min = 1, max = 63))]
    pub variant: String,
    /// Class of the devices measured.
    pub device_class: DeviceClass,
    /// Milliseconds of one input, median over owners, as a decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_milliseconds: Option<DecimalString>,
    /// Milliseconds from file to device memory, median over owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub load_milliseconds: Option<i64>,
    /// Device memory, the most that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ModelMemory>,
    /// Inputs measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub samples: Option<i64>,
}

/// Types of a ModelArtifact's conditions.
pub mod model_condition {
    /// The bytes are the digest's and the model loads. Its reasons are [`super::ModelReadyReason`].
    pub const READY: &str = "Ready";
}

words! {
    /// Why a model is ready, or is not.
    ModelReadyReason {
        /// Ready: the bytes are the digest's and the model loads.
        DigestVerified = "DigestVerified",
        /// Not ready: the source has other bytes.
        DigestMismatch = "DigestMismatch",
        /// Not ready: the source cannot be read.
        SourceUnreachable = "SourceUnreachable",
        /// Not ready: the sandbox cannot load it.
        LoadFailed = "LoadFailed",
        /// Not yet ready: being fetched and proved.
        Verifying = "Verifying",
    }
}
