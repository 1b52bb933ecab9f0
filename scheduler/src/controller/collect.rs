//! Which blobs are needed, and the removal of the others.
//!
//! in → the fold's jobs, objects of jobs and models · out → [`BlobStore::collect`](crate::blobs::BlobStore::collect), at
//! intervals · invariant: only a leader collects, and it asks the journal's store whether it still leads after it has
//! noted the moment and before it looks what is needed: what is needed since then was put or asked for since then.

use super::{Context, convert};
use crate::blobs::collect::{Collected, Live};
use crate::edge::service::staging;
use crate::uri;
use kube::Api;
use kube::runtime::reflector::Store;
use nightshift_crds::{InferenceJob, ModelArtifact};
use nightshift_state::{OutputBody, TaskState};
use nightshift_types::{Digest, JobId};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Longest and shortest time between two looks; in between a quarter of the grace.
const SELDOM: Duration = Duration::from_secs(600);
const OFTEN: Duration = Duration::from_millis(200);

/// What the operator wants kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Blobs that nothing refers to are removed after so long.
    pub grace: Duration,
    /// `--seed`: always.
    pub seeded: Arc<[Digest]>,
}

/// Collects until it is dropped; `jobs` has every object.
pub async fn run(context: &Context, jobs: &Store<InferenceJob>) {
    let mut timer = tokio::time::interval((context.keep.grace / 4).clamp(OFTEN, SELDOM));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        match once(context, jobs).await {
            Ok(collected) => {
                context.leader.metrics().collected(&collected);
                if collected.blobs > 0 {
                    let Collected { blobs, bytes, held, .. } = collected;
                    tracing::info!(blobs, bytes, held, "removed blobs that nothing refers to");
                }
            }
            Err(error) => tracing::warn!(%error, "blobs not collected; trying again"),
        }
    }
}

async fn once(context: &Context, jobs: &Store<InferenceJob>) -> anyhow::Result<Collected> {
    let before = SystemTime::now().checked_sub(context.keep.grace).unwrap_or(SystemTime::UNIX_EPOCH);
    context.leader.confirm().await?;
    let models: Api<ModelArtifact> = Api::all(context.client.clone());
    let models = models.list(&Default::default()).await?;
    let mut live = Live::default();
    live.blobs.extend(context.keep.seeded.iter());
    for model in &models {
        let sources = convert::variant_sources(&model.spec);
        live.blobs.extend(sources.into_iter().flatten().map(|source| source.digest));
    }
    // A batch's file is read again where its job is not admitted yet, or was deleted and is applied anew.
    let named = |job: &Arc<InferenceJob>| uri::store_digest(job.spec.input.uri.as_deref()?)?.ok();
    live.blobs.extend(jobs.state().iter().filter_map(named));
    let ids: Vec<JobId> = context.leader.state().await.jobs().map(|job| job.id.clone()).collect();
    for id in ids {
        needed(context, &id, &mut live).await;
    }
    let leader = context.leader.clone();
    Ok(tokio::task::spawn_blocking(move || leader.blobs().collect(&live, before)).await??)
}

/// What one job refers to; the state is held for one job at a time.
async fn needed(context: &Context, id: &JobId, live: &mut Live) {
    let state = context.leader.state().await;
    let Some(job) = state.job(id) else { return };
    live.blobs.insert(job.spec.model_digest);
    live.blobs.extend(job.spec.inputs.iter().map(|input| input.digest));
    for task in &job.tasks {
        match &task.state {
            TaskState::Running(running) => drop(live.staged.insert(staging(&running.attempt))),
            TaskState::Succeeded(success) => {
                if let OutputBody::Blob { digest, .. } = success.output.body {
                    live.blobs.insert(digest);
                }
            }
            _ => {}
        }
    }
}
