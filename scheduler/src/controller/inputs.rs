//! A job's input → blobs, one a task, before the job is admitted.
//!
//! in → `spec.input` · out → digests in the job's namespace · invariant: after admission nothing of the input is read
//! from anywhere but the blob store.

use super::convert::{MAX_TASKS, Misconfigured};
use crate::blobs::{BlobError, BlobStore};
use crate::uri::{self, FetchError, FetchPolicy};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use nightshift_crds::{ConfigMapKeyReference, InferenceInput};
use nightshift_types::{Bytes, InputRef};
use std::time::Duration;
use thiserror::Error;

/// Largest `.jsonl` batch that is split, in bytes.
const MAX_BATCH_FILE: Bytes = Bytes::mebi(64);

/// Largest input that is fetched, and longest fetch: reconciliations wait for it.
const MAX_INPUT: Bytes = Bytes::mebi(512);
const FETCH_WITHIN: Duration = Duration::from_secs(60);
/// Lines stored at once: each is synced to disk.
const AT_ONCE: usize = 32;

/// Why a job's input is not there.
#[derive(Debug, Error)]
pub enum InputError {
    /// The manifest must change.
    #[error("{0}")]
    Misconfigured(String),
    /// It may come yet: a ConfigMap applied later, a source that is down.
    #[error("{0}")]
    NotYet(String),
    /// The API server's words.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl From<BlobError> for InputError {
    fn from(error: BlobError) -> Self {
        FetchError::from(error).into()
    }
}

impl From<FetchError> for InputError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Unreachable(text) => Self::NotYet(format!("spec.input.uri: {text}")),
            other => Self::Misconfigured(format!("spec.input.uri: {other}")),
        }
    }
}

impl From<Misconfigured> for InputError {
    fn from(error: Misconfigured) -> Self {
        Self::Misconfigured(error.0)
    }
}

/// Stores what `input` names, one blob a task.
pub async fn resolve(
    client: &Client,
    store: &BlobStore,
    policy: &FetchPolicy,
    namespace: &str,
    input: &InferenceInput,
) -> Result<Vec<InputRef>, InputError> {
    if let Some(text) = &input.inline {
        return Ok(vec![store.put(namespace, text.as_bytes()).await?]);
    }
    if let Some(reference) = &input.config_map_key_ref {
        let bytes = config_map_key(client, namespace, reference).await?;
        return if reference.key.ends_with(".jsonl") {
            split_lines(store, namespace, &bytes, "configMapKeyRef").await
        } else {
            Ok(vec![store.put(namespace, &bytes).await?])
        };
    }
    if let Some(source) = &input.uri {
        let policy = FetchPolicy {
            limit: policy.limit.min(MAX_INPUT),
            timeout: policy.timeout.min(FETCH_WITHIN),
            ..policy.clone()
        };
        let blob = uri::fetch(store, &policy, namespace, source, None).await?;
        let batch = source.split(['?', '#']).next().is_some_and(|path| path.ends_with(".jsonl"));
        if !batch {
            return Ok(vec![blob]);
        }
        let bytes = store.read(&blob.digest, MAX_BATCH_FILE).await?;
        return split_lines(store, namespace, &bytes, "uri").await;
    }
    put_all(store, namespace, input.items.iter().map(|item| item.as_bytes().to_vec()).collect()).await
}

async fn put_all(store: &BlobStore, namespace: &str, items: Vec<Vec<u8>>) -> Result<Vec<InputRef>, InputError> {
    let puts = futures::stream::iter(items).map(|item| async move { store.put(namespace, &item).await });
    Ok(puts.buffered(AT_ONCE).try_collect().await?)
}

async fn config_map_key(
    client: &Client,
    namespace: &str,
    reference: &ConfigMapKeyReference,
) -> Result<Vec<u8>, InputError> {
    let ConfigMapKeyReference { name, key } = reference;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let Some(map) = maps.get_opt(name).await? else {
        return Err(InputError::NotYet(format!(
            "spec.input.configMapKeyRef: ConfigMap {name} is not in namespace {namespace}: apply it"
        )));
    };
    let binary = map.binary_data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
    let text = || map.data.as_ref().and_then(|data| data.get(key)).map(|text| text.clone().into_bytes());
    binary.or_else(text).ok_or_else(|| {
        let binary = map.binary_data.iter().flat_map(|data| data.keys());
        let keys: Vec<_> = map.data.iter().flat_map(|data| data.keys()).chain(binary).cloned().collect();
        let there = keys.join(", ");
        InputError::NotYet(format!(
            "spec.input.configMapKeyRef: ConfigMap {name} has no key {key:?}, but [{there}]: add the key or name one of them"
        ))
    })
}

/// One task a line; empty lines are skipped.
async fn split_lines(
    store: &BlobStore,
    namespace: &str,
    bytes: &[u8],
    field: &str,
) -> Result<Vec<InputRef>, InputError> {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    if lines.is_empty() || lines.len() > MAX_TASKS {
        let count = lines.len();
        let text =
            format!("spec.input.{field}: the .jsonl file has {count} lines, it must have 1 to {MAX_TASKS}: split it");
        return Err(InputError::Misconfigured(text));
    }
    put_all(store, namespace, lines.into_iter().map(|line| line.trim_ascii_end().to_vec()).collect()).await
}
