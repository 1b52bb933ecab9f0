//! A run's input. *In*: a file's name, `-`, or text. *Out*: small text for the manifest, or bytes for the blob store.
//! *Invariant*: a mistyped file name is never sent as text.

use anyhow::Context;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The API's limit for `spec.input.inline`.
const INLINE: u64 = 32 * 1024;

/// What goes to the model.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Fits into the manifest.
    Inline(String),
    /// Goes through the blob store, from a file.
    File(PathBuf),
    /// Goes through the blob store, from memory.
    Bytes(Vec<u8>),
}

/// Reads `--input`.
pub async fn read(given: &str) -> anyhow::Result<Input> {
    if given == "-" {
        return from_reader(tokio::io::stdin()).await.context("cannot read stdin");
    }
    let path = Path::new(given);
    match tokio::fs::metadata(path).await {
        Ok(meta) if meta.is_dir() => anyhow::bail!("{given} is a folder: name one file"),
        Ok(meta) if meta.len() > INLINE => Ok(Input::File(path.into())),
        Ok(_) => {
            let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {given}"))?;
            from_reader(file).await.with_context(|| format!("cannot read {given}"))
        }
        Err(error) if looks_like_a_file(given) => {
            Err(error).with_context(|| format!("cannot read {given} (to send it as text, use --text)"))
        }
        Err(_) => Ok(text(given.into())),
    }
}

/// Text as it is, however long.
pub fn text(text: String) -> Input {
    if text.len() as u64 <= INLINE { Input::Inline(text) } else { Input::Bytes(text.into_bytes()) }
}

async fn from_reader(mut reader: impl AsyncRead + Unpin) -> std::io::Result<Input> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    Ok(classify(bytes))
}

fn classify(bytes: Vec<u8>) -> Input {
    let binary = |text: &str| text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c));
    match String::from_utf8(bytes) {
        Ok(text) if text.len() as u64 <= INLINE && !binary(&text) => Input::Inline(text),
        Ok(text) => Input::Bytes(text.into_bytes()),
        Err(error) => Input::Bytes(error.into_bytes()),
    }
}

/// One word with a folder or an ending in it: `sounds/a.wav`, `a.wav`; not `What? No.`, `[1.5, 2]`, `3.14`.
fn looks_like_a_file(text: &str) -> bool {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || "{}[]\"<>,".contains(c)) {
        return false;
    }
    let ending = text.rsplit_once('.').map(|(_, ending)| ending);
    let is_ending = |e: &str| (1..=5).contains(&e.len()) && e.chars().all(|c| c.is_ascii_alphanumeric());
    text.contains('/') || (ending.is_some_and(is_ending) && text.parse::<f64>().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_texts() {
        for file in ["a.wav", "sounds/a", "./x", "/tmp/none", "speech.final.json"] {
            assert!(looks_like_a_file(file), "{file}");
        }
        for text in ["hello", "Hello, world.", "[1.5, 2]", "3.14", "{\"a\": 1}", "", "e.g. this"] {
            assert!(!looks_like_a_file(text), "{text}");
        }
    }

    #[test]
    fn small_text_is_inline_and_binary_never() {
        assert_eq!(classify(b"[1, 2]\n".to_vec()), Input::Inline("[1, 2]\n".into()));
        assert_eq!(classify(b"RIFF\x24\0\0\0WAVE".to_vec()), Input::Bytes(b"RIFF\x24\0\0\0WAVE".to_vec()));
        assert_eq!(classify(vec![0xff]), Input::Bytes(vec![0xff]));
        assert!(matches!(classify(vec![b'a'; 32 * 1024 + 1]), Input::Bytes(_)));
        assert!(matches!(text("x".repeat(40_000)), Input::Bytes(_)));
    }

    #[tokio::test]
    async fn a_mistyped_file_is_an_error() {
        let error = read("no/such/file.wav").await.unwrap_err().to_string();
        assert!(error.contains("--text"), "{error}");
        assert_eq!(read("hello there").await.unwrap(), Input::Inline("hello there".into()));
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path().to_str().unwrap()).await.unwrap_err().to_string().contains("is a folder"));
        let big = folder.path().join("big");
        std::fs::write(&big, vec![b'a'; 50_000]).unwrap();
        assert_eq!(read(big.to_str().unwrap()).await.unwrap(), Input::File(big));
    }
}
