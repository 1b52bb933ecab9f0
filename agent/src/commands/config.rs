//! `nightshift-agent config init|show|path`.

use crate::config::args::Places;
use crate::config::file::{Settings, TEMPLATE};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What to do with the owner's file.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Write a commented file with every default; an existing one stays
    Init(Places),
    /// Check the file and print what is in force, with --set over it
    Show(Show),
    /// Print where the file is
    Path(Places),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    places: Places,
    /// A setting that wins over the file, such as availability.idle_after=5m
    #[arg(long, env = "NIGHTSHIFT_SET", value_name = "KEY=VALUE", value_delimiter = ';')]
    set: Vec<String>,
    /// As JSON
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: super::Format,
}

fn file(places: &Places) -> anyhow::Result<PathBuf> {
    places.config().0.context("--config: this system names no place for settings; give a file")
}

/// Runs it.
pub fn run(command: &Config) -> anyhow::Result<()> {
    match command {
        Config::Path(places) => super::say(&file(places)?.display().to_string()),
        Config::Init(places) => {
            let path = file(places)?;
            init(&path, TEMPLATE)?;
            super::say(&path.display().to_string());
        }
        Config::Show(show) => {
            let (path, named) = show.places.config();
            let settings = Settings::read(path.as_deref(), named, &show.set).map_err(anyhow::Error::msg)?;
            match show.output {
                super::Format::Json => super::say(&serde_json::to_string_pretty(&settings)?),
                super::Format::Human => super::say(toml::to_string(&settings)?.trim_end()),
            }
        }
    }
    Ok(())
}

/// Writes a new file, never over one.
pub fn init(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context(folder.display().to_string())?;
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(mut file) => file.write_all(text.as_bytes()).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} exists already: edit it, or delete it first", path.display())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
