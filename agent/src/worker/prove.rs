//! Proving a model: loading it once, and running it on a made-up input, before any node is asked to.
//!
//! *In*: a model's file and its spec. *Out*: a [`ProveReport`], as JSON on standard output when it is a process of its own.
//! *Invariant*: it runs in its own process and nowhere else: the file is hostile until proven, and a crash is the answer.
//! The process confines itself before it reads the file: whoever started it may hold credentials.

use crate::codec::text::Archive;
use crate::codec::{Plan, kind_of};
use crate::engine::Failed;
use crate::sys::{limits, process};
use crate::worker::model::{Model, device_of, set_threads, verify};
use crate::worker::sandbox::{self, Sandbox};
use nightshift_types::{Codec, Digest, FailureReason, ModelSpec, Port};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tch::{IValue, Tensor};

/// Samples a second where the port names none.
const DEFAULT_RATE: u32 = 16_000;
/// Largest made-up input, in elements.
const MAX_ELEMENTS: i64 = 64 << 20;
/// Timed runs, after one that is not: libtorch optimises during the first.
const RUNS: usize = 3;
/// What a model of texts is tried on.
const SOME_TEXT: &str = "A machine that nobody uses at night can do somebody else's work.";
/// No further run is started after this long.
const ENOUGH: Duration = Duration::from_secs(10);

/// What to prove.
#[derive(Debug, Clone)]
pub struct ProveRequest {
    /// The model's file.
    pub model: PathBuf,
    /// Its calling convention.
    pub spec: ModelSpec,
    /// What the file must hash to, if that is to be checked.
    pub digest: Option<Digest>,
    /// The engine's name of a device.
    pub device: String,
    /// Threads to compute with.
    pub threads: usize,
    /// Bytes of memory beyond the empty process; 0: no limit.
    pub memory: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProveReport {
    /// Milliseconds to verify and load it.
    pub load_milliseconds: f64,
    /// Whether the model has the method.
    pub method_found: bool,
    /// Milliseconds of the method on a made-up input (one second of silence, zeros), the median of 3 after a first;
    /// null where the ports leave sizes open.
    pub compute_milliseconds: Option<f64>,
    /// Most memory of the whole process.
    pub peak_memory_bytes: u64,
    /// Of those, what a process with libtorch and without a model has.
    pub empty_process_bytes: u64,
    /// The walls around this run.
    pub sandbox: Sandbox,
}

#[derive(Serialize)]
struct Failure<'a> {
    reason: &'a str,
    message: &'a str,
}

/// `prove --model FILE --spec JSON [--digest sha256:…] [--device cpu0] [--threads 1] [--memory BYTES]`; `--spec @FILE`
/// reads the JSON from a file.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let request = match parse(args) {
        Ok(request) => request,
        Err(problem) => {
            eprintln!("nightshift-agent prove: {problem}");
            return ExitCode::from(2);
        }
    };
    limits::be_the_first_to_go();
    process::close_inherited();
    let (text, code) = match prove(&request) {
        Ok(report) => (serde_json::to_string(&report), ExitCode::SUCCESS),
        Err(Failed { reason, message }) => {
            let message = super::message::clean(&message);
            (serde_json::to_string(&Failure { reason: reason.as_str(), message: &message }), ExitCode::FAILURE)
        }
    };
    println!("{}", text.unwrap_or_default());
    code
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<ProveRequest, String> {
    let mut texts = BTreeMap::new();
    let mut args = args.into_iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        texts.insert(name, value);
    }
    let mut take = |name: &str| texts.remove(name);
    let model = take("--model").ok_or("--model FILE is missing")?.into();
    let spec = take("--spec").ok_or("--spec JSON is missing")?;
    let spec = match spec.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("--spec {path}: {error}"))?,
        None => spec,
    };
    let number = |name: &str, text: Option<String>, default: u64| {
        text.map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name} {text:?} must be a number")))
    };
    let request = ProveRequest {
        model,
        spec: serde_json::from_str(&spec).map_err(|error| format!("--spec: {error}"))?,
        digest: take("--digest").map(|text| text.parse()).transpose().map_err(|error| format!("--digest: {error}"))?,
        device: take("--device").unwrap_or_else(|| "cpu0".into()),
        threads: number("--threads", take("--threads"), 1)? as usize,
        memory: number("--memory", take("--memory"), 0)?,
    };
    match texts.keys().next() {
        Some(unknown) => Err(format!("{unknown:?} is unknown")),
        None => Ok(request),
    }
}

/// Loads and tries a model in this process, which must be one for nothing else: it is confined for good.
pub fn prove(request: &ProveRequest) -> Result<ProveReport, Failed> {
    let mut file = File::open(&request.model)
        .map_err(|error| Failed::new(FailureReason::Internal, format!("the model's file: {}", error.kind())))?;
    let sandbox = sandbox::confine(Some(&file), &request.device).map_err(|error| sandbox::failed(&error))?;
    set_threads(request.threads);
    let device = device_of(&request.device)?;
    if device == tch::Device::Cpu {
        limits::limit_memory(limits::private_memory(), request.memory, request.threads);
    }
    let empty_process_bytes = limits::peak_memory();
    let began = Instant::now();
    if let Some(digest) = &request.digest {
        verify(&mut file, digest)?;
    }
    let archive = file.try_clone().ok().map(Archive::new);
    let plan = Plan::of(&request.spec, &BTreeMap::new(), archive.as_ref());
    let plan = plan.map_err(|e| Failed::new(e.reason, e.message))?;
    let model = Model::load(&file, device)?;
    let load = began.elapsed();
    let method = &request.spec.method;
    if !model.has_method(method) {
        let message = format!("the model has no method {method:?}");
        return Err(Failed::new(FailureReason::ModelExecutionFailed, message));
    }
    let compute = match synthetic(&request.spec, &plan)? {
        Some(input) => Some(tried(&model, method, &plan, &input)?),
        None => None,
    };
    Ok(ProveReport {
        load_milliseconds: milliseconds(load),
        method_found: true,
        compute_milliseconds: compute.map(milliseconds),
        peak_memory_bytes: limits::peak_memory(),
        empty_process_bytes,
        sandbox,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A made-up input: its values, and how long the audio is, if it is one.
struct Synthetic {
    values: Vec<IValue>,
    samples: Option<usize>,
}

fn tried(model: &Model, method: &str, plan: &Plan, input: &Synthetic) -> Result<Duration, Failed> {
    let began = Instant::now();
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..=RUNS {
        let values = input.values.iter().map(copied).collect();
        let start = Instant::now();
        let returned = model.call(method, values)?;
        let time = start.elapsed();
        if run == 0 {
            plan.encode(returned, input.samples, usize::MAX).map_err(|e| Failed::new(e.reason, e.message))?;
        }
        if run > 0 || time >= ENOUGH {
            times.push(time);
        }
        if began.elapsed() >= ENOUGH && !times.is_empty() {
            break;
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn copied(value: &IValue) -> IValue {
    match value {
        IValue::Tensor(tensor) => IValue::Tensor(tensor.shallow_clone()),
        IValue::Int(value) => IValue::Int(*value),
        IValue::Double(value) => IValue::Double(*value),
        IValue::Bool(value) => IValue::Bool(*value),
        IValue::String(value) => IValue::String(value.clone()),
        _ => IValue::None,
    }
}

/// Some text; or zeros for every port; `None` where a port leaves a size open that nothing else tells.
fn synthetic(spec: &ModelSpec, plan: &Plan) -> Result<Option<Synthetic>, Failed> {
    if spec.inputs.iter().any(|port| port.codec == Codec::Text && port.constant.is_none()) {
        let made = plan.decode(SOME_TEXT.as_bytes()).map_err(|e| Failed::new(e.reason, e.message))?;
        return Ok(Some(Synthetic { values: made.values, samples: None }));
    }
    let mut made = Synthetic { values: Vec::with_capacity(spec.inputs.len()), samples: None };
    for port in &spec.inputs {
        if port.constant.is_some() {
            made.values.push(crate::codec::constant::value(port).map_err(|e| Failed::new(e.reason, e.message))?);
            continue;
        }
        let shape = match port.codec {
            Codec::Wav | Codec::Audio => {
                let seconds = second(port);
                made.samples = Some(seconds);
                if port.shape.len() == 1 { vec![seconds as i64] } else { vec![1, seconds as i64] }
            }
            _ if port.shape.is_empty() || port.shape.contains(&-1) => return Ok(None),
            _ => port.shape.clone(),
        };
        let elements = shape.iter().try_fold(1i64, |product, size| product.checked_mul(*size));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Ok(None);
        }
        let zeros = Tensor::f_zeros(&shape, (kind_of(port.dtype), tch::Device::Cpu));
        let zeros = zeros
            .map_err(|error| Failed::new(FailureReason::OutOfMemory, super::message::essence(&error.to_string())))?;
        made.values.push(IValue::Tensor(zeros));
    }
    Ok(Some(made))
}

/// Samples in one second of the port's audio, or what its shape fixes.
fn second(port: &Port) -> usize {
    let fixed = port.shape.last().copied().filter(|size| *size > 0).and_then(|size| usize::try_from(size).ok());
    let rate = port.options.get("sampleRate").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_RATE);
    fixed.unwrap_or(rate as usize)
}
