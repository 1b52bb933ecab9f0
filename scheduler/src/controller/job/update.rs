//! The object of a known job changed: what may change goes to the journal.
//!
//! in → the object, the journal's job · out → `UpdateJob` · invariant: a generation is journaled with its terms, or without
//! them only if they can never be honoured; those that wait for a queue or a class are tried until they are.

use super::{Next, ReconcileError, SOON, convert, priority, publish, warning};
use crate::controller::Context;
use crate::leader::SubmitError;
use crate::models::Readiness;
use kube::{Resource, ResourceExt};
use nightshift_crds::InferenceJob;
use nightshift_state::{Command, JobTerms, JobUpdate, Rejection};
use nightshift_types::{JobId, JobSpec, Milliseconds};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How soon terms are tried again that wait for a queue or a class; a change of those is told at once.
const AGAIN: Duration = Duration::from_secs(30);

/// What was last said of a job's terms that wait, so that it is said once. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Warned(Arc<Mutex<BTreeMap<JobId, String>>>);

impl Warned {
    fn is_news(&self, id: &JobId, why: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.insert(id.clone(), why.to_owned()).as_deref() != Some(why)
    }

    /// What waited is there, or the job is gone.
    pub(super) fn forget(&self, id: &JobId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// The terms as the object has them now.
enum Terms {
    Known(Box<JobTerms>),
    /// Not before the object changes, in words.
    Never(String),
    /// Its queue or its class is not there, in words: it comes right without a change of the object.
    NotYet(String),
}

pub(super) async fn update(
    job: &InferenceJob,
    id: &JobId,
    known: i64,
    context: &Context,
) -> Result<Next, ReconcileError> {
    let generation = job.meta().generation.unwrap_or_default();
    let spec = context.leader.state().await.job(id).map(|known| known.spec.clone());
    let (true, Some(spec)) = (generation > known, spec) else { return Ok(Next::Facts(id.clone(), None)) };
    let mut update = without_terms(job, generation);
    let mut again = None;
    // Whatever the terms, the rest must not wait for them: somebody may want to suspend the job.
    match terms(job, &spec, context) {
        Terms::Known(terms) => {
            context.warned.forget(id);
            update.terms = Some(*terms);
        }
        Terms::Never(why) => publish(job, context, &warning("Misconfigured", why)).await,
        Terms::NotYet(why) => {
            // The generation stays, so that they are tried again; and what is suspended does not start on the old ones.
            (update.generation, update.suspend) = (known, update.suspend || spec.suspend);
            let listed = context.leader.tenants().listed();
            again = Some(if listed { AGAIN } else { SOON });
            if listed && context.warned.is_news(id, &why) {
                publish(job, context, &warning("Misconfigured", why)).await;
            }
        }
    }
    let submit = |update| context.leader.submit(Command::UpdateJob { job: id.clone(), update });
    match submit(update.clone()).await {
        Err(SubmitError::Rejected(why @ Rejection::Invalid { .. })) if update.terms.is_some() => {
            publish(job, context, &warning("Misconfigured", why.to_string())).await;
            submit(JobUpdate { terms: None, ..update }).await?;
        }
        Ok(_) | Err(SubmitError::Rejected(Rejection::StaleGeneration { .. })) => {}
        Err(error) => return Err(error.into()),
    }
    // Said once a change: the rest of it was taken over.
    if again.is_none()
        && let Err(error) = convert::check_supported(&job.spec)
    {
        publish(job, context, &warning("NotSupported", error.to_string())).await;
    }
    Ok(Next::Facts(id.clone(), again))
}

fn without_terms(job: &InferenceJob, generation: i64) -> JobUpdate {
    let seconds = |value: Option<i64>| value.map(|s| Milliseconds((s.max(0) as u64).saturating_mul(1000)));
    JobUpdate {
        generation,
        suspend: job.spec.suspend,
        parallelism: job.spec.parallelism.max(0) as u32,
        backoff_limit: job.spec.backoff_limit().max(0) as u32,
        max_failed_indexes: job.spec.max_failed_indexes.map(|limit| limit.max(0) as u32),
        active_deadline: seconds(job.spec.active_deadline_seconds),
        pending_deadline: seconds(job.spec.pending_deadline_seconds),
        terms: None,
    }
}

/// Of a model that is gone, what it asked for is still asked for.
fn terms(job: &InferenceJob, known: &JobSpec, context: &Context) -> Terms {
    let (mut memory, mut tier) = (known.memory, known.min_trust_tier);
    let namespace = job.namespace().unwrap_or_default();
    if let Some((_, Readiness::Ready(model))) = context.leader.models().find(&namespace, &known.model_name) {
        tier = model.min_trust_tier;
        let chosen = model.variants.iter().find(|v| v.variant.name == known.variant);
        memory = chosen.map_or(memory, |chosen| chosen.variant.memory_for_one());
    }
    let priority = match priority(job, &namespace, context) {
        Ok(priority) => priority,
        Err(why) => return Terms::NotYet(why),
    };
    match convert::terms(&job.spec, memory, tier, priority) {
        Ok(terms) => Terms::Known(Box::new(terms)),
        Err(error) => Terms::Never(error.to_string()),
    }
}
