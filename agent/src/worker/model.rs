//! A loaded model: libtorch, and nothing of processes or sockets.
//!
//! *In*: an open file, its digest, a device; then spec, parameters and bytes. *Out*: encoded bytes and times. *Invariant*:
//! the digest is checked on the very file that is loaded; each run starts from the model's fresh state (see
//! [`crate::worker`]); no gradients.

use crate::codec::text::Archive;
use crate::codec::{Decoded, Encoded, Plan};
use crate::engine::Failed;
use crate::sys::cuda;
use crate::worker::batch;
use crate::worker::message::{blame, essence};
use nightshift_types::{Digest, FailureReason, ModelSpec};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tch::{CModule, Device, IValue, TchError};

/// libtorch's device for one of the engine's names: `cpu0`, `cuda1`, `mps0`.
pub fn device_of(name: &str) -> Result<Device, Failed> {
    let unknown = || Failed::new(FailureReason::Internal, format!("this node has no device {name:?}"));
    let digits = name.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let class = &name[..name.len() - digits.len()];
    let index: usize = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| unknown())? };
    match class {
        "cpu" => Ok(Device::Cpu),
        "cuda" if cuda::load() && index < tch::Cuda::device_count().max(0) as usize => Ok(Device::Cuda(index)),
        "mps" if index == 0 && tch::utils::has_mps() => Ok(Device::Mps),
        _ => Err(unknown()),
    }
}

/// Sets how many threads libtorch computes with. Once, before anything else of libtorch.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(1));
    tch::set_num_interop_threads(1);
}

/// Reads `file` to its end; its SHA-256 must be `digest`.
pub fn verify(file: &mut File, digest: &Digest) -> Result<(), Failed> {
    let read = |file: &mut File| -> std::io::Result<Digest> {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        file.rewind()?;
        Ok(Digest(hash.finalize().into()))
    };
    let found = read(file).map_err(|error| Failed::new(FailureReason::Internal, format!("model file: {error}")))?;
    if found != *digest {
        let message = format!("the model's file has digest {found}, expected {digest}");
        return Err(Failed::new(FailureReason::DigestMismatch, message));
    }
    Ok(())
}

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    module: CModule,
    device: Device,
    resets: bool,
}

/// A finished run of one or more tasks.
#[derive(Debug)]
pub struct Finished {
    /// Each task's result, in their order; what failed here is the task's own.
    pub results: Vec<Result<Encoded, Failed>>,
    /// Time in the model's method.
    pub compute: Duration,
    /// Time in the codecs.
    pub codec: Duration,
}

/// Why a run of several has no results.
#[derive(Debug)]
pub enum Unfinished {
    /// Something failed for all.
    Failed(Failed),
    /// What the model returns cannot be taken apart by its first size: its tasks must run one by one.
    Indivisible,
}

impl From<Failed> for Unfinished {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl Model {
    /// Loads TorchScript from an open file, by descriptor: the worker needs no path.
    pub fn load(file: &File, device: Device) -> Result<Self, Failed> {
        let fail = |error: TchError| {
            let text = error.to_string();
            let message = format!("libtorch cannot load the model: {}", essence(&text));
            Failed::new(blame(&text, FailureReason::ModelLoadFailed), message)
        };
        let path = format!("/dev/fd/{}", file.as_raw_fd());
        let mut module = CModule::load_on_device(path, device).map_err(fail)?;
        module.f_set_eval().map_err(fail)?;
        let _no_grad = tch::no_grad_guard();
        let resets = module.method_is::<IValue>("reset_states", &[]).is_ok();
        Ok(Self { module, device, resets })
    }

    /// Whether each call starts from the model's fresh state by a reset: such a model may keep state between rows, too.
    pub fn keeps_state(&self) -> bool {
        self.resets
    }

    /// Decodes, runs and encodes tasks, those that fit together in one call; each result has at most `limit` bytes.
    pub fn run(&self, spec: &ModelSpec, plan: &Plan, inputs: &[&[u8]], limit: usize) -> Result<Finished, Unfinished> {
        let began = Instant::now();
        let mut results: Vec<Option<Result<Encoded, Failed>>> = inputs.iter().map(|_| None).collect();
        let mut groups = Groups::default();
        for (index, input) in inputs.iter().enumerate() {
            match plan.decode(input) {
                Ok(decoded) if inputs.len() == 1 => groups.alone(index, decoded),
                Ok(decoded) => groups.add(spec, index, decoded),
                Err(error) => results[index] = Some(Err(Failed::new(error.reason, error.message))),
            }
        }
        let mut compute = Duration::ZERO;
        for group in groups.0 {
            let (total, count) = (group.members.iter().map(|member| member.rows).sum::<i64>(), group.members.len());
            let (values, members): (Vec<_>, Vec<_>) = group.members.into_iter().map(Member::apart).unzip();
            let values = batch::stack(spec, values).map_err(|error| out_of_libtorch("batch", &error))?;
            let started = Instant::now();
            let returned = self.call(&spec.method, values)?;
            compute += started.elapsed();
            let encode = |returned, samples| {
                plan.encode(returned, samples, limit).map_err(|error| Failed::new(error.reason, error.message))
            };
            if let ([Member { index, samples, .. }], 1) = (members.as_slice(), count) {
                results[*index] = Some(encode(returned, *samples));
                continue;
            }
            let mut start = 0;
            for Member { index, samples, rows, .. } in members {
                let part = batch::part(spec, &returned, start, rows, total).ok_or(Unfinished::Indivisible)?;
                results[index] = Some(encode(part, samples));
                start += rows;
            }
        }
        let lost = || Err(Failed::new(FailureReason::Internal, "the task was lost in its batch"));
        let results = results.into_iter().map(|result| result.unwrap_or_else(lost)).collect();
        Ok(Finished { results, compute, codec: began.elapsed().saturating_sub(compute) })
    }

    /// Runs the method on the model's fresh state.
    pub fn call(&self, method: &str, values: Vec<IValue>) -> Result<IValue, Failed> {
        let fail = |error: TchError| out_of_libtorch(method, &error);
        // libtorch's inference mode, which saves a little more, has no door in its C interface.
        let _no_grad = tch::no_grad_guard();
        if self.resets {
            self.module.method_is::<IValue>("reset_states", &[]).map_err(fail)?;
        }
        let values = values.into_iter().map(|value| self.moved(value)).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        let returned = self.module.method_is(method, &values).map_err(fail)?;
        if let Device::Cuda(index) = self.device {
            tch::Cuda::synchronize(index as i64);
        }
        Ok(returned)
    }

    fn moved(&self, value: IValue) -> Result<IValue, TchError> {
        match value {
            IValue::Tensor(tensor) if self.device != Device::Cpu => tensor.f_to_device(self.device).map(IValue::Tensor),
            other => Ok(other),
        }
    }

    /// Whether the model has this method: libtorch's C interface cannot list them, so it is called with no argument, and
    /// the error's words tell.
    pub fn has_method(&self, method: &str) -> bool {
        let _no_grad = tch::no_grad_guard();
        match self.module.method_is::<IValue>(method, &[]) {
            Ok(_) => true,
            Err(error) => !error.to_string().contains("is not defined"),
        }
    }
}

fn out_of_libtorch(what: &str, error: &TchError) -> Failed {
    let text = error.to_string();
    Failed::new(blame(&text, FailureReason::ModelExecutionFailed), format!("{what}: {}", essence(&text)))
}

/// Decoded tasks that go into one call.
struct Group {
    form: Option<batch::Form>,
    members: Vec<Member>,
}

struct Member {
    index: usize,
    rows: i64,
    samples: Option<usize>,
    values: Vec<IValue>,
}

impl Member {
    fn apart(mut self) -> (Vec<IValue>, Self) {
        (std::mem::take(&mut self.values), self)
    }
}

#[derive(Default)]
struct Groups(Vec<Group>);

impl Groups {
    fn alone(&mut self, index: usize, Decoded { values, samples }: Decoded) {
        self.0.push(Group { form: None, members: vec![Member { index, rows: 1, samples, values }] });
    }

    fn add(&mut self, spec: &ModelSpec, index: usize, decoded: Decoded) {
        let Some((form, rows)) = batch::form(spec, &decoded.values) else { return self.alone(index, decoded) };
        let member = Member { index, rows, samples: decoded.samples, values: decoded.values };
        match self.0.iter_mut().find(|group| group.form.as_ref() == Some(&form)) {
            Some(group) => group.members.push(member),
            None => self.0.push(Group { form: Some(form), members: vec![member] }),
        }
    }
}

/// The plan of a job, kept while spec and parameters stay the same.
#[derive(Debug, Default)]
pub struct Plans {
    archive: Option<Archive>,
    spec: Option<ModelSpec>,
    plan: Option<(BTreeMap<String, String>, Plan)>,
}

impl Plans {
    /// For the model of this file, of which codecs may take more than the model.
    pub fn of(file: &File) -> Self {
        Self { archive: file.try_clone().ok().map(Archive::new), ..Self::default() }
    }

    /// The plan for `spec` (`None`: the last one) and `parameters`, and that spec.
    pub fn get(
        &mut self,
        spec: Option<ModelSpec>,
        parameters: &BTreeMap<String, String>,
    ) -> Result<(&ModelSpec, &Plan), Failed> {
        if spec.is_some() {
            self.spec = spec;
            self.plan = None;
        }
        let spec =
            self.spec.as_ref().ok_or_else(|| Failed::new(FailureReason::Internal, "a task without a model's spec"))?;
        let plan = match self.plan.take() {
            Some(kept) if kept.0 == *parameters => kept,
            _ => {
                let plan = Plan::of(spec, parameters, self.archive.as_ref());
                let plan = plan.map_err(|e| Failed::new(e.reason, e.message))?;
                (parameters.clone(), plan)
            }
        };
        Ok((spec, &self.plan.insert(plan).1))
    }
}
