//! Judges a run from the journal as etcd keeps it, and from what agents and clients were told.
//!
//! in → rows of etcd, records of agents and clients · out → violations, each of a named invariant · invariant: shares no code
//! with the scheduler; nothing that is wrong in the journal makes it stop before the end.

pub mod decode;
mod rules;

use decode::{Attempt, Batch};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No gap, each batch with the hash of the one before, written once, the head the last one's.
    Chain,
    /// Written by whoever led at that moment, by etcd's own revisions.
    Fence,
    /// Placed once, on a node that joined, of a task that waits, within its job's parallelism.
    Placement,
    /// Each attempt that was placed ends once at most; no attempt ends that does not run.
    Ending,
    /// A success and its payment are one batch, of the placement's quote, from its payer to its node's owner.
    Settlement,
    /// Every entry sums to zero, no id twice, no account but the mint's below zero, running tasks' quotes covered.
    Points,
    /// An attempt is lost for silence after a whole lease at least.
    Lease,
    /// What was acknowledged stood in the journal then.
    Acknowledged,
    /// What was sent to an agent stood in the journal then.
    Released,
    /// In the end every job has ended, each of its tasks settled, or failed for a reason that the journal shows.
    Complete,
}

/// What is wrong, and where.
#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: Invariant,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.text)
    }
}

/// A batch as etcd has it.
#[derive(Debug, Clone)]
pub struct Row {
    /// By its key.
    pub sequence: u64,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub bytes: Vec<u8>,
}

/// Somebody was told something; `head` is the last batch of a read that began after that.
#[derive(Debug, Clone)]
pub struct Told {
    pub what: Telling,
    pub head: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Telling {
    /// An agent: its report of the attempt is settled.
    Ack { node: String, attempt: Attempt },
    /// An agent: run this.
    Assignment { node: String, attempt: Attempt },
    /// An agent was asked for a result whose report had been acknowledged.
    Again { node: String, attempt: Attempt },
    /// A client: the points are there.
    Grant { id: String },
    /// A client: the token can be spent.
    Token { id: String },
}

/// Everything there is to judge.
#[derive(Debug, Default)]
pub struct Evidence {
    pub rows: Vec<Row>,
    /// The head key: its value, and the revision that wrote it.
    pub head: Option<(Vec<u8>, i64)>,
    pub told: Vec<Told>,
    pub reigns: Reigns,
    /// What people see of each job that they applied.
    pub jobs: Vec<Seen>,
    /// The agents' lease.
    pub lease_ms: u64,
    /// Whether everything should have ended by now.
    pub ended: bool,
}

/// A job as the Kubernetes API has it: its name, its uid, and the reason of its end.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub uid: String,
    /// `Complete`, or `Failed` with its reason; none while it has not ended.
    pub ended: Option<Result<(), String>>,
    /// It is meant to fail.
    pub bad: bool,
}

/// Who held the leader's key, as etcd's history has it.
#[derive(Debug, Default, Clone)]
pub struct Reigns {
    /// A revision, and the create-revision of the key from then on; none: it was gone.
    pub changes: Vec<(i64, Option<i64>)>,
    /// The history begins here.
    pub from: i64,
}

impl Reigns {
    /// Whose the key was when something else was written; none if that is not known.
    fn at(&self, revision: i64) -> Option<Option<i64>> {
        let before = self.changes.iter().rev().find(|(changed, _)| *changed < revision);
        before.filter(|(changed, _)| *changed >= self.from).map(|(_, holder)| *holder)
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub batches: u64,
    pub leaders: usize,
    pub settled: usize,
    pub failed_attempts: usize,
    pub lost_attempts: usize,
    pub told: usize,
}

impl Evidence {
    /// Judges it.
    pub fn judge(&self) -> Verdict {
        let mut book = rules::Book::new(self.lease_ms, self.reigns.clone());
        let (mut sequence, mut hash, mut time) = (0u64, vec![0u8; 32], 0u64);
        for row in &self.rows {
            let at = row.sequence;
            let mut wrong = |text: String| book.wrong(Invariant::Chain, format!("batch {at}: {text}"));
            if at != sequence + 1 {
                wrong(format!("follows batch {sequence}"));
            }
            if row.version != 1 || row.created != row.modified {
                wrong(format!("written {} times", row.version));
            }
            sequence = at;
            match decode::batch(&row.bytes) {
                Err(error) => wrong(format!("malformed: {error}")),
                Ok(batch) => {
                    if batch.sequence != at {
                        wrong(format!("says that it is {}", batch.sequence));
                    }
                    if batch.previous != hash {
                        wrong("not the hash of the batch before".into());
                    }
                    if batch.time < time {
                        wrong(format!("time goes back by {} ms", time - batch.time));
                    }
                    time = batch.time.max(time);
                    self.take(&mut book, row, &batch);
                }
            }
            hash = Sha256::digest(&row.bytes).to_vec();
        }
        self.check_head(&mut book, sequence, &hash);
        book.told(&self.told);
        if self.ended {
            book.end(&self.jobs);
        }
        book.verdict(sequence, self.told.len())
    }

    fn take(&self, book: &mut rules::Book, row: &Row, batch: &Batch) {
        book.begin(batch.sequence, batch.time, row.modified);
        batch.events.iter().for_each(|event| book.event(event));
        book.close();
    }

    fn check_head(&self, book: &mut rules::Book, sequence: u64, hash: &[u8]) {
        let Some((bytes, modified)) = &self.head else {
            return book.wrong(Invariant::Chain, "there is no head".into());
        };
        let last = self.rows.last().map_or(0, |row| row.modified);
        match decode::head(bytes) {
            Ok((at, of)) if at == sequence && of == hash && *modified == last => {}
            Ok((at, _)) => book.wrong(
                Invariant::Chain,
                format!(
                    "the head is batch {at}, of revision {modified}; the last batch is {sequence}, of revision {last}"
                ),
            ),
            Err(error) => book.wrong(Invariant::Chain, format!("the head is malformed: {error}")),
        }
    }
}

/// How often each invariant was violated.
pub fn count(violations: &[Violation]) -> BTreeMap<Invariant, usize> {
    let mut counts = BTreeMap::new();
    for violation in violations {
        *counts.entry(violation.invariant).or_default() += 1;
    }
    counts
}
