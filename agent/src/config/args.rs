//! The command line of `nightshift-agent run`.
//!
//! in → flags and NIGHTSHIFT_… variables, over the owner's file · out → a checked [`Config`] · invariant: an error is one line
//! that names the flag or the file's field, and repeats no secret.

use super::file::{Settings, Share, bytes, share};
use super::{Config, Reload, default_data_dir, loopback, node_name, offer, server};
use crate::owner::rules::When;
use clap::{Args, ValueEnum};
use nightshift_wire::token::JoinToken;
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

/// Where the owner's file and the node's folder are; every command has these.
#[derive(Debug, Clone, Default, Args)]
pub struct Places {
    /// The owner's file [default: the platform's place for settings; see `nightshift-agent config path`]
    #[arg(long, env = "NIGHTSHIFT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where this node keeps its key, models and results [default: the platform's place for application data]
    #[arg(long, env = "NIGHTSHIFT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl Places {
    /// The owner's file, and whether it was named.
    pub fn config(&self) -> (Option<PathBuf>, bool) {
        match &self.config {
            Some(path) => (Some(path.clone()), true),
            None => (super::file::default_path(), false),
        }
    }

    /// The data folder.
    pub fn data_dir(&self) -> Result<PathBuf, String> {
        let data_dir = self.data_dir.clone().or_else(default_data_dir);
        data_dir.ok_or_else(|| "--data-dir: this system names no place for application data; give one".into())
    }
}

/// Arguments of `nightshift-agent run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Where agents are listened for; of a cluster with several addresses all of them, by repeating it or with commas
    #[arg(long, env = "NIGHTSHIFT_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<String>,
    /// One-time join token (nsj1.…); only the first start needs it
    #[arg(long, env = "NIGHTSHIFT_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join: Option<String>,
    /// File with the join token, so that it stands in no process list
    #[arg(long, env = "NIGHTSHIFT_JOIN_FILE", value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub places: Places,
    /// Wanted name of this node; the scheduler may add to it [default: the host's name]
    #[arg(long, env = "NIGHTSHIFT_NAME")]
    pub name: Option<String>,
    /// What you ask for, in points an hour [default: 0.05]
    #[arg(long, env = "NIGHTSHIFT_PRICE_PER_HOUR", value_name = "POINTS")]
    pub price_per_hour: Option<String>,
    /// Where this machine stands, in your words
    #[arg(long, env = "NIGHTSHIFT_REGION")]
    pub region: Option<String>,
    /// A label that jobs may select; repeat it, or separate several with commas
    #[arg(long = "label", env = "NIGHTSHIFT_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Work while nobody uses this machine (idle), or at any time (always: a dedicated machine) [default: idle]
    #[arg(long, env = "NIGHTSHIFT_WHEN")]
    pub when: Option<When>,
    /// Most memory of each device that Nightshift may use: a quantity such as 4Gi, or a part such as 25% [default: 90% with
    /// --when idle, 50% with --when always]
    #[arg(long, env = "NIGHTSHIFT_MEMORY", value_name = "QUANTITY|PERCENT")]
    pub memory: Option<String>,
    /// Threads a model computes with [default: all cores]
    #[arg(long, env = "NIGHTSHIFT_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Most disk that cached models may use [default: 20Gi]
    #[arg(long, env = "NIGHTSHIFT_CACHE_DISK", value_name = "QUANTITY")]
    pub cache_disk: Option<String>,
    /// Attempts running at once, whatever memory says [default: 64]
    #[arg(long, env = "NIGHTSHIFT_MAX_ATTEMPTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_attempts: Option<u16>,
    /// Where to serve metrics: a loopback address such as 127.0.0.1:9464, or none (the scheduler collects them anyway)
    /// [default: none]
    #[arg(long, env = "NIGHTSHIFT_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<String>,
    /// Any setting of the owner's file, which it wins over, such as availability.idle_after=5m; repeat it, or separate
    /// several with ;
    #[arg(long, env = "NIGHTSHIFT_SET", value_name = "KEY=VALUE", value_delimiter = ';')]
    pub set: Vec<String>,
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

impl RunArgs {
    /// Checks everything; the error is one line that names the argument, or the file and its field.
    pub fn check(&self) -> Result<Config, String> {
        let settings = self.settings()?;
        let mut config = Config::new(String::new(), self.places.data_dir()?);
        config.servers =
            settings.server.iter().map(|text| server(text)).collect::<Result<_, _>>().map_err(named("--server"))?;
        if config.servers.is_empty() {
            let file = self.places.config().0.map_or_else(|| "agent.toml".into(), |path| path.display().to_string());
            return Err(format!("--server: nobody to dial: give --server HOST:PORT, or `server` in {file}"));
        }
        config.token = self.token(config.data_dir.join("identity/identity.json").exists())?;
        let name = Some(settings.name.clone()).filter(|name| !name.is_empty()).or_else(sysinfo::System::host_name);
        config.name = node_name(name.as_deref().unwrap_or("node"));
        config.offer = settings.offer()?;
        match settings.memory()? {
            Share::Percent(share) => config.memory_share = share,
            Share::Most(most) => (config.memory_share, config.memory) = (100, Some(most)),
        }
        config.threads = Some(usize::from(settings.limits.threads)).filter(|threads| *threads > 0);
        config.cache_disk = bytes(&settings.limits.cache_disk)?;
        config.metrics_listen = loopback("127.0.0.1:9464", &settings.local.metrics)?;
        config.page_listen = loopback("127.0.0.1:7440", &settings.local.page)?;
        config.grace = Duration::from_secs(self.grace_seconds);
        config.require_sandbox = settings.limits.require_sandbox;
        config.limits.max_attempts = usize::from(settings.limits.attempts);
        config.rules = settings.rules()?;
        config.accept = settings.accept;
        config.reload = Some(Reload { path: self.places.config().0, args: Some(Box::new(self.clone())) });
        Ok(config)
    }

    /// The owner's file with this command line over it, checked.
    pub fn settings(&self) -> Result<Settings, String> {
        let (path, named_file) = self.places.config();
        let mut all = Settings::read(path.as_deref(), named_file, &self.set)?;
        if !self.server.is_empty() {
            all.server.clone_from(&self.server);
        }
        self.over_offer(&mut all)?;
        all.availability.when = self.when.unwrap_or(all.availability.when);
        if let Some(text) = &self.memory {
            share(text).map_err(named("--memory"))?;
            all.limits.memory_busy.clone_from(text);
            all.limits.memory_idle.clone_from(text);
        }
        if let Some(text) = &self.cache_disk {
            bytes(text).map_err(named("--cache-disk"))?;
            all.limits.cache_disk.clone_from(text);
        }
        if let Some(text) = &self.metrics_listen {
            loopback("127.0.0.1:9464", text).map_err(named("--metrics-listen"))?;
            all.local.metrics.clone_from(text);
        }
        all.limits.threads = self.threads.unwrap_or(all.limits.threads);
        all.limits.attempts = self.max_attempts.unwrap_or(all.limits.attempts);
        all.limits.require_sandbox |= self.require_sandbox;
        Ok(all)
    }

    fn over_offer(&self, all: &mut Settings) -> Result<(), String> {
        all.name = self.name.clone().unwrap_or(std::mem::take(&mut all.name));
        if let Some(region) = &self.region {
            all.region.clone_from(region);
        }
        for label in self.labels.iter().filter(|label| !label.is_empty()) {
            let pair = label.split_once('=').filter(|(key, _)| !key.is_empty() && !key.contains(char::is_whitespace));
            let (key, value) = pair.ok_or_else(|| format!("--label: {label:?} must be KEY=VALUE, such as gpu=none"))?;
            all.labels.insert(key.into(), value.into());
        }
        if let Some(price) = &self.price_per_hour {
            all.price_per_hour.clone_from(price);
        }
        let flag = |field: &str| match field {
            "price_per_hour" if self.price_per_hour.is_some() => "--price-per-hour".to_string(),
            "region" if self.region.is_some() => "--region".into(),
            "labels" if !self.labels.is_empty() => "--label".into(),
            field => field.into(),
        };
        offer(&all.price_per_hour, &all.region, &all.labels, flag).map(drop)
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
}

fn named(argument: &str) -> impl Fn(String) -> String {
    let argument = argument.to_string();
    move |error| format!("{argument}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use nightshift_types::Bytes;

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
