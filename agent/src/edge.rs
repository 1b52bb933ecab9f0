//! The connection to the scheduler: one HTTP/2 channel with mutual TLS for session, blobs and metrics.
//!
//! in → an address and an [`Identity`] · out → clients of the agent protocol · invariant: the peer has shown a certificate
//! of our CA for [`pki::SERVER_NAME`] before a byte of ours leaves; a dead link is noticed within two keep-alives.

use crate::identity::Identity;
use anyhow::Context;
use nightshift_types::{AttemptId, InputRef};
use nightshift_wire::proto::{self, agent_client::AgentClient};
use nightshift_wire::{CHUNK, MAX_CONTROL_FRAME, MAX_MESSAGE, convert, pki};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Twice this is less than the lease that attempts have, so that a machine that vanished costs no work.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Longest upload of one result.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest call without streams.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How to dial a scheduler, with or without a certificate of ours.
pub fn endpoint(server: &str, ca_pem: &str, identity: Option<&Identity>) -> anyhow::Result<Endpoint> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(pki::SERVER_NAME)
        .timeout(CONNECT_TIMEOUT);
    if let Some(identity) = identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
    }
    let endpoint = Endpoint::from_shared(format!("https://{server}"))
        .with_context(|| format!("{server:?} is not HOST:PORT, such as scheduler.example.org:7443"))?;
    Ok(endpoint
        .tls_config(tls)?
        .user_agent(concat!("nightshift-agent/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20))
}

/// The channel; cheap to clone, clones share it. It dials when it is used and after every loss.
#[derive(Debug, Clone)]
pub struct Edge {
    inner: Arc<RwLock<Dialled>>,
}

/// One of the schedulers leads; which one is found by trying.
#[derive(Debug)]
struct Dialled {
    servers: Vec<String>,
    /// Which of them is dialled now.
    at: usize,
    identity: Identity,
    channel: Channel,
}

impl Dialled {
    fn dial(&mut self) -> anyhow::Result<()> {
        let server = &self.servers[self.at];
        self.channel = endpoint(server, &self.identity.ca_pem, Some(&self.identity))?.connect_lazy();
        Ok(())
    }
}

impl Edge {
    /// Does not dial yet.
    pub fn new(servers: &[String], identity: &Identity) -> anyhow::Result<Self> {
        let first = servers.first().context("no server to dial")?;
        for server in servers {
            endpoint(server, &identity.ca_pem, Some(identity))?;
        }
        let channel = endpoint(first, &identity.ca_pem, Some(identity))?.connect_lazy();
        let dialled = Dialled { servers: servers.to_vec(), at: 0, identity: identity.clone(), channel };
        Ok(Self { inner: Arc::new(RwLock::new(dialled)) })
    }

    /// From now on dials with this certificate; calls under way end on the old connection.
    pub fn renew(&self, identity: &Identity) -> anyhow::Result<()> {
        let mut dialled = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        dialled.identity = identity.clone();
        dialled.dial()
    }

    /// From now on dials the next of several servers: the one before did not answer, or does not lead. Says how many
    /// there are.
    pub fn next_server(&self) -> usize {
        let mut dialled = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if dialled.servers.len() > 1 {
            dialled.at = (dialled.at + 1) % dialled.servers.len();
            // Every server's address was checked at the start.
            if let Err(error) = dialled.dial() {
                tracing::warn!(error = format!("{error:#}"), "cannot dial the next server");
            }
        }
        dialled.servers.len()
    }

    /// What is dialled now.
    pub fn server(&self) -> String {
        let dialled = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        dialled.servers[dialled.at].clone()
    }

    fn channel(&self) -> Channel {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).channel.clone()
    }

    /// For bytes.
    pub fn client(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// For the session: no frame is longer than a control frame.
    pub fn session_client(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel()).max_decoding_message_size(MAX_CONTROL_FRAME)
    }

    /// Stages a result for an attempt.
    pub async fn put_result(&self, attempt: &AttemptId, bytes: Vec<u8>) -> Result<InputRef, tonic::Status> {
        let attempt = attempt.to_string();
        let bytes = Arc::new(bytes);
        let chunks = (0..bytes.len().div_ceil(CHUNK).max(1)).map(move |i| {
            let data = bytes[i * CHUNK..bytes.len().min((i + 1) * CHUNK)].to_vec();
            proto::PutResultChunk { attempt: if i == 0 { attempt.clone() } else { String::new() }, data }
        });
        let mut client = self.client();
        let call = client.put_result(tokio_stream::iter(chunks));
        let answer = tokio::time::timeout(UPLOAD_TIMEOUT, call)
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("the result was not taken in time"))??;
        convert::blob("blob", &answer.into_inner().blob).map_err(|e| tonic::Status::internal(e.to_string()))
    }

    /// Answers a scrape.
    pub async fn put_metrics(&self, id: u64, text: String) -> Result<(), tonic::Status> {
        let mut request = tonic::Request::new(proto::PutMetricsRequest { id, text });
        request.set_timeout(CALL_TIMEOUT);
        self.client().put_metrics(request).await.map(drop)
    }

    /// A new certificate for the same key.
    pub async fn renew_certificate(&self, csr_pem: String) -> Result<proto::JoinResponse, tonic::Status> {
        let mut request = tonic::Request::new(proto::RenewRequest { csr_pem });
        request.set_timeout(CALL_TIMEOUT);
        self.client().renew(request).await.map(tonic::Response::into_inner)
    }
}
