//! Models and inputs, by digest.
//!
//! in → an attempt's right to a blob · out → a verified file in the cache, or verified bytes in memory · invariant: nothing
//! unverified leaves here; a digest is downloaded once however many attempts wait for it, and if the one that downloads
//! is stopped, or killed, the next continues where it was; who asks is told how far each model is.

use crate::backoff::Backoff;
use crate::cache::{Cache, Pinned};
use crate::edge::Edge;
use crate::engine::Failed;
use crate::metrics::Metrics;
use crate::progress::{Download, Progress};
use nightshift_types::{AttemptId, Bytes, Digest, FailureReason, InputRef};
use nightshift_wire::proto;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tonic::Code;
use tracing::{info, warn};

/// A stream that brings nothing for so long is given up and resumed.
const STALL: Duration = Duration::from_secs(30);
/// Tries without progress, where trying again is not certain to help.
const TRIES: u32 = 4;

type Lock = tokio::sync::Mutex<()>;

/// Downloads. Share it in an [`Arc`].
#[derive(Debug)]
pub struct Fetcher {
    edge: Edge,
    cache: Arc<Cache>,
    metrics: Metrics,
    backoff: Backoff,
    max_input: Bytes,
    flights: Mutex<HashMap<Digest, Weak<Lock>>>,
    inputs: Mutex<HashMap<Digest, Weak<Vec<u8>>>>,
    coming: Arc<Coming>,
}

/// Models under way.
#[derive(Debug)]
struct Coming {
    began: Instant,
    models: Mutex<HashMap<Digest, Progress>>,
}

impl Coming {
    fn models(&self) -> MutexGuard<'_, HashMap<Digest, Progress>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them; it is no longer under way when this is dropped.
struct Shown {
    coming: Arc<Coming>,
    digest: Digest,
}

impl Shown {
    fn add(&self, done: u64) {
        let now = self.coming.began.elapsed();
        if let Some(progress) = self.coming.models().get_mut(&self.digest) {
            progress.add(done, now);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.coming.models().remove(&self.digest);
    }
}

fn failed(message: String) -> Failed {
    Failed::new(FailureReason::FetchFailed, message)
}

impl Fetcher {
    /// Downloads over `edge` into `cache`; inputs stay in memory and are at most `max_input`.
    pub fn new(edge: Edge, cache: Arc<Cache>, metrics: Metrics, backoff: Backoff, max_input: Bytes) -> Self {
        let coming = Arc::new(Coming { began: Instant::now(), models: Mutex::default() });
        let (flights, inputs) = (Mutex::default(), Mutex::default());
        Self { edge, cache, metrics, backoff, max_input, flights, inputs, coming }
    }

    /// The models under way, and how far each is.
    pub fn downloads(&self) -> BTreeMap<Digest, Download> {
        let now = self.coming.began.elapsed();
        self.coming.models().iter().map(|(digest, progress)| (*digest, progress.at(now))).collect()
    }

    fn shown(&self, blob: &InputRef, done: u64) -> Shown {
        let (coming, digest) = (self.coming.clone(), blob.digest);
        coming.models().insert(digest, Progress::new(blob.size.0, done, coming.began.elapsed()));
        Shown { coming, digest }
    }

    /// Whoever holds it downloads; the others wait for it and then look again.
    fn flight(&self, digest: &Digest) -> Arc<Lock> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = flights.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        flights.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        flights.insert(*digest, Arc::downgrade(&lock));
        lock
    }

    /// A model's file, from the cache or the edge.
    pub async fn model(&self, attempt: &AttemptId, blob: &InputRef) -> Result<Pinned, Failed> {
        let flight = self.flight(&blob.digest);
        let _alone = flight.lock().await;
        let cached = self.cache.get(&blob.digest);
        self.metrics.cache_request(cached.is_some());
        if let Some(pinned) = cached {
            return Ok(pinned);
        }
        let room = self.cache.reserve(&blob.digest, blob.size).map_err(|e| failed(e.to_string()))?;
        let disk = |e: std::io::Error| failed(format!("the node's disk: {e}"));
        let mut sink = FileSink::open(&self.cache.part(&blob.digest)).await.map_err(disk)?;
        sink.shown = Some(self.shown(blob, sink.length));
        self.download(attempt, blob, &mut sink).await?;
        sink.file.sync_all().await.map_err(disk)?;
        info!(digest = %blob.digest, size = %blob.size.human(), "a model was fetched");
        let cache = self.cache.clone();
        let inserted = tokio::task::spawn_blocking(move || cache.insert(room)).await;
        inserted.map_err(|e| failed(e.to_string()))?.map_err(disk)
    }

    /// An input's bytes; attempts with the same input share them while one of them runs.
    pub async fn input(&self, attempt: &AttemptId, blob: &InputRef) -> Result<Arc<Vec<u8>>, Failed> {
        if blob.size > self.max_input {
            let (size, most) = (blob.size.human(), self.max_input.human());
            return Err(failed(format!("the input has {size}, this node takes at most {most}")));
        }
        let flight = self.flight(&blob.digest);
        let _alone = flight.lock().await;
        let shared = |inputs: &HashMap<Digest, Weak<Vec<u8>>>| inputs.get(&blob.digest).and_then(Weak::upgrade);
        if let Some(bytes) = shared(&self.inputs.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(bytes);
        }
        let mut sink = MemorySink::default();
        self.download(attempt, blob, &mut sink).await?;
        let bytes = Arc::new(sink.bytes);
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        inputs.retain(|_, weak| weak.strong_count() > 0);
        inputs.insert(blob.digest, Arc::downgrade(&bytes));
        Ok(bytes)
    }

    /// A cached file turned out to be damaged.
    pub fn discard(&self, damaged: Pinned) {
        self.cache.discard(damaged);
    }

    async fn download(&self, attempt: &AttemptId, blob: &InputRef, sink: &mut impl Sink) -> Result<(), Failed> {
        let (mut fruitless, mut mismatches) = (0, 0);
        loop {
            let before = sink.length();
            let problem = match self.stream(attempt, blob, sink).await {
                Ok(()) if sink.digest() == blob.digest => return Ok(()),
                Ok(()) => {
                    mismatches += 1;
                    if mismatches > 1 {
                        let message = format!("the bytes fetched are not those of {}", blob.digest);
                        return Err(Failed::new(FailureReason::DigestMismatch, message));
                    }
                    // A half from an earlier process may have been damaged on disk: once more, from the start.
                    sink.reset().await.map_err(|e| failed(format!("the node's disk: {e}")))?;
                    warn!(%attempt, digest = %blob.digest, "the bytes fetched do not match: fetching again");
                    continue;
                }
                Err(problem) => problem,
            };
            fruitless = if sink.length() > before { 0 } else { fruitless + 1 };
            if problem.last || (!problem.transient && fruitless >= TRIES) {
                return Err(failed(problem.message));
            }
            warn!(%attempt, digest = %blob.digest, problem = problem.message, "fetching was interrupted");
            tokio::time::sleep(self.backoff.delay(fruitless, rand::random())).await;
        }
    }

    /// One call, from where the sink is to the blob's size, or to where it breaks.
    async fn stream(&self, attempt: &AttemptId, blob: &InputRef, sink: &mut impl Sink) -> Result<(), Interrupted> {
        if sink.length() >= blob.size.0 {
            return Ok(());
        }
        let (attempt, digest) = (attempt.to_string(), blob.digest.to_string());
        let request = proto::FetchBlobRequest { attempt, digest, offset: sink.length() };
        let mut client = self.edge.client();
        let call = tokio::time::timeout(STALL, client.fetch_blob(request));
        let mut stream = call.await.map_err(|_| Interrupted::stalled())??.into_inner();
        loop {
            let next = tokio::time::timeout(STALL, stream.message());
            let Some(chunk) = next.await.map_err(|_| Interrupted::stalled())?? else { break };
            self.metrics.fetched.inc_by(chunk.data.len() as u64);
            if sink.length() + chunk.data.len() as u64 > blob.size.0 {
                let message = format!("{} is longer than the {} bytes announced", blob.digest, blob.size.0);
                return Err(Interrupted { message, transient: false, last: true });
            }
            sink.write(&chunk.data).await?;
        }
        if sink.length() == blob.size.0 {
            return Ok(());
        }
        let message = format!("{} ended at byte {} of {}", blob.digest, sink.length(), blob.size.0);
        Err(Interrupted { message, transient: false, last: false })
    }
}

struct Interrupted {
    message: String,
    /// The connection's fault: tried again for as long as the attempt lives.
    transient: bool,
    /// No use in trying again.
    last: bool,
}

impl Interrupted {
    fn stalled() -> Self {
        Self { message: format!("nothing came for {} s", STALL.as_secs()), transient: true, last: false }
    }
}

impl From<tonic::Status> for Interrupted {
    fn from(status: tonic::Status) -> Self {
        let last = matches!(status.code(), Code::InvalidArgument | Code::Unimplemented);
        let transient = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted);
        Self { message: format!("{:?}: {}", status.code(), status.message()), transient, last }
    }
}

impl From<std::io::Error> for Interrupted {
    fn from(error: std::io::Error) -> Self {
        Self { message: format!("the node's disk: {error}"), transient: false, last: true }
    }
}

/// Where a download goes; hashes as it grows.
trait Sink {
    fn length(&self) -> u64;
    fn digest(&self) -> Digest;
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    async fn reset(&mut self) -> std::io::Result<()>;
}

#[derive(Default)]
struct MemorySink {
    bytes: Vec<u8>,
}

impl Sink for MemorySink {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn digest(&self) -> Digest {
        Digest(Sha256::digest(&self.bytes).into())
    }
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    async fn reset(&mut self) -> std::io::Result<()> {
        self.bytes.clear();
        Ok(())
    }
}

struct FileSink {
    file: File,
    hasher: Sha256,
    length: u64,
    shown: Option<Shown>,
}

impl FileSink {
    /// Goes on with what is there.
    async fn open(path: &Path) -> std::io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut sink = Self { file: options.open(path).await?, hasher: Sha256::new(), length: 0, shown: None };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match sink.file.read(&mut buffer).await {
                Ok(0) => return Ok(sink),
                Ok(n) => {
                    sink.hasher.update(&buffer[..n]);
                    sink.length += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl FileSink {
    fn show(&self) {
        if let Some(shown) = &self.shown {
            shown.add(self.length);
        }
    }
}

impl Sink for FileSink {
    fn length(&self) -> u64 {
        self.length
    }
    fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.show();
        Ok(())
    }
    async fn reset(&mut self) -> std::io::Result<()> {
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        (self.hasher, self.length) = (Sha256::new(), 0);
        self.show();
        Ok(())
    }
}
