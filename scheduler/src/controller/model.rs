//! ModelArtifact → a proved file in the blob store.
//!
//! in → custom resources · out → verdicts for admission, the `Ready` condition · invariant: no node is asked to run a
//! model whose bytes are not the digest's, or that a process of our own could not load.

use super::conditions::{self, Wanted};
use super::convert::{self, VariantSource};
use super::{Context, merge_diff, status};
use crate::models::{ModelKey, Readiness, ReadyModel, ReadyVariant};
use crate::prove::NotProved;
use crate::uri::{self, FetchError};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::runtime::watcher::{self, Event as WatchEvent};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use nightshift_crds::{
    FIELD_MANAGER, ModelArtifact, ModelArtifactSpec, ModelArtifactStatus, ModelProfile, Visibility, model_condition,
};
use nightshift_placement::latency::REFERENCE_GIGAFLOPS;
use nightshift_state::Command;
use nightshift_types::{InputRef, Milliseconds, ModelSpec, TrustTier};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Models fetched and proved at once: each may fill memory with its weights.
const AT_ONCE: usize = 2;
/// Between two tries of a source that cannot be read.
const RETRY: Duration = Duration::from_secs(5);
/// Tries to write a verdict.
const STATUS_TRIES: usize = 20;
/// Priced as this where neither the manifest nor the proving run says what an item takes.
const UNKNOWN_ITEM: Milliseconds = Milliseconds(1_000);

/// Watches every ModelArtifact until `shutdown`; `changed` counts verdicts, so that waiting jobs look again.
pub async fn run(context: Context, changed: tokio::sync::watch::Sender<u64>, shutdown: CancellationToken) {
    let api: Api<ModelArtifact> = Api::all(context.client.clone());
    let mut events = std::pin::pin!(watch(api, watcher::Config::default()).default_backoff());
    let (done, mut verdicts) = mpsc::channel(64);
    let mut loader = Loader {
        context,
        turns: Arc::new(Semaphore::new(AT_ONCE)),
        done,
        models: BTreeMap::new(),
        listing: BTreeSet::new(),
    };
    let mut timer = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = events.next() => loader.seen(event, &changed),
            Some((key, uid, readiness)) = verdicts.recv() => loader.judged(key, &uid, readiness, &changed),
            _ = timer.tick() => {
                loader.retry_due();
                loader.count_holders().await;
            }
        }
    }
}

type Verdict = (ModelKey, String, Readiness);

struct Loader {
    context: Context,
    /// Keys of the list under way: what it lacks was deleted while nobody watched.
    listing: BTreeSet<ModelKey>,
    turns: Arc<Semaphore>,
    done: mpsc::Sender<Verdict>,
    /// Every object: the newest form of it, and when to try again.
    models: BTreeMap<ModelKey, (Arc<ModelArtifact>, Option<Instant>)>,
}

fn key(model: &ModelArtifact) -> ModelKey {
    (model.namespace().unwrap_or_default(), model.name_any())
}

impl Loader {
    fn seen(
        &mut self,
        event: Result<WatchEvent<ModelArtifact>, watcher::Error>,
        changed: &tokio::sync::watch::Sender<u64>,
    ) {
        match event {
            Ok(WatchEvent::Apply(model) | WatchEvent::InitApply(model)) => {
                let key = key(&model);
                self.listing.insert(key.clone());
                let same = self.models.get(&key).is_some_and(|(known, _)| known.uid() == model.uid());
                let model = Arc::new(model);
                if same {
                    // The spec is immutable: only the status can have changed.
                    self.take_back(&key, &model);
                    self.models.entry(key).and_modify(|(known, _)| *known = model);
                } else {
                    self.models.insert(key, (model.clone(), None));
                    self.load(model);
                }
            }
            Ok(WatchEvent::Delete(model)) => {
                self.gone(&key(&model), changed);
            }
            Ok(WatchEvent::Init) => self.listing.clear(),
            Ok(WatchEvent::InitDone) => {
                let gone: Vec<ModelKey> =
                    self.models.keys().filter(|key| !self.listing.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.gone(key, changed));
            }
            Err(error) => {
                tracing::warn!(%error, "watching ModelArtifacts; trying again");
                self.context.leader.metrics().watch_errors.with_label_values(&["ModelArtifact"]).inc();
            }
        }
    }

    /// A verdict that is not ours was written by a leader that was deposed meanwhile.
    fn take_back(&self, key: &ModelKey, model: &Arc<ModelArtifact>) {
        let Some((found, readiness)) = self.context.leader.models().find(&key.0, &key.1) else { return };
        let conditions = model.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let said = conditions::find(conditions, model_condition::READY).map(|ready| ready.status == "True");
        let ours = match readiness {
            Readiness::Ready(_) => true,
            Readiness::Broken { .. } => false,
            _ => return,
        };
        if found == *key && said.is_some_and(|said| said != ours) {
            let (context, model) = (self.context.clone(), model.clone());
            tokio::spawn(async move { write_status(&context, &model, &readiness).await });
        }
    }

    fn gone(&mut self, key: &ModelKey, changed: &tokio::sync::watch::Sender<u64>) {
        self.models.remove(key);
        self.context.leader.models().remove(key);
        changed.send_modify(|n| *n += 1);
    }

    fn load(&self, model: Arc<ModelArtifact>) {
        let (context, turns, done) = (self.context.clone(), self.turns.clone(), self.done.clone());
        let (key, uid) = (key(&model), model.uid().unwrap_or_default());
        let verifying = Readiness::Waiting { reason: "Verifying".into(), message: "being fetched and proved".into() };
        // Also after a restart: until it is proved again, jobs are told that it is being looked at, not that it is missing.
        if !matches!(context.leader.models().find(&key.0, &key.1), Some((found, _)) if found == key) {
            context.leader.models().set(key.clone(), verifying.clone());
        }
        tokio::spawn(async move {
            let Ok(_turn) = turns.acquire().await else { return };
            if model.status.is_none() {
                write_status(&context, &model, &verifying).await;
            }
            let readiness = load(&context, &model).await;
            // Jobs need not wait for the API server to take the news.
            let _ = done.send((key, uid, readiness.clone())).await;
            for _ in 0..STATUS_TRIES {
                if write_status(&context, &model, &readiness).await {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn judged(&mut self, key: ModelKey, uid: &str, readiness: Readiness, changed: &tokio::sync::watch::Sender<u64>) {
        let Some((model, again)) = self.models.get_mut(&key) else { return };
        if model.uid().as_deref() != Some(uid) {
            return;
        }
        *again = matches!(readiness, Readiness::Waiting { .. }).then(|| Instant::now() + RETRY);
        if self.context.leader.models().set(key, readiness) {
            changed.send_modify(|n| *n += 1);
        }
    }

    /// `cachedNodes` and `loadedNodes` follow the heartbeats; a write for each change, so at most one a second a model.
    async fn count_holders(&self) {
        for (key, (model, _)) in &self.models {
            let Some((_, Readiness::Ready(ready))) = self.context.leader.models().find(&key.0, &key.1) else {
                continue;
            };
            let files: Vec<_> = ready.variants.iter().map(|variant| variant.file.digest).collect();
            let (cached, loaded) = self.context.leader.nodes().holders(&files);
            let (cached, loaded) = (i32::try_from(cached).ok(), i32::try_from(loaded).ok());
            let Some(before) = model.status.as_ref().filter(|s| (s.cached_nodes, s.loaded_nodes) != (cached, loaded))
            else {
                continue;
            };
            let after = ModelArtifactStatus { cached_nodes: cached, loaded_nodes: loaded, ..before.clone() };
            if let Err(error) = patch(&self.context, model, before, &after).await {
                tracing::debug!(name = key.1, %error, "counts of nodes not written; trying again");
            }
        }
    }

    fn retry_due(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (model, again) in self.models.values_mut() {
            if again.is_some_and(|at| at <= now) {
                *again = None;
                due.push(model.clone());
            }
        }
        due.into_iter().for_each(|model| self.load(model));
    }
}

/// Fetches and proves every file of a model.
#[tracing::instrument(level = "debug", skip_all, fields(name = model.name_any()))]
async fn load(context: &Context, model: &ModelArtifact) -> Readiness {
    let broken = |reason: &str, message: String| Readiness::Broken { reason: reason.into(), message };
    let spec = match convert::model_spec(&model.spec) {
        Ok(spec) => spec,
        Err(error) => return broken("LoadFailed", error.to_string()),
    };
    let sources = match convert::variant_sources(&model.spec) {
        Ok(sources) => sources,
        Err(error) => return broken("LoadFailed", error.to_string()),
    };
    let namespace = model.namespace().unwrap_or_default();
    let mut variants = Vec::with_capacity(sources.len());
    for source in &sources {
        let blobs = context.leader.blobs();
        let file = match uri::fetch(blobs, &context.policy, &namespace, &source.uri, Some(source.digest)).await {
            Ok(file) => file,
            Err(error @ FetchError::Mismatch { .. }) => return broken("DigestMismatch", error.to_string()),
            Err(FetchError::Refused(text)) => return broken("SourceUnreachable", text),
            Err(FetchError::Unreachable(message)) => {
                return Readiness::Waiting { reason: "SourceUnreachable".into(), message };
            }
        };
        match prove(context, &model.spec, &spec, source, &file).await {
            Ok(variant) => variants.push(variant),
            Err(NotProved::Broken(message)) => return broken("LoadFailed", message),
            Err(NotProved::Later(message)) => {
                return Readiness::Waiting { reason: "Verifying".into(), message };
            }
        }
    }
    Readiness::Ready(Arc::new(ReadyModel {
        spec,
        variants,
        min_trust_tier: model.spec.min_trust_tier.map_or(TrustTier::Public, Into::into),
        public: model.spec.visibility == Visibility::Public,
    }))
}

async fn prove(
    context: &Context,
    manifest: &ModelArtifactSpec,
    spec: &ModelSpec,
    source: &VariantSource,
    file: &InputRef,
) -> Result<ReadyVariant, NotProved> {
    let path = context.leader.blobs().file(&file.digest);
    let proof = context.prover.prove(&path, spec).await?;
    // The price of a model stays what it was at its first proof: a busier machine must not make it dearer.
    let known = context.leader.state().await.proved(&file.digest);
    let reference = declared_reference(manifest).or(known).or(proof.item).unwrap_or(UNKNOWN_ITEM);
    let reference = Milliseconds(reference.0.max(1));
    let command = Command::ProveModel { digest: file.digest, reference };
    if let Err(error) = context.leader.submit(command).await {
        return Err(NotProved::Later(error.to_string()));
    }
    Ok(ReadyVariant { variant: source.variant(file, proof.peak_memory), file: *file, reference })
}

/// Time of one item on the reference machine by the manifest's own count of work.
fn declared_reference(manifest: &ModelArtifactSpec) -> Option<Milliseconds> {
    let text = manifest.work.as_ref()?.gigaflops_per_item.as_ref()?;
    let gigaflops: f64 = text.parse().ok()?;
    Some(Milliseconds((gigaflops * 1000.0 / REFERENCE_GIGAFLOPS as f64).ceil().clamp(1.0, 1e12) as u64))
}

fn condition_of(readiness: &Readiness) -> (bool, &str, &str) {
    match readiness {
        Readiness::Ready(_) => (true, "DigestVerified", "the bytes are the digest's and the model loads"),
        Readiness::Waiting { reason, message } | Readiness::Broken { reason, message } => (false, reason, message),
    }
}

/// True if it is written, or the object is gone.
async fn write_status(context: &Context, model: &ModelArtifact, readiness: &Readiness) -> bool {
    let before = model.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let (ready, reason, message) = condition_of(readiness);
    let wanted = Wanted { type_: model_condition::READY, status: Some(ready), reason, message };
    let generation = model.meta().generation;
    conditions::set(&mut after.conditions, wanted, generation, &status::time(context.leader.now()));
    after.observed_generation = generation;
    if let Readiness::Ready(ready) = readiness {
        after.profile = ready.variants.iter().map(profile).collect();
    }
    match patch(context, model, &before, &after).await {
        Ok(()) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        Err(error) => {
            tracing::warn!(name = model.name_any(), %error, "ModelArtifact status not written; trying again");
            context.leader.metrics().reconcile_errors.with_label_values(&["ModelArtifact"]).inc();
            false
        }
    }
}

fn profile(variant: &ReadyVariant) -> ModelProfile {
    let class = variant.variant.device_classes.first().copied().unwrap_or_default();
    ModelProfile {
        variant: variant.variant.name.clone(),
        device_class: class.into(),
        item_milliseconds: Some(variant.reference.0.to_string().into()),
        load_milliseconds: None,
        memory: None,
        samples: Some(1),
    }
}

async fn patch(
    context: &Context,
    model: &ModelArtifact,
    before: &ModelArtifactStatus,
    after: &ModelArtifactStatus,
) -> Result<(), kube::Error> {
    let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
    let Some(change) = merge_diff(&value(before)?, &value(after)?) else { return Ok(()) };
    let api: Api<ModelArtifact> = Api::namespaced(context.client.clone(), &model.namespace().unwrap_or_default());
    let body = Patch::Merge(json!({ "status": change }));
    api.patch_status(&model.name_any(), &PatchParams::apply(FIELD_MANAGER), &body).await?;
    let Some(ready) = conditions::find(&after.conditions, model_condition::READY) else { return Ok(()) };
    let old = conditions::find(&before.conditions, model_condition::READY);
    if ready.reason != "Verifying" && old.is_none_or(|old| old.reason != ready.reason) {
        let event = Event {
            type_: if ready.status == "True" { EventType::Normal } else { EventType::Warning },
            reason: ready.reason.clone(),
            note: Some(ready.message.chars().take(900).collect()),
            action: "Verify".into(),
            secondary: None,
        };
        if let Err(error) = context.recorder.publish(&event, &model.object_ref(&())).await {
            tracing::debug!(%error, "event not published");
        }
    }
    Ok(())
}
