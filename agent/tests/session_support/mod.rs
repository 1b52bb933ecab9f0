//! A scheduler small enough to read: the agent protocol over real mutual TLS, every message recorded, every answer the
//! test's own. And an executor that needs no libtorch.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use nightshift_agent::backoff::Backoff;
use nightshift_agent::config::Config;
use nightshift_agent::engine::{Failed, Output, Sandbox, Task, Timings};
use nightshift_agent::executor::Executor;
use nightshift_agent::hardware::Hardware;
use nightshift_agent::serve::{DataDir, ServeError, serve};
use nightshift_types::{Bytes, Device, Digest, FailureReason, Measured, NodeId};
use nightshift_wire::proto::agent_server::{Agent, AgentServer};
use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use nightshift_wire::{CHUNK, pki, token::JoinToken};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(120);
type Frames = mpsc::Sender<Result<proto::SchedulerMessage, Status>>;

/// What the scheduler remembers; survives its restarts.
pub struct World {
    pub ca: pki::CertificateAuthority,
    pub token: JoinToken,
    pub epoch: Mutex<(String, u64)>,
    pub seen: Mutex<Vec<Up>>,
    pub blobs: Mutex<HashMap<String, Vec<u8>>>,
    pub fetches: Mutex<Vec<proto::FetchBlobRequest>>,
    /// Bytes after which a fetch breaks off, once.
    pub break_after: Mutex<Option<usize>>,
    /// Bytes after which a fetch stands still, until this is `None`.
    pub hold_after: Mutex<Option<usize>>,
    pub staged: Mutex<HashMap<String, Vec<u8>>>,
    pub metrics: Mutex<Vec<proto::PutMetricsRequest>>,
    /// Hashes of the keys that asked to join.
    pub join_keys: Mutex<Vec<[u8; 32]>>,
    /// Joins that are answered by silence, as if the connection broke.
    pub lost_joins: AtomicU32,
    pub acknowledge: AtomicUsize,
    session: Mutex<Option<Frames>>,
    changed: Notify,
}

#[derive(Clone)]
pub struct Edge(Arc<World>);

fn node_of<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let certs = request.peer_certs().ok_or_else(|| Status::unauthenticated("no certificate"))?;
    Ok(pki::node_of(&certs[0]).map_err(|e| Status::unauthenticated(e.to_string()))?.0)
}

impl World {
    pub fn new() -> Arc<Self> {
        let ca = pki::CertificateAuthority::generate("test").unwrap();
        Arc::new(Self {
            token: JoinToken::generate(ca.hash()),
            ca,
            epoch: Mutex::new(("j".into(), 2)),
            seen: Mutex::default(),
            blobs: Mutex::default(),
            fetches: Mutex::default(),
            break_after: Mutex::default(),
            hold_after: Mutex::default(),
            staged: Mutex::default(),
            metrics: Mutex::default(),
            join_keys: Mutex::default(),
            lost_joins: AtomicU32::new(0),
            acknowledge: AtomicUsize::new(1),
            session: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub fn blob(&self, bytes: &[u8]) -> proto::Blob {
        let digest = Digest(Sha256::digest(bytes).into()).to_string();
        self.blobs.lock().unwrap().insert(digest.clone(), bytes.to_vec());
        proto::Blob { digest, size_bytes: bytes.len() as u64 }
    }

    pub fn assignment(&self, attempt: &str, input: &[u8], parameters: &[(&str, &str)]) -> proto::Assignment {
        let (journal, revision) = self.epoch.lock().unwrap().clone();
        proto::Assignment {
            attempt: attempt.into(),
            epoch: Some(proto::Epoch { journal, revision }),
            model: Some(proto::Model {
                file: Some(self.blob(b"a model")),
                format: "TorchScript".into(),
                method: "forward".into(),
                name: "default/test".into(),
                ..Default::default()
            }),
            input: Some(self.blob(input)),
            parameters: parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            device: "cpu0".into(),
            memory_bytes: 1 << 30,
            deadline_ms: 20_000,
            evict: Vec::new(),
        }
    }

    pub async fn tell(&self, kind: Down) {
        let frames = self.session.lock().unwrap().clone().expect("a session");
        frames.send(Ok(proto::SchedulerMessage { kind: Some(kind) })).await.unwrap();
    }

    pub async fn assign(&self, attempt: &str, input: &[u8], parameters: &[(&str, &str)]) {
        self.tell(Down::Assignment(self.assignment(attempt, input, parameters))).await;
    }

    pub async fn ack(&self, attempt: &str) {
        self.tell(Down::Ack(proto::Ack { attempt: attempt.into() })).await;
    }

    /// Waits until `found` answers; messages stay recorded.
    pub async fn wait<T>(&self, what: &str, found: impl Fn(&[Up]) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if let Some(value) = found(&self.seen.lock().unwrap()) {
                    return value;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(value) => value,
            Err(_) => {
                panic!("no {what}; seen: {:#?}", self.seen.lock().unwrap().iter().rev().take(5).collect::<Vec<_>>())
            }
        }
    }

    pub async fn hello(&self) -> proto::Hello {
        let hello = |up: &Up| if let Up::Hello(hello) = up { Some(hello.clone()) } else { None };
        self.wait("hello", |seen| seen.iter().rev().find_map(hello)).await
    }

    /// The `n`th outcome of an attempt, from 1.
    pub async fn outcome(&self, attempt: &str, n: usize) -> proto::Outcome {
        let of = |up: &Up| match up {
            Up::Outcome(outcome) if outcome.attempt == attempt => Some(outcome.clone()),
            _ => None,
        };
        self.wait(&format!("outcome {n} of {attempt}"), |seen| seen.iter().filter_map(of).nth(n - 1)).await
    }

    pub fn outcomes(&self, attempt: &str) -> usize {
        let of = |up: &&Up| matches!(up, Up::Outcome(outcome) if outcome.attempt == attempt);
        self.seen.lock().unwrap().iter().filter(of).count()
    }

    pub async fn refusal(&self, attempt: &str) -> proto::Refusal {
        let of = |up: &Up| match up {
            Up::Refusal(refusal) if refusal.attempt == attempt => Some(refusal.clone()),
            _ => None,
        };
        self.wait(&format!("refusal of {attempt}"), |seen| seen.iter().find_map(of)).await
    }

    /// The newest heartbeat says that so many bytes of an attempt's model are there.
    pub async fn downloaded(&self, attempt: &str, bytes: u64) -> proto::RunningAttempt {
        let there = |up: &Up| match up {
            Up::Heartbeat(beat) => beat.running.iter().find(|running| running.attempt == attempt).cloned(),
            _ => None,
        };
        let wanted = |running: &proto::RunningAttempt| running.download.is_some_and(|d| d.done_bytes == bytes);
        let what = format!("{bytes} bytes of the model of {attempt}");
        self.wait(&what, |seen| seen.iter().rev().find_map(there).filter(wanted)).await
    }

    pub async fn computing(&self, attempt: &str) {
        let computes = |up: &Up| match up {
            Up::Heartbeat(beat) => beat.running.iter().any(|r| r.attempt == attempt && r.phase == "Computing"),
            _ => false,
        };
        self.wait(&format!("{attempt} computing"), |seen| seen.iter().any(computes).then_some(())).await;
    }

    pub fn hellos(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|up| matches!(up, Up::Hello(_))).count()
    }
}

pub fn failure(outcome: &proto::Outcome) -> (&str, &str) {
    match &outcome.result {
        Some(proto::outcome::Result::Failure(failure)) => (&failure.reason, &failure.message),
        other => panic!("no failure: {other:?}"),
    }
}

pub fn inline(outcome: &proto::Outcome) -> Vec<u8> {
    match &outcome.result {
        Some(proto::outcome::Result::Success(success)) => match &success.output {
            Some(proto::success::Output::Inline(bytes)) => bytes.clone(),
            other => panic!("not inline: {other:?}"),
        },
        other => panic!("no success: {other:?}"),
    }
}

#[tonic::async_trait]
impl Agent for Edge {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinResponse>, Status> {
        let request = request.into_inner();
        let world = &self.0;
        if request.token_id != world.token.id.as_str() || request.token_secret != world.token.secret() {
            return Err(Status::permission_denied("unknown or spent token"));
        }
        let key = pki::csr_key_hash(&request.csr_pem).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut keys = world.join_keys.lock().unwrap();
        if keys.first().is_some_and(|first| *first != key) {
            return Err(Status::permission_denied("the token is spent"));
        }
        keys.push(key);
        if world.lost_joins.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("the answer was lost"));
        }
        sign(world, &request.csr_pem, "attic")
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::JoinResponse>, Status> {
        let node = node_of(&request)?;
        sign(&self.0, &request.into_inner().csr_pem, node.as_str())
    }

    type SessionStream = ReceiverStream<Result<proto::SchedulerMessage, Status>>;
    async fn session(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        node_of(&request)?;
        let world = self.0.clone();
        let (frames, stream) = mpsc::channel(64);
        let (journal, revision) = world.epoch.lock().unwrap().clone();
        let welcome = proto::Welcome {
            epoch: Some(proto::Epoch { journal, revision }),
            heartbeat_interval_ms: 50,
            lease_ms: 600_000,
            cell_id: "local".into(),
            ..Default::default()
        };
        let mut up = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(proto::AgentMessage { kind: Some(kind) })) = up.message().await {
                if let Up::Hello(_) = &kind {
                    let _ =
                        frames.send(Ok(proto::SchedulerMessage { kind: Some(Down::Welcome(welcome.clone())) })).await;
                    *world.session.lock().unwrap() = Some(frames.clone());
                }
                let ack = match &kind {
                    Up::Outcome(outcome) if world.acknowledge.load(Ordering::SeqCst) > 0 => {
                        Some(outcome.attempt.clone())
                    }
                    _ => None,
                };
                world.seen.lock().unwrap().push(kind);
                world.changed.notify_waiters();
                if let Some(attempt) = ack {
                    let ack = Down::Ack(proto::Ack { attempt });
                    let _ = frames.send(Ok(proto::SchedulerMessage { kind: Some(ack) })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type FetchBlobStream = ReceiverStream<Result<proto::Chunk, Status>>;
    async fn fetch_blob(
        &self,
        request: Request<proto::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        node_of(&request)?;
        let request = request.into_inner();
        self.0.fetches.lock().unwrap().push(request.clone());
        let bytes = self.0.blobs.lock().unwrap().get(&request.digest).cloned();
        let bytes = bytes.ok_or_else(|| Status::not_found("no such blob"))?;
        let rest = bytes[(request.offset as usize).min(bytes.len())..].to_vec();
        let until = self.0.break_after.lock().unwrap().take();
        let (chunks, stream) = mpsc::channel(4);
        let world = self.0.clone();
        tokio::spawn(async move {
            let held = world.hold_after.lock().unwrap().unwrap_or(0).min(rest.len());
            for data in rest[..held].chunks(CHUNK) {
                let _ = chunks.send(Ok(proto::Chunk { data: data.to_vec() })).await;
            }
            while world.hold_after.lock().unwrap().is_some() && !chunks.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let rest = &rest[held..];
            let sent = &rest[..until.unwrap_or(rest.len()).min(rest.len())];
            for data in sent.chunks(CHUNK) {
                let _ = chunks.send(Ok(proto::Chunk { data: data.to_vec() })).await;
            }
            if until.is_some() {
                let _ = chunks.send(Err(Status::unavailable("the cable was pulled"))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn put_result(
        &self,
        request: Request<Streaming<proto::PutResultChunk>>,
    ) -> Result<Response<proto::PutResultResponse>, Status> {
        node_of(&request)?;
        let mut stream = request.into_inner();
        let (mut attempt, mut bytes) = (String::new(), Vec::new());
        while let Some(chunk) = stream.message().await? {
            if bytes.is_empty() && attempt.is_empty() {
                attempt = chunk.attempt;
            }
            bytes.extend(chunk.data);
        }
        let blob =
            proto::Blob { digest: Digest(Sha256::digest(&bytes).into()).to_string(), size_bytes: bytes.len() as u64 };
        self.0.staged.lock().unwrap().insert(attempt, bytes);
        Ok(Response::new(proto::PutResultResponse { blob: Some(blob) }))
    }

    async fn put_metrics(
        &self,
        request: Request<proto::PutMetricsRequest>,
    ) -> Result<Response<proto::PutMetricsResponse>, Status> {
        node_of(&request)?;
        self.0.metrics.lock().unwrap().push(request.into_inner());
        self.0.changed.notify_waiters();
        Ok(Response::new(proto::PutMetricsResponse {}))
    }
}

fn sign(world: &World, csr: &str, node: &str) -> Result<Response<proto::JoinResponse>, Status> {
    let node = NodeId::new(node).unwrap();
    let certificate_pem = world.ca.sign_node(csr, &node).map_err(|e| Status::invalid_argument(e.to_string()))?;
    Ok(Response::new(proto::JoinResponse {
        node_id: node.to_string(),
        certificate_pem,
        ca_pem: world.ca.certificate_pem().into(),
        cell_id: "local".into(),
    }))
}

/// A running scheduler; dropping it cuts every connection, as a crash does.
pub struct Scheduler {
    runtime: Option<tokio::runtime::Runtime>,
    pub address: SocketAddr,
}

impl Scheduler {
    pub fn start(world: &Arc<World>) -> Self {
        Self::start_at(world, "127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(world: &Arc<World>, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (certificate, key) = world.ca.server_identity(&[]).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(world.ca.certificate_pem()))
            .client_auth_optional(true);
        let edge = Edge(world.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            // The one that crashed may still be letting go of the address.
            let listener = loop {
                match tokio::net::TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            sender.send(listener.local_addr().unwrap()).unwrap();
            let service = AgentServer::new(edge);
            let server = Server::builder().tls_config(tls).unwrap().add_service(service);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        let address = receiver.recv().unwrap();
        Self { runtime: Some(runtime), address }
    }

    pub fn crash(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers with the input, or as the parameters say: `sleep` until the deadline, `pause` so many milliseconds, `size` bytes, `damaged` once.
#[derive(Default)]
pub struct Fake {
    pub runs: AtomicUsize,
}

#[tonic::async_trait]
impl Executor for Fake {
    async fn run(&self, task: Task, cancel: CancellationToken) -> Result<Output, Failed> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let model = std::fs::read(&task.model_path).unwrap();
        assert!(model == b"a model" || Digest(Sha256::digest(&model).into()) == task.model_digest);
        if task.parameters.contains_key("sleep") {
            tokio::select! {
                () = cancel.cancelled() => return Err(Failed::new(FailureReason::Cancelled, "killed")),
                () = tokio::time::sleep(task.deadline) => return Err(Failed::new(FailureReason::DeadlineExceeded, "late")),
            }
        }
        if let Some(pause) = task.parameters.get("pause") {
            tokio::time::sleep(Duration::from_millis(pause.parse().unwrap())).await;
        }
        if task.parameters.contains_key("damaged") && run == 0 {
            return Err(Failed::new(FailureReason::DigestMismatch, "the file on disk is damaged"));
        }
        assert!(!task.parameters.contains_key("panic"), "as asked");
        let bytes = match task.parameters.get("size") {
            Some(size) => vec![7; size.parse().unwrap()],
            None => task.input,
        };
        Ok(Output { bytes, content_type: "text/plain".into(), timings: Timings::default() })
    }
    fn loaded(&self) -> Vec<(Digest, String)> {
        Vec::new()
    }
    fn workers_started(&self) -> u64 {
        0
    }
    async fn evict(&self, _: Digest) -> usize {
        0
    }
    async fn evict_idle(&self) -> usize {
        0
    }
    async fn release(&self) {}
    async fn shutdown(&self) {}
}

/// An agent in this process.
pub struct Running {
    pub stop: CancellationToken,
    pub executor: Arc<Fake>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

pub fn config(world: &World, address: SocketAddr, dir: &Path) -> Config {
    let mut config = Config::new(address.to_string(), dir);
    config.token = Some(world.token.clone());
    config.limits.backoff = Backoff { least: Duration::from_millis(10), most: Duration::from_millis(200) };
    config.grace = Duration::from_millis(200);
    config.join_patience = Duration::from_secs(5);
    config
}

pub fn start(config: Config) -> Running {
    let (stop, executor) = (CancellationToken::new(), Arc::new(Fake::default()));
    let (cancel, engine) = (stop.clone(), executor.clone());
    let task = tokio::spawn(async move {
        let data = DataDir::open(&config.data_dir)?;
        let identity = data.identity(&config).await?;
        let device = Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() };
        let free_memory = |d: &Device| d.memory;
        let (measured, sandbox) = (Measured::default(), Sandbox::default());
        let hardware = Hardware { devices: vec![device], measured, free_memory, sandbox };
        serve(&config, &data, identity, hardware, engine, cancel).await
    });
    Running { stop, executor, task }
}

impl Running {
    pub async fn stopped(self) -> Result<(), ServeError> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it stops").unwrap()
    }
    pub async fn ended(self) -> Result<(), ServeError> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap()
    }
}

/// Outcomes in an agent's outbox.
pub fn outbox(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("outbox")).map_or(0, |files| files.count())
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not in time: {what}");
}
