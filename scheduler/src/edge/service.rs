//! The agents' calls. Every call but `Join` needs a certificate of our CA whose key is the one that joined.
//!
//! in → gRPC requests · out → commands to the leader, bytes of blobs · invariant: an agent reads the model and input of
//! its own current attempts, and nothing else.

use crate::blobs::BlobError;
use crate::blobs::collect::STAGING_GRANT;
use crate::edge::session;
use crate::leader::{Leader, SubmitError};
use nightshift_state::{Command, Effect, Rejection};
use nightshift_types::{AttemptId, Bytes, Digest, InputRef, NodeId, TokenId};
use nightshift_wire::proto::agent_server::Agent;
use nightshift_wire::{CHUNK, convert, pki, proto, token};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The grant under which a running attempt's large result waits until its success is committed: nobody else's.
pub fn staging(attempt: &AttemptId) -> String {
    format!("{STAGING_GRANT}{}", attempt.to_string().replace('/', "."))
}

/// Largest result of one task.
const MAX_RESULT: Bytes = Bytes::gibi(4);
/// Joins at once: each signs a certificate, and anybody may try.
const MAX_JOINS: usize = 4;
const MAX_SCRAPE: usize = 1 << 20;

/// The service.
#[derive(Clone)]
pub struct Edge {
    leader: Leader,
    joins: Arc<Semaphore>,
}

type Stream<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

impl Edge {
    /// Speaks for this leader.
    pub fn new(leader: Leader) -> Self {
        Self { leader, joins: Arc::new(Semaphore::new(MAX_JOINS)) }
    }

    /// Who calls: named by a certificate of our CA, with the key that joined, and not revoked since.
    async fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let certificates = request.peer_certs();
        let leaf = certificates.as_ref().and_then(|chain| chain.first());
        let leaf = leaf.ok_or_else(|| Status::unauthenticated("a node's certificate is needed: join first"))?;
        let (node, key) = pki::node_of(leaf).map_err(|e| Status::unauthenticated(e.to_string()))?;
        let state = self.leader.state().await;
        match state.node(&node) {
            Some(known) if known.revoked => Err(Status::permission_denied(format!("node {node} was revoked"))),
            Some(known) if known.key_hash == key => Ok(node),
            Some(_) => Err(Status::unauthenticated(format!("node {node} joined with another key"))),
            None => Err(Status::unauthenticated(format!("node {node} is not known to this journal: join again"))),
        }
    }

    /// The namespace a blob may be read from for this attempt of this node.
    async fn readable(&self, node: &NodeId, attempt: &AttemptId, digest: &Digest) -> Result<InputRef, Status> {
        let state = self.leader.state().await;
        let denied = || Status::permission_denied(format!("{digest} is not of a current attempt of this node"));
        let running = state.current(attempt).filter(|running| running.node == *node).ok_or_else(denied)?;
        let job = state.job(&running.attempt.task.job).ok_or_else(denied)?;
        let model = InputRef { digest: job.spec.model_digest, size: job.spec.model_size };
        let input = job.spec.inputs.get(attempt.task.index as usize).copied();
        [Some(model), input].into_iter().flatten().find(|blob| blob.digest == *digest).ok_or_else(denied)
    }

    async fn admit(&self, request: &proto::JoinRequest) -> Result<NodeId, Status> {
        // One answer for every token that does not fit: which part was wrong is nobody's business.
        let refused = || {
            Status::permission_denied(
                "the join token is wrong, spent or expired: make a new one with `nightshift token create`",
            )
        };
        let id = TokenId::new(request.token_id.as_str()).map_err(|_| refused())?;
        let secret_hash = token::hash_secret(&request.token_secret);
        let key_hash = pki::csr_key_hash(&request.csr_pem).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let wanted = node_name(&request.node_name);
        // Between choosing a name and the commit another machine may take it: then the next one is tried.
        let mut answer = Err(SubmitError::Stopped);
        for _ in 0..MAX_JOINS {
            let node = {
                let state = self.leader.state().await;
                unique(wanted.clone(), |name| state.node(name).is_some())
            };
            answer = self.leader.submit(Command::SpendToken { id: id.clone(), secret_hash, key_hash, node }).await;
            if !matches!(answer, Err(SubmitError::Rejected(Rejection::NodeTaken(_)))) {
                break;
            }
        }
        match answer {
            Ok(effects) => joined(&effects).ok_or_else(refused),
            Err(SubmitError::Rejected(why)) => {
                tracing::info!(%why, "join refused");
                Err(refused())
            }
            Err(SubmitError::Stopped | SubmitError::Busy) => Err(stopped()),
        }
    }

    fn certify(&self, node: &NodeId, csr_pem: &str) -> Result<proto::JoinResponse, Status> {
        let ca = self.leader.ca();
        let certificate = ca.sign_node(csr_pem, node).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(proto::JoinResponse {
            node_id: node.to_string(),
            certificate_pem: certificate,
            ca_pem: ca.certificate_pem().to_string(),
            cell_id: self.leader.cell().to_string(),
        })
    }
}

fn joined(effects: &[Effect]) -> Option<NodeId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Joined { node, .. } => Some(node.clone()),
        _ => None,
    })
}

/// The leader is going away; the agent dials again.
pub fn stopped() -> Status {
    Status::unavailable("this scheduler is stopping")
}

/// A name that a machine wants, as a Kubernetes name.
fn node_name(wanted: &str) -> NodeId {
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = wanted.chars().take(40).map(keep).collect();
    let name = name.trim_matches(['-', '.']);
    NodeId::new(if name.is_empty() { "node" } else { name }).unwrap_or_else(|_| unreachable!("checked characters"))
}

fn unique(wanted: NodeId, taken: impl Fn(&NodeId) -> bool) -> NodeId {
    if !taken(&wanted) {
        return wanted;
    }
    let candidates = (2u32..).filter_map(|n| NodeId::new(format!("{wanted}-{n}")).ok());
    candidates.into_iter().find(|name| !taken(name)).unwrap_or(wanted)
}

#[tonic::async_trait]
impl Agent for Edge {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinResponse>, Status> {
        let _turn = self.joins.acquire().await.map_err(|_| stopped())?;
        let request = request.into_inner();
        let node = self.admit(&request).await?;
        tracing::info!(%node, token = %request.token_id, version = %convert::clip(&request.agent_version), "node joined");
        Ok(Response::new(self.certify(&node, &request.csr_pem)?))
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::JoinResponse>, Status> {
        let node = self.caller(&request).await?;
        let csr = request.into_inner().csr_pem;
        let key = pki::csr_key_hash(&csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let known = self.leader.state().await.node(&node).map(|node| node.key_hash);
        if known != Some(key) {
            return Err(Status::invalid_argument("the CSR's key is not the one this node joined with"));
        }
        Ok(Response::new(self.certify(&node, &csr)?))
    }

    type SessionStream = Stream<proto::SchedulerMessage>;
    async fn session(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.caller(&request).await?;
        let frames = session::open(self.leader.clone(), node, request.into_inner()).await?;
        Ok(Response::new(Box::pin(frames)))
    }

    type FetchBlobStream = Stream<proto::Chunk>;
    async fn fetch_blob(
        &self,
        request: Request<proto::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let node = self.caller(&request).await?;
        let request = request.into_inner();
        let attempt = convert::attempt(&request.attempt).map_err(invalid)?;
        let digest = convert::digest(&request.digest).map_err(invalid)?;
        let blob = self.readable(&node, &attempt, &digest).await?;
        if request.offset > blob.size.0 {
            return Err(Status::out_of_range(format!("offset {} is beyond {} bytes", request.offset, blob.size.0)));
        }
        let path = self.leader.blobs().file(&digest);
        let gone = |error: std::io::Error| Status::not_found(format!("{digest}: {error}"));
        let mut file = tokio::fs::File::open(path).await.map_err(gone)?;
        file.seek(std::io::SeekFrom::Start(request.offset)).await.map_err(gone)?;
        let (sender, receiver) = mpsc::channel(4);
        let sent = self.leader.metrics().blob_sent_bytes.clone();
        tokio::spawn(async move {
            loop {
                let mut data = vec![0u8; CHUNK];
                let chunk = match file.read(&mut data).await {
                    Ok(0) => return,
                    Ok(n) => {
                        data.truncate(n);
                        sent.inc_by(n as u64);
                        Ok(proto::Chunk { data })
                    }
                    Err(error) => Err(Status::data_loss(error.to_string())),
                };
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put_result(
        &self,
        request: Request<Streaming<proto::PutResultChunk>>,
    ) -> Result<Response<proto::PutResultResponse>, Status> {
        let node = self.caller(&request).await?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no chunk"))?;
        let attempt = convert::attempt(&first.attempt).map_err(invalid)?;
        let running = self.leader.state().await.current(&attempt).map(|running| running.node.clone());
        if running.as_ref() != Some(&node) {
            // The agent would try for ever, and keep what nobody wants.
            self.leader.forget_attempt(&node, &attempt);
            return Err(Status::failed_precondition(format!("{attempt} is not a current attempt of this node")));
        }
        let blobs = self.leader.blobs();
        let mut writer = blobs.writer(MAX_RESULT).await.map_err(storage)?;
        let mut next = Some(first);
        while let Some(chunk) = next {
            self.leader.metrics().blob_received_bytes.inc_by(chunk.data.len() as u64);
            writer.write(&chunk.data).await.map_err(storage)?;
            next = chunks.message().await?;
        }
        let place = staging(&attempt);
        blobs.revoke_all(&place).await.map_err(storage)?;
        let blob = blobs.finish(writer, &place, None).await.map_err(storage)?;
        Ok(Response::new(proto::PutResultResponse { blob: Some((&blob).into()) }))
    }

    async fn put_metrics(
        &self,
        request: Request<proto::PutMetricsRequest>,
    ) -> Result<Response<proto::PutMetricsResponse>, Status> {
        let node = self.caller(&request).await?;
        let request = request.into_inner();
        if request.text.len() > MAX_SCRAPE {
            return Err(Status::resource_exhausted(format!("metrics are longer than {MAX_SCRAPE} bytes")));
        }
        self.leader.scrapes().answer(&node, request.id, request.text);
        Ok(Response::new(proto::PutMetricsResponse {}))
    }
}

fn invalid(error: nightshift_wire::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn storage(error: BlobError) -> Status {
    match error {
        BlobError::TooLarge(_) => Status::resource_exhausted(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_kubernetes_names() {
        for (wanted, name) in [("Ada's PC", "ada-s-pc"), ("", "node"), ("--", "node"), ("ünïx", "n-x"), ("a.b", "a.b")]
        {
            assert_eq!(node_name(wanted).as_str(), name);
        }
        let taken = |id: &NodeId| ["pc", "pc-2"].contains(&id.as_str());
        assert_eq!(unique(NodeId::new("pc").unwrap(), taken).as_str(), "pc-3");
    }
}
