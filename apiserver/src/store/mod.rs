//! In: writes with their expectations → out: durable revisions, objects, and the log of events that watches follow →
//! invariant: one counter for the whole store; a reader never sees what is not yet durable, and sees every event of a resource
//! once, in the order of revisions.
//!
//! `memory` holds what readers see, `writer` is the one thread that changes it, `disk` is its redb file, on `file`.

mod disk;
mod file;
mod memory;
mod writer;

use axum::body::Bytes;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use memory::{GcItem, State};

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub ns: String,
    pub name: String,
}

impl Key {
    pub fn new(ns: &str, name: &str) -> Key {
        Key { ns: ns.into(), name: name.into() }
    }
}

/// What is known of an object without reading its JSON.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub uid: String,
    pub labels: Vec<(String, String)>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// It waits for its dependents to go.
    pub foreground: bool,
    pub owners: Vec<Owner>,
}

/// An ownerReference.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owner {
    pub uid: String,
    pub api_version: String,
    pub kind: String,
}

/// A stored object: JSON in storage form.
#[derive(Debug)]
pub(crate) struct Stored {
    pub key: Key,
    pub rev: u64,
    /// The schema it was last pruned and defaulted by; reading through another one repeats that.
    pub tag: u64,
    pub meta: Meta,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// A change of one object. `object` is its state after it (of a deletion: its last state, with the deletion's revision).
#[derive(Debug)]
pub(crate) struct Event {
    pub kind: EventKind,
    pub object: Arc<Stored>,
    pub prev: Option<Arc<Stored>>,
    /// The watch line of the plain JSON form, made once for all watchers.
    pub line: OnceLock<Bytes>,
}

/// JSON text around the revision, which only the writer knows.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub head: String,
    pub tail: String,
}

impl Draft {
    fn bytes(&self, rev: u64) -> Bytes {
        Bytes::from(format!("{}{rev}{}", self.head, self.tail))
    }

    fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// What the writer must find, or else the write is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Absent,
    Rev(u64),
}

/// One write.
#[derive(Debug)]
pub(crate) struct Write {
    pub resource: Arc<str>,
    pub key: Key,
    pub expect: Expect,
    pub delete: bool,
    pub draft: Draft,
    pub meta: Meta,
    pub tag: u64,
    /// A namespace that must exist and not be terminating.
    pub inside: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    Exists,
    Conflict,
    NamespaceMissing,
    NamespaceTerminating,
    /// The disk refused; nothing changed.
    Failed(String),
    Stopped,
}

pub(crate) enum Op {
    Write(Box<Write>, oneshot::Sender<Result<Arc<Stored>, WriteError>>),
    Stop,
}

/// Bounds of the store.
const QUEUE: usize = 1024;

/// The resource key of namespaces.
pub(crate) const NAMESPACES: &str = "/namespaces";

/// The resource key of definitions.
pub(crate) const CRDS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// The store: readers' side and the queue to the writer.
pub(crate) struct Store {
    state: Arc<RwLock<State>>,
    queue: mpsc::Sender<Op>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
    bell: watch::Receiver<u64>,
}

impl Store {
    /// Opens or creates the file and reads all objects into memory.
    pub fn open(path: &Path) -> anyhow::Result<Store> {
        let (disk, rev, objects) = disk::Disk::open(path)?;
        let state = Arc::new(RwLock::new(State::load(rev, objects)));
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (ring, bell) = watch::channel(rev);
        let writer = writer::Writer { disk, state: state.clone(), inbox, ring };
        let thread = std::thread::Builder::new().name("api-writer".into()).spawn(move || writer.run())?;
        Ok(Store { state, queue, thread: std::sync::Mutex::new(Some(thread)), bell })
    }

    /// Reads under the lock. A poisoned lock is still consistent: the writer applies only finished batches.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn revision(&self) -> u64 {
        self.read(|s| s.rev)
    }

    pub fn get(&self, resource: &str, key: &Key) -> Option<Arc<Stored>> {
        self.read(|s| s.get(resource, key))
    }

    /// A receiver that changes with every event of `resource`.
    pub fn bell(&self, resource: &str) -> watch::Receiver<u64> {
        if let Some(bell) = self.read(|s| s.bell(resource)) {
            return bell;
        }
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner).make_bell(resource)
    }

    /// A receiver that changes with every event of any resource.
    pub fn any_bell(&self) -> watch::Receiver<u64> {
        self.bell.clone()
    }

    /// Takes what the garbage collector should look at.
    pub fn take_garbage(&self) -> Vec<GcItem> {
        if self.read(|s| s.garbage.is_empty()) {
            return Vec::new();
        }
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut state.garbage)
    }

    /// Writes durably; answers when the write and its batch are on disk and visible.
    pub async fn write(&self, write: Write) -> Result<Arc<Stored>, WriteError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(Op::Write(Box::new(write), answer)).await.map_err(|_| WriteError::Stopped)?;
        done.await.unwrap_or(Err(WriteError::Stopped))
    }

    /// Finishes queued writes, closes the file and ends the writer. Later writes answer `Stopped`.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let mut op = Op::Stop;
        // The queue is bounded and the writer drains it, so this ends; a plain blocking send is refused inside a runtime.
        while let Err(mpsc::error::TrySendError::Full(back)) = self.queue.try_send(op) {
            op = back;
            std::thread::yield_now();
        }
        let _ = thread.join();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
