//! Codec `labels`: scores to names, best first.
//!
//! *In*: scores `[n]` or `[1, n]`. *Out*: `[{"label": "cat", "score": 0.91}, …]`, at most `topK`. *Invariant*: sorted by
//! score, ties by position; with `softmax` the scores of all n add up to 1.
//!
//! Options: `labels` (JSON array of names; unset: positions), `topK` (5), `softmax` (false). A job may set `topK`.

use super::options::{CodecError, Options};
use nightshift_types::Port;
use serde::Serialize;
use tch::{Kind, Tensor};

/// Options a port may set.
pub const OPTIONS: &[&str] = &["labels", "softmax", "topK"];
/// Options a job may set.
pub const PARAMETERS: &[&str] = &["topK"];

/// The codec with its options.
#[derive(Debug)]
pub struct Labels {
    names: Vec<String>,
    softmax: bool,
    top: usize,
}

#[derive(Serialize)]
struct Labelled<'a> {
    label: &'a str,
    score: f32,
}

impl Labels {
    /// Reads the options.
    pub fn new(options: &Options<'_>) -> Result<Self, CodecError> {
        let names = match options.text("labels") {
            None => Vec::new(),
            Some((text, of_job)) => serde_json::from_str(text)
                .map_err(|_| options.bad("labels", text, of_job, "must be a JSON array of strings"))?,
        };
        let softmax = options.get("softmax", false..=true)?.unwrap_or(false);
        Ok(Self { names, softmax, top: options.get("topK", 1..=1000)?.unwrap_or(5) })
    }

    /// Writes the best names.
    pub fn encode(&self, port: &Port, tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let fail = |error: tch::TchError| CodecError::output(port, error);
        let shape = tensor.size();
        if !matches!(shape.as_slice(), [_] | [1, _]) {
            let problem = format!("expected scores of shape [n] or [1, n], the model returned {shape:?}");
            return Err(CodecError::output(port, problem));
        }
        if !self.names.is_empty() && self.names.len() != tensor.numel() {
            let problem = format!("{} labels for {} scores", self.names.len(), tensor.numel());
            return Err(CodecError::output(port, problem));
        }
        let mut flat = tensor.f_reshape(-1).and_then(|t| t.f_to_kind(Kind::Float)).map_err(fail)?;
        if self.softmax {
            flat = flat.f_softmax(0, Kind::Float).map_err(fail)?;
        }
        let scores: Vec<f32> = Vec::try_from(flat).map_err(fail)?;
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(CodecError::output(port, "a score is not a finite number"));
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        order.truncate(self.top);
        let positions: Vec<String> = order.iter().map(usize::to_string).collect();
        let best: Vec<Labelled<'_>> = order
            .iter()
            .zip(&positions)
            .map(|(index, position)| Labelled {
                label: self.names.get(*index).unwrap_or(position),
                score: scores[*index],
            })
            .collect();
        serde_json::to_writer(out, &best).map_err(|error| CodecError::output(port, error))
    }
}
