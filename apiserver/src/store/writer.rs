//! In: the queue of writes → out: batches committed to disk, then to memory, then answered → invariant: every write in a batch
//! is checked against what the batch before it in line would leave, so expectations hold as if writes were one by one.

use super::disk::Disk;
use super::memory::{Change, State};
use super::{Expect, Key, NAMESPACES, Op, Stored, Write, WriteError};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

/// Bounds of one batch.
const BATCH_WRITES: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

pub(super) struct Writer {
    pub disk: Disk,
    pub state: Arc<RwLock<State>>,
    pub inbox: mpsc::Receiver<Op>,
    pub ring: watch::Sender<u64>,
}

type Answer = oneshot::Sender<Result<Arc<Stored>, WriteError>>;

/// What earlier writes of this batch leave: `None` is deleted.
type Pending = HashMap<(Arc<str>, Key), Option<Seen>>;

#[derive(Clone, Copy)]
struct Seen {
    rev: u64,
    deleting: bool,
}

impl Writer {
    pub fn run(mut self) {
        loop {
            let (batch, stop) = self.gather();
            if !batch.is_empty() {
                self.commit(batch);
            }
            if stop {
                return;
            }
        }
    }

    /// Waits for one write and takes all that wait with it.
    fn gather(&mut self) -> (Vec<(Box<Write>, Answer)>, bool) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = self.inbox.blocking_recv();
        loop {
            match next {
                None | Some(Op::Stop) => return (batch, true),
                Some(Op::Write(write, answer)) => {
                    bytes += write.draft.len();
                    batch.push((write, answer));
                }
            }
            if batch.len() >= BATCH_WRITES || bytes >= BATCH_BYTES {
                return (batch, false);
            }
            match self.inbox.try_recv() {
                Ok(op) => next = Some(op),
                Err(_) => return (batch, false),
            }
        }
    }

    fn commit(&self, batch: Vec<(Box<Write>, Answer)>) {
        let mut rev = self.read(|s| s.rev);
        let mut pending = Pending::new();
        let mut accepted = Vec::with_capacity(batch.len());
        for (write, answer) in batch {
            match self.check(&write, &pending) {
                Err(e) => drop(answer.send(Err(e))),
                Ok(()) => {
                    rev += 1;
                    let seen = (!write.delete).then_some(Seen { rev, deleting: write.meta.deleting });
                    pending.insert((write.resource.clone(), write.key.clone()), seen);
                    accepted.push((change(*write, rev), answer));
                }
            }
        }
        if accepted.is_empty() {
            return;
        }
        let (changes, answers): (Vec<Change>, Vec<Answer>) = accepted.into_iter().unzip();
        if let Err(e) = self.disk.commit(&changes, rev) {
            tracing::error!(error = %e, "the object database refused a batch");
            for answer in answers {
                let _ = answer.send(Err(WriteError::Failed(e.to_string())));
            }
            return;
        }
        let objects: Vec<_> = changes.iter().map(|c| c.object.clone()).collect();
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            changes.into_iter().for_each(|c| state.apply(c));
        }
        self.ring.send_replace(rev);
        for (object, answer) in objects.into_iter().zip(answers) {
            let _ = answer.send(Ok(object));
        }
    }

    fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self, resource: &Arc<str>, key: &Key, pending: &Pending) -> Option<Seen> {
        match pending.get(&(resource.clone(), key.clone())) {
            Some(seen) => *seen,
            None => self.read(|s| s.get(resource, key)).map(|o| Seen { rev: o.rev, deleting: o.meta.deleting }),
        }
    }

    fn check(&self, write: &Write, pending: &Pending) -> Result<(), WriteError> {
        if let Some(ns) = &write.inside {
            match self.seen(&Arc::from(NAMESPACES), &Key::new("", ns), pending) {
                None => return Err(WriteError::NamespaceMissing),
                Some(s) if s.deleting => return Err(WriteError::NamespaceTerminating),
                Some(_) => {}
            }
        }
        match (write.expect, self.seen(&write.resource, &write.key, pending)) {
            (Expect::Absent, None) => Ok(()),
            (Expect::Absent, Some(_)) => Err(WriteError::Exists),
            (Expect::Rev(want), Some(found)) if found.rev == want => Ok(()),
            (Expect::Rev(_), _) => Err(WriteError::Conflict),
        }
    }
}

fn change(write: Write, rev: u64) -> Change {
    let bytes = write.draft.bytes(rev);
    let object = Stored { key: write.key, rev, tag: write.tag, meta: write.meta, bytes };
    Change { resource: write.resource, delete: write.delete, object: Arc::new(object) }
}
