//! The extra files of a TorchScript archive: `torch.jit.save(model, file, _extra_files={"tokenizer.json": …})`.
//!
//! *In*: the model's open file, a ZIP archive whose folder `extra/` has them. *Out*: parsed tokenizers, each once.
//! *Invariant*: the file is hostile; at most [`MOST`] bytes of it are read for one tokenizer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokenizers::Tokenizer;
use zip::ZipArchive;

/// Largest tokenizer's file: those of models with many languages have 10 to 20 MiB.
pub const MOST: u64 = 64 << 20;

/// A model's file, and what was read of it.
#[derive(Debug)]
pub struct Archive {
    file: File,
    known: RefCell<BTreeMap<String, Arc<Tokenizer>>>,
}

impl Archive {
    /// Reads nothing yet.
    pub fn new(file: File) -> Self {
        Self { file, known: RefCell::default() }
    }

    /// A tokenizer by its file's name.
    pub fn tokenizer(&self, name: &str) -> Result<Arc<Tokenizer>, String> {
        if let Some(known) = self.known.borrow().get(name) {
            return Ok(known.clone());
        }
        let bytes = self.extra(name)?;
        let parsed = catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(&bytes)));
        let parsed = match parsed {
            Ok(Ok(tokenizer)) => Arc::new(tokenizer),
            Ok(Err(error)) => return Err(format!("extra file {name:?} is no tokenizer of Hugging Face: {error}")),
            Err(_) => return Err(format!("extra file {name:?} is no tokenizer of Hugging Face: its reader gave up")),
        };
        self.known.borrow_mut().insert(name.to_string(), parsed.clone());
        Ok(parsed)
    }

    fn extra(&self, name: &str) -> Result<Vec<u8>, String> {
        let bad = |error: &dyn std::fmt::Display| format!("the model's archive cannot be read: {error}");
        let file = self.file.try_clone().map_err(|error| bad(&error))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| bad(&error))?;
        let wanted = format!("extra/{name}");
        // Everything is in one folder, which is called as the archive was when it was written.
        let fits = |path: &str| path.split_once('/').is_some_and(|(_, rest)| rest == wanted);
        let named =
            |index: &usize| archive.name_for_index(*index).is_some_and(|path| path.is_ok_and(|path| fits(&path)));
        let index = (0..archive.len()).find(named).ok_or_else(|| {
            format!(
                "the model's archive has no extra file {name:?}: save it with torch.jit.save(model, FILE, \
                 _extra_files={{\"{name}\": open(\"{name}\").read()}})"
            )
        })?;
        let entry = archive.by_index(index).map_err(|error| bad(&error))?;
        let mut bytes = Vec::new();
        // The header's size is a claim.
        entry.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| bad(&error))?;
        if bytes.len() as u64 > MOST {
            return Err(format!("extra file {name:?} has more than {MOST} bytes"));
        }
        Ok(bytes)
    }
}
