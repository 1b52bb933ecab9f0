//! What the owner asks for.
//!
//! in → command line and environment · out → a checked [`Config`] · invariant: a default is written here and nowhere else;
//! no error repeats a secret.

use crate::reactor::Limits;
use clap::{Args, ValueEnum};
use nightshift_types::{Bytes, Offer, PicoPoints};
use nightshift_wire::convert::MAX_LABELS;
use nightshift_wire::token::JoinToken;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Arguments of `nightshift-agent run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where agents are listened for; of a cluster with several addresses all of them, by repeating it or with commas
    #[arg(long, env = "NIGHTSHIFT_SERVER", value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub server: Vec<String>,
    /// One-time join token (nsj1.…); only the first start needs it
    #[arg(long, env = "NIGHTSHIFT_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join: Option<String>,
    /// File with the join token, so that it stands in no process list
    #[arg(long, env = "NIGHTSHIFT_JOIN_FILE", value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,
    /// Where this node keeps its key, models and results [default: the platform's place for application data]
    #[arg(long, env = "NIGHTSHIFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Wanted name of this node; the scheduler may add to it [default: the host's name]
    #[arg(long, env = "NIGHTSHIFT_NAME")]
    pub name: Option<String>,
    /// What you ask for, in points an hour
    #[arg(long, env = "NIGHTSHIFT_PRICE_PER_HOUR", value_name = "POINTS", default_value = "0.05")]
    pub price_per_hour: String,
    /// Where this machine stands, in your words
    #[arg(long, env = "NIGHTSHIFT_REGION", default_value = "", hide_default_value = true)]
    pub region: String,
    /// A label that jobs may select; repeat it, or separate several with commas
    #[arg(long = "label", env = "NIGHTSHIFT_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Most memory of each device that Nightshift may use: a quantity such as 4Gi, or a part such as 25% [default: 50%]
    #[arg(long, env = "NIGHTSHIFT_MEMORY", value_name = "QUANTITY|PERCENT")]
    pub memory: Option<String>,
    /// Threads a model computes with [default: all cores]
    #[arg(long, env = "NIGHTSHIFT_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Most disk that cached models may use
    #[arg(long, env = "NIGHTSHIFT_CACHE_DISK", value_name = "QUANTITY", default_value = "20Gi")]
    pub cache_disk: String,
    /// Attempts running at once, whatever memory says
    #[arg(long, env = "NIGHTSHIFT_MAX_ATTEMPTS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_attempts: u16,
    /// Where to serve metrics: a loopback address such as 127.0.0.1:9464, or none (the scheduler collects them anyway)
    #[arg(long, env = "NIGHTSHIFT_METRICS_LISTEN", value_name = "ADDRESS", default_value = "none")]
    pub metrics_listen: String,
    /// When stopped, seconds that running work gets to end
    #[arg(long, env = "NIGHTSHIFT_GRACE_SECONDS", value_name = "SECONDS", default_value_t = 10)]
    pub grace_seconds: u64,
    /// How the log on stderr is written; RUST_LOG says how much
    #[arg(long, env = "NIGHTSHIFT_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Refuse to start where models cannot be confined by Landlock and seccomp (Linux 5.13 and later)
    #[arg(long, env = "NIGHTSHIFT_REQUIRE_SANDBOX")]
    pub require_sandbox: bool,
    /// Stop when the process that started this one ends
    #[arg(long)]
    pub exit_with_parent: bool,
}

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
}

impl Config {
    /// With the defaults, for a server and a data folder.
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
            grace: Duration::from_secs(10),
            flush: Duration::from_secs(3),
            join_patience: Duration::from_secs(60),
            limits: Limits::default(),
            require_sandbox: false,
        }
    }
}

impl RunArgs {
    /// Checks everything; the error is one line that names the argument.
    pub fn check(&self) -> Result<Config, String> {
        let data_dir = self.data_dir.clone().or_else(default_data_dir);
        let data_dir = data_dir.ok_or("--data-dir: this system names no place for application data; give one")?;
        let servers = self.server.iter().map(|text| server(text)).collect::<Result<Vec<_>, _>>()?;
        let mut config = Config::new(String::new(), data_dir);
        config.servers = servers;
        config.token = self.token(config.data_dir.join("identity/identity.json").exists())?;
        config.name = node_name(self.name.clone().or_else(sysinfo::System::host_name).as_deref().unwrap_or("node"));
        config.offer = self.offer()?;
        match self.memory.as_deref().map(|text| (text, text.strip_suffix('%'))) {
            Some((text, Some(share))) => config.memory_share = percent("--memory", text, share)?,
            Some((text, None)) => config.memory = Some(quantity("--memory", text)?),
            None => {}
        }
        config.threads = self.threads.map(usize::from);
        config.cache_disk = quantity("--cache-disk", &self.cache_disk)?;
        config.metrics_listen = metrics_listen(&self.metrics_listen)?;
        config.grace = Duration::from_secs(self.grace_seconds);
        config.require_sandbox = self.require_sandbox;
        config.limits.max_attempts = usize::from(self.max_attempts);
        Ok(config)
    }

    /// A node that has joined needs no token: whoever handed out the file may have taken it away since.
    fn token(&self, joined: bool) -> Result<Option<JoinToken>, String> {
        let text = match &self.join_file {
            None => self.join.clone(),
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some(text),
                Err(error) if joined && error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(format!("--join-file: cannot read {}: {error}", path.display())),
            },
        };
        let text = text.filter(|text| !text.trim().is_empty());
        text.map(|text| text.trim().parse().map_err(|error| format!("--join: {error}"))).transpose()
    }

    fn offer(&self) -> Result<Offer, String> {
        let price: PicoPoints = self.price_per_hour.parse().map_err(|error| format!("--price-per-hour: {error}"))?;
        if price < PicoPoints::ZERO {
            return Err("--price-per-hour: must not be negative".into());
        }
        if self.region.len() > 63 {
            return Err("--region: at most 63 bytes".into());
        }
        let mut labels = BTreeMap::new();
        for label in self.labels.iter().filter(|label| !label.is_empty()) {
            let pair = label.split_once('=').filter(|(key, value)| {
                (1..=253).contains(&key.len()) && value.len() <= 253 && !key.contains(char::is_whitespace)
            });
            let (key, value) = pair.ok_or_else(|| format!("--label: {label:?} must be KEY=VALUE, such as gpu=none"))?;
            labels.insert(key.to_string(), value.to_string());
        }
        if labels.len() > MAX_LABELS {
            return Err(format!("--label: at most {MAX_LABELS}"));
        }
        Ok(Offer { price_per_hour: price, region: self.region.clone(), labels })
    }
}

fn quantity(argument: &str, text: &str) -> Result<Bytes, String> {
    text.parse().map_err(|error| format!("{argument}: {error}"))
}

fn percent(argument: &str, text: &str, share: &str) -> Result<u8, String> {
    let share = share.parse().ok().filter(|share| (1..=100).contains(share));
    share.ok_or_else(|| format!("{argument}: {text:?} must be 1% to 100%"))
}

fn server(text: &str) -> Result<String, String> {
    let address = text.trim().strip_prefix("https://").unwrap_or(text.trim()).trim_end_matches('/');
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(format!("--server: {text:?} must be HOST:PORT, such as scheduler.example.org:7443"));
    }
    Ok(address.to_string())
}

fn metrics_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if matches!(text, "none" | "") {
        return Ok(None);
    }
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("--metrics-listen: {text:?} must be an address such as 127.0.0.1:9464, or none"))?;
    if !address.ip().is_loopback() {
        let why = "the agent serves metrics on loopback alone; the scheduler collects them for Prometheus";
        return Err(format!("--metrics-listen: {address} is not loopback: {why}"));
    }
    Ok(Some(address))
}

/// A name as Kubernetes has them, from whatever the host is called.
fn node_name(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = first.chars().map(plain).take(50).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "node".into() } else { name.into() }
}

/// `$XDG_DATA_HOME/nightshift/agent` (or `~/.local/share/…`), on macOS `~/Library/Application Support/nightshift/agent`.
fn default_data_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(target_os = "macos") {
        absolute("HOME")?.join("Library/Application Support")
    } else {
        absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?
    };
    Some(base.join("nightshift/agent"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn check(args: &[&str]) -> Result<Config, String> {
        let all = ["agent", "--server", "localhost:7443", "--data-dir", "/tmp/x"].iter().chain(args);
        Command::try_parse_from(all).unwrap().run.check()
    }

    #[test]
    fn arguments_become_a_config() {
        let token = JoinToken::generate(nightshift_types::Digest([1; 32]));
        let config = check(&[
            "--join",
            &token.to_string(),
            "--name",
            "Max's PC.lan",
            "--label",
            "gpu=none,room=attic",
            "--memory",
            "4Gi",
            "--metrics-listen",
            "127.0.0.1:9464",
            "--price-per-hour",
            "0.2",
        ]);
        let config = config.unwrap();
        assert_eq!(config.token, Some(token));
        assert_eq!((config.name.as_str(), config.memory), ("max-s-pc", Some(Bytes::gibi(4))));
        assert_eq!(check(&["--memory", "12%"]).unwrap().memory_share, 12);
        assert_eq!(config.offer.labels["room"], "attic");
        assert_eq!(config.offer.price_per_hour.to_string(), "0.2");
        assert_eq!(server("https://h:1/").unwrap(), "h:1");
        assert_eq!(node_name("…"), "node");
    }

    #[test]
    fn a_node_that_has_joined_does_without_the_token_file() {
        let folder = tempfile::tempdir().unwrap();
        let (data_dir, gone) = (folder.path().to_str().unwrap(), folder.path().join("gone"));
        let arguments = ["agent", "--server", "h:1", "--data-dir", data_dir, "--join-file", gone.to_str().unwrap()];
        let check = || Command::try_parse_from(arguments).unwrap().run.check();
        assert!(check().unwrap_err().starts_with("--join-file: cannot read"));
        std::fs::create_dir(folder.path().join("identity")).unwrap();
        std::fs::write(folder.path().join("identity/identity.json"), "{}").unwrap();
        assert_eq!(check().unwrap().token, None);
    }

    #[test]
    fn errors_name_the_argument_and_no_secret() {
        for (args, argument) in [
            (["--join", "nsj1.secret"], "--join: this is not a join token"),
            (["--label", "x"], "--label: \"x\" must be KEY=VALUE"),
            (["--memory", "lots"], "--memory: "),
            (["--memory", "120%"], "--memory: \"120%\" must be 1% to 100%"),
            (["--price-per-hour", "free"], "--price-per-hour: "),
            (["--metrics-listen", "0.0.0.0:1"], "--metrics-listen: 0.0.0.0:1 is not loopback"),
            (["--join-file", "/nonexistent"], "--join-file: cannot read /nonexistent"),
        ] {
            let error = check(&args).unwrap_err();
            assert!(error.starts_with(argument), "{error}");
            assert!(!error.contains("nsj1.secret"), "{error}");
        }
        for bad in ["", "host", "host:", "host:x", ":1", "http://a/b:1"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
