//! Runs models: one worker process per loaded copy, supervised from here; tasks of one model run together where it allows.
//!
//! *In*: a [`Task`] (a verified model file, input bytes, parameters, limits). *Out*: the encoded [`Output`], or a typed
//! [`Failed`]. *Invariant*: a worker's crash, hang or exhaustion is one failed task; the engine and later tasks live on,
//! and no process or shared memory outlives the engine.

pub use crate::worker::prove::{ProveReport, ProveRequest, prove};
pub use crate::worker::sandbox::{Sandbox, confine};

use crate::caps::Caps;
use crate::worker::pool::Pool;
use nightshift_types::{Bytes, Digest, FailureReason, ModelSpec};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How the engine starts workers and how many it keeps.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The program whose `worker` subcommand is [`worker_main`]: `std::env::current_exe()` of `nightshift-agent`.
    pub worker_program: PathBuf,
    /// Working and temporary directory of workers; created with mode 0700 if it is missing.
    pub runtime_dir: PathBuf,
    /// Threads libtorch computes with, per worker.
    pub threads: usize,
    /// Loaded models at most; the least recently used idle worker makes room.
    pub max_workers: usize,
    /// Largest input of one task.
    pub max_input: Bytes,
    /// Largest encoded output of one task.
    pub max_output: Bytes,
    /// What caps workers beside the limit that each sets itself.
    pub caps: Arc<Caps>,
}

impl EngineConfig {
    /// With the defaults: all cores, 4 workers, 256 MiB of input and of output, no cgroups.
    pub fn new(worker_program: impl Into<PathBuf>, runtime_dir: impl Into<PathBuf>) -> Self {
        Self {
            worker_program: worker_program.into(),
            runtime_dir: runtime_dir.into(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            max_workers: 4,
            max_input: Bytes::mebi(256),
            max_output: Bytes::mebi(256),
            caps: Caps::none(),
        }
    }
}

/// One input for one model.
#[derive(Debug, Clone)]
pub struct Task {
    /// What the model's file must hash to; verified when it is loaded.
    pub model_digest: Digest,
    /// Where the file is in this agent's cache.
    pub model_path: PathBuf,
    /// How to decode, run and encode.
    pub spec: ModelSpec,
    /// The input, as the client sent it; may be hostile.
    pub input: Vec<u8>,
    /// The job's parameters: they override the ports' codec options of the same name.
    pub parameters: BTreeMap<String, String>,
    /// A name from `device::list`: `cpu0`, `cuda0`, `mps0`.
    pub device: String,
    /// Memory the task may take, context and weights included; 0: no limit.
    pub memory_limit: Bytes,
    /// What of it is there once for all tasks of the model: of a batch, the rest adds up.
    pub memory_shared: Bytes,
    /// From the call of [`Engine::run`] to its end, waiting and loading included.
    pub deadline: Duration,
    /// For logs: the attempt's id.
    pub label: String,
}

/// Where a task's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Starting the worker and loading the model; zero if it was loaded already.
    pub load: Duration,
    /// Waiting for the model's worker, for a worker to make room, for others of its batch, and while they computed.
    pub queue: Duration,
    /// The model's method; of a batch, this task's share of it.
    pub compute: Duration,
    /// Decoding the input and encoding the output; of a batch, this task's share.
    pub codec: Duration,
}

/// A task's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Encoded by the output port's codec.
    pub bytes: Vec<u8>,
    /// Their media type.
    pub content_type: String,
    /// Where the time went.
    pub timings: Timings,
}

/// Why a task has no result; the message is for the job's owner: at most 500 characters, no host paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Decides charge, blame and retry.
    pub reason: FailureReason,
    /// What happened, and a remedy where there is one.
    pub message: String,
}

impl Failed {
    /// A failure with this message.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Failed {}

/// Supervises the worker processes of one agent. Cheap to clone; clones share the workers, which end with the last clone.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    caps: Arc<Caps>,
    max_input: Bytes,
    stopping: CancellationToken,
}

impl Engine {
    /// Starts no process yet: workers start with their first task.
    pub fn new(config: EngineConfig) -> Self {
        let (max_input, stopping) = (config.max_input, CancellationToken::new());
        let caps = config.caps.clone();
        Self { shared: Arc::new(Shared { pool: Arc::new(Pool::new(config)), caps, max_input, stopping }) }
    }

    /// Runs one task: waits for the model's worker, starts and loads it if need be, and answers before `task.deadline`.
    ///
    /// Dropping the future, or cancelling, kills the worker if the task is on it, alone or with others that have gone as
    /// well: what still somebody waits for goes on.
    pub async fn run(&self, task: Task, cancel: CancellationToken) -> Result<Output, Failed> {
        let Shared { pool, max_input, stopping, .. } = &*self.shared;
        if task.input.len() as u64 > max_input.0 {
            let message = format!("the input has {} bytes; at most {max_input} are allowed", task.input.len());
            return Err(Failed::new(FailureReason::InputInvalid, message));
        }
        let deadline = task.deadline;
        let cancelled = |why: &str| Err(Failed::new(FailureReason::Cancelled, why));
        tokio::select! {
            biased;
            () = cancel.cancelled() => cancelled("the task was cancelled"),
            () = stopping.cancelled() => cancelled("the agent is stopping"),
            result = tokio::time::timeout(deadline, pool.run(task)) => result.unwrap_or_else(|_| {
                let message = format!("not finished within {} ms", deadline.as_millis());
                Err(Failed::new(FailureReason::DeadlineExceeded, message))
            }),
        }
    }

    /// Loaded models and the device each is on, busy or idle.
    pub fn loaded(&self) -> Vec<(Digest, String)> {
        self.shared.pool.loaded()
    }

    /// Worker processes that ever started and loaded their model.
    pub fn workers_started(&self) -> u64 {
        self.shared.pool.started()
    }

    /// Ends the idle workers of a model and waits until their memory is released; a busy one ends with its task.
    /// Answers how many were ended at once.
    pub async fn evict(&self, digest: Digest) -> usize {
        self.shared.pool.evict(Some(digest)).await
    }

    /// Ends every idle worker: the owner wants the memory back.
    pub async fn evict_idle(&self) -> usize {
        self.shared.pool.evict(None).await
    }

    /// Ends every worker and waits until its process is gone: call it when no task runs any more. Later tasks start new ones.
    pub async fn release(&self) {
        self.shared.pool.emptied().await;
    }

    /// What caps workers here, in words.
    pub fn caps(&self) -> String {
        self.shared.caps.found().to_string()
    }

    /// Ends every worker, busy or not, and waits for them; tasks on them fail with `Cancelled`, later ones too.
    pub async fn shutdown(&self) {
        self.shared.stopping.cancel();
        self.shared.pool.emptied().await;
    }
}

/// The hidden subcommand `nightshift-agent worker …`; `args` are those after the word `worker`.
pub fn worker_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    crate::worker::main(args)
}

/// The hidden subcommand `nightshift-agent prove --model FILE --spec JSON …`; `args` are those after the word `prove`.
/// Prints a [`ProveReport`] and exits with 0, or a failure's reason and message, as JSON, and exits with 1.
pub fn prove_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    crate::worker::prove::main(args)
}
