//! Which etcd a command means. *In*: flags or `NIGHTSHIFT_ETCD…` variables, files. *Out*: options of the journal.
//! *Invariant*: a password stands in a file, never on a command line.

use crate::parse;
use anyhow::Context;
use nightshift_state::EtcdOptions;
use std::path::PathBuf;
use std::time::Duration;

/// etcd refuses shorter leases.
const LEAST_LEASE: Duration = Duration::from_secs(2);

/// Where the journal is.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// Every member's client URL; repeat it, or separate several with commas
    #[arg(long = "etcd", value_name = "URL", env = "NIGHTSHIFT_ETCD", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Keys begin with it; ours alone
    #[arg(
        long = "etcd-prefix",
        value_name = "PREFIX",
        env = "NIGHTSHIFT_ETCD_PREFIX",
        default_value = "/nightshift/default"
    )]
    prefix: String,
    /// CA that signed etcd's certificates, PEM
    #[arg(long = "etcd-ca-file", value_name = "FILE", env = "NIGHTSHIFT_ETCD_CA_FILE")]
    ca: Option<PathBuf>,
    /// Our client certificate, PEM
    #[arg(long = "etcd-cert-file", value_name = "FILE", env = "NIGHTSHIFT_ETCD_CERT_FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long = "etcd-key-file", value_name = "FILE", env = "NIGHTSHIFT_ETCD_KEY_FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Name in etcd's certificates, where it is not the URL's
    #[arg(long = "etcd-server-name", value_name = "NAME", env = "NIGHTSHIFT_ETCD_SERVER_NAME")]
    server_name: Option<String>,
    /// etcd user
    #[arg(long = "etcd-user", value_name = "NAME", env = "NIGHTSHIFT_ETCD_USER", requires = "password_file")]
    user: Option<String>,
    /// File with the etcd user's password
    #[arg(long = "etcd-password-file", value_name = "FILE", env = "NIGHTSHIFT_ETCD_PASSWORD_FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// The lead falls to another scheduler this long after its holder was last heard of; 2s at least
    #[arg(long = "leader-lease", value_name = "TIME", env = "NIGHTSHIFT_LEADER_LEASE", default_value = "5s", value_parser = leader_lease)]
    lease: Duration,
}

fn leader_lease(text: &str) -> Result<Duration, String> {
    let lease = parse::duration(text)?;
    if lease < LEAST_LEASE { Err("etcd's shortest lease is 2s".into()) } else { Ok(lease) }
}

impl EtcdArgs {
    /// Whether an etcd was named at all.
    pub fn is_given(&self) -> bool {
        !self.endpoints.is_empty()
    }

    /// Reads the files; `identity` says who leads, to people.
    pub fn options(&self, identity: String) -> anyhow::Result<EtcdOptions> {
        let read = |flag: &str, path: &Option<PathBuf>| -> anyhow::Result<Option<Vec<u8>>> {
            let Some(path) = path else { return Ok(None) };
            std::fs::read(path).map(Some).with_context(|| format!("{flag} {}", path.display()))
        };
        for endpoint in &self.endpoints {
            let plain = endpoint.starts_with("http://") || endpoint.starts_with("https://");
            anyhow::ensure!(plain, "--etcd {endpoint}: write it as https://HOST:2379");
        }
        let password = read("--etcd-password-file", &self.password_file)?;
        let password = password.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string());
        let certificate = read("--etcd-cert-file", &self.certificate)?;
        Ok(EtcdOptions {
            endpoints: self.endpoints.clone(),
            prefix: self.prefix.clone(),
            identity,
            lease: self.lease,
            // A request that takes longer than the lease is of no use to a leader.
            request_timeout: self.lease.min(Duration::from_secs(5)),
            user: self.user.clone().zip(password),
            ca_pem: read("--etcd-ca-file", &self.ca)?,
            client_pem: certificate.zip(read("--etcd-key-file", &self.key)?),
            server_name: self.server_name.clone(),
        })
    }
}
