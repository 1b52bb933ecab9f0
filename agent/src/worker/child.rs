//! The worker's own process: one model, one call at a time, until its engine goes away.
//!
//! *In*: [`Request`] frames on the control socket. *Out*: [`Reply`] frames. *Invariant*: nothing of the model is read before
//! the [`sandbox`] holds; a panic is a failed task, told to
//! the engine, and this process's last; the end of the socket is the end of the process.

use crate::codec::Encoded;
use crate::engine::Failed;
use crate::sys::{channel, limits, process, shm::Segment};
use crate::worker::message;
use crate::worker::model::{Finished, Model, Plans, Unfinished, device_of, set_threads, verify};
use crate::worker::protocol::{Done, KEPT_SEGMENT, Load, Part, Reply, Request, Run};
use crate::worker::sandbox;
use nightshift_types::{Digest, FailureReason};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Characters of all the messages of one reply together.
const MESSAGES: usize = 32 << 10;

/// Serves the engine at the other end of descriptor `fd`.
pub fn main(fd: RawFd) -> ExitCode {
    limits::be_the_first_to_go();
    let served = process::inherited_control(fd).and_then(|control| Control { socket: control }.serve());
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nightshift worker: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Control {
    socket: OwnedFd,
}

impl Control {
    fn serve(&self) -> io::Result<()> {
        let Some((Request::Load(load), mut files)) = self.receive()? else { return Ok(()) };
        let file = files.pop().ok_or_else(|| io::Error::other("no model file"))?;
        let baseline = limits::private_memory();
        let mut worker = match guarded(|| Worker::load(&load, File::from(file), baseline)) {
            Ok(worker) => worker,
            Err((failed, _)) => return self.reply(&failed_reply(failed, false)),
        };
        self.reply(&Reply::Ready { together: !worker.model.keeps_state() })?;
        while let Some((request, fds)) = self.receive()? {
            let Request::Run(run) = request else { return Err(io::Error::other("expected a task")) };
            worker.take_segments(&run, fds)?;
            match guarded(|| worker.run(run)) {
                Ok(Some(finished)) => self.finish(&mut worker, finished)?,
                Ok(None) => self.reply(&Reply::Indivisible)?,
                Err((failed, healthy)) => {
                    self.reply(&failed_reply(failed, healthy))?;
                    if !healthy {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&self, worker: &mut Worker, finished: Finished) -> io::Result<()> {
        let Finished { results, compute, codec } = finished;
        let length = |result: &Result<Encoded, Failed>| result.as_ref().map_or(0, |encoded| encoded.bytes.len());
        let total: usize = results.iter().map(length).sum();
        if worker.output.as_ref().is_none_or(|output| output.len() < total) {
            self.reply(&Reply::NeedOutput { bytes: total })?;
            let (size, fd) = match self.receive()? {
                Some((Request::Grow { size }, mut fds)) => (size, fds.pop()),
                _ => return Err(io::Error::other("expected a larger output segment")),
            };
            let fd = fd.ok_or_else(|| io::Error::other("no output segment"))?;
            worker.output = Some(Segment::open(fd, size)?);
        }
        let (mut at, mut parts) = (0, Vec::with_capacity(results.len()));
        // Their frame is bounded, however many they are.
        let words = (MESSAGES / results.len().max(1)).min(message::LIMIT);
        for result in results {
            let Encoded { bytes, content_type } = match result {
                Ok(encoded) => encoded,
                Err(Failed { reason, message }) => {
                    let message = message::clean(&message).chars().take(words).collect();
                    parts.push(Part::Failed { reason: reason.as_str().into(), message });
                    continue;
                }
            };
            if !worker.output.as_ref().is_some_and(|output| output.write(at, &bytes)) {
                return Err(io::Error::other("the output segment is too small"));
            }
            at += bytes.len();
            parts.push(Part::Output { bytes: bytes.len(), content_type: content_type.to_owned() });
        }
        worker.let_go_of_large_segments();
        self.reply(&Reply::Done(Done {
            results: parts,
            compute: compute.as_micros() as u64,
            codec: codec.as_micros() as u64,
        }))
    }

    fn receive(&self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut head = [0; 4];
        if !self.fill(&mut head, &mut fds)? {
            return Ok(None);
        }
        let mut body = vec![0; channel::frame_length(head)?];
        if !self.fill(&mut body, &mut fds)? {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    /// False: the engine is gone.
    fn fill(&self, mut buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
        while !buffer.is_empty() {
            match channel::receive(self.socket.as_raw_fd(), buffer, fds) {
                Ok(0) => return Ok(false),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn reply(&self, reply: &Reply) -> io::Result<()> {
        let frame = channel::framed(&serde_json::to_vec(reply)?)?;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match channel::send(self.socket.as_raw_fd(), rest, &[]) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn failed_reply(failed: Failed, healthy: bool) -> Reply {
    Reply::Failed { reason: failed.reason.as_str().into(), message: message::clean(&failed.message), healthy }
}

/// Turns a panic into a failure. The second part: whether this process is fit for another task. After an error of
/// libtorch it is not: the model's state is unknown, and the arguments of a failed call are not freed.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failed>) -> Result<T, (Failed, bool)> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(failed)) => {
            let healthy = matches!(failed.reason, FailureReason::InputInvalid | FailureReason::OutputInvalid);
            Err((failed, healthy))
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("no message");
            let reason = message::blame(text, FailureReason::Internal);
            Err((Failed::new(reason, format!("the worker panicked: {}", message::essence(text))), false))
        }
    }
}

struct Worker {
    model: Model,
    plans: Plans,
    input: Option<Segment>,
    output: Option<Segment>,
    baseline: u64,
    /// The limit that is in force: setting it again for every task would be a system call for nothing.
    memory: u64,
    threads: usize,
    max_output: usize,
}

impl Worker {
    fn load(load: &Load, mut file: File, baseline: u64) -> Result<Self, Failed> {
        let digest: Digest =
            load.digest.parse().map_err(|error| Failed::new(FailureReason::Internal, format!("{error}")))?;
        sandbox::confine(Some(&file), &load.device).map_err(|error| sandbox::failed(&error))?;
        set_threads(load.threads);
        let device = device_of(&load.device)?;
        if device == tch::Device::Cpu {
            limits::limit_memory(baseline, load.memory, load.threads);
        }
        verify(&mut file, &digest)?;
        let model = Model::load(&file, device)?;
        Ok(Self {
            model,
            plans: Plans::of(&file),
            input: None,
            output: None,
            baseline: if device == tch::Device::Cpu { baseline } else { 0 },
            memory: load.memory,
            threads: load.threads,
            max_output: load.max_output,
        })
    }

    fn take_segments(&mut self, run: &Run, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let mut next = |size| {
            let fd = fds.next().ok_or_else(|| io::Error::other("a segment is missing"))?;
            Segment::open(fd, size)
        };
        if let Some(size) = run.new_input {
            self.input = Some(next(size)?);
        }
        if let Some(size) = run.new_output {
            self.output = Some(next(size)?);
        }
        Ok(())
    }

    /// The engine does the same at its end: see [`KEPT_SEGMENT`].
    fn let_go_of_large_segments(&mut self) {
        self.input.take_if(|segment| segment.len() > KEPT_SEGMENT);
        self.output.take_if(|segment| segment.len() > KEPT_SEGMENT);
    }

    /// `None`: several cannot run together. What fails of a single task fails the run, so that its worker is judged by it.
    fn run(&mut self, run: Run) -> Result<Option<Finished>, Failed> {
        if run.memory != self.memory && self.baseline > 0 {
            limits::limit_memory(self.baseline, run.memory, self.threads);
            self.memory = run.memory;
        }
        let (spec, plan) = self.plans.get(run.spec, &run.parameters)?;
        let missing = || Failed::new(FailureReason::Internal, "the input segment is too small");
        let total = run.inputs.iter().try_fold(0usize, |sum, length| sum.checked_add(*length)).ok_or_else(missing)?;
        let segment = self.input.as_ref().ok_or_else(missing)?;
        let finished = segment.with(total, |mut bytes| {
            let mut inputs = Vec::with_capacity(run.inputs.len());
            for length in &run.inputs {
                let (input, rest) = bytes.split_at(*length);
                inputs.push(input);
                bytes = rest;
            }
            self.model.run(spec, plan, &inputs, self.max_output)
        });
        match finished.ok_or_else(missing)? {
            Ok(Finished { mut results, .. }) if results.len() == 1 && results[0].is_err() => {
                results.remove(0).map(|_| None)
            }
            Ok(finished) => Ok(Some(finished)),
            Err(Unfinished::Indivisible) => Ok(None),
            Err(Unfinished::Failed(failed)) => Err(failed),
        }
    }
}
