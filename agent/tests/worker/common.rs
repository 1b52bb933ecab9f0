//! An engine in a folder of its own, and models small enough to make on the spot.

use nightshift_agent::engine::{Engine, EngineConfig, Failed, Output, Task};
use nightshift_types::{Bytes, Codec, Digest, Dtype, ModelSpec, Port};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{CModule, Device, Kind, Tensor};
use tokio_util::sync::CancellationToken;

/// The agent's program, whose `worker` subcommand the engine starts.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nightshift-agent");

/// An engine whose workers and files are gone when it is.
pub struct Lab {
    pub engine: Engine,
    pub folder: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::new(PROGRAM, folder.path().join("run"));
        config.threads = 1;
        change(&mut config);
        Self { engine: Engine::new(config), folder }
    }

    pub async fn run(&self, task: Task) -> Result<Output, Failed> {
        self.engine.run(task, CancellationToken::new()).await
    }

    /// The processes of this engine that are alive, zombies included: their working directory is the engine's, or their
    /// parent is this process and they were asked for by it.
    pub fn workers(&self) -> Vec<i32> {
        let run = self.folder.path().join("run");
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == run)).collect()
    }

    /// A traced model's file, and a task for it.
    pub fn traced(
        &self,
        name: &str,
        inputs: &[Tensor],
        spec: ModelSpec,
        mut body: impl FnMut(&[Tensor]) -> Vec<Tensor>,
    ) -> Task {
        let path = self.folder.path().join(format!("{name}.pt"));
        // Tracing is one global state of libtorch.
        static TRACING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let lock = TRACING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        CModule::create_by_tracing(name, "forward", inputs, &mut body).unwrap().save(&path).unwrap();
        drop(lock);
        task(&path, spec)
    }

    /// `y = 2x + 1` of any number of float32, JSON to JSON.
    pub fn affine(&self) -> Task {
        self.affine_named("affine", 2.0)
    }

    /// Another file for every factor, so another digest.
    pub fn affine_named(&self, name: &str, factor: f64) -> Task {
        let x = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        let spec = spec(vec![port("x", Codec::Json, &[-1])], vec![port("y", Codec::Json, &[])]);
        let mut task = self.traced(name, &[x], spec, |xs| vec![&xs[0] * factor + 1.0]);
        task.input = b"[1, 2, 3]".to_vec();
        task
    }

    /// `x` times itself `times` times: keeps a worker busy for as long as wanted.
    pub fn busy(&self, name: &str, size: i64, times: usize) -> Task {
        // Tracing runs the model once: on a small input, because the trace fits any size.
        let x = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        let spec = spec(vec![port("x", Codec::Tensor, &[size, size])], vec![port("y", Codec::Json, &[])]);
        let mut task = self.traced(name, &[x], spec, |xs| {
            let mut y = xs[0].shallow_clone();
            for _ in 0..times {
                y = y.matmul(&xs[0]);
            }
            vec![y.sum(Kind::Float)]
        });
        task.input = vec![0; (size * size * 4) as usize];
        task
    }
}

pub fn port(name: &str, codec: Codec, shape: &[i64]) -> Port {
    let options = BTreeMap::new();
    Port { name: name.into(), codec, dtype: Dtype::Float32, shape: shape.to_vec(), constant: None, options }
}

pub fn spec(inputs: Vec<Port>, outputs: Vec<Port>) -> ModelSpec {
    ModelSpec { method: "forward".into(), inputs, outputs, batching: Default::default() }
}

pub fn digest(path: &Path) -> Digest {
    Digest(Sha256::digest(std::fs::read(path).unwrap()).into())
}

pub fn task(path: &Path, spec: ModelSpec) -> Task {
    Task {
        model_digest: digest(path),
        model_path: path.to_owned(),
        spec,
        input: Vec::new(),
        parameters: BTreeMap::new(),
        device: "cpu0".into(),
        memory_limit: Bytes(0),
        memory_shared: Bytes(0),
        deadline: Duration::from_secs(60),
        label: "test".into(),
    }
}

/// Silero's voice activity detector, as `make deps` fetches it; `None`, said aloud, where it is not.
pub fn silero() -> Option<Task> {
    let path = checkout().join(".deps/models/silero_vad.jit");
    if !path.exists() {
        eprintln!("skipped: {} is missing; `make deps` fetches it", path.display());
        return None;
    }
    let rate = |codec, name: &str| {
        let options = BTreeMap::from([("sampleRate".to_owned(), "16000".to_owned())]);
        Port { options, ..port(name, codec, &[]) }
    };
    let constant = Port { constant: Some("16000".into()), ..port("sr", Codec::Json, &[]) };
    let spec = ModelSpec {
        method: "audio_forward".into(),
        inputs: vec![rate(Codec::Wav, "audio"), constant],
        outputs: vec![rate(Codec::Segments, "speech")],
        batching: Default::default(),
    };
    let mut task = task(&path, spec);
    task.input = std::fs::read(checkout().join("examples/voice/speech.wav")).unwrap();
    Some(task)
}

pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub fn json(output: &Output) -> serde_json::Value {
    assert_eq!(output.content_type, "application/json");
    serde_json::from_slice(&output.bytes).unwrap()
}

/// Waits until `done`, or fails after ten seconds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} has not happened");
}
