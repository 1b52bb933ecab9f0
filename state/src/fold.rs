//! In: an event and its time. Out: the state after it. Invariant: cannot fail and reads nothing but its arguments. An
//! event that does not fit (no correct writer writes one) changes nothing but the count of misfits.

use crate::event::{Event, JobResult, JobTerms, JobUpdate, OutputRef, Timings};
use crate::hooks::planted;
use crate::ledger::{EntryKind, LedgerEntry};
use crate::state::{Failure, Job, MAX_AVOID, MAX_FORGOTTEN, Node, Running, State, Success, Task, TaskState, Token};
use nightshift_types::{AttemptId, Evidence, FailureReason, Fault, JobId, JobSpec, NodeId, PicoPoints, Timestamp};
use std::sync::Arc;

/// Whether a failure counts against `backoffLimit` and slows the next attempt; the others are nobody's doing or the node's.
pub fn counted(reason: FailureReason) -> bool {
    use FailureReason::{Cancelled, NodeLost, OwnerActive, Preempted, Refused};
    !matches!(reason, NodeLost | OwnerActive | Refused | Preempted | Cancelled)
}

impl State {
    /// Takes one event in. `time` is its batch's.
    pub fn apply(&mut self, time: Timestamp, event: &Event) {
        self.time = self.time.max(time);
        if self.fold(self.time, event).is_none() {
            self.misfits += 1;
        }
    }

    fn fold(&mut self, time: Timestamp, event: &Event) -> Option<()> {
        match event {
            Event::JournalCreated { journal, cell, format } => {
                // Again only where a backup was restored: under the new store's id, in the same cell.
                self.cell.as_ref().is_none_or(|known| known == cell).then_some(())?;
                self.journal.clone_from(journal);
                self.cell = Some(cell.clone());
                self.format = self.format.max(*format);
            }
            Event::LeaderStarted { epoch } => {
                self.epoch = Some(epoch.clone());
                self.leader_since = time;
            }
            Event::TokenCreated { id, secret_hash, expires, owner, tier } => {
                let token = Token {
                    secret_hash: *secret_hash,
                    expires: *expires,
                    owner: owner.clone(),
                    tier: *tier,
                    spent: None,
                };
                self.tokens.insert(id.clone(), token);
            }
            Event::TokenSpent { id, key_hash, node } => {
                self.tokens.get_mut(id)?.spent = Some((*key_hash, node.clone()))
            }
            Event::TokenForgotten { id } => drop(self.tokens.remove(id)?),
            Event::NodeJoined { node, owner, key_hash, tier } => self.join(time, node, owner, *key_hash, *tier)?,
            Event::NodeRevoked { node } => self.nodes.get_mut(node)?.revoked = true,
            Event::ModelProved { digest, reference } => drop(self.models.insert(*digest, *reference)),
            Event::JobAdmitted { job, spec } => self.admit(time, job, spec)?,
            Event::JobUpdated { job, update } => self.update(time, job, update)?,
            Event::TaskPlaced { attempt, node, device, memory, quote, drawn } => {
                let (attempt, node, device) = (attempt.clone(), node.clone(), device.clone());
                let (memory, quote, drawn, placed_at) = (*memory, *quote, *drawn, time);
                self.place(Running { attempt, node, device, memory, quote, drawn, placed_at })?;
            }
            Event::TaskSucceeded { attempt, output, timings } => self.succeed(time, attempt, output, timings)?,
            Event::AttemptFailed { attempt, reason, message, requeue } => {
                self.fail(time, attempt, *reason, message, *requeue)?;
            }
            Event::JobFinished { job, result } => self.finish(time, job, result)?,
            Event::JobForgotten { job } => self.forget(job)?,
            Event::Transferred { entry } => self.transfer(time, entry)?,
            Event::QueueSet { queue, budget } => self.ledger.book(queue).budget = *budget,
            Event::FormatRaised { format } => self.format = self.format.max(*format),
            // Of the journal, not of what it says.
            Event::SnapshotBegun | Event::SnapshotTaken { .. } => {}
        }
        Some(())
    }

    fn join(
        &mut self,
        joined_at: Timestamp,
        node: &NodeId,
        owner: &str,
        key_hash: [u8; 32],
        tier: nightshift_types::TrustTier,
    ) -> Option<()> {
        (!self.nodes.contains_key(node)).then_some(())?;
        let (owner, earned, evidence) = (owner.to_owned(), PicoPoints::ZERO, Evidence::default());
        self.nodes.insert(
            node.clone(),
            Node { owner, key_hash, tier, joined_at, revoked: false, earned, succeeded: 0, failed: 0, evidence },
        );
        Some(())
    }

    fn admit(&mut self, time: Timestamp, id: &JobId, spec: &Arc<JobSpec>) -> Option<()> {
        (!self.numbers.contains_key(id)).then_some(())?;
        self.admitted += 1;
        let number = self.admitted;
        let tasks = vec![Task::default(); spec.inputs.len()];
        self.waiting.extend((0..spec.completions()).map(|index| (number, index)));
        let mut job = Job {
            id: id.clone(),
            number,
            spec: spec.clone(),
            admitted_at: time,
            started_at: None,
            active_since: None,
            pending_since: None,
            tasks,
            running: 0,
            succeeded: 0,
            failed: 0,
            failures: 0,
            cost: PicoPoints::ZERO,
            reserved: PicoPoints::ZERO,
            result: None,
        };
        job.note_pending(time);
        self.jobs.insert(number, Arc::new(job));
        self.numbers.insert(id.clone(), number);
        self.unfinished.insert(number);
        Some(())
    }

    fn update(&mut self, time: Timestamp, id: &JobId, update: &JobUpdate) -> Option<()> {
        let job = Arc::make_mut(self.jobs.get_mut(self.numbers.get(id)?)?);
        let spec = Arc::make_mut(&mut job.spec);
        if spec.suspend && !update.suspend {
            job.started_at = None;
        }
        spec.generation = update.generation;
        spec.suspend = update.suspend;
        spec.parallelism = update.parallelism;
        spec.backoff_limit = update.backoff_limit;
        spec.max_failed_indexes = update.max_failed_indexes;
        spec.active_deadline = update.active_deadline;
        spec.pending_deadline = update.pending_deadline;
        if let Some(terms) = &update.terms {
            set_terms(spec, terms);
        }
        if update.suspend {
            job.active_since = None;
        }
        job.note_pending(time);
        Some(())
    }

    fn place(&mut self, running: Running) -> Option<()> {
        let index = running.attempt.task.index;
        let job = Arc::make_mut(self.jobs.get_mut(self.numbers.get(&running.attempt.task.job)?)?);
        let task = job.tasks.get_mut(index as usize)?;
        let waits = matches!(task.state, TaskState::Waiting { .. }) && job.result.is_none();
        (waits && running.attempt.number == task.attempts + 1).then_some(())?;
        task.attempts = running.attempt.number;
        job.running += 1;
        job.reserved += running.quote;
        job.started_at.get_or_insert(running.placed_at);
        job.active_since.get_or_insert(running.placed_at);
        job.pending_since = None;
        self.ledger.book(&job.spec.queue).placed(&running, job.spec.reference);
        let key = (job.number, index);
        self.waiting.remove(&key);
        match self.running.get_mut(&running.node) {
            Some(keys) => drop(keys.insert(key)),
            None => drop(self.running.insert(running.node.clone(), [key].into())),
        }
        task.state = TaskState::Running(running);
        Some(())
    }

    /// Ends a running attempt: its reservations are released and the task is left waiting. `cut`: when it ended without
    /// a result, so that the queue's usage gets back what it did not run.
    fn release(&mut self, attempt: &AttemptId, cut: Option<Timestamp>) -> Option<(u64, Running)> {
        let number = *self.numbers.get(&attempt.task.job)?;
        let job = Arc::make_mut(self.jobs.get_mut(&number)?);
        let task = job.tasks.get_mut(attempt.task.index as usize)?;
        matches!(&task.state, TaskState::Running(running) if running.attempt == *attempt).then_some(())?;
        let TaskState::Running(running) = std::mem::take(&mut task.state) else { return None };
        job.running -= 1;
        job.reserved -= running.quote;
        if cut.is_none() || !planted("reservation-kept") {
            self.ledger.book(&job.spec.queue).ended(&running, job.spec.reference, cut);
        }
        let keys = self.running.get_mut(&running.node)?;
        keys.remove(&(number, attempt.task.index));
        if keys.is_empty() {
            self.running.remove(&running.node);
        }
        Some((number, running))
    }

    fn succeed(&mut self, time: Timestamp, attempt: &AttemptId, output: &OutputRef, timings: &Timings) -> Option<()> {
        let (number, running) = self.release(attempt, None)?;
        let job = Arc::make_mut(self.jobs.get_mut(&number)?);
        if let Some(node) = self.nodes.get_mut(&running.node) {
            node.succeeded += 1;
            node.earned += running.quote;
            node.judge(&job.spec, true);
        }
        job.cost += running.quote;
        job.succeeded += 1;
        job.tasks[attempt.task.index as usize].state = TaskState::Succeeded(Success {
            attempt: running.attempt,
            node: running.node,
            output: output.clone(),
            cost: running.quote,
            timings: *timings,
            placed_at: running.placed_at,
            finished_at: time,
        });
        job.note_pending(time);
        Some(())
    }

    fn fail(
        &mut self,
        time: Timestamp,
        attempt: &AttemptId,
        reason: FailureReason,
        message: &str,
        requeue: Option<Timestamp>,
    ) -> Option<()> {
        let (number, running) = self.release(attempt, Some(time))?;
        let job = Arc::make_mut(self.jobs.get_mut(&number)?);
        // What we stopped says nothing of the node, and is no failure to tell of.
        let cancelled = matches!(reason, FailureReason::Cancelled | FailureReason::Preempted);
        if let Some(node) = self.nodes.get_mut(&running.node).filter(|_| !cancelled) {
            node.failed += 1;
            if reason.fault() == Fault::Node {
                node.judge(&job.spec, false);
            }
        }
        let task = &mut job.tasks[attempt.task.index as usize];
        task.cancelled += u32::from(cancelled);
        task.preempted += u32::from(reason == FailureReason::Preempted);
        if counted(reason) {
            task.failures += 1;
            job.failures += 1;
        }
        task.losses += u32::from(reason == FailureReason::NodeLost);
        let message = message.to_owned();
        if !cancelled {
            task.avoid.retain(|node| *node != running.node);
            task.avoid.push(running.node.clone());
            if task.avoid.len() > MAX_AVOID {
                task.avoid.remove(0);
            }
            let (attempt, node) = (running.attempt, running.node);
            task.last_failure = Some(Failure { attempt, node, reason, message: message.clone(), at: time });
        }
        match requeue {
            Some(not_before) => {
                task.state = TaskState::Waiting { not_before };
                self.waiting.insert((number, attempt.task.index));
            }
            None => {
                task.state = TaskState::Failed { reason, message };
                job.failed += 1;
            }
        }
        job.note_pending(time);
        Some(())
    }

    fn finish(&mut self, time: Timestamp, id: &JobId, result: &JobResult) -> Option<()> {
        let number = *self.numbers.get(id)?;
        self.unfinished.remove(&number).then_some(())?;
        let running: Vec<_> = self.jobs.get(&number)?.running_tasks().map(|running| running.attempt.clone()).collect();
        for attempt in &running {
            self.release(attempt, Some(time))?;
        }
        let job = Arc::make_mut(self.jobs.get_mut(&number)?);
        for (index, task) in job.tasks.iter_mut().enumerate() {
            if matches!(task.state, TaskState::Waiting { .. }) {
                task.state = TaskState::Stopped;
                self.waiting.remove(&(number, index as u32));
            }
        }
        job.result = Some((result.clone(), time));
        job.note_pending(time);
        Some(())
    }

    fn forget(&mut self, id: &JobId) -> Option<()> {
        let number = *self.numbers.get(id)?;
        (!self.unfinished.contains(&number)).then_some(())?;
        self.numbers.remove(id);
        self.jobs.remove(&number);
        self.forgotten.push_back(id.clone());
        self.forgotten_ids.insert(id.clone());
        if self.forgotten.len() > MAX_FORGOTTEN {
            let oldest = self.forgotten.pop_front()?;
            self.forgotten_ids.remove(&oldest);
        }
        Some(())
    }

    fn transfer(&mut self, time: Timestamp, entry: &LedgerEntry) -> Option<()> {
        (entry.sum() == Some(PicoPoints::ZERO)).then_some(())?;
        let mut about = String::new();
        match &entry.kind {
            EntryKind::Settlement { attempt, queue } => {
                self.settled(attempt).then_some(())?;
                let number = self.numbers.get(&attempt.task.job)?;
                let job = Arc::make_mut(self.jobs.get_mut(number)?);
                about = format!("{}/{}", job.spec.namespace, job.spec.name);
                let task = job.tasks.get_mut(attempt.task.index as usize)?;
                (task.settlements == 0).then_some(())?;
                task.settlements = 1;
                let paid = entry.postings.iter().map(|(_, amount)| *amount).filter(|amount| amount.0 > 0).sum();
                self.ledger.book(queue).settled(paid, time);
            }
            EntryKind::Grant { queue, .. } => self.ledger.note_grant(queue, entry)?,
        }
        self.ledger.post(time, entry, about);
        Some(())
    }
}

fn set_terms(spec: &mut JobSpec, terms: &JobTerms) {
    let JobTerms {
        objective,
        max_latency,
        max_price_per_hour,
        max_cost,
        memory,
        node_selector,
        tolerations,
        min_trust_tier,
        min_reputation,
        regions,
        queue,
        priority,
        min_parallelism,
    } = terms.clone();
    (spec.objective, spec.max_latency, spec.max_price_per_hour) = (objective, max_latency, max_price_per_hour);
    (spec.max_cost, spec.memory, spec.node_selector) = (max_cost, memory, node_selector);
    (spec.tolerations, spec.regions) = (tolerations, regions);
    (spec.min_trust_tier, spec.min_reputation) = (min_trust_tier, min_reputation);
    (spec.queue, spec.priority, spec.min_parallelism) = (queue, priority, min_parallelism);
}

impl Node {
    /// One more outcome for its reputation; of its owner's own work there is none to earn, and none to lose.
    fn judge(&mut self, spec: &JobSpec, good: bool) {
        if spec.queue != self.owner {
            self.evidence.add(good);
        }
    }
}

impl Job {
    fn note_pending(&mut self, time: Timestamp) {
        let paused = self.spec.suspend || self.spec.parallelism == 0;
        if self.result.is_some() || paused || self.running > 0 {
            self.pending_since = None;
        } else if self.pending_since.is_none() {
            // A task in back-off does not wait for a node.
            let not_before = self.tasks.iter().filter_map(|task| match task.state {
                TaskState::Waiting { not_before } => Some(not_before),
                _ => None,
            });
            self.pending_since = Some(not_before.min().unwrap_or(time).max(time));
        }
    }
}
