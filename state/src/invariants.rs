//! In: a state. Out: whether its books agree. Invariant: recomputes everything from the tasks; never changes anything.

use crate::event::JobResult;
use crate::state::{Job, State, TaskState};
use nightshift_types::{AccountId, NodeId, PicoPoints};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! ensure {
    ($what:expr, $($words:tt)*) => { if !$what { return Err(format!($($words)*)); } };
}

/// What the tasks say the indices should hold.
#[derive(Default)]
struct Books {
    waiting: BTreeSet<(u64, u32)>,
    running: BTreeMap<NodeId, BTreeSet<(u64, u32)>>,
    /// Quotes of running tasks, and those of them that the queue's own balance pays.
    reserved: BTreeMap<String, (PicoPoints, PicoPoints)>,
}

impl State {
    /// Proves the state consistent, or says what is not. Linear in its size; callable in production.
    pub fn check_invariants(&self) -> Result<(), String> {
        ensure!(self.misfits == 0, "{} events did not fit", self.misfits);
        let mut books = Books::default();
        for (number, job) in &self.jobs {
            ensure!(
                job.number == *number && self.numbers.get(&job.id) == Some(number),
                "job {}: its number is lost",
                job.id
            );
            ensure!(job.result.is_none() == self.unfinished.contains(number), "job {}: unfinished or not", job.id);
            check_job(job, &mut books).map_err(|what| format!("job {}: {what}", job.id))?;
        }
        ensure!(self.numbers.len() == self.jobs.len(), "{} job ids for {} jobs", self.numbers.len(), self.jobs.len());
        ensure!(self.unfinished.iter().all(|number| self.jobs.contains_key(number)), "an unfinished job is missing");
        ensure!(books.waiting == self.waiting, "the index of waiting tasks is not the tasks'");
        ensure!(books.running == self.running, "the index of running attempts is not the tasks'");
        let unknown = self.running.keys().find(|node| !self.nodes.contains_key(node));
        ensure!(unknown.is_none(), "work runs on unknown node {unknown:?}");
        for (id, node) in &self.nodes {
            let (good, bad) = node.evidence.millionths();
            let known = (good == 0 || node.succeeded > 0) && (bad == 0 || node.failed > 0);
            ensure!(known && node.evidence.is_possible(), "node {id}: its reputation is not of its attempts");
        }
        ensure!(self.forgotten.len() == self.forgotten_ids.len(), "the forgotten jobs differ");
        self.check_ledger(&books)
    }

    fn check_ledger(&self, books: &Books) -> Result<(), String> {
        let ledger = &self.ledger;
        let sum: PicoPoints = ledger.balances().map(|(_, amount)| amount).sum();
        ensure!(sum == PicoPoints::ZERO, "all balances together are {sum}, must be 0");
        for (account, amount) in ledger.balances() {
            let below = *account == AccountId::Mint || amount >= PicoPoints::ZERO;
            ensure!(below, "account {account} is at {amount}");
        }
        for (queue, book) in ledger.queues() {
            let (expected, drawn) = books.reserved.get(queue).copied().unwrap_or_default();
            ensure!(book.reserved == expected, "queue {queue} reserves {}, its tasks {expected}", book.reserved);
            ensure!(book.drawn == drawn, "queue {queue} draws {}, its tasks {drawn}", book.drawn);
            let balance = ledger.balance(&AccountId::Tenant(queue.to_owned()));
            ensure!(balance >= drawn, "queue {queue} has {balance}, its tasks draw {drawn}");
        }
        let earned: PicoPoints = self.nodes.values().map(|node| node.earned).sum();
        let spent: PicoPoints = ledger.queues().map(|(_, book)| book.spent).sum();
        ensure!(earned == spent, "nodes earned {earned}, queues spent {spent}");
        let accepted: u64 = self.nodes.values().map(|node| node.succeeded).sum();
        let settlements = ledger.entries() - ledger.grants();
        ensure!(accepted == settlements, "{accepted} accepted results, {settlements} settlements");
        Ok(())
    }
}

fn check_job(job: &Job, books: &mut Books) -> Result<(), String> {
    let (mut running, mut succeeded, mut failed) = (0, 0, 0);
    let (mut cost, mut reserved, mut drawn) = (PicoPoints::ZERO, PicoPoints::ZERO, PicoPoints::ZERO);
    let done = job.result.is_some();
    for (index, task) in job.tasks.iter().enumerate() {
        let index = index as u32;
        let success = matches!(task.state, TaskState::Succeeded(_));
        ensure!(task.settlements == u32::from(success), "task {index} is settled {} times", task.settlements);
        match &task.state {
            TaskState::Waiting { .. } => {
                ensure!(!done, "task {index} waits though the job is finished");
                books.waiting.insert((job.number, index));
            }
            TaskState::Running(r) => {
                ensure!(!done, "task {index} runs though the job is finished");
                let own =
                    r.attempt.task.index == index && r.attempt.task.job == job.id && r.attempt.number == task.attempts;
                ensure!(own, "task {index} runs attempt {}", r.attempt);
                running += 1;
                reserved += r.quote;
                drawn += if r.drawn { r.quote } else { PicoPoints::ZERO };
                books.running.entry(r.node.clone()).or_default().insert((job.number, index));
            }
            TaskState::Succeeded(s) => {
                succeeded += 1;
                cost += s.cost;
            }
            TaskState::Failed { .. } => failed += 1,
            TaskState::Stopped => ensure!(done, "task {index} is stopped though the job is not finished"),
        }
    }
    let book = books.reserved.entry(job.spec.queue.clone()).or_default();
    *book = (book.0 + reserved, book.1 + drawn);
    ensure!((job.running, job.succeeded, job.failed) == (running, succeeded, failed), "its counts are not its tasks'");
    ensure!((job.cost, job.reserved) == (cost, reserved), "its cost is not its tasks'");
    let per_index = job.spec.backoff_limit_per_index.is_some();
    ensure!(done || failed == 0 || per_index, "a task failed and the job did not");
    ensure!(done || (succeeded + failed) as usize != job.tasks.len(), "every task ended and the job is not finished");
    let over = job.spec.max_failed_indexes.is_some_and(|limit| failed > limit);
    ensure!(done || !over, "{failed} tasks failed, more than maxFailedIndexes, and the job did not");
    let complete = matches!(job.result, Some((JobResult::Complete, _)));
    ensure!(!complete || succeeded as usize == job.tasks.len(), "the job is complete and not every task succeeded");
    Ok(())
}
