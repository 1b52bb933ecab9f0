//! What a journal says, read from etcd's keys with code that shares nothing with the fold: protobuf fields are taken by
//! their numbers (state/proto/journal.proto), hashes are computed here.
//! *Invariant*: anything out of order is a panic that names the batch.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// An attempt: job, index, number.
pub type Attempt = (String, u64, u64);

/// What happened, as far as settlements go.
#[derive(Debug, Default)]
pub struct Story {
    /// Batches read so far.
    pub sequence: u64,
    hash: [u8; 32],
    /// Of all of them.
    pub bytes: usize,
    /// Node of every attempt that was placed.
    pub placed: BTreeMap<Attempt, String>,
    /// Attempts that have ended, and how.
    pub ended: BTreeMap<Attempt, &'static str>,
    /// Attempt that succeeded, by job and index.
    pub succeeded: BTreeMap<(String, u64), Attempt>,
    /// Attempts that were paid.
    pub settled: BTreeSet<Attempt>,
    /// Revisions of leaders, in order.
    pub leaders: Vec<u64>,
    /// Attempts that the newest leader placed.
    pub placed_by_leader: usize,
}

/// A field: its number, and its bytes or its number.
enum Field<'a> {
    Bytes(&'a [u8]),
    Number(u64),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

/// Every field of a message, in order (protobuf's encoding: developers.google.com/protocol-buffers/docs/encoding).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (head, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(head)
            }
            other => panic!("wire type {other} is not used in the journal"),
        };
        all.push((key >> 3, field));
    }
    all
}

fn message<'a>(of: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    of.iter().find_map(|(n, field)| match field {
        Field::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

fn number(of: &[(u64, Field<'_>)], number: u64) -> u64 {
    let found = of.iter().find_map(|(n, field)| match field {
        Field::Number(value) if *n == number => Some(*value),
        _ => None,
    });
    found.unwrap_or(0)
}

fn text(of: &[(u64, Field<'_>)], number: u64) -> String {
    String::from_utf8(message(of, number).unwrap_or_default().to_vec()).unwrap()
}

fn attempt(bytes: &[u8]) -> Attempt {
    let all = fields(bytes);
    (text(&all, 2), number(&all, 3), number(&all, 4))
}

impl Story {
    /// Takes in the next batch.
    pub fn read(&mut self, bytes: &[u8]) {
        let batch = fields(bytes);
        assert_eq!(number(&batch, 2), self.sequence + 1, "a gap after batch {}", self.sequence);
        assert_eq!(message(&batch, 4), Some(&self.hash[..]), "the chain is broken at batch {}", self.sequence + 1);
        self.sequence += 1;
        self.bytes += bytes.len();
        self.hash = Sha256::digest(bytes).into();
        for (n, field) in &batch {
            if let (5, Field::Bytes(event)) = (*n, field) {
                for (kind, body) in fields(event) {
                    let Field::Bytes(body) = body else { panic!("an event is a message") };
                    self.event(kind, body);
                }
            }
        }
    }

    fn event(&mut self, kind: u64, body: &[u8]) {
        let (sequence, all) = (self.sequence, fields(body));
        let own = || attempt(message(&all, 1).expect("an attempt"));
        match kind {
            2 => {
                let revision = number(&all, 2);
                assert!(
                    self.leaders.last().is_none_or(|last| *last < revision),
                    "batch {sequence}: an old leader wrote"
                );
                self.leaders.push(revision);
                self.placed_by_leader = 0;
            }
            11 => {
                self.placed_by_leader += 1;
                let attempt = own();
                let done = self.succeeded.contains_key(&(attempt.0.clone(), attempt.1));
                assert!(!done, "batch {sequence}: {attempt:?} placed after its task had succeeded");
                assert!(
                    self.placed.insert(attempt.clone(), text(&all, 2)).is_none(),
                    "batch {sequence}: {attempt:?} twice"
                );
            }
            12 => {
                let attempt = own();
                assert!(self.placed.contains_key(&attempt), "batch {sequence}: {attempt:?} was never placed");
                assert!(
                    self.ended.insert(attempt.clone(), "succeeded").is_none(),
                    "batch {sequence}: {attempt:?} had ended"
                );
                let task = (attempt.0.clone(), attempt.1);
                assert!(self.succeeded.insert(task, attempt).is_none(), "batch {sequence}: a second success of a task");
            }
            13 => {
                let attempt = own();
                assert!(
                    self.ended.insert(attempt.clone(), "failed").is_none(),
                    "batch {sequence}: {attempt:?} had ended"
                );
            }
            16 => self.transferred(&all),
            _ => {}
        }
    }

    fn transferred(&mut self, all: &[(u64, Field<'_>)]) {
        let postings = all.iter().filter_map(|(n, field)| match field {
            Field::Bytes(posting) if *n == 2 => Some(fields(posting)),
            _ => None,
        });
        let amount = |posting: Vec<(u64, Field<'_>)>| {
            i128::from_be_bytes(message(&posting, 2).expect("an amount").try_into().expect("16 bytes"))
        };
        assert_eq!(postings.map(amount).sum::<i128>(), 0, "batch {}: points made or lost", self.sequence);
        let settlement = fields(message(all, 3).expect("the only kind of transfer is a settlement"));
        let paid = attempt(message(&settlement, 1).expect("its attempt"));
        assert_eq!(self.ended.get(&paid), Some(&"succeeded"), "batch {}: {paid:?} paid for nothing", self.sequence);
        assert!(self.settled.insert(paid.clone()), "batch {}: {paid:?} paid twice", self.sequence);
    }

    /// Successes of a job.
    pub fn successes(&self, job: &str) -> usize {
        self.succeeded.keys().filter(|(owner, _)| owner == job).count()
    }

    /// The node with most work of a job: attempts that run now, then all it was given.
    pub fn busiest(&self, job: &str) -> Option<String> {
        let mut work: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (attempt, node) in self.placed.iter().filter(|(attempt, _)| attempt.0 == job) {
            let (running, given) = work.entry(node).or_default();
            *running += usize::from(!self.ended.contains_key(attempt));
            *given += 1;
        }
        work.into_iter()
            .filter(|(_, (running, _))| *running > 0)
            .max_by_key(|(_, work)| *work)
            .map(|(node, _)| node.into())
    }

    /// Panics unless each of a job's tasks has succeeded once and was paid once, for the attempt that succeeded.
    pub fn assert_settled_once(&self, job: &str, tasks: u64) {
        let indexes: Vec<u64> =
            self.succeeded.keys().filter(|(owner, _)| owner == job).map(|(_, index)| *index).collect();
        assert_eq!(indexes, (0..tasks).collect::<Vec<_>>(), "every index, once");
        let paid: Vec<&Attempt> = self.settled.iter().filter(|attempt| attempt.0 == job).collect();
        let earned: Vec<&Attempt> = self.succeeded.values().filter(|attempt| attempt.0 == job).collect();
        assert_eq!(paid, earned, "what was paid is what succeeded");
    }
}
