//! What each event may say, given those before it.

use super::decode::{Attempt, Event, Finish, Task, Why};
use super::{Invariant, Reigns, Seen, Telling, Told, Verdict, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// A task that has lost so many nodes fails, and its job with it: what `POISON_LOSSES` of the scheduler promises.
const POISON: usize = 3;

#[derive(Debug, Default)]
struct Job {
    tasks: u64,
    parallelism: u64,
    queue: String,
    running: BTreeSet<Attempt>,
    settled: BTreeSet<u64>,
    failed: BTreeSet<u64>,
    /// Attempts lost with their nodes, by task.
    losses: BTreeMap<u64, usize>,
    finished: Option<Finish>,
}

#[derive(Debug)]
struct Run {
    node: String,
    quote: i128,
    drawn: bool,
    /// Batch that placed it, and the journal's time then.
    placed: (u64, u64),
    ended: Option<u64>,
}

/// Everything that was read so far, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Book {
    lease_ms: u64,
    reigns: Reigns,
    violations: Vec<Violation>,
    batch: u64,
    time: u64,
    /// etcd's revision that wrote the batch.
    modified: i64,
    /// The one that wrote the batch before.
    before: i64,
    journal: String,
    leaders: Vec<u64>,
    led_since: u64,
    /// node → owner.
    nodes: BTreeMap<String, String>,
    revoked: BTreeSet<String>,
    tokens: BTreeMap<String, u64>,
    jobs: BTreeMap<String, Job>,
    runs: BTreeMap<Attempt, Run>,
    newest: BTreeMap<Task, u64>,
    accounts: BTreeMap<String, i128>,
    drawn: BTreeMap<String, i128>,
    entries: BTreeMap<String, u64>,
    /// Successes of this batch whose payment has not come yet.
    unpaid: Vec<Attempt>,
    failed_attempts: usize,
    lost_attempts: usize,
}

impl Book {
    pub fn new(lease_ms: u64, reigns: Reigns) -> Self {
        Self { lease_ms, reigns, ..Self::default() }
    }

    pub fn wrong(&mut self, invariant: Invariant, text: String) {
        self.violations.push(Violation { invariant, text });
    }

    fn here(&mut self, invariant: Invariant, text: impl std::fmt::Display) {
        let batch = self.batch;
        self.wrong(invariant, format!("batch {batch}: {text}"));
    }

    pub fn begin(&mut self, batch: u64, time: u64, modified: i64) {
        if modified <= self.modified {
            self.wrong(Invariant::Fence, format!("batch {batch}: written before the one before it"));
        }
        self.before = std::mem::replace(&mut self.modified, modified);
        (self.batch, self.time) = (batch, time);
    }

    /// A batch is over.
    pub fn close(&mut self) {
        let writer = self.leaders.last().map(|revision| *revision as i64);
        if let Some(holder) = self.reigns.at(self.modified).filter(|holder| *holder != writer) {
            let at = self.modified;
            self.here(
                Invariant::Fence,
                format!("of leader {writer:?}, at revision {at}, when the key was {holder:?}'s"),
            );
        }
        for attempt in std::mem::take(&mut self.unpaid) {
            self.here(Invariant::Settlement, format!("{attempt:?} succeeded and was not paid"));
        }
        let below = |(account, points): (&String, &i128)| (*points < 0).then(|| (account.clone(), *points));
        let poor: Vec<_> = self.accounts.iter().filter(|(name, _)| *name != "mint").filter_map(below).collect();
        for (account, points) in poor {
            self.here(Invariant::Points, format!("{account} has {points}"));
        }
        let balance = |queue: &str| self.accounts.get(&format!("tenant/{queue}")).copied().unwrap_or_default();
        let short = |(queue, drawn): (&String, &i128)| (*drawn > balance(queue)).then(|| queue.clone());
        let over: Vec<String> = self.drawn.iter().filter_map(short).collect();
        for queue in over {
            self.here(Invariant::Points, format!("queue {queue} has promised more than it has"));
        }
    }

    pub fn event(&mut self, event: &Event) {
        if self.leaders.is_empty() && !matches!(event, Event::Leader { .. } | Event::Created { .. }) {
            self.here(Invariant::Fence, "nobody leads yet");
        }
        match event {
            Event::Created { journal } => self.journal.clone_from(journal),
            Event::Leader { journal, revision } => self.leads(journal, *revision),
            Event::Token { id } => drop(self.tokens.insert(id.clone(), self.batch)),
            Event::Joined { node, owner } => {
                if self.nodes.insert(node.clone(), owner.clone()).is_some() {
                    self.here(Invariant::Placement, format!("node {node} joined twice"));
                }
            }
            Event::Revoked { node } => drop(self.revoked.insert(node.clone())),
            Event::Admitted { job, parallelism, tasks, queue } => {
                let (tasks, parallelism, queue) = (*tasks, *parallelism, queue.clone());
                let new = Job { tasks, parallelism, queue, ..Job::default() };
                if self.jobs.insert(job.clone(), new).is_some() {
                    self.here(Invariant::Placement, format!("job {job} admitted twice"));
                }
            }
            Event::Updated { job, parallelism } => {
                self.jobs.entry(job.clone()).or_default().parallelism = *parallelism;
            }
            Event::Placed { attempt, node, quote, drawn } => self.placed(attempt, node, *quote, *drawn),
            Event::Succeeded { attempt } => self.succeeded(attempt),
            Event::Failed { attempt, reason, message, requeued } => self.failed(attempt, reason, message, *requeued),
            Event::Finished { job, how } => self.finished(job, how),
            Event::Transferred { id, postings, why } => self.transferred(id, postings, why),
            Event::Other => {}
        }
    }

    fn leads(&mut self, journal: &str, revision: u64) {
        if journal != self.journal {
            self.here(Invariant::Fence, format!("a leader of journal {journal}, not {}", self.journal));
        }
        if self.leaders.last().is_some_and(|last| *last >= revision) {
            self.here(Invariant::Fence, format!("leader {revision} after {:?}", self.leaders.last()));
        }
        // From the moment at which its key was written nobody else may write.
        if self.before > revision as i64 {
            let before = self.before;
            self.here(
                Invariant::Fence,
                format!("leader {revision} led when the batch before was written, at {before}"),
            );
        }
        self.leaders.push(revision);
        self.led_since = self.time;
    }

    fn placed(&mut self, attempt: &Attempt, node: &str, quote: i128, drawn: bool) {
        let task: Task = (attempt.0.clone(), attempt.1);
        let mut wrong = Vec::new();
        if !self.nodes.contains_key(node) || self.revoked.contains(node) {
            wrong.push(format!("on {node}, which is no node"));
        }
        let number = self.newest.entry(task).or_default();
        if attempt.2 != *number + 1 {
            wrong.push(format!("after attempt {number}"));
        }
        *number = attempt.2;
        match self.jobs.get_mut(&attempt.0) {
            None => wrong.push("of no job".into()),
            Some(job) => {
                if job.finished.is_some() || job.settled.contains(&attempt.1) || attempt.1 >= job.tasks {
                    wrong.push("of a task that has ended, or is none".into());
                }
                if job.running.iter().any(|running| running.1 == attempt.1) {
                    wrong.push("of a task that runs".into());
                }
                job.running.insert(attempt.clone());
                if job.running.len() as u64 > job.parallelism {
                    wrong.push(format!("{} at once, parallelism is {}", job.running.len(), job.parallelism));
                }
                if drawn {
                    *self.drawn.entry(job.queue.clone()).or_default() += quote;
                }
            }
        }
        let placed = (self.batch, self.time);
        let run = Run { node: node.into(), quote, drawn, placed, ended: None };
        if self.runs.insert(attempt.clone(), run).is_some() {
            wrong.push("a second time".into());
        }
        for text in wrong {
            self.here(Invariant::Placement, format!("{attempt:?} placed {text}"));
        }
    }

    /// Ends a running attempt.
    fn ended(&mut self, attempt: &Attempt) {
        let batch = self.batch;
        let Some(run) = self.runs.get_mut(attempt) else {
            return self.here(Invariant::Ending, format!("{attempt:?} ended, and was never placed"));
        };
        if let Some(before) = run.ended.replace(batch) {
            return self.here(Invariant::Ending, format!("{attempt:?} ended again: it had in batch {before}"));
        }
        let (drawn, quote) = (run.drawn, run.quote);
        if let Some(job) = self.jobs.get_mut(&attempt.0) {
            job.running.remove(attempt);
            if drawn {
                *self.drawn.entry(job.queue.clone()).or_default() -= quote;
            }
        }
    }

    fn succeeded(&mut self, attempt: &Attempt) {
        self.ended(attempt);
        self.unpaid.push(attempt.clone());
        let new = self.jobs.get_mut(&attempt.0).is_some_and(|job| job.settled.insert(attempt.1));
        if !new {
            self.here(Invariant::Ending, format!("{attempt:?}: a second success of its task"));
        }
    }

    fn failed(&mut self, attempt: &Attempt, reason: &str, message: &str, requeued: bool) {
        self.ended(attempt);
        self.failed_attempts += 1;
        if let Some(job) = self.jobs.get_mut(&attempt.0)
            && !requeued
        {
            job.failed.insert(attempt.1);
        }
        if reason != "NodeLost" {
            return;
        }
        self.lost_attempts += 1;
        if let Some(job) = self.jobs.get_mut(&attempt.0) {
            *job.losses.entry(attempt.1).or_default() += 1;
        }
        let since = self.runs.get(attempt).map_or(0, |run| run.placed.1).max(self.led_since);
        let waited = self.time.saturating_sub(since);
        if message.contains("was silent") && waited < self.lease_ms {
            self.here(
                Invariant::Lease,
                format!("{attempt:?} lost after {waited} ms, the lease is {} ms", self.lease_ms),
            );
        }
    }

    fn finished(&mut self, id: &str, how: &Finish) {
        let Some(job) = self.jobs.get_mut(id) else {
            return self.here(Invariant::Complete, format!("job {id} finished, and was never admitted"));
        };
        let again = job.finished.replace(how.clone()).is_some();
        // What still runs is over with its job.
        for attempt in std::mem::take(&mut job.running) {
            if let Some(run) = self.runs.get_mut(&attempt) {
                run.ended = Some(self.batch);
                if run.drawn {
                    *self.drawn.entry(job.queue.clone()).or_default() -= run.quote;
                }
            }
        }
        let (settled, tasks) = (job.settled.len() as u64, job.tasks);
        if again || (*how == Finish::Complete && settled != tasks) {
            self.here(Invariant::Complete, format!("job {id} finished as {how:?} with {settled} of {tasks} settled"));
        }
    }

    fn transferred(&mut self, id: &str, postings: &[(String, i128)], why: &Why) {
        if postings.iter().map(|(_, points)| points).sum::<i128>() != 0 {
            self.here(Invariant::Points, format!("entry {id} makes or loses points"));
        }
        if let Some(before) = self.entries.insert(id.into(), self.batch) {
            self.here(Invariant::Points, format!("entry {id} stands in batch {before} too"));
        }
        for (account, points) in postings {
            *self.accounts.entry(account.clone()).or_default() += points;
        }
        match why {
            Why::Grant { queue } => {
                let to = format!("tenant/{queue}");
                if !postings.iter().all(|(account, _)| *account == "mint" || *account == to) {
                    self.here(Invariant::Points, format!("grant {id} to {postings:?}"));
                }
            }
            Why::Settlement { attempt, queue } => self.settled(attempt, queue, postings),
        }
    }

    fn settled(&mut self, attempt: &Attempt, queue: &str, postings: &[(String, i128)]) {
        let Some(place) = self.unpaid.iter().position(|unpaid| unpaid == attempt) else {
            return self.here(Invariant::Settlement, format!("{attempt:?} paid, and did not succeed in this batch"));
        };
        self.unpaid.swap_remove(place);
        let Some(run) = self.runs.get(attempt) else { return };
        let owner = self.nodes.get(&run.node).cloned().unwrap_or_default();
        let payer = if run.drawn { format!("tenant/{queue}") } else { "mint".into() };
        let due = [(payer, -run.quote), (format!("owner/{owner}"), run.quote)];
        let queued = self.jobs.get(&attempt.0).is_some_and(|job| job.queue == queue);
        if postings != due || !queued {
            self.here(Invariant::Settlement, format!("{attempt:?} paid {postings:?}, due was {due:?}"));
        }
    }

    /// Whether somebody was told what the journal did not have.
    pub fn told(&mut self, told: &[Told]) {
        for Told { what, head } in told {
            let by = |batch: Option<u64>| batch.is_some_and(|batch| batch <= *head);
            let (invariant, fine) = match what {
                // Of an attempt that nobody placed, or another's: dropped.
                Telling::Ack { attempt, node } => {
                    let fine = |run: &Run| run.node != *node || by(run.ended);
                    (Invariant::Acknowledged, self.runs.get(attempt).is_none_or(fine))
                }
                Telling::Assignment { attempt, node } => {
                    let run = self.runs.get(attempt);
                    (Invariant::Released, run.is_some_and(|run| run.placed.0 <= *head && run.node == *node))
                }
                Telling::Again { .. } => (Invariant::Acknowledged, false),
                Telling::Grant { id } => (Invariant::Acknowledged, by(self.entries.get(id).copied())),
                Telling::Token { id } => (Invariant::Acknowledged, by(self.tokens.get(id).copied())),
            };
            if !fine {
                self.wrong(invariant, format!("{what:?} while the journal ended at batch {head}"));
            }
        }
    }

    /// Nothing more will come.
    pub fn end(&mut self, seen: &[Seen]) {
        let mut wrong = Vec::new();
        for Seen { name, uid, ended, bad } in seen {
            let journaled = self.jobs.get(uid).map(|job| &job.finished);
            let agree = match (ended, journaled) {
                (Some(Ok(())), Some(Some(Finish::Complete))) => !bad,
                (Some(Err(told)), Some(Some(Finish::Failed(reason)))) => {
                    told == reason && (*bad || reason == "PoisonTask")
                }
                _ => false,
            };
            if !agree {
                wrong.push(format!("job {name}, {uid}: people see {ended:?}, the journal has {journaled:?}"));
            }
        }
        for (id, job) in &self.jobs {
            let settled = job.settled.len();
            let poisoned = || job.losses.values().any(|losses| *losses >= POISON);
            match &job.finished {
                Some(Finish::Complete) => {}
                Some(Finish::Failed(reason)) if reason == "PoisonTask" && poisoned() => {}
                // One that is meant to fail.
                Some(Finish::Failed(reason)) if reason == "InputInvalid" => {}
                other => wrong.push(format!("job {id}: {settled} of {} settled, ended as {other:?}", job.tasks)),
            }
            if !job.running.is_empty() {
                wrong.push(format!("job {id}: {} attempts run for ever", job.running.len()));
            }
        }
        wrong.into_iter().for_each(|text| self.wrong(Invariant::Complete, text));
        if self.accounts.values().sum::<i128>() != 0 {
            self.wrong(Invariant::Points, "all accounts together are not zero".into());
        }
    }

    pub fn verdict(self, batches: u64, told: usize) -> Verdict {
        Verdict {
            violations: self.violations,
            batches,
            leaders: self.leaders.len(),
            settled: self.jobs.values().map(|job| job.settled.len()).sum(),
            failed_attempts: self.failed_attempts,
            lost_attempts: self.lost_attempts,
            told,
        }
    }
}
