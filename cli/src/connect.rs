//! Which pool a command talks to. *In*: flags, `KUBECONFIG`, the data dir. *Out*: a Kubernetes client, a namespace, the
//! gateway. *Invariant*: a flag beats the environment, the environment beats the default; nobody is asked twice.

use crate::gateway::Gateway;
use crate::paths::DataDir;
use anyhow::Context;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};

const UNREADABLE: &str =
    "$KUBECONFIG cannot be used: `nightshift up` writes that file and names it, or unset KUBECONFIG";

/// Flags of every command that talks to a pool.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Which pool")]
pub struct Connection {
    /// Namespace of the objects [default: the kubeconfig's, else "default"]
    #[arg(short, long, value_name = "NAME", value_parser = crate::parse::object_name)]
    pub namespace: Option<String>,
    /// Kubeconfig of the pool [default: $KUBECONFIG, else the one in the data dir, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Data dir of the `nightshift up` to talk to [default: beside the kubeconfig, else the user's]
    #[arg(long, value_name = "DIR", env = crate::paths::DATA_DIR_ENV, hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
}

/// A pool, and the namespace to work in.
pub struct Pool {
    /// Kubernetes client.
    pub client: kube::Client,
    /// Namespace.
    pub namespace: String,
    /// URL of the Kubernetes API.
    pub url: String,
    folders: Vec<DataDir>,
}

impl Connection {
    /// Reads the kubeconfig and makes a client; connects to nothing yet.
    pub async fn pool(&self) -> anyhow::Result<Pool> {
        let data_dir = DataDir::resolve(self.data_dir.as_deref())?;
        let (kubeconfig, file) = self.kubeconfig(&data_dir)?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("the kubeconfig cannot be used")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let client = client(config)?;
        Ok(Pool { client, namespace, url, folders: self.gateway_folders(data_dir, file.as_deref()) })
    }

    /// The gateway alone, for commands that need no Kubernetes.
    pub fn gateway(&self) -> anyhow::Result<Gateway> {
        let data_dir = DataDir::resolve(self.data_dir.as_deref())?;
        let file = self.kubeconfig.clone().or_else(first_in_environment);
        open_gateway(&self.gateway_folders(data_dir, file.as_deref()))
    }

    /// The namespace without a look at any cluster: the flag, else what the kubeconfig's context says, else `default`.
    pub fn namespace(&self) -> String {
        let from_file = || {
            let data_dir = DataDir::resolve(self.data_dir.as_deref()).ok()?;
            let (kubeconfig, _) = self.kubeconfig(&data_dir).ok()?;
            let current = kubeconfig.current_context?;
            kubeconfig.contexts.into_iter().find(|named| named.name == current)?.context?.namespace
        };
        self.namespace.clone().or_else(from_file).unwrap_or_else(|| "default".into())
    }

    fn kubeconfig(&self, data_dir: &DataDir) -> anyhow::Result<(Kubeconfig, Option<PathBuf>)> {
        let read = |path: &Path| {
            let config = Kubeconfig::read_from(path);
            config.with_context(|| format!("cannot read the kubeconfig {}", path.display()))
        };
        if let Some(path) = &self.kubeconfig {
            return Ok((read(path)?, Some(path.clone())));
        }
        if self.data_dir.is_none()
            && let Some(config) = Kubeconfig::from_env().context(UNREADABLE)?
        {
            return Ok((config, first_in_environment()));
        }
        let path = data_dir.kubeconfig();
        // Of a cluster the data dir holds no kubeconfig: the user's own is meant, as kubectl has it.
        let own = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
        if !path.exists()
            && self.data_dir.is_none()
            && let Some(own) = own().filter(|own| own.exists())
        {
            return Ok((read(&own)?, Some(own)));
        }
        anyhow::ensure!(
            path.exists(),
            "no pool is known here: start one with `nightshift up`, or name one with --kubeconfig or --data-dir (looked for {})",
            path.display()
        );
        Ok((read(&path)?, Some(path)))
    }

    fn gateway_folders(&self, data_dir: DataDir, kubeconfig: Option<&Path>) -> Vec<DataDir> {
        let beside = kubeconfig.and_then(Path::parent).and_then(|folder| DataDir::resolve(Some(folder)).ok());
        match &self.data_dir {
            Some(_) => vec![data_dir],
            None => beside.into_iter().chain([data_dir]).collect(),
        }
    }
}

/// A client of a Kubernetes API; connects to nothing yet.
pub fn client(mut config: kube::Config) -> anyhow::Result<kube::Client> {
    // A proxy of the environment is not for this machine itself.
    if matches!(config.cluster_url.host(), Some("127.0.0.1" | "[::1]" | "localhost")) {
        config.proxy_url = None;
    }
    kube::Client::try_from(config).context("the kubeconfig cannot be used")
}

fn first_in_environment() -> Option<PathBuf> {
    let paths = std::env::var_os("KUBECONFIG")?;
    std::env::split_paths(&paths).find(|path| !path.as_os_str().is_empty())
}

fn open_gateway(folders: &[DataDir]) -> anyhow::Result<Gateway> {
    let found = folders.iter().map(DataDir::gateway).find(|path| path.exists());
    let path = found.with_context(|| {
        let looked: Vec<String> = folders.iter().map(|folder| folder.gateway().display().to_string()).collect();
        format!(
            "no gateway is known here: start a pool with `nightshift up`, or name its --data-dir (looked for {})",
            looked.join(" and ")
        )
    })?;
    Gateway::from_file(&path)
}

impl Pool {
    /// The gateway of the same pool.
    pub fn gateway(&self) -> anyhow::Result<Gateway> {
        open_gateway(&self.folders)
    }

    /// Data dirs that the pool may be of, likeliest first.
    pub fn folders(&self) -> &[DataDir] {
        &self.folders
    }

    /// An API error in a user's words.
    pub fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
            other => {
                let cause = anyhow::Error::new(other);
                let cause = cause.root_cause();
                anyhow::anyhow!("cannot reach the pool at {} ({cause}): is it up? `nightshift up` starts one", self.url)
            }
        }
    }
}
