//! In: where etcd is and who we are. Out: a connection, keys, and requests that end. Invariant: secrets are never shown.

use crate::journal::JournalError;
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// How to reach etcd, and as whom.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `https://HOST:2379`, each member.
    pub endpoints: Vec<String>,
    /// Ours alone: `/nightshift/CELL`.
    pub prefix: String,
    /// Who leads, for people: host and process.
    pub identity: String,
    /// The lead falls to another this long after its holder is last heard of. etcd makes it 2 s at least.
    pub lease: Duration,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// etcd's own users.
    pub user: Option<(String, String)>,
    /// PEM of the CA that signed etcd's certificate.
    pub ca_pem: Option<Vec<u8>>,
    /// PEM of our certificate and its key.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// Name in etcd's certificate, where it is not the endpoint's.
    pub server_name: Option<String>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/nightshift/local".into(),
            identity: String::new(),
            lease: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            user: None,
            ca_pem: None,
            client_pem: None,
            server_name: None,
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("identity", &self.identity)
            .field("lease", &self.lease)
            .field("request_timeout", &self.request_timeout)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &(self.ca_pem.is_some(), self.client_pem.is_some()))
            .finish()
    }
}

impl EtcdOptions {
    pub(super) async fn connect(&self) -> Result<Client, JournalError> {
        if self.endpoints.is_empty() {
            return Err(JournalError::Config("no etcd endpoint: give at least one, such as https://HOST:2379".into()));
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.request_timeout)
            .with_keep_alive(Duration::from_secs(10), self.request_timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if self.ca_pem.is_some() || self.client_pem.is_some() {
            options = options.with_tls(self.tls());
        }
        request(self.request_timeout, Client::connect(&self.endpoints, Some(options))).await
    }

    fn tls(&self) -> TlsOptions {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca_pem {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &self.client_pem {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        match &self.server_name {
            Some(name) => tls.domain_name(name),
            None => tls,
        }
    }
}

/// The keys under our prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub journal: String,
    pub leader: String,
    pub head: String,
    pub manifest: String,
    pub archive: String,
    batches: String,
    chunks: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Result<Self, JournalError> {
        let prefix = prefix.trim_end_matches('/');
        if prefix.len() < 2 || !prefix.starts_with('/') {
            return Err(JournalError::Config(format!(
                "etcd prefix {prefix:?} must begin with '/', such as /nightshift/CELL"
            )));
        }
        let key = |name: &str| format!("{prefix}/{name}");
        Ok(Self {
            journal: key("journal"),
            leader: key("leader"),
            head: key("head"),
            manifest: key("manifest"),
            archive: key("archive"),
            batches: key("batch/"),
            chunks: key("snapshot/"),
        })
    }

    /// Sorted as their sequences.
    pub fn batch(&self, sequence: u64) -> String {
        format!("{}{sequence:016x}", self.batches)
    }

    /// Which batch a key is of.
    pub fn batch_of(&self, key: &[u8]) -> Option<u64> {
        let digits = std::str::from_utf8(key).ok()?.strip_prefix(self.batches.as_str())?;
        u64::from_str_radix(digits, 16).ok()
    }

    /// Sorted as their snapshots, then as they are read.
    pub fn chunk(&self, sequence: u64, index: u32) -> String {
        format!("{}{sequence:016x}/{index:08x}", self.chunks)
    }
}

/// One request, bounded in time.
pub(super) async fn request<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, JournalError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(answer) => answer.map_err(|error| classify(&error)),
        Err(_) => Err(JournalError::Unavailable(format!("etcd did not answer within {} ms", timeout.as_millis()))),
    }
}

fn classify(error: &Error) -> JournalError {
    use tonic_code::*;
    match error {
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            JournalError::Config(format!("etcd: {error}"))
        }
        Error::GRpcStatus(status) => match status.code() as i32 {
            INVALID_ARGUMENT | FAILED_PRECONDITION | UNIMPLEMENTED | OUT_OF_RANGE => {
                JournalError::Io(format!("etcd: {}", status.message()))
            }
            PERMISSION_DENIED | UNAUTHENTICATED => {
                JournalError::Config(format!("etcd refuses user or certificate: {}", status.message()))
            }
            // Its alarms: told by their words from others of the same code, such as too many requests.
            RESOURCE_EXHAUSTED if status.message().contains("space exceeded") => {
                JournalError::NoSpace(format!("etcd: {}", status.message()))
            }
            DATA_LOSS if status.message().contains("corrupt") => {
                JournalError::StoreCorrupt(format!("etcd: {}", status.message()))
            }
            _ => JournalError::Unavailable(format!("etcd: {}", status.message())),
        },
        other => JournalError::Unavailable(format!("etcd: {other}")),
    }
}

/// gRPC's status codes, as far as they mean something here.
mod tonic_code {
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const DATA_LOSS: i32 = 15;
    pub const UNAUTHENTICATED: i32 = 16;
}
