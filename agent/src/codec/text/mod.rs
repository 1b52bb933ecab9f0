//! Codec `text`: text to token ids, through the model's own tokenizer.
//!
//! *In*: UTF-8 text, and a `tokenizer.json` of Hugging Face among the extra files of the model's archive: the file that is
//! fetched, verified and cached is one. *Out*: for each input with this codec one tensor `[1, n]`: the ids, the attention mask
//! or the token type ids of the same text. *Invariant*: at most `maxTokens` tokens and [`MAX_TEXT`] bytes; a broken tokenizer is
//! the model's fault, bad text the input's.

mod archive;
#[cfg(test)]
mod tests;

pub use archive::Archive;

use super::dtype::shape_fits;
use super::options::{CodecError, Options, Side};
use nightshift_types::{Dtype, Port};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tch::Tensor;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

/// Options a port may set.
pub const OPTIONS: &[&str] = &["tokenizer", "tensor", "maxTokens", "truncation", "padding"];
/// Longest text, in bytes.
pub const MAX_TEXT: usize = 1 << 20;
/// Tokens where neither port nor tokenizer says how many.
const DEFAULT_TOKENS: usize = 8192;
/// The archive's extra file.
const DEFAULT_FILE: &str = "tokenizer.json";

/// What of a text a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The tokens.
    Ids,
    /// 1 for each token, 0 for padding.
    Mask,
    /// Which of two texts a token is of: 0 here.
    Types,
}

/// How a text becomes tokens; the same for all inputs of a model.
#[derive(Debug, Clone)]
pub struct Reader {
    tokenizer: Arc<Tokenizer>,
    most: usize,
    /// Longer text is an error, not cut.
    refuse: bool,
    /// Filled up to `most` with this id and type.
    pad: Option<(u32, u32)>,
}

impl Reader {
    /// Of all inputs with this codec; options that two of them set must be the same. `archive`: the model's file.
    pub fn new(ports: &[&Port], archive: Option<&Archive>) -> Result<(Self, Vec<Part>), CodecError> {
        let none = BTreeMap::new();
        let mut parts = Vec::with_capacity(ports.len());
        let mut all = BTreeMap::new();
        for port in ports {
            let options = Options::new(port, Side::Input, &none)?;
            parts.push(part(&options)?);
            for name in OPTIONS.iter().filter(|name| **name != "tensor") {
                let Some((text, _)) = options.text(name) else { continue };
                if all.insert(*name, text).is_some_and(|before| before != text) {
                    let problem = "of two inputs differ: all are made of one text; say it once";
                    return Err(CodecError::model(format!("option {name:?} of {:?}: {problem}", port.name)));
                }
            }
        }
        let Some(first) = ports.first() else { return Err(CodecError::model("no input has codec text")) };
        // Whichever port says it: checked as one.
        let merged = Port {
            options: all.into_iter().map(|(name, text)| (name.to_string(), text.to_string())).collect(),
            ..(*first).clone()
        };
        let options = Options::new(&merged, Side::Input, &none)?;
        Ok((Self::with(&options, archive)?, parts))
    }

    fn with(options: &Options<'_>, archive: Option<&Archive>) -> Result<Self, CodecError> {
        let name = &options.port().name;
        let file = options.text("tokenizer").map_or(DEFAULT_FILE, |(text, _)| text);
        let archive = archive.ok_or_else(|| CodecError::model("a tokenizer comes with the model's file alone"))?;
        let found = archive.tokenizer(file);
        let tokenizer =
            found.map_err(|problem| CodecError::model(format!("input {name:?} (codec text): {problem}")))?;
        let own = tokenizer.get_truncation().map(|truncation| truncation.max_length);
        let most = options.get("maxTokens", 1..=1_048_576)?.or(own).unwrap_or(DEFAULT_TOKENS);
        let refuse = word(options, "truncation", &["cut", "refuse"])? == Some("refuse");
        let pad = (word(options, "padding", &["none", "max"])? == Some("max")).then(|| pad(&tokenizer));
        let mut tokenizer = Arc::unwrap_or_clone(tokenizer);
        let set = catch_unwind(AssertUnwindSafe(|| {
            let cut = TruncationParams { max_length: most, ..tokenizer.get_truncation().cloned().unwrap_or_default() };
            tokenizer.with_padding(None);
            tokenizer.with_truncation((!refuse).then_some(cut)).map(drop).map_err(|error| error.to_string())
        }));
        set.unwrap_or_else(|_| Err(format!("maxTokens {most} leaves no room beside the tokenizer's own tokens")))
            .map_err(|problem| CodecError::model(format!("input {name:?} (codec text): {problem}")))?;
        Ok(Self { tokenizer: Arc::new(tokenizer), most, refuse, pad })
    }

    /// The tensors of one text, for these ports.
    pub fn decode(&self, ports: &[(&Port, Part)], bytes: &[u8]) -> Result<Vec<Tensor>, CodecError> {
        let Some((first, _)) = ports.first() else { return Ok(Vec::new()) };
        let input = |problem: String| CodecError::input(first, problem);
        if bytes.len() > MAX_TEXT {
            return Err(input(format!(
                "{} bytes of text; at most {MAX_TEXT} are read: cut it into parts",
                bytes.len()
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| input(format!("expected text in UTF-8: {error}")))?;
        let encoded = catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode(text, true)));
        let encoded = match encoded {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => return Err(input(format!("the model's tokenizer does not take it: {error}"))),
            Err(_) => return Err(input("the model's tokenizer gave up on it".into())),
        };
        let count = encoded.len();
        if self.refuse && count > self.most {
            return Err(input(format!("{count} tokens; at most {} are taken: shorten the text", self.most)));
        }
        if count > self.most {
            return Err(CodecError::model(format!("the tokenizer made {count} tokens, {} were the most", self.most)));
        }
        ports.iter().map(|(port, part)| self.tensor(port, *part, &encoded)).collect()
    }

    fn tensor(&self, port: &Port, part: Part, encoded: &Encoding) -> Result<Tensor, CodecError> {
        let (values, fill) = match part {
            Part::Ids => (encoded.get_ids(), self.pad.map_or(0, |(id, _)| id)),
            Part::Mask => (encoded.get_attention_mask(), 0),
            Part::Types => (encoded.get_type_ids(), self.pad.map_or(0, |(_, kind)| kind)),
        };
        let mut values: Vec<i64> = values.iter().map(|value| i64::from(*value)).collect();
        if self.pad.is_some() {
            values.resize(self.most, i64::from(fill));
        }
        let length = values.len() as i64;
        let shape = if port.shape.len() == 1 { vec![length] } else { vec![1, length] };
        if !shape_fits(&port.shape, &shape) {
            let remedy = "a fixed length needs maxTokens of that length and padding max";
            return Err(CodecError::input(
                port,
                format!("expected shape {:?}, the text has {shape:?}: {remedy}", port.shape),
            ));
        }
        let kind = match port.dtype {
            Dtype::Int64 => tch::Kind::Int64,
            Dtype::Int32 => tch::Kind::Int,
            other => {
                return Err(CodecError::model(format!(
                    "input {:?}: codec text makes int64 or int32, not {other}",
                    port.name
                )));
            }
        };
        let tensor = Tensor::f_from_slice(&values).and_then(|t| t.f_reshape(&shape)).and_then(|t| t.f_to_kind(kind));
        tensor.map_err(|error| CodecError::input(port, error))
    }
}

fn word<'a>(options: &Options<'a>, name: &str, words: &[&str]) -> Result<Option<&'a str>, CodecError> {
    match options.text(name) {
        None => Ok(None),
        Some((text, _)) if words.contains(&text) => Ok(Some(text)),
        Some((text, of_job)) => Err(options.bad(name, text, of_job, &format!("must be {}", words.join(" or ")))),
    }
}

fn part(options: &Options<'_>) -> Result<Part, CodecError> {
    Ok(match word(options, "tensor", &["ids", "attentionMask", "tokenTypeIds"])? {
        None | Some("ids") => Part::Ids,
        Some("attentionMask") => Part::Mask,
        Some(_) => Part::Types,
    })
}

/// Id and type of padding: the tokenizer's own, else those of the token that is called so.
fn pad(tokenizer: &Tokenizer) -> (u32, u32) {
    if let Some(own) = tokenizer.get_padding() {
        return (own.pad_id, own.pad_type_id);
    }
    let known = ["[PAD]", "<pad>", "<|pad|>"].iter().find_map(|token| tokenizer.token_to_id(token));
    (known.unwrap_or(0), 0)
}
