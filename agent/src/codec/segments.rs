//! Codec `segments`: speech probabilities, one a window, to segments of speech in samples.
//!
//! *In*: probabilities `[k]` or `[1, k]` and the audio's true length. *Out*: `[{"start": 5152, "end": 16352}, …]`, `end`
//! exclusive. *Invariant*: sample for sample what `get_speech_timestamps` of silero-vad 6.2.3 answers (MIT,
//! `silero_vad/utils_vad.py`): probabilities are float32, compared with thresholds as float64, and so is all arithmetic on
//! milliseconds, as in Python. Vectors made with that code are in `testdata/silero/`.

use super::options::{CodecError, Options};
use nightshift_types::Port;
use serde::Serialize;
use tch::{Kind, Tensor};

/// Options a job may set: how to cut, not what the model is.
pub const PARAMETERS: &[&str] = &[
    "threshold",
    "negThreshold",
    "minSpeechMilliseconds",
    "maxSpeechSeconds",
    "minSilenceMilliseconds",
    "speechPadMilliseconds",
    "minSilenceAtMaxSpeechMilliseconds",
];
/// Options a port may set.
pub const OPTIONS: &[&str] = &[
    "sampleRate",
    "windowSamples",
    "threshold",
    "negThreshold",
    "minSpeechMilliseconds",
    "maxSpeechSeconds",
    "minSilenceMilliseconds",
    "speechPadMilliseconds",
    "minSilenceAtMaxSpeechMilliseconds",
];

/// A stretch of speech, in samples of the input; `end` is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// First sample.
    pub start: i64,
    /// One past the last.
    pub end: i64,
}

/// The codec with its options, times in samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Segments {
    window: usize,
    threshold: f64,
    neg_threshold: f64,
    min_speech: f64,
    max_speech: f64,
    min_silence: f64,
    min_silence_at_max: f64,
    pad: f64,
}

impl Segments {
    /// Reads the options; the defaults are Silero's.
    pub fn new(options: &Options<'_>) -> Result<Self, CodecError> {
        let rate = f64::from(options.get("sampleRate", 1000..=384_000)?.unwrap_or(16_000));
        let window = options.get("windowSamples", 1..=65_536)?.unwrap_or(512);
        let milliseconds = |name: &str, default: u32| -> Result<f64, CodecError> {
            Ok(rate * f64::from(options.get(name, 0..=60_000)?.unwrap_or(default)) / 1000.0)
        };
        let threshold = options.get("threshold", 0.0..=1.0)?.unwrap_or(0.5);
        let pad = milliseconds("speechPadMilliseconds", 30)?;
        let max_seconds = options.get("maxSpeechSeconds", 0.001..=86_400.0)?.unwrap_or(f64::INFINITY);
        Ok(Self {
            window,
            threshold,
            neg_threshold: options.get("negThreshold", 0.0..=1.0)?.unwrap_or((threshold - 0.15).max(0.01)),
            min_speech: milliseconds("minSpeechMilliseconds", 250)?,
            max_speech: rate * max_seconds - window as f64 - 2.0 * pad,
            min_silence: milliseconds("minSilenceMilliseconds", 100)?,
            min_silence_at_max: milliseconds("minSilenceAtMaxSpeechMilliseconds", 98)?,
            pad,
        })
    }

    /// Samples that one probability is about.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Writes the segments. `samples`: the audio's length before padding, if the input was audio.
    pub fn encode(
        &self,
        port: &Port,
        tensor: &Tensor,
        samples: Option<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let fail = |error: tch::TchError| CodecError::output(port, error);
        let shape = tensor.size();
        if !matches!(shape.as_slice(), [_] | [1, _]) {
            let problem = format!("expected probabilities of shape [k] or [1, k], the model returned {shape:?}");
            return Err(CodecError::output(port, problem));
        }
        let flat = tensor.f_reshape(-1).and_then(|t| t.f_to_kind(Kind::Float)).map_err(fail)?;
        let probabilities: Vec<f32> = Vec::try_from(flat).map_err(fail)?;
        let samples = samples.unwrap_or(probabilities.len() * self.window);
        let windows = samples.div_ceil(self.window).max(1);
        if probabilities.len() != windows {
            let problem = format!(
                "expected {windows} probabilities for {samples} samples in windows of {}, the model returned {}",
                self.window,
                probabilities.len()
            );
            return Err(CodecError::output(port, problem));
        }
        let found = if samples == 0 { Vec::new() } else { self.segments(&probabilities, samples) };
        serde_json::to_writer(out, &found).map_err(|error| CodecError::output(port, error))
    }

    /// The segments of an audio of `samples` samples.
    pub fn segments(&self, probabilities: &[f32], samples: usize) -> Vec<Segment> {
        let mut cutter = Cutter { limits: self, start: None, quiet: None, gaps: Vec::new(), out: Vec::new() };
        for (index, probability) in probabilities.iter().enumerate() {
            cutter.window((index * self.window) as i64, f64::from(*probability));
        }
        let end = samples as i64;
        if let Some(start) = cutter.start
            && (end - start) as f64 > self.min_speech
        {
            cutter.out.push(Segment { start, end });
        }
        self.padded(cutter.out, end)
    }

    /// Widens each segment by the padding; two that are nearer than twice that share the gap.
    fn padded(&self, mut segments: Vec<Segment>, samples: i64) -> Vec<Segment> {
        let later = |at: i64| ((at as f64 + self.pad).min(samples as f64)) as i64;
        let earlier = |at: i64| ((at as f64 - self.pad).max(0.0)) as i64;
        if let Some(first) = segments.first_mut() {
            first.start = earlier(first.start);
        }
        for index in 0..segments.len() {
            let Some(next) = segments.get(index + 1).map(|next| next.start) else {
                segments[index].end = later(segments[index].end);
                break;
            };
            let gap = next - segments[index].end;
            if (gap as f64) < 2.0 * self.pad {
                segments[index].end += gap.div_euclid(2);
                segments[index + 1].start = (next - gap.div_euclid(2)).max(0);
            } else {
                segments[index].end = later(segments[index].end);
                segments[index + 1].start = earlier(next);
            }
        }
        segments
    }
}

/// Goes through the windows; the order of its steps is Silero's and matters.
struct Cutter<'a> {
    limits: &'a Segments,
    /// Where the present speech began.
    start: Option<i64>,
    /// First window below the lower threshold since the last one at or above the upper.
    quiet: Option<i64>,
    /// Pauses within the present speech, start and length: where it may be cut if it gets too long.
    gaps: Vec<(i64, i64)>,
    out: Vec<Segment>,
}

impl Cutter<'_> {
    fn window(&mut self, at: i64, probability: f64) {
        if probability >= self.limits.threshold {
            if let Some(quiet) = self.quiet.take()
                && (at - quiet) as f64 > self.limits.min_silence_at_max
            {
                self.gaps.push((quiet, at - quiet));
            }
            if self.start.is_none() {
                self.start = Some(at);
                return;
            }
        }
        let Some(mut start) = self.start else { return };
        if (at - start) as f64 > self.limits.max_speech {
            match self.cut(start, at) {
                Some(resumed) => start = resumed,
                None => return,
            }
        }
        if probability < self.limits.neg_threshold {
            let quiet = *self.quiet.get_or_insert(at);
            if (at - quiet) as f64 >= self.limits.min_silence {
                if (quiet - start) as f64 > self.limits.min_speech {
                    self.out.push(Segment { start, end: quiet });
                }
                self.end();
            }
        }
    }

    /// Ends speech that is too long: in its longest pause (the first of equals), where speech then resumes, or here.
    fn cut(&mut self, start: i64, at: i64) -> Option<i64> {
        let longest = self.gaps.iter().copied().reduce(|best, gap| if gap.1 > best.1 { gap } else { best });
        self.out.push(Segment { start, end: longest.map_or(at, |(quiet, _)| quiet) });
        self.end();
        self.start = longest.map(|(quiet, length)| quiet + length);
        self.start
    }

    fn end(&mut self) {
        self.start = None;
        self.quiet = None;
        self.gaps.clear();
    }
}
