//! In: commands. Out: batches to append, and effects that open only with the head that makes them durable.
//! Invariant: replaying the batches taken gives exactly this state; an outcome and its ledger entry share a batch.

use crate::batch::{BATCH_OVERHEAD, Batch, EVENT_OVERHEAD, EncodedBatch, Head, MAX_BATCH};
use crate::command::{Command, Effect, Placement, Rejection};
use crate::convert::encode_event;
use crate::decide::decide;
use crate::event::{Event, FORMAT, FORMAT_UNRAISED};
use crate::hooks::planted;
use crate::journal::{Journal, JournalError};
use crate::snapshot::{Frozen, Manifest};
use crate::state::State;
use nightshift_types::{CellId, Epoch, Milliseconds, Timestamp};
use std::collections::VecDeque;
use std::thread::JoinHandle;

/// An open batch older than this is closed by the next command, so that a stalled journal does not stop the clock.
const MAX_OPEN: Milliseconds = Milliseconds(1_000);

/// The state, and what of it is not yet in the journal.
///
/// The state runs ahead of the journal by [`Core::backlog`]; whoever tells others of it waits for
/// [`Core::sequence`] to be durable, as [`Submitted`] does. If an append fails for good, drop the core and recover.
#[derive(Debug)]
pub struct Core {
    state: State,
    /// After the last sealed batch.
    head: Head,
    sealed: VecDeque<EncodedBatch>,
    open: Vec<Vec<u8>>,
    open_bytes: usize,
    /// Highest of the open events'.
    open_format: u32,
    open_time: Timestamp,
    /// Those of the open events that are about snapshots.
    open_marks: Vec<Event>,
    tail: Tail,
}

/// A journal folded up to some head: what a standby holds.
#[derive(Debug, Default)]
pub struct Folded {
    state: State,
    head: Head,
    tail: Tail,
    /// The digest after the last batch that a snapshot was begun with, while a thread computes it.
    digest: Option<(u64, JoinHandle<[u8; 32]>)>,
    diverged: Option<u64>,
}

/// Bytes of batches that no snapshot holds.
#[derive(Debug, Default, Clone, Copy)]
struct Tail {
    bytes: u64,
    /// A batch that a snapshot was begun with, and the bytes up to it.
    begun: Option<(u64, u64)>,
    /// Of the newest snapshot; 0 while there is none.
    snapshot: u64,
}

impl Tail {
    fn batch(&mut self, sequence: u64, bytes: usize, events: &[Event]) {
        self.bytes += bytes as u64;
        for event in events {
            match event {
                Event::SnapshotBegun => self.begun = Some((sequence, self.bytes)),
                Event::SnapshotTaken { sequence, .. } => self.taken(*sequence),
                _ => {}
            }
        }
    }

    fn taken(&mut self, sequence: u64) {
        if let Some((_, bytes)) = self.begun.take_if(|(begun, _)| *begun == sequence) {
            self.bytes -= bytes;
        }
    }
}

impl Folded {
    /// What the batches so far say.
    pub fn state(&self) -> &State {
        &self.state
    }
    /// After the last batch that was folded.
    pub fn head(&self) -> Head {
        self.head
    }
    /// Bytes of the batches that no snapshot holds.
    pub fn tail_bytes(&self) -> u64 {
        self.tail.bytes
    }
    /// The batch at which this fold was found to be another than the leader's, if it was.
    pub fn diverged(&self) -> Option<u64> {
        self.diverged
    }

    pub(crate) fn from_snapshot(state: State, manifest: &Manifest) -> Self {
        let tail = Tail { snapshot: manifest.size, ..Tail::default() };
        Self { state, head: manifest.head, tail, ..Self::default() }
    }

    /// Folds one batch more, of so many bytes; `head` is the one it makes.
    pub fn apply(&mut self, batch: &Batch, head: Head, bytes: usize) {
        if planted("batch-skipped") && head.sequence.is_multiple_of(20) {
            self.head = head;
            return;
        }
        batch.events.iter().for_each(|event| self.state.apply(batch.time, event));
        self.head = head;
        self.tail.batch(head.sequence, bytes, &batch.events);
        self.compare(&batch.events);
        if let Some(Event::SnapshotBegun) = batch.events.last() {
            let frozen = Frozen::new(&self.state, head);
            self.digest = Some((head.sequence, std::thread::spawn(move || frozen.digest())));
        }
    }

    /// A fold that began later than the snapshot has nothing to compare.
    fn compare(&mut self, events: &[Event]) {
        for event in events {
            let Event::SnapshotTaken { sequence, digest, .. } = event else { continue };
            let Some((_, own)) = self.digest.take_if(|(begun, _)| begun == sequence) else { continue };
            if own.join().ok() != Some(*digest) {
                self.diverged.get_or_insert(*sequence);
            }
        }
    }
}

/// An answer whose effects wait for the journal.
#[derive(Debug)]
#[must_use = "its effects must be released once the journal has them"]
pub struct Submitted {
    sequence: u64,
    effects: Vec<Effect>,
    declined: Vec<(Placement, Rejection)>,
}

impl Submitted {
    /// The batch that must be durable first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
    /// Placements that were not accepted; may be acted on at once.
    pub fn declined(&self) -> &[(Placement, Rejection)] {
        &self.declined
    }
    /// The effects, if `head` (as [`Journal::append`] returned it) has them; else the answer again.
    pub fn release(self, head: &Head) -> Result<Vec<Effect>, Self> {
        if head.sequence >= self.sequence { Ok(self.effects) } else { Err(self) }
    }
}

impl Core {
    /// Folds the journal and starts leading: the first batch to append holds `LeaderStarted`.
    pub async fn recover<J: Journal>(journal: &mut J, cell: CellId, now: Timestamp) -> Result<Self, JournalError> {
        Self::take_over(Folded::default(), journal, cell, now).await
    }

    /// The same for a standby: only what it has not folded yet is read.
    pub async fn take_over<J: Journal>(
        mut folded: Folded,
        journal: &mut J,
        cell: CellId,
        now: Timestamp,
    ) -> Result<Self, JournalError> {
        crate::pass!("takeover.before");
        let head = journal.catch_up(&mut folded).await?;
        if let Some(sequence) = folded.diverged {
            return Err(JournalError::Diverged(sequence));
        }
        let (state, tail) = (folded.state, folded.tail);
        let corrupt = |what: String| JournalError::Corrupt { sequence: head.sequence, what };
        state.check_invariants().map_err(&corrupt)?;
        if head.sequence > 0 && state.journal() != journal.epoch().journal {
            return Err(corrupt(format!(
                "its events are journal {}'s, its store {}'s",
                state.journal(),
                journal.epoch().journal
            )));
        }
        if let Some(known) = state.cell().filter(|known| **known != cell) {
            return Err(JournalError::WrongCell { found: known.clone(), expected: cell });
        }
        let mut core = Self::lead(state, head, cell, journal.epoch().clone(), now);
        core.tail = tail;
        Ok(core)
    }

    /// Starts leading from a folded state and the head it was folded to.
    pub fn lead(state: State, head: Head, cell: CellId, epoch: Epoch, now: Timestamp) -> Self {
        let (sealed, open) = (VecDeque::new(), Vec::new());
        let (open_bytes, open_format) = (BATCH_OVERHEAD, 1);
        let (open_marks, tail) = (Vec::new(), Tail::default());
        let mut core = Self { state, head, sealed, open, open_bytes, open_format, open_time: now, open_marks, tail };
        let created = core.state.cell().is_none();
        let create = Event::JournalCreated { journal: epoch.journal.clone(), cell, format: FORMAT };
        core.take_in(created.then_some(create).into_iter().chain([Event::LeaderStarted { epoch }]).collect(), now);
        core
    }

    /// What is true, including what is not yet durable.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Decides a command and takes its events in. A rejection changes nothing.
    pub fn submit(&mut self, command: Command, now: Timestamp) -> Result<Submitted, Rejection> {
        if !self.open.is_empty() && now.since(self.open_time) >= MAX_OPEN {
            self.seal();
        }
        let floor = if planted("time-goes-back") { now } else { self.state.time() };
        let time = if self.open.is_empty() { now.max(floor) } else { self.open_time };
        let decision = decide(&self.state, command, time)?;
        self.take_in(decision.events, time);
        Ok(Submitted { sequence: self.sequence(), effects: decision.effects, declined: decision.declined })
    }

    /// The batch that holds the newest event: once it is durable, all of [`Core::state`] is.
    pub fn sequence(&self) -> u64 {
        self.head.sequence + u64::from(!self.open.is_empty())
    }

    /// Bytes decided and not yet taken; a caller whose journal stalls stops placing when this grows.
    pub fn backlog(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|batch| batch.bytes().len()).sum();
        sealed + if self.open.is_empty() { 0 } else { self.open_bytes }
    }

    /// Bytes of the batches that no snapshot holds: what a start from nothing has to fold.
    pub fn tail_bytes(&self) -> u64 {
        self.tail.bytes
    }

    /// Bytes of the newest snapshot; 0 while there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.tail.snapshot
    }

    /// From now on events of this version's format may be written: every scheduler that may lead must read it. Where they
    /// may already, nothing happens.
    pub fn raise_format(&mut self, now: Timestamp) {
        if self.state.format() < FORMAT {
            self.take_in(vec![Event::FormatRaised { format: FORMAT }], now.max(self.state.time()));
        }
    }

    /// Ends the batch that is open with [`Event::SnapshotBegun`]. Once all batches taken are durable, [`Core::freeze`] is
    /// what is to be snapshotted. `false`, and nothing happens, where the journal's format was not raised to it.
    pub fn begin_snapshot(&mut self, now: Timestamp) -> bool {
        let may = self.state.format() >= Event::SnapshotBegun.format();
        if may {
            self.take_in(vec![Event::SnapshotBegun], now.max(self.state.time()));
            self.seal();
        }
        may
    }

    /// The state as it is in the journal; `None` while a batch is not taken.
    pub fn freeze(&self) -> Option<Frozen> {
        (self.backlog() == 0).then(|| Frozen::new(&self.state, self.head))
    }

    /// The snapshot that was begun stands in the store.
    pub fn snapshot_taken(&mut self, manifest: &Manifest, now: Timestamp) {
        let (sequence, digest) = (manifest.head.sequence, manifest.digest);
        let event = Event::SnapshotTaken { sequence, digest, manifest: manifest.hash() };
        self.take_in(vec![event], now.max(self.state.time()));
        self.tail.snapshot = manifest.size;
    }

    /// The next batch to append, if there is anything; to be appended in the order taken, each until it is durable.
    pub fn take_batch(&mut self) -> Option<EncodedBatch> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.pop_front()
    }

    fn take_in(&mut self, events: Vec<Event>, time: Timestamp) {
        let mut rest = events.as_slice();
        while let Some(first) = rest.first() {
            let apart = planted("settled-apart");
            if apart {
                self.seal();
            }
            let more = rest[1..].iter().take_while(|event| event.follows() && !apart).count();
            let (unit, next) = rest.split_at(1 + more);
            rest = next;
            debug_assert!(
                unit.iter().all(|event| self.may_write(event)),
                "{first:?} before the journal's format was raised"
            );
            let encoded: Vec<Vec<u8>> = unit.iter().map(encode_event).collect();
            let bytes: usize = encoded.iter().map(|event| event.len() + EVENT_OVERHEAD).sum();
            debug_assert!(bytes + BATCH_OVERHEAD <= MAX_BATCH, "{first:?} and what follows is too large");
            if self.open_bytes + bytes > MAX_BATCH {
                self.seal();
            }
            if self.open.is_empty() {
                self.open_time = if planted("time-goes-back") { time } else { time.max(self.state.time()) };
            }
            self.open.extend(encoded);
            self.open_bytes += bytes;
            self.open_format = unit.iter().map(Event::format).fold(self.open_format, u32::max);
            unit.iter().for_each(|event| self.state.apply(self.open_time, event));
            let marks = unit.iter().filter(|event| matches!(event, Event::SnapshotBegun | Event::SnapshotTaken { .. }));
            self.open_marks.extend(marks.cloned());
        }
    }

    /// Whether every scheduler that may lead reads this event.
    fn may_write(&self, event: &Event) -> bool {
        let raised = self.state.format().max(FORMAT_UNRAISED);
        event.format() <= raised || matches!(event, Event::FormatRaised { .. })
    }

    fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.open);
        self.open_bytes = BATCH_OVERHEAD;
        let format = std::mem::replace(&mut self.open_format, 1);
        let marks = std::mem::take(&mut self.open_marks);
        let batch = EncodedBatch::from_events(format, self.head.sequence + 1, self.open_time, self.head.hash, events);
        self.head = batch.head();
        self.tail.batch(self.head.sequence, batch.bytes().len(), &marks);
        self.sealed.push_back(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_types::{NodeId, TokenId, TrustTier};

    #[test]
    fn what_follows_an_event_is_never_in_the_next_batch() {
        let (cell, epoch) = (CellId::new("local").unwrap(), Epoch { journal: "j".into(), revision: 1 });
        let (id, node) = (TokenId::new("t").unwrap(), NodeId::new("n").unwrap());
        let spent = Event::TokenSpent { id, key_hash: [1; 32], node: node.clone() };
        let joined = Event::NodeJoined { node, owner: "o".into(), key_hash: [1; 32], tier: TrustTier::Public };
        let mut core = Core::lead(State::default(), Head::default(), cell, epoch, Timestamp(1));
        // Room for the first alone.
        core.open_bytes = MAX_BATCH - encode_event(&spent).len() - EVENT_OVERHEAD;
        core.take_in(vec![spent.clone(), joined.clone()], Timestamp(1));
        assert_eq!(core.sealed.len(), 1);
        core.take_batch().unwrap();
        let batch = crate::Batch::decode(core.take_batch().unwrap().bytes()).unwrap();
        assert_eq!(batch.events, [spent, joined]);
    }
}
