//! What the owner asks for.
//!
//! in → the owner's file, environment, command line (the later wins) · out → a checked [`Config`] · invariant: a default is
//! written in [`file`] or [`args`] and nowhere else; no error repeats a secret.

pub mod args;
pub mod file;
pub mod values;

pub use args::{LogFormat, RunArgs};
pub use file::{Accept, Settings};

use crate::owner::rules::{Rules, When};
use crate::reactor::Limits;
use nightshift_types::{Bytes, Offer, PicoPoints};
use nightshift_wire::convert::MAX_LABELS;
use nightshift_wire::token::JoinToken;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Checked arguments.
#[derive(Debug, Clone)]
pub struct Config {
    /// HOST:PORT of every scheduler; never empty.
    pub servers: Vec<String>,
    /// For the first start.
    pub token: Option<JoinToken>,
    /// Everything this node keeps.
    pub data_dir: PathBuf,
    /// Wanted name.
    pub name: String,
    /// Price, region, labels.
    pub offer: Offer,
    /// Most of each device's memory.
    pub memory: Option<Bytes>,
    /// Part of each device's memory, in percent.
    pub memory_share: u8,
    /// Threads a model computes with.
    pub threads: Option<usize>,
    /// Most disk of the model cache.
    pub cache_disk: Bytes,
    /// Loopback address of the metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// Loopback address of the owner's page.
    pub page_listen: Option<SocketAddr>,
    /// For running work, when stopped.
    pub grace: Duration,
    /// For the last acknowledgements, when stopped.
    pub flush: Duration,
    /// How long a first join is tried while nobody answers.
    pub join_patience: Duration,
    /// How much is taken on.
    pub limits: Limits,
    /// No start without walls around models.
    pub require_sandbox: bool,
    /// When to work.
    pub rules: Rules,
    /// For whom.
    pub accept: Accept,
    /// Where the rules are read again from, and what wins over them; `None`: they stay.
    pub reload: Option<Reload>,
}

/// How the owner's file is read again.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// The file.
    pub path: Option<PathBuf>,
    /// Flags and environment of this start.
    pub args: Option<Box<RunArgs>>,
}

impl Config {
    /// With the defaults, for a server and a data folder, on a dedicated machine.
    pub fn new(server: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            servers: vec![server.into()],
            token: None,
            data_dir: data_dir.into(),
            name: "node".into(),
            offer: Offer::default(),
            memory: None,
            memory_share: crate::device::DEFAULT_SHARE,
            threads: None,
            cache_disk: Bytes::gibi(20),
            metrics_listen: None,
            page_listen: None,
            grace: Duration::from_secs(10),
            flush: Duration::from_secs(3),
            join_patience: Duration::from_secs(60),
            limits: Limits::default(),
            require_sandbox: false,
            rules: Rules { when: When::Always, temperature: None, ..Rules::default() },
            accept: Accept::default(),
            reload: None,
        }
    }
}

/// Price, region and labels, checked; `name` turns a field into what the owner wrote it as.
pub fn offer(
    price: &str,
    region: &str,
    labels: &BTreeMap<String, String>,
    name: impl Fn(&str) -> String,
) -> Result<Offer, String> {
    let price: PicoPoints = price.parse().map_err(|error| format!("{}: {error}", name("price_per_hour")))?;
    if price < PicoPoints::ZERO {
        return Err(format!("{}: must not be negative", name("price_per_hour")));
    }
    if region.len() > 63 {
        return Err(format!("{}: at most 63 bytes", name("region")));
    }
    for (key, value) in labels {
        if !(1..=253).contains(&key.len()) || value.len() > 253 || key.contains(char::is_whitespace) {
            return Err(format!(
                "{}: {key:?} must be a key of 1 to 253 bytes without blanks, its value at most 253",
                name("labels")
            ));
        }
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("{}: at most {MAX_LABELS}", name("labels")));
    }
    Ok(Offer { price_per_hour: price, region: region.into(), labels: labels.clone() })
}

/// HOST:PORT, whatever stands around it.
pub fn server(text: &str) -> Result<String, String> {
    let address = text.trim().strip_prefix("https://").unwrap_or(text.trim()).trim_end_matches('/');
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(format!("{text:?} must be HOST:PORT, such as scheduler.example.org:7443"));
    }
    Ok(address.to_string())
}

/// An address of this machine alone, or none; `example` is what one looks like.
pub fn loopback(example: &str, text: &str) -> Result<Option<SocketAddr>, String> {
    if matches!(text, "none" | "") {
        return Ok(None);
    }
    let address: SocketAddr =
        text.parse().map_err(|_| format!("{text:?} must be an address such as {example}, or none"))?;
    if !address.ip().is_loopback() {
        let why = "the agent serves on loopback alone; metrics are collected by the scheduler";
        return Err(format!("{address} is not loopback: {why}"));
    }
    Ok(Some(address))
}

/// A name as Kubernetes has them, from whatever the host is called.
pub fn node_name(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = first.chars().map(plain).take(50).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "node".into() } else { name.into() }
}

/// `$XDG_DATA_HOME/nightshift/agent` (or `~/.local/share/…`), on macOS `~/Library/Application Support/nightshift/agent`.
pub fn default_data_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(target_os = "macos") {
        absolute("HOME")?.join("Library/Application Support")
    } else {
        absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?
    };
    Some(base.join("nightshift/agent"))
}
