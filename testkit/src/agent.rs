//! An agent without libtorch: joins, opens a session, and does what the test says.

use nightshift_types::{AttemptId, Epoch};
use nightshift_wire::convert::{Output, OutputPlace, Report, Timings};
use nightshift_wire::pki;
use nightshift_wire::proto::agent_client::AgentClient;
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use nightshift_wire::proto::{self, AgentMessage, SchedulerMessage};
use nightshift_wire::token::JoinToken;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};

/// A machine that joined.
#[derive(Debug, Clone)]
pub struct SimulatedAgent {
    /// Its name, as the scheduler gave it.
    pub node: String,
    /// Where it dials.
    pub address: SocketAddr,
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
}

async fn channel(address: SocketAddr, ca_pem: &str, identity: Option<Identity>) -> Result<Channel, Status> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).domain_name(pki::SERVER_NAME);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let failed = |error: tonic::transport::Error| Status::unavailable(format!("{error:?}"));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(failed)?;
    endpoint.tls_config(tls).map_err(failed)?.connect().await.map_err(failed)
}

/// A client without a certificate, as a machine that has not joined has it.
pub async fn anonymous(address: SocketAddr, ca_pem: &str) -> Result<AgentClient<Channel>, Status> {
    Ok(AgentClient::new(channel(address, ca_pem, None).await?))
}

impl SimulatedAgent {
    /// Spends a token for a key of its own.
    pub async fn join(address: SocketAddr, ca_pem: &str, token: &JoinToken, name: &str) -> Result<Self, Status> {
        let (key_pem, csr_pem) = pki::node_request().map_err(|e| Status::internal(e.to_string()))?;
        Self::join_with(address, ca_pem, token, name, key_pem, csr_pem).await
    }

    /// Spends a token for a given key.
    pub async fn join_with(
        address: SocketAddr,
        ca_pem: &str,
        token: &JoinToken,
        name: &str,
        key_pem: String,
        csr_pem: String,
    ) -> Result<Self, Status> {
        let request = proto::JoinRequest {
            token_id: token.id.to_string(),
            token_secret: token.secret().into(),
            csr_pem,
            node_name: name.into(),
            agent_version: "simulated".into(),
        };
        let answer = anonymous(address, ca_pem).await?.join(request).await?.into_inner();
        Ok(Self {
            node: answer.node_id,
            address,
            key_pem,
            certificate_pem: answer.certificate_pem,
            ca_pem: answer.ca_pem,
        })
    }

    /// The same machine, dialling another address: after a restart of the scheduler.
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// A client with its certificate.
    pub async fn client(&self) -> Result<AgentClient<Channel>, Status> {
        let identity = Identity::from_pem(&self.certificate_pem, &self.key_pem);
        Ok(AgentClient::new(channel(self.address, &self.ca_pem, Some(identity)).await?))
    }

    /// A hello with one CPU device of some memory.
    pub fn hello(&self, session_number: u64, memory_bytes: u64) -> proto::Hello {
        let device = proto::Device { name: "cpu0".into(), class: "cpu".into(), memory_bytes, ..Default::default() };
        proto::Hello {
            session_number,
            agent_version: "simulated".into(),
            devices: vec![device],
            measured: Some(proto::Measured { gigaflops: 100, ..Default::default() }),
            offer: Some(proto::Offer { price_per_hour: "0.05".into(), ..Default::default() }),
            availability: Some(proto::Availability { available: true, ..Default::default() }),
            os: "linux".into(),
            arch: "amd64".into(),
            ..Default::default()
        }
    }

    /// Opens a session and waits for its welcome.
    pub async fn open(&self, hello: proto::Hello) -> Result<SimulatedSession, Status> {
        let mut client = self.client().await?;
        let (up, frames) = mpsc::channel(64);
        let first = AgentMessage { kind: Some(Up::Hello(hello)) };
        up.send(first).await.map_err(|_| Status::internal("the frame queue is closed"))?;
        let down = client.session(ReceiverStream::new(frames)).await?.into_inner();
        let mut session = SimulatedSession { up, down, client, epoch: None };
        match session.next().await? {
            Down::Welcome(welcome) => session.epoch = welcome.epoch,
            other => return Err(Status::internal(format!("{other:?} before the welcome"))),
        }
        Ok(session)
    }
}

/// An open session.
#[derive(Debug)]
pub struct SimulatedSession {
    pub(crate) up: mpsc::Sender<AgentMessage>,
    pub(crate) down: Streaming<SchedulerMessage>,
    client: AgentClient<Channel>,
    epoch: Option<proto::Epoch>,
}

impl SimulatedSession {
    /// The epoch of the welcome.
    pub fn epoch(&self) -> Epoch {
        let epoch = self.epoch.clone().unwrap_or_default();
        Epoch { journal: epoch.journal, revision: epoch.revision }
    }

    /// The next frame, whatever it is.
    pub async fn next(&mut self) -> Result<Down, Status> {
        let frame = tokio::time::timeout(crate::PATIENCE, self.down.message()).await;
        let frame = frame.map_err(|_| Status::deadline_exceeded("no frame"))??;
        frame.and_then(|frame| frame.kind).ok_or_else(|| Status::unavailable("the session ended"))
    }

    /// The next frame that is not a ping.
    pub async fn next_of_interest(&mut self) -> Result<Down, Status> {
        loop {
            match self.next().await? {
                Down::Ping(_) => {}
                other => return Ok(other),
            }
        }
    }

    /// The next assignment.
    pub async fn assignment(&mut self) -> Result<proto::Assignment, Status> {
        loop {
            if let Down::Assignment(assignment) = self.next().await? {
                return Ok(assignment);
            }
        }
    }

    /// Waits until an attempt is acknowledged.
    pub async fn acknowledged(&mut self, attempt: &str) -> Result<(), Status> {
        loop {
            if let Down::Ack(ack) = self.next().await?
                && ack.attempt == attempt
            {
                return Ok(());
            }
        }
    }

    /// Says every 100 ms that it lives, until the session is dropped.
    pub fn keep_alive(&self) {
        let up = self.up.downgrade();
        tokio::spawn(async move {
            loop {
                let Some(up) = up.upgrade() else { return };
                let beat = AgentMessage { kind: Some(Up::Heartbeat(proto::Heartbeat::default())) };
                if up.send(beat).await.is_err() {
                    return;
                }
                drop(up);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Sends any frame.
    pub async fn send(&self, kind: Up) {
        let _ = self.up.send(AgentMessage { kind: Some(kind) }).await;
    }

    /// Reports a small result.
    pub async fn succeed(&self, attempt: &str, output: &str) {
        let place = OutputPlace::Inline(output.as_bytes().to_vec());
        self.report(attempt, Ok(Output { content_type: "application/json".into(), place })).await;
    }

    /// Reports whatever the attempt came to.
    pub async fn report(&self, attempt: &str, result: Result<Output, (nightshift_types::FailureReason, String)>) {
        let Ok(attempt) = attempt.parse::<AttemptId>() else { return };
        let timings = Timings { compute_us: 1_000, ..Timings::default() };
        let report = Report { attempt, epoch: self.epoch(), result, timings };
        self.send(Up::Outcome((&report).into())).await;
    }

    /// Fetches a blob for an attempt.
    pub async fn fetch(&mut self, attempt: &str, digest: &str, offset: u64) -> Result<Vec<u8>, Status> {
        let request = proto::FetchBlobRequest { attempt: attempt.into(), digest: digest.into(), offset };
        let mut chunks = self.client.fetch_blob(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend(chunk.data);
        }
        Ok(bytes)
    }

    /// Puts a result too large for a frame.
    pub async fn put(&mut self, attempt: &str, bytes: &[u8]) -> Result<proto::Blob, Status> {
        let attempt = attempt.to_string();
        let mut chunks: Vec<proto::PutResultChunk> = bytes
            .chunks(nightshift_wire::CHUNK)
            .map(|data| proto::PutResultChunk { attempt: String::new(), data: data.to_vec() })
            .collect();
        if let Some(first) = chunks.first_mut() {
            first.attempt = attempt;
        }
        let answer = self.client.put_result(tokio_stream::iter(chunks)).await?.into_inner();
        answer.blob.ok_or_else(|| Status::internal("no blob in the answer"))
    }
}
