//! One attempt, from assignment to outcome.
//!
//! in → [`Work`] · out → its [`Report`] · invariant: there is always exactly one report, before the deadline or shortly
//! after it, whatever fails, hangs or panics on the way.

use crate::assignment::Work;
use crate::engine::{Failed, Output, Task};
use crate::executor::Executor;
use crate::fetch::Fetcher;
use crate::metrics::{Metrics, Stage};
use crate::reactor::Phase;
use futures::FutureExt;
use nightshift_types::FailureReason;
use nightshift_wire::convert::{self, OutputPlace, Report, Timings};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How much longer than its deadline the engine may take to say that it is over.
const LATE: Duration = Duration::from_secs(5);

/// What attempts run with.
#[derive(Clone)]
pub struct Runner {
    /// The engine.
    pub executor: Arc<dyn Executor>,
    /// Where bytes come from.
    pub fetcher: Arc<Fetcher>,
    /// Where counts go.
    pub metrics: Metrics,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runner")
    }
}

impl Runner {
    /// Runs an attempt; `phase` hears where it is.
    pub async fn run(&self, work: Work, cancel: CancellationToken, phase: impl Fn(Phase) + Send + Sync) -> Report {
        let (attempt, epoch) = (work.attempt.clone(), work.epoch.clone());
        info!(%attempt, model = work.model_name, device = work.demand.device, "an attempt starts");
        let mut timings = Timings::default();
        let arrived = Instant::now();
        let running = AssertUnwindSafe(self.stages(work, &cancel, &phase, &mut timings)).catch_unwind();
        let result = running.await.unwrap_or_else(|_| {
            error!(%attempt, "an attempt panicked");
            Err(Failed::new(FailureReason::Internal, "the agent panicked while it ran this attempt"))
        });
        match &result {
            Ok(output) => {
                self.observe(Duration::from_micros(timings.fetch_us), &output.timings);
                info!(%attempt, bytes = output.bytes.len(), compute = ?output.timings.compute, "an attempt succeeded");
            }
            Err(failed) => warn!(%attempt, reason = %failed.reason, why = failed.message, "an attempt failed"),
        }
        self.metrics.attempt.observe(arrived.elapsed().as_secs_f64());
        self.metrics.attempt(result.as_ref().map(drop).map_err(|failed| failed.reason));
        let result = result.map_err(|failed| (failed.reason, failed.message)).map(|output| {
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            timings.load_us = micros(output.timings.load);
            timings.queue_us = micros(output.timings.queue);
            timings.compute_us = micros(output.timings.compute);
            timings.codec_us = micros(output.timings.codec);
            convert::Output { content_type: output.content_type, place: OutputPlace::Inline(output.bytes) }
        });
        Report { attempt, epoch, result, timings }
    }

    fn observe(&self, fetch: Duration, timings: &crate::engine::Timings) {
        self.metrics.stage(Stage::Fetch, fetch);
        self.metrics.stage(Stage::Queue, timings.queue);
        if !timings.load.is_zero() {
            self.metrics.stage(Stage::Load, timings.load);
        }
        self.metrics.stage(Stage::Compute, timings.compute);
        self.metrics.stage(Stage::Codec, timings.codec);
    }

    async fn stages(
        &self,
        work: Work,
        cancel: &CancellationToken,
        phase: &(impl Fn(Phase) + Send + Sync),
        timings: &mut Timings,
    ) -> Result<Output, Failed> {
        let arrived = Instant::now();
        let deadline = arrived + work.deadline;
        let mut damaged = false;
        loop {
            phase(Phase::Fetching);
            let fetching = async {
                for digest in &work.evict {
                    self.executor.evict(*digest).await;
                }
                let model = self.fetcher.model(&work.attempt, &work.model);
                tokio::try_join!(model, self.fetcher.input(&work.attempt, &work.input))
            };
            let (model, input) = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(cancelled()),
                () = tokio::time::sleep_until(deadline) => {
                    let message = format!("model and input were not here within {:?}", work.deadline);
                    return Err(Failed::new(FailureReason::FetchFailed, message));
                }
                fetched = fetching => fetched?,
            };
            timings.fetch_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
            phase(Phase::Computing);
            let task = Task {
                model_digest: work.model.digest,
                model_path: model.path.clone(),
                spec: work.spec.clone(),
                input: Arc::unwrap_or_clone(input),
                parameters: work.parameters.clone(),
                device: work.demand.device.clone(),
                memory_limit: work.demand.memory,
                memory_shared: work.demand.warm,
                deadline: deadline.saturating_duration_since(Instant::now()),
                label: work.attempt.to_string(),
            };
            let computed = match tokio::time::timeout_at(deadline + LATE, self.executor.run(task, cancel.clone())).await
            {
                Ok(computed) => computed,
                Err(_) => {
                    let message = format!("not done within {:?}", work.deadline);
                    Err(Failed::new(FailureReason::DeadlineExceeded, message))
                }
            };
            match computed {
                // The file was right when it was fetched: this disk damaged it. Once more, with a new copy.
                Err(failed) if failed.reason == FailureReason::DigestMismatch && !damaged => {
                    damaged = true;
                    self.fetcher.discard(model);
                }
                // Whatever a killed worker looked like from outside.
                Err(_) if cancel.is_cancelled() => return Err(cancelled()),
                computed => return computed,
            }
        }
    }
}

fn cancelled() -> Failed {
    Failed::new(FailureReason::Cancelled, "cancelled")
}
