//! Becoming a node: a one-time token for a certificate.
//!
//! in → a join token, our key · out → an [`Identity`], stored · invariant: the token's secret is sent only to a server that
//! proved to hold a certificate of the CA the token names; a repeat after an interruption uses the same key, and so gets
//! the same certificate.

use crate::backoff::Backoff;
use crate::edge;
use crate::identity::{Identity, IdentityError, Store};
use nightshift_types::Digest;
use nightshift_wire::proto::{self, agent_client::AgentClient};
use nightshift_wire::{MAX_MESSAGE, pki, token::JoinToken};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::Code;
use tracing::{info, warn};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a node has no identity. One line, with the remedy.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Never joined, and no token.
    #[error("this machine has not joined yet: make a token with `nightshift token create` and start with --join TOKEN")]
    NoToken,
    /// The token is of another cluster.
    #[error(
        "this machine belongs to another cluster (node {node}, CA {ours}), the token names CA {theirs}: use another \
         --data-dir, or delete {folder} to leave the old one"
    )]
    OtherCluster {
        /// Our name there.
        node: String,
        /// The CA we trust.
        ours: Digest,
        /// The CA the token names.
        theirs: Digest,
        /// Where the old identity is.
        folder: String,
    },
    /// The server shows another CA than the token's, or no TLS at all.
    #[error("{server} is not the scheduler of this join token ({problem}): check --server, or make a new token")]
    WrongServer {
        /// What was dialled.
        server: String,
        /// What TLS said.
        problem: String,
    },
    /// Nobody answered in time.
    #[error("cannot reach {server} ({problem}): check the address, the firewall, and that the scheduler runs")]
    Unreachable {
        /// What was dialled.
        server: String,
        /// The last error.
        problem: String,
    },
    /// The scheduler said no.
    #[error("the scheduler refused the join token ({0}): make a new one with `nightshift token create`")]
    Refused(String),
    /// Certificate expired while the machine was away.
    #[error("the certificate of node {0} has expired: join again with a new token (--join TOKEN)")]
    Expired(String),
    /// The disk, or an answer that cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What to join with.
#[derive(Debug)]
pub struct JoinConfig<'a> {
    /// HOST:PORT of every scheduler; the one that leads answers.
    pub servers: &'a [String],
    /// From the command line or a file.
    pub token: Option<JoinToken>,
    /// The name we would like.
    pub node_name: &'a str,
    /// How long to try while nobody answers.
    pub patience: Duration,
    /// Delays between tries.
    pub backoff: Backoff,
}

/// The identity in the store, or a new one for the token.
pub async fn identity(store: &Store, folder: &str, config: JoinConfig<'_>) -> Result<Identity, JoinError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(known) = store.load()? else {
        return join(store, config.token.as_ref().ok_or(JoinError::NoToken)?, &config).await;
    };
    let expired = known.renewal().1 <= now;
    let Some(token) = &config.token else {
        return if expired { Err(JoinError::Expired(known.node.to_string())) } else { Ok(known) };
    };
    let ours = known.ca_hash()?;
    if ours != token.ca {
        let folder = folder.to_string();
        return Err(JoinError::OtherCluster { node: known.node.to_string(), ours, theirs: token.ca, folder });
    }
    if expired {
        info!(node = %known.node, "the certificate has expired: joining again");
        return join(store, token, &config).await;
    }
    info!(node = %known.node, token = %token.id, "joined already: the join token is not needed and was not used");
    Ok(known)
}

async fn join(store: &Store, token: &JoinToken, config: &JoinConfig<'_>) -> Result<Identity, JoinError> {
    let key = store.key()?;
    let started = Instant::now();
    let mut failures = 0;
    let answer = loop {
        let server = &config.servers[failures as usize % config.servers.len()];
        let error = match once(token, &key, server, config.node_name).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        let delay = config.backoff.delay(failures, rand::random());
        if !matches!(error, JoinError::Unreachable { .. }) || started.elapsed() + delay > config.patience {
            return Err(error);
        }
        warn!(%error, "trying again");
        tokio::time::sleep(delay).await;
        failures += 1;
    };
    let identity = store.save(&answer, token.ca)?;
    info!(node = %identity.node, cell = identity.cell, "joined");
    Ok(identity)
}

async fn once(token: &JoinToken, key: &str, server: &str, name: &str) -> Result<proto::JoinResponse, JoinError> {
    let unreachable = |problem: String| JoinError::Unreachable { server: server.into(), problem };
    let ca_pem = tokio::time::timeout(HANDSHAKE_TIMEOUT, show_ca(server, token.ca))
        .await
        .map_err(|_| unreachable("no TLS handshake in time".into()))??;
    let wrong = |error: String| JoinError::WrongServer { server: server.into(), problem: error };
    let endpoint = edge::endpoint(server, &ca_pem, None).map_err(|e| wrong(e.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| if is_tls_verdict(&e) { wrong(chain(&e)) } else { unreachable(chain(&e)) })?;
    let mut request = tonic::Request::new(proto::JoinRequest {
        token_id: token.id.to_string(),
        token_secret: token.secret().into(),
        csr_pem: pki::node_request_for(key).map_err(|e| IdentityError::Answer(e.to_string()))?,
        node_name: name.into(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    });
    request.set_timeout(Duration::from_secs(30));
    let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    match client.join(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::ResourceExhausted => {
                unreachable(status.message().into())
            }
            _ => JoinError::Refused(status.message().into()),
        }),
    }
}

/// One throwaway handshake: the CA's certificate, if the server shows the one that the token names.
pub(crate) async fn show_ca(server: &str, ca: Digest) -> Result<String, JoinError> {
    let unreachable = |e: std::io::Error| JoinError::Unreachable { server: server.into(), problem: e.to_string() };
    let wrong = |problem: String| JoinError::WrongServer { server: server.into(), problem };
    let (config, pinned) = pki::pinned_client(ca).map_err(|e| wrong(e.to_string()))?;
    let tcp = TcpStream::connect(server).await.map_err(unreachable)?;
    let name = rustls::pki_types::ServerName::try_from(pki::SERVER_NAME).map_err(|e| wrong(e.to_string()))?;
    let handshake = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await;
    match (handshake, pinned.certificate_pem()) {
        (Ok(_), Some(pem)) => Ok(pem),
        (Err(e), _) if !is_tls_verdict(&e) => Err(unreachable(e)),
        (Err(e), _) => Err(wrong(e.to_string())),
        (Ok(_), None) => Err(wrong("it showed no CA".into())),
    }
}

/// Whether TLS said no, and not the network.
fn is_tls_verdict(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
