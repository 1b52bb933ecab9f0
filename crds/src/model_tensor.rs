//! One input or output of a model: a tensor, and the codec between it and what people send and get.
//! *Invariant*: an options block is there only for its own codec.

use crate::common::{ColorString, DecimalString, FractionString, SignedDecimalString, words};
use nightshift_types as types;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(!has(self.wav) || self.codec == 'wav') && (!has(self.audio) || self.codec == 'audio') && (!has(self.image) || self.codec == 'image') && (!has(self.text) || self.codec == 'text') && (!has(self.labels) || self.codec == 'labels') && (!has(self.segments) || self.codec == 'segments')",
     "message": "wav, audio, image, text, labels and segments are options of the codec of that name: remove the others, or change codec"},
    {"rule": "!has(self.constant) || self.codec in ['tensor', 'json']",
     "message": "a constant has codec tensor or json: change codec, or remove constant"},
]))]
pub struct ModelTensor {
    /// Name of the input or output, unique among them.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [
            {"rule": "self.matches('^[A-Za-z_][-A-Za-z0-9_.]*$')",
             "message": "{path} must begin with a letter or _ and go on in letters, digits, _, - and ., such as audio"},
        ])
    )]
    pub name: String,
    /// How bytes become the tensor, or the tensor bytes: tensor, raw little-endian elements; wav; audio, a file of any usual
    /// format and rate; image; text, through the model's tokenizer; json, nested arrays of numbers; labels, scores to names;
    /// segments, speech probabilities to times.
    pub codec: Codec,
    /// Type of the tensor's elements. Unset: what the codec makes, float32, of text int64; with constant: a plain number, truth
    /// value or string instead of a tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Sizes of the tensor; -1 where any will do. Unset: as decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(range(min = -1)))]
    pub shape: Option<Vec<i64>>,
    /// Of an input: a value that is the same for every task, as JSON text, such as "16000".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub constant: Option<String>,
    /// Options of codec wav.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wav: Option<WavOptions>,
    /// Options of codec audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioOptions>,
    /// Options of codec image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOptions>,
    /// Options of codec text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextOptions>,
    /// Options of codec labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsOptions>,
    /// Options of codec segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<SegmentsOptions>,
}

impl ModelTensor {
    /// A tensor of this codec, everything else unset.
    pub fn new(name: &str, codec: Codec) -> Self {
        Self {
            name: name.into(),
            codec,
            dtype: None,
            shape: None,
            constant: None,
            wav: None,
            audio: None,
            image: None,
            text: None,
            labels: None,
            segments: None,
        }
    }

    /// The codec's options by the API's names, flat, as the agents' codecs take them: scalars as text, lists and objects
    /// as JSON text.
    pub fn codec_options(&self) -> types::CodecOptions {
        let block = match self.codec {
            Codec::Wav => self.wav.as_ref().map(serde_json::to_value),
            Codec::Audio => self.audio.as_ref().map(serde_json::to_value),
            Codec::Image => self.image.as_ref().map(serde_json::to_value),
            Codec::Text => self.text.as_ref().map(serde_json::to_value),
            Codec::Labels => self.labels.as_ref().map(serde_json::to_value),
            Codec::Segments => self.segments.as_ref().map(serde_json::to_value),
            Codec::Tensor | Codec::Json => None,
        };
        let Some(Ok(serde_json::Value::Object(fields))) = block else {
            return BTreeMap::new();
        };
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        fields.into_iter().map(|(name, value)| (name, text(value))).collect()
    }
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

impl From<Codec> for types::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Tensor => Self::Tensor,
            Codec::Wav => Self::Wav,
            Codec::Audio => Self::Audio,
            Codec::Image => Self::Image,
            Codec::Text => Self::Text,
            Codec::Json => Self::Json,
            Codec::Labels => Self::Labels,
            Codec::Segments => Self::Segments,
        }
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

impl From<Dtype> for types::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Float32 => Self::Float32,
            Dtype::Float64 => Self::Float64,
            Dtype::Float16 => Self::Float16,
            Dtype::Bfloat16 => Self::Bfloat16,
            Dtype::Int64 => Self::Int64,
            Dtype::Int32 => Self::Int32,
            Dtype::Int16 => Self::Int16,
            Dtype::Int8 => Self::Int8,
            Dtype::Uint8 => Self::Uint8,
            Dtype::Bool => Self::Bool,
        }
    }
}

/// Options of codec wav.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WavOptions {
    /// Samples a second that the model takes or gives. An input of another rate fails, with the command that converts it.
    #[serde(default = "default_sample_rate")]
    #[schemars(range(min = 1000, max = 384_000))]
    pub sample_rate: i32,
}

fn default_sample_rate() -> i32 {
    16_000
}

/// Options of codec audio.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudioOptions {
    /// Samples a second that the model takes; a file of another rate is resampled.
    #[serde(default = "default_sample_rate")]
    #[schemars(range(min = 1000, max = 384_000))]
    pub sample_rate: i32,
    /// Longest audio that is decoded; longer is an error.
    #[serde(default = "default_max_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub max_seconds: i32,
}

fn default_max_seconds() -> i32 {
    3600
}

words! {
    /// What of a text a tensor has.
    TextTensor {
        /// The tokens' ids.
        Ids = "ids",
        /// 1 for each token, 0 for padding.
        AttentionMask = "attentionMask",
        /// Which of two texts a token is of: 0.
        TokenTypeIds = "tokenTypeIds",
    }
}

words! {
    /// What becomes of a text with too many tokens.
    TextTruncation {
        /// It is cut.
        Cut = "cut",
        /// It is an error.
        Refuse = "refuse",
    }
}

words! {
    /// Whether shorter texts are filled up.
    TextPadding {
        /// They stay as short as they are.
        None = "none",
        /// Up to maxTokens.
        Max = "max",
    }
}

words! {
    /// What a tensor's channels are, in their order.
    ImageChannels {
        /// Red, green, blue.
        Rgb = "rgb",
        /// Blue, green, red.
        Bgr = "bgr",
        /// One: the luma of ITU-R 601.
        Gray = "gray",
    }
}

words! {
    /// How a picture of other proportions gets the model's width and height.
    ImageResize {
        /// Each side is scaled by itself.
        Stretch = "stretch",
        /// Scaled until it covers them; what stands out is cut off, the same on both sides.
        Crop = "crop",
        /// Scaled until it fits into them; the rest is background, the same on both sides.
        Pad = "pad",
    }
}

words! {
    /// How values between pixels are found; bilinear and bicubic are antialiased.
    ImageFilter {
        /// The nearest pixel.
        Nearest = "nearest",
        /// Linear in both directions.
        Bilinear = "bilinear",
        /// Cubic in both directions.
        Bicubic = "bicubic",
    }
}

words! {
    /// What file an output is written as.
    ImageFormat {
        /// Lossless.
        Png = "png",
        /// Lossy, for photographs.
        Jpeg = "jpeg",
        /// WebP, lossless.
        Webp = "webp",
    }
}

/// Options of codec image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOptions {
    /// Of an input: width in pixels that it gets. Unset: the shape's, else its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_384))]
    pub width: Option<i32>,
    /// Of an input: height in pixels that it gets. Unset: the shape's, else its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_384))]
    pub height: Option<i32>,
    /// Of an input: how one of other proportions gets width and height. Unset: stretch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<ImageResize>,
    /// Of an input with resize crop: what share of the covering picture's sides is kept, as timm's crop_pct; "0.875" is
    /// torchvision's resize to 256 and crop to 224. Unset: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_fraction: Option<FractionString>,
    /// Of an input: how values between pixels are found when it is scaled. Unset: bilinear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<ImageFilter>,
    /// Of an input: colour behind transparent pixels and of padding. Unset: white.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<ColorString>,
    /// What the tensor's channels are. Unset: gray where there is one, else rgb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<ImageChannels>,
    /// Value of full brightness, as a decimal in quotes: "255" for a model that takes 0 to 255. Unset: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<DecimalString>,
    /// Subtracted from each channel, whose values are from 0 to scale, and added again in an output; decimals in quotes,
    /// one a channel or one for all. Unset: 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub mean: Vec<SignedDecimalString>,
    /// Each channel is divided by it, after mean, and multiplied in an output; decimals in quotes, one a channel or one for
    /// all. Unset: 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub std: Vec<DecimalString>,
    /// Of an output: the file it is written as; a job may choose another by its parameter format. Unset: png.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Of an output in format jpeg: its quality; a job may choose another by its parameter quality. Unset: 90.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<i32>,
    /// Of an output: longest side in pixels; what is larger is scaled down. Unset: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_384))]
    pub max_side: Option<i32>,
    /// Of an output: text in its bottom right corner, white on a box; Latin-1 only. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub watermark: Option<String>,
}

/// Options of codec text. All inputs with this codec are made of one text: said of one of them, an option but tensor holds
/// for all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TextOptions {
    /// What of the text this tensor has: ids, attentionMask or tokenTypeIds. Unset: ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<TextTensor>,
    /// Name of the tokenizer's file, a tokenizer.json of Hugging Face, among the extra files of the model's archive
    /// (_extra_files of torch.jit.save). Unset: tokenizer.json.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [
            {"rule": "self.matches('^[A-Za-z0-9_][-A-Za-z0-9_.]*$')",
             "message": "{path} must be a file's name without folders, such as tokenizer.json"},
        ])
    )]
    pub tokenizer: Option<String>,
    /// Most tokens of a text, the tokenizer's own included. Unset: the tokenizer's own limit, else 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_tokens: Option<i32>,
    /// What becomes of a text with more: cut, or refuse. Unset: cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<TextTruncation>,
    /// Whether a text with fewer is filled up to maxTokens: none, or max. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<TextPadding>,
}

/// Options of codec labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelsOptions {
    /// How many of the best labels the result has.
    #[serde(default = "default_top_k")]
    #[schemars(range(min = 1, max = 1000))]
    pub top_k: i32,
    /// Names of the scores, in the tensor's order. Unset: their positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub labels: Vec<String>,
    /// Whether the scores are logits, which a softmax makes probabilities of all of them. Unset: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub softmax: Option<bool>,
}

fn default_top_k() -> i32 {
    5
}

/// Options of codec segments, by the names and defaults of Silero VAD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SegmentsOptions {
    /// Samples a second of the audio.
    #[serde(default = "default_sample_rate")]
    #[schemars(range(min = 1000, max = 384_000))]
    pub sample_rate: i32,
    /// Samples that one probability is about.
    #[serde(default = "default_window_samples")]
    #[schemars(range(min = 1, max = 65_536))]
    pub window_samples: i32,
    /// Probability from which on it is speech, as a decimal in quotes.
    #[serde(default = "default_threshold")]
    pub threshold: DecimalString,
    /// Probability below which speech ends, as a decimal in quotes. Unset: threshold less 0.15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neg_threshold: Option<DecimalString>,
    /// Shorter speech is dropped.
    #[serde(default = "default_min_speech")]
    #[schemars(range(min = 0, max = 60_000))]
    pub min_speech_milliseconds: i64,
    /// Shorter silence does not end a segment.
    #[serde(default = "default_min_silence")]
    #[schemars(range(min = 0, max = 60_000))]
    pub min_silence_milliseconds: i64,
    /// Added to both ends of a segment.
    #[serde(default = "default_speech_pad")]
    #[schemars(range(min = 0, max = 60_000))]
    pub speech_pad_milliseconds: i64,
    /// Longer segments are split. Unset: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub max_speech_seconds: Option<i64>,
}

fn default_window_samples() -> i32 {
    512
}

fn default_threshold() -> DecimalString {
    "0.5".into()
}

fn default_min_speech() -> i64 {
    250
}

fn default_min_silence() -> i64 {
    100
}

fn default_speech_pad() -> i64 {
    30
}
