//! The networks that are measured: made here, or of packages that `make deps` and `make bench` fetch.

use nightshift_types::{Batching, Codec, Dtype, ModelSpec, Port};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tch::nn::{self, Module, ModuleT};
use tch::{CModule, Device, Kind, Tensor};

/// Tokens of a text.
pub const TOKENS: i64 = 32;

/// A model's file, and how it is called.
pub struct Subject {
    pub name: &'static str,
    pub path: PathBuf,
    pub spec: ModelSpec,
    /// Task after task; taken round and round.
    pub inputs: Vec<Vec<u8>>,
}

pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn port(name: &str, codec: Codec, dtype: Dtype, shape: &[i64]) -> Port {
    Port { name: name.into(), codec, dtype, shape: shape.to_vec(), constant: None, options: BTreeMap::new() }
}

fn spec(input: Port, output: Port) -> ModelSpec {
    let (inputs, outputs) = (vec![input], vec![output]);
    ModelSpec { method: "forward".into(), inputs, outputs, batching: Batching::default() }
}

fn floats(count: usize, seed: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (((i * 7 + seed * 131) % 255) as f32 / 255.0 - 0.5).to_le_bytes()).collect()
}

fn traced(path: &Path, example: Tensor, mut forward: impl FnMut(&Tensor) -> Tensor) {
    let _no_grad = tch::no_grad_guard();
    let mut body = |xs: &[Tensor]| vec![forward(&xs[0])];
    CModule::create_by_tracing("m", "forward", &[example], &mut body).unwrap().save(path).unwrap();
}

/// Next to nothing to compute.
pub fn tiny(folder: &Path) -> Subject {
    let path = folder.join("tiny.pt");
    traced(&path, Tensor::zeros([1, 16], (Kind::Float, Device::Cpu)), |x| x * 2.0 + 1.0);
    let spec =
        spec(port("x", Codec::Tensor, Dtype::Float32, &[-1, 16]), port("y", Codec::Tensor, Dtype::Float32, &[-1, 16]));
    Subject { name: "2x + 1 of 16 floats", path, spec, inputs: (0..7).map(|seed| floats(16, seed)).collect() }
}

/// As it is served in examples/digits: JSON in, labels out, no batch.
pub fn digits() -> Subject {
    let folder = checkout().join("examples/digits");
    let mut labels = port("digit", Codec::Labels, Dtype::Float32, &[10]);
    labels.options = BTreeMap::from([
        ("labels".into(), r#"["0","1","2","3","4","5","6","7","8","9"]"#.into()),
        ("topK".into(), "3".into()),
    ]);
    let text = std::fs::read_to_string(folder.join("job.yaml")).unwrap();
    let inputs = text.lines().filter_map(|line| Some(line.trim().strip_prefix("- \"")?.strip_suffix('"')?.into()));
    Subject {
        name: "digits",
        path: folder.join("digits.pt"),
        spec: spec(port("pixels", Codec::Json, Dtype::Float32, &[8, 8]), labels),
        inputs: inputs.collect(),
    }
}

/// The network of examples/digits with random weights, for a batch of pictures.
pub fn digits_in_batches(folder: &Path) -> Subject {
    let mut variables = nn::VarStore::new(Device::Cpu);
    let (root, padded) = (variables.root(), nn::ConvConfig { padding: 1, ..Default::default() });
    let first = nn::conv2d(&root / "1", 1, 16, 3, padded);
    let second = nn::conv2d(&root / "2", 16, 32, 3, padded);
    let last = nn::linear(&root / "3", 512, 10, Default::default());
    variables.freeze();
    let path = folder.join("digits.pt");
    traced(&path, Tensor::zeros([2, 8, 8], (Kind::Float, Device::Cpu)), |x| {
        let x = (x / 16.0).unsqueeze(1);
        let x = first.forward(&x).relu();
        let x = second.forward(&x).relu().max_pool2d_default(2);
        last.forward(&x.flatten(1, -1)).softmax(-1, Kind::Float)
    });
    let spec = spec(
        port("x", Codec::Tensor, Dtype::Float32, &[-1, 8, 8]),
        port("y", Codec::Tensor, Dtype::Float32, &[-1, 10]),
    );
    Subject { name: "digits' network", path, spec, inputs: (0..31).map(|seed| floats(64, seed)).collect() }
}

/// Silero's voice activity detector; `None` where `make deps` has not fetched it.
pub fn voice() -> Option<Subject> {
    let path = checkout().join(".deps/models/silero_vad.jit");
    let rate = BTreeMap::from([("sampleRate".to_owned(), "16000".to_owned())]);
    let audio = Port { options: rate.clone(), ..port("audio", Codec::Wav, Dtype::Float32, &[]) };
    let constant = Port { constant: Some("16000".into()), ..port("sr", Codec::Json, Dtype::Int64, &[]) };
    let speech = Port { options: rate, ..port("speech", Codec::Segments, Dtype::Float32, &[]) };
    let mut spec = spec(audio, speech);
    spec.method = "audio_forward".into();
    spec.inputs.push(constant);
    let inputs = vec![std::fs::read(checkout().join("examples/voice/speech.wav")).unwrap()];
    path.exists().then_some(Subject { name: "voice, 6 s of speech", path, spec, inputs })
}

/// ResNet-50 with random weights.
pub fn resnet(folder: &Path) -> Subject {
    let mut variables = nn::VarStore::new(Device::Cpu);
    let features = tch::vision::resnet::resnet50_no_final_layer(&variables.root());
    let last = nn::linear(variables.root() / "fc", 2048, 1000, Default::default());
    variables.freeze();
    let path = folder.join("resnet.pt");
    traced(&path, Tensor::zeros([1, 3, 224, 224], (Kind::Float, Device::Cpu)), |x| {
        // What comes before has the traced batch's size in its shape: of any other it is one long row.
        last.forward(&features.forward_t(x, false).view([-1, 2048]))
    });
    let spec = spec(
        port("x", Codec::Tensor, Dtype::Float32, &[1, 3, 224, 224]),
        port("y", Codec::Tensor, Dtype::Float32, &[1, 1000]),
    );
    Subject { name: "ResNet-50", path, spec, inputs: (0..8).map(|seed| floats(3 * 224 * 224, seed)).collect() }
}

/// Sentence embeddings of all-MiniLM-L6-v2, token ids to vectors; `None` where `make bench` has not fetched it.
pub fn minilm(folder: &Path) -> Option<Subject> {
    let weights = checkout().join(".deps/models/all-minilm-l6-v2.safetensors");
    let weights: HashMap<String, Tensor> = Tensor::read_safetensors(weights).ok()?.into_iter().collect();
    let path = folder.join("minilm.pt");
    let example = Tensor::ones([2, TOKENS], (Kind::Int64, Device::Cpu));
    traced(&path, example, |ids| Bert { weights: &weights }.embed(ids));
    let ids = |seed: usize| {
        let id = |at: i64| if at == 0 { 101 } else { 1000 + (at * 37 + seed as i64 * 101) % 20000 };
        (0..TOKENS).flat_map(|at| id(at).to_le_bytes()).collect()
    };
    let spec = spec(
        port("ids", Codec::Tensor, Dtype::Int64, &[-1, TOKENS]),
        port("embedding", Codec::Tensor, Dtype::Float32, &[-1, 384]),
    );
    Some(Subject { name: "MiniLM embeddings", path, spec, inputs: (0..64).map(ids).collect() })
}

/// BERT's encoder (Devlin et al. 2018) by the names of its checkpoint, for texts of one length.
struct Bert<'a> {
    weights: &'a HashMap<String, Tensor>,
}

impl Bert<'_> {
    fn of(&self, name: &str) -> &Tensor {
        self.weights.get(name).unwrap_or_else(|| panic!("no weights {name}"))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        x.linear(self.of(&format!("{name}.weight")), Some(self.of(&format!("{name}.bias"))))
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let of = |part: &str| Some(self.of(&format!("{name}.LayerNorm.{part}")));
        x.layer_norm([384], of("weight"), of("bias"), 1e-12, false)
    }

    fn layer(&self, at: usize, x: &Tensor) -> Tensor {
        let name = |part: &str| format!("encoder.layer.{at}.{part}");
        // Twelve heads of 32.
        let heads = |part: &str| {
            let x = self.linear(&name(&format!("attention.self.{part}")), x);
            x.view([-1, TOKENS, 12, 32]).transpose(1, 2)
        };
        let scores = heads("query").matmul(&heads("key").transpose(-2, -1)) / 32f64.sqrt();
        let mixed = scores.softmax(-1, Kind::Float).matmul(&heads("value"));
        let mixed = mixed.transpose(1, 2).contiguous().view([-1, TOKENS, 384]);
        let x = self.norm(&name("attention.output"), &(self.linear(&name("attention.output.dense"), &mixed) + x));
        let inner = self.linear(&name("intermediate.dense"), &x).gelu("none");
        self.norm(&name("output"), &(self.linear(&name("output.dense"), &inner) + x))
    }

    /// The mean of all tokens' vectors, of length 1.
    fn embed(&self, ids: &Tensor) -> Tensor {
        let words = Tensor::embedding(self.of("embeddings.word_embeddings.weight"), ids, -1, false, false);
        let places = self.of("embeddings.position_embeddings.weight").narrow(0, 0, TOKENS);
        let kind = self.of("embeddings.token_type_embeddings.weight").narrow(0, 0, 1);
        let x = (0..6).fold(self.norm("embeddings", &(words + places + kind)), |x, at| self.layer(at, &x));
        let mean = x.mean_dim([1i64].as_slice(), false, Kind::Float);
        let length = mean.norm_scalaropt_dim(2.0, [1i64], true);
        mean / length
    }
}
