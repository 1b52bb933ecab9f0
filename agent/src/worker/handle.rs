//! The engine's side of one worker process.
//!
//! *In*: a model to load, then tasks. *Out*: results, or failures and whether the worker is still fit. *Invariant*: dropping
//! a [`Handle`], in the middle of a task too, kills the process; nothing it says is trusted beyond its own segments.

use crate::caps::Cage;
use crate::engine::{EngineConfig, Failed, Output, Task, Timings};
use crate::sys::{channel, limits, process, shm::Segment};
use crate::worker::protocol::{self, Done, KEPT_SEGMENT, Load, Part, Reply, Request, Run};
use crate::worker::spawner::Spawner;
use nightshift_types::{Bytes, Digest, FailureReason, ModelSpec};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

/// Smallest segment: a page table's worth costs nothing, and most inputs fit.
const LEAST_SEGMENT: usize = 64 << 10;
/// Bytes copied before other tasks get their turn.
const COPY_STEP: usize = 1 << 20;
/// How long a worker that hung up may take to end by itself, so that its exit status can be read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One worker process with a loaded model.
#[derive(Debug)]
pub struct Handle {
    socket: UnixStream,
    spawner: Spawner,
    body: Option<Body>,
    input: Option<Segment>,
    output: Option<Segment>,
    /// What the worker knows of the model's calling convention.
    spec: Option<ModelSpec>,
    /// The kernel's count when the worker started.
    kills_before: u64,
    max_output: usize,
    together: bool,
}

#[derive(Debug)]
struct Body {
    child: Child,
    place: OwnedSemaphorePermit,
    cage: Option<Cage>,
}

/// A failed run.
#[derive(Debug)]
pub struct Broken {
    /// Why.
    pub failed: Failed,
    /// Whether the worker can take another task.
    pub healthy: bool,
    /// Its tasks cannot run together: what the model returned cannot be taken apart.
    pub indivisible: bool,
}

impl Broken {
    fn fatal(failed: Failed) -> Self {
        Self { failed, healthy: false, indivisible: false }
    }
}

/// A model to load.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the file must hash to.
    pub digest: Digest,
    /// The file.
    pub path: PathBuf,
    /// The engine's name of a device.
    pub device: String,
    /// Memory it may take; 0: no limit.
    pub memory: Bytes,
}

impl Handle {
    /// Starts a process and loads a model in it.
    pub async fn start(
        config: &EngineConfig,
        spawner: &Spawner,
        place: OwnedSemaphorePermit,
        source: &Source,
    ) -> Result<Self, Failed> {
        let internal = |what: &str, error: &dyn std::fmt::Display| {
            Failed::new(FailureReason::Internal, format!("{what}: {error}"))
        };
        let file = File::open(&source.path).map_err(|e| internal("the model's file cannot be opened", &e.kind()))?;
        let kills_before = limits::out_of_memory_kills();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| internal("no socket", &e))?;
        ours.set_nonblocking(true).map_err(|e| internal("no socket", &e))?;
        let socket = UnixStream::from_std(ours).map_err(|e| internal("no socket", &e))?;
        let command = command(config).map_err(|e| internal("the worker's directory", &e.kind()))?;
        let child = spawner.start(command, theirs.into()).await.map_err(|e| internal("no worker", &e.kind()))?;
        // It reads nothing of the model before it is asked to load it, below.
        let cage = config.caps.cage(config.threads, source.memory).filter(|cage| {
            let taken = cage.take(child.id());
            taken.inspect_err(|error| tracing::warn!(%error, "a worker is in no cgroup: rlimits alone hold it")).is_ok()
        });
        let mut handle = Self {
            socket,
            spawner: spawner.clone(),
            body: Some(Body { child, place, cage }),
            input: None,
            output: None,
            spec: None,
            kills_before,
            max_output: config.max_output.0 as usize,
            together: false,
        };
        let load = Load {
            digest: source.digest.to_string(),
            device: source.device.clone(),
            threads: config.threads,
            memory: source.memory.0,
            max_output: handle.max_output,
        };
        match handle.exchange(&Request::Load(load), &[file.as_fd()]).await {
            Ok(Reply::Ready { together }) => {
                handle.together = together;
                Ok(handle)
            }
            Ok(Reply::Failed { reason, message, .. }) => Err(protocol::failure(&reason, &message)),
            Ok(_) => Err(out_of_order()),
            Err(error) => Err(handle.autopsy(error).await),
        }
    }

    /// Whether an idle worker is still there, as far as is known. What it says without being asked makes it unfit.
    pub fn is_fit(&self) -> bool {
        let silent = self.socket.try_read(&mut [0]);
        silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the model's tasks may run together.
    pub fn together(&self) -> bool {
        self.together
    }

    /// Runs tasks of one spec and the same parameters in one call, with so much memory; their results in their order.
    pub async fn run(&mut self, tasks: &[Task], memory: Bytes) -> Result<Vec<Result<Output, Failed>>, Broken> {
        match self.try_run(tasks, memory).await {
            Ok(Ok(outputs)) => {
                self.input.take_if(|segment| segment.len() > KEPT_SEGMENT);
                self.output.take_if(|segment| segment.len() > KEPT_SEGMENT);
                Ok(outputs)
            }
            Ok(Err(broken)) => Err(broken),
            Err(error) => Err(Broken::fatal(self.autopsy(error).await)),
        }
    }

    /// The outer error: the process is beyond talking to.
    async fn try_run(
        &mut self,
        tasks: &[Task],
        memory: Bytes,
    ) -> io::Result<Result<Vec<Result<Output, Failed>>, Broken>> {
        let Some(first) = tasks.first() else { return Ok(Ok(Vec::new())) };
        let inputs: Vec<usize> = tasks.iter().map(|task| task.input.len()).collect();
        let new_input = provide(&mut self.input, inputs.iter().sum::<usize>().max(1))?;
        let new_output = provide(&mut self.output, 1)?;
        if let Some(cage) = self.body.as_mut().and_then(|body| body.cage.as_mut()) {
            cage.raise(memory);
        }
        let mut at = 0;
        for task in tasks {
            self.copy_in(at, &task.input).await?;
            at += task.input.len();
        }
        let spec = (self.spec.as_ref() != Some(&first.spec)).then(|| first.spec.clone());
        if spec.is_some() {
            self.spec.clone_from(&spec);
        }
        let parameters = first.parameters.clone();
        let request = Request::Run(Run { spec, parameters, inputs, new_input, new_output, memory: memory.0 });
        let fds = [new_input.and(self.input.as_ref()), new_output.and(self.output.as_ref())];
        let fds: Vec<BorrowedFd<'_>> = fds.into_iter().flatten().map(Segment::fd).collect();
        let mut reply = exchange(&mut self.socket, &request, &fds).await?;
        if let Reply::NeedOutput { bytes } = reply {
            if bytes > self.max_output.saturating_mul(tasks.len()) {
                return Ok(Err(Broken::fatal(out_of_order())));
            }
            let size = provide(&mut self.output, bytes)?.unwrap_or(0);
            let fds: Vec<BorrowedFd<'_>> = self.output.iter().map(Segment::fd).collect();
            reply = exchange(&mut self.socket, &Request::Grow { size }, &fds).await?;
        }
        Ok(match reply {
            Reply::Done(done) if done.results.len() == tasks.len() => self.copy_out(done).await,
            Reply::Failed { reason, message, healthy } => {
                Err(Broken { failed: protocol::failure(&reason, &message), healthy, indivisible: false })
            }
            Reply::Indivisible if tasks.len() > 1 => {
                let failed = Failed::new(FailureReason::OutputInvalid, "the model's results cannot be taken apart");
                Err(Broken { failed, healthy: true, indivisible: true })
            }
            _ => Err(Broken::fatal(out_of_order())),
        })
    }

    async fn copy_in(&self, start: usize, bytes: &[u8]) -> io::Result<()> {
        for (step, part) in bytes.chunks(COPY_STEP).enumerate() {
            if step > 0 {
                tokio::task::yield_now().await;
            }
            if !self.input.as_ref().is_some_and(|input| input.write(start + step * COPY_STEP, part)) {
                return Err(io::Error::other("the input segment is too small"));
            }
        }
        Ok(())
    }

    async fn copy_out(&self, done: Done) -> Result<Vec<Result<Output, Failed>>, Broken> {
        let compute = Duration::from_micros(done.compute);
        let codec = Duration::from_micros(done.codec / done.results.len().max(1) as u64);
        let timings = Timings { compute, codec, ..Timings::default() };
        let (mut at, mut outputs) = (0, Vec::with_capacity(done.results.len()));
        for part in done.results {
            let (length, content_type) = match part {
                Part::Output { bytes, content_type } => (bytes, content_type),
                Part::Failed { reason, message } => {
                    outputs.push(Err(protocol::failure(&reason, &message)));
                    continue;
                }
            };
            let bytes = self.read(at, length).await.ok_or_else(|| Broken::fatal(out_of_order()))?;
            at += length;
            let content_type = protocol::content_type(&content_type);
            outputs.push(Ok(Output { bytes, content_type, timings }));
        }
        Ok(outputs)
    }

    /// `None`: the segment has no such bytes, or there is no memory for them.
    async fn read(&self, at: usize, length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if length > self.max_output || bytes.try_reserve_exact(length).is_err() {
            return None;
        }
        while bytes.len() < length {
            if !bytes.is_empty() {
                tokio::task::yield_now().await;
            }
            let (start, step) = (at.checked_add(bytes.len())?, COPY_STEP.min(length - bytes.len()));
            if !self.output.as_ref().is_some_and(|output| output.read(start, step, &mut bytes)) {
                return None;
            }
        }
        Some(bytes)
    }

    async fn exchange(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Reply> {
        exchange(&mut self.socket, request, fds).await
    }

    /// Why the process is beyond talking to.
    async fn autopsy(&mut self, error: io::Error) -> Failed {
        let Some(body) = self.body.take() else { return out_of_order() };
        let Body { child, place, cage } = body;
        let status = self.spawner.bury(child, LAST_WORDS, (place, None)).await.ok().flatten();
        let full = cage.is_some_and(|cage| cage.was_full());
        match status {
            Some(status) if full && status.signal() == Some(libc::SIGKILL) => {
                let message = "the worker took more memory than its cap, and the kernel ended it";
                Failed::new(FailureReason::OutOfMemory, message)
            }
            Some(status) => verdict(status, limits::out_of_memory_kills() > self.kills_before),
            None => Failed::new(FailureReason::WorkerCrashed, format!("the worker is gone: {error}")),
        }
    }

    /// Kills the process and waits until it is gone.
    pub async fn end(mut self) {
        if let Some(body) = self.body.take() {
            let _ = self.spawner.bury(body.child, Duration::ZERO, (body.place, body.cage)).await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            drop(self.spawner.bury(body.child, Duration::ZERO, (body.place, body.cage)));
        }
    }
}

fn out_of_order() -> Failed {
    Failed::new(FailureReason::WorkerCrashed, "the worker broke its protocol and was ended")
}

/// What an exit status says of the task.
fn verdict(status: ExitStatus, kernel_killed: bool) -> Failed {
    let signal = status.signal();
    if signal == Some(libc::SIGKILL) && kernel_killed {
        let message = "the machine ran out of memory and its kernel ended a process, the worker it seems";
        return Failed::new(FailureReason::OutOfMemory, message);
    }
    let how = match (signal, status.code()) {
        (Some(signal), _) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("was ended by {name}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, code) => format!("ended with exit code {}", code.unwrap_or(-1)),
    };
    Failed::new(FailureReason::WorkerCrashed, format!("the worker process {how}"))
}

/// Makes sure of a segment of at least `bytes`; answers the size of a new one.
fn provide(segment: &mut Option<Segment>, bytes: usize) -> io::Result<Option<usize>> {
    if segment.as_ref().is_some_and(|segment| segment.len() >= bytes) {
        return Ok(None);
    }
    let size = bytes.next_power_of_two().max(LEAST_SEGMENT);
    *segment = Some(Segment::create(size)?);
    Ok(Some(size))
}

async fn exchange(socket: &mut UnixStream, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Reply> {
    let frame = channel::framed(&serde_json::to_vec(request)?)?;
    let raw = socket.as_raw_fd();
    // The kernel's answer may be "not yet": then the descriptors have not gone either.
    let sent = socket.async_io(Interest::WRITABLE, || channel::send(raw, &frame, fds)).await?;
    socket.write_all(&frame[sent..]).await?;
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let mut body = vec![0; channel::frame_length(head)?];
    socket.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Environment that workers keep: where libraries are, and which GPUs they may see. Nothing else of the agent's goes in.
const KEPT: &[&str] = &[
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "LANG",
    "RUST_BACKTRACE",
];

/// Turns that a computing thread waits for the others of its team before it sleeps. GNU OpenMP's own is hundreds of thousands,
/// while they hold the core that the awaited thread needs: on two cores with much other work the voice model took 7 s with two
/// threads, 0.13 s with one, and 0.07 s with two that sleep this soon. An owner's machine has other work.
const SPINS: &str = "1000";

/// The command of a worker, without its arguments' last word: see [`process::CONTROL_FD`].
fn command(config: &EngineConfig) -> io::Result<Command> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.runtime_dir)?;
    let mut command = Command::new(&config.worker_program);
    command.args(["worker", "--control-fd", &process::CONTROL_FD.to_string()]);
    command.env_clear().current_dir(&config.runtime_dir);
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("TMPDIR", &config.runtime_dir).env("OMP_NUM_THREADS", config.threads.max(1).to_string());
    command.env("GOMP_SPINCOUNT", SPINS);
    // So that cuda0 is the GPU that the driver's own tools call 0.
    command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    let stderr = if tracing::enabled!(tracing::Level::DEBUG) { Stdio::inherit() } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    Ok(command)
}
