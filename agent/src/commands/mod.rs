//! The owner's commands, beside `run`.
//!
//! in → parsed arguments · out → text or JSON on stdout, an exit code · invariant: what is asked of the running agent goes
//! through its socket; nothing here changes a file that a running agent uses, but `leave` and `uninstall`, which end it first.

pub mod config;
pub mod doctor;
pub mod install;
pub mod leave;
pub mod local;
pub mod self_test;

use crate::config::args::Places;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::Write;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON value.
    Json,
}

/// What most commands take.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub places: Places,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl Common {
    /// Prints JSON, or what `human` makes of it.
    pub fn print<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) {
        match self.output {
            Format::Json => say(&serde_json::to_string_pretty(value).unwrap_or_default()),
            Format::Human => say(human(value).trim_end()),
        }
    }
}

/// A line or more on stdout; whoever reads may have gone away, as `head` does.
pub fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n"));
}

/// `2 h 5 min`, `3.2 s`.
pub fn human_time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
