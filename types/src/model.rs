//! The domain form of a ModelArtifact: what an agent needs to decode an input, run the model and encode its output.

use crate::device::DeviceClass;
use crate::ids::Digest;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }
        impl $name {
            /// Every value.
            pub const ALL: &[$name] = &[$(Self::$variant,)*];
            /// The API's word.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $word,)* } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s { $($word => Ok(Self::$variant),)* other => Err(format!("unknown {} {other:?}", stringify!($name))) }
            }
        }
    };
}

words! {
    /// How bytes become tensors and tensors bytes.
    Codec {
        /// Raw little-endian elements.
        Tensor = "tensor",
        /// A WAV file, to mono float samples.
        Wav = "wav",
        /// A WAV, FLAC, Ogg Vorbis or MP3 file, to mono float samples of the model's rate.
        Audio = "audio",
        /// A picture.
        Image = "image",
        /// Text through a tokenizer.
        Text = "text",
        /// Nested JSON arrays of numbers.
        Json = "json",
        /// Scores to names, best first.
        Labels = "labels",
        /// Speech probabilities to segments.
        Segments = "segments",
    }
}

words! {
    /// PyTorch's element types.
    Dtype {
        /// 32 bit floating point.
        Float32 = "float32",
        /// 64 bit floating point.
        Float64 = "float64",
        /// 16 bit floating point.
        Float16 = "float16",
        /// Brain floating point.
        Bfloat16 = "bfloat16",
        /// 64 bit integer.
        Int64 = "int64",
        /// 32 bit integer.
        Int32 = "int32",
        /// 16 bit integer.
        Int16 = "int16",
        /// 8 bit integer.
        Int8 = "int8",
        /// 8 bit unsigned integer.
        Uint8 = "uint8",
        /// Truth value.
        Bool = "bool",
    }
}

/// A codec's typed options, by the API's names (`sampleRate`, `threshold` …), values as text. Checked by the codec.
pub type CodecOptions = BTreeMap<String, String>;

/// One input or output of the model's method, in the method's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// For people, and for `json` inputs with several fields.
    pub name: String,
    /// How it is written.
    pub codec: Codec,
    /// Element type of the tensor.
    pub dtype: Dtype,
    /// Sizes; -1 where any will do. Empty: as decoded.
    #[serde(default)]
    pub shape: Vec<i64>,
    /// JSON of a value that is the same for every task: `16000`.
    #[serde(default)]
    pub constant: Option<String>,
    /// The codec's own.
    #[serde(default)]
    pub options: CodecOptions,
}

/// One file of a model for some device classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Unique in the model.
    pub name: String,
    /// The file.
    pub digest: Digest,
    /// Memory of the loaded weights, once per loaded copy.
    pub weights: Bytes,
    /// Memory of one item of a batch.
    pub per_item: Bytes,
    /// Memory of a worker's context, once per worker.
    pub context: Bytes,
    /// Where it runs; empty: anywhere.
    pub device_classes: Vec<DeviceClass>,
}

impl Variant {
    /// What one task needs on a device that has nothing loaded.
    pub fn memory_for_one(&self) -> Bytes {
        self.weights + self.per_item + self.context
    }
}

/// How tasks of a model may share one call of its method: their inputs stand one behind the other in the first size of
/// each input's shape, and so do the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Batching {
    /// Most tasks in one call; 0 and 1: one by one.
    pub max: u32,
    /// Milliseconds a task may wait for others.
    pub max_delay_ms: u64,
}

/// What to run, without where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// TorchScript method: `forward`.
    pub method: String,
    /// In the method's argument order.
    pub inputs: Vec<Port>,
    /// In the order of the returned tuple.
    pub outputs: Vec<Port>,
    /// How tasks may run together.
    #[serde(default)]
    pub batching: Batching,
}
