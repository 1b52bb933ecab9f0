//! The leader's turn: what everything waits for passes through here, in this order: decide, plan, commit, release.
//!
//! in → gathered commands, the time · out → appended batches, released effects · invariant: nothing is released before
//! the batch that holds it is durable.

use super::trouble::{Reason, SLOW};
use super::{Ask, Lead, Shared};
use crate::cycle::{self, Cycle};
use crate::dispatch::deadline;
use crate::displace::{self, Displaced};
use crate::metrics::Metrics;
use nightshift_placement::WhyNot;
use nightshift_placement::queue::{Held, Order};
use nightshift_state::hooks::planted;
use nightshift_state::{
    Command, Core, Effect, EncodedBatch, Head, Journal, JournalError, Outcome, Rejection, State, Submitted, pass,
};
use nightshift_types::{AttemptId, Bytes, FailureReason, JobId, Milliseconds, NodeId, TaskId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Commands decided in one batch.
const MAX_GATHERED: usize = 1024;
/// Longest time without a look at leases, deadlines and back-off.
const TICK: Duration = Duration::from_millis(250);
/// Without news a plan is made again this often: back-offs end by time alone.
const REPLAN: Duration = Duration::from_millis(500);
/// After a plan the next one waits so many times as long as that took: where a plan of many jobs takes long, news are
/// planned together, and the leader has most of its time for commands. A small pool's plan takes microseconds.
const PACE: u32 = 3;
/// What time alone asks for is looked for this often.
const TIMED: Duration = Duration::from_millis(100);

/// A job's numbers change with every plan; its object follows them this often, and at once when a reason changes.
const TELL: Milliseconds = Milliseconds(5_000);

/// Why a job's tasks wait, as of the last look.
#[derive(Debug)]
pub(super) struct Noted {
    pub why: WhyNot,
    /// When its object was last told.
    told: Timestamp,
}

impl Noted {
    /// Whether another verdict says more than other numbers.
    fn differs(&self, other: &WhyNot) -> bool {
        let kinds = |why: &WhyNot| why.counts.iter().fold(0u64, |kinds, count| kinds | 1 << (count.kind as u64));
        self.why.admitted_reason() != other.admitted_reason() || kinds(&self.why) != kinds(other)
    }
}

/// When the leader did last what need not be done in each turn.
#[derive(Debug)]
pub(super) struct Pace {
    /// The last plan began.
    planned: Instant,
    /// No plan before.
    not_before: Instant,
    /// There is news that no plan saw.
    news: bool,
    timed: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self { planned: now, not_before: now, news: true, timed: now - TIMED }
    }
}

impl<J: Journal> Lead<J> {
    /// Leads until `shutdown`, or until the fence is lost, which ends the process: what was decided since is void.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), JournalError> {
        let led = self.lead(shutdown).await;
        self.keep.stop().await;
        // It holds the journal's store open.
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).take();
        led?;
        self.shared.metrics.leader.set(0);
        // A standby need not wait for the lease; where that fails it does.
        if let Err(error) = self.journal.resign().await {
            tracing::warn!(%error, "the lead was not given away: it ends with its lease");
        }
        Ok(())
    }

    async fn lead(&mut self, shutdown: CancellationToken) -> Result<(), JournalError> {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.shared.metrics.leader.set(1);
        let mut lost = std::pin::pin!(self.journal.lost());
        loop {
            let mut gathered = Vec::new();
            // A plan that is due wakes the leader when it may be made.
            let due = if self.pace.news { self.pace.not_before } else { Instant::now() + TICK };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = &mut lost => {
                    return Err(JournalError::LostFence("its lease ran out".into()));
                }
                count = self.asks.recv_many(&mut gathered, MAX_GATHERED) => if count == 0 { break },
                () = self.shared.wake.notified() => self.pace.news = true,
                () = tokio::time::sleep_until(due.into()), if self.pace.news => {}
                _ = timer.tick() => self.pace.news |= self.pace.planned.elapsed() >= REPLAN,
            }
            self.pace.news |= !gathered.is_empty();
            self.turn(gathered, &shutdown).await?;
        }
        Ok(())
    }

    /// Decide, commit, release: the way of everything.
    #[tracing::instrument(level = "debug", skip_all, fields(asks = gathered.len()))]
    async fn turn(&mut self, gathered: Vec<Ask>, shutdown: &CancellationToken) -> Result<(), JournalError> {
        let started = Instant::now();
        let shared = self.shared.clone();
        let now = shared.clock.now();
        shared.metrics.commands_waiting.set(self.asks.len() as i64);
        let mut core = shared.core.write().await;
        let (mut answered, mut asked) = (Vec::new(), Vec::new());
        for Ask { command, reply } in gathered {
            let Some(command) = command else {
                asked.push(reply);
                continue;
            };
            count(&shared.metrics, core.state(), &command);
            match core.submit(command, now) {
                Ok(submitted) => answered.push((Some(reply), submitted)),
                Err(rejection) => drop(reply.send(Err(rejection))),
            }
        }
        if self.pace.timed.elapsed() >= TIMED {
            self.pace.timed = started;
            for command in timed(core.state(), &shared, now) {
                count(&shared.metrics, core.state(), &command);
                answered.extend(core.submit(command, now).ok().map(|submitted| (None, submitted)));
            }
            // A lost lease or a passed deadline is news too.
            self.pace.news |= core.backlog() > 0;
        }
        if self.pace.news && Instant::now() >= self.pace.not_before {
            (self.pace.news, self.pace.planned) = (false, Instant::now());
            answered
                .extend(place(&mut self.cycle, &mut core, &shared, now).into_iter().map(|submitted| (None, submitted)));
            self.pace.not_before = Instant::now() + self.pace.planned.elapsed() * PACE;
        }
        self.keep.before(&mut core, now).await;
        if planted("released-early") {
            let all = Head { sequence: u64::MAX, ..Head::default() };
            answer(&shared, core.state(), all, std::mem::take(&mut answered));
        }
        let committed = match self.commit(&mut core, &shared, shutdown).await {
            Ok(committed) => committed,
            Err(error) => {
                // What was decided is void. Whoever waits for the state would read it as a fact, and tell others: they wait
                // until this process ends.
                std::mem::forget(core);
                return Err(error);
            }
        };
        if !asked.is_empty() {
            // An append would say so too; this costs one read, seldom.
            persevere(&mut self.journal, Write::Nothing, &shared, shutdown).await?;
            asked.into_iter().for_each(|reply| drop(reply.send(Ok(Vec::new()))));
        }
        if committed {
            shared.metrics.cycle_seconds.observe(started.elapsed().as_secs_f64());
        }
        gauge(&shared.metrics, core.state());
        pass!("release.before");
        let core = core.downgrade();
        answer(&shared, core.state(), self.journal.head(), answered);
        Ok(())
    }
}

impl<J: Journal> Lead<J> {
    /// Makes all that was decided durable; whether there was anything.
    async fn commit(
        &mut self,
        core: &mut Core,
        shared: &Shared,
        shutdown: &CancellationToken,
    ) -> Result<bool, JournalError> {
        let mut committed = false;
        while let Some(batch) = core.take_batch() {
            append(&mut self.journal, &batch, shared, shutdown).await?;
            committed = true;
        }
        self.keep.after(core);
        Ok(committed)
    }
}

/// Appends until the batch is durable.
async fn append<J: Journal>(
    journal: &mut J,
    batch: &EncodedBatch,
    shared: &Shared,
    shutdown: &CancellationToken,
) -> Result<Head, JournalError> {
    let started = Instant::now();
    let head = persevere(journal, Write::Batch(batch), shared, shutdown).await?;
    shared.metrics.appended(Bytes(batch.bytes().len() as u64), started.elapsed());
    Ok(head)
}

/// What the store is asked to do.
#[derive(Clone, Copy)]
enum Write<'a> {
    Batch(&'a EncodedBatch),
    /// Only whether we still lead.
    Nothing,
}

/// Asks a store that does not answer again, until it does, the lead is lost, or we are asked to stop. Meanwhile everybody
/// can learn what the trouble is.
async fn persevere<J: Journal>(
    journal: &mut J,
    write: Write<'_>,
    shared: &Shared,
    shutdown: &CancellationToken,
) -> Result<Head, JournalError> {
    let mut lost = std::pin::pin!(journal.lost());
    let slow = Instant::now() + SLOW;
    loop {
        // An append that is dropped is looked up before the next one.
        let answer = {
            let mut answer = std::pin::pin!(ask(journal, write));
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer,
                    () = &mut lost => {
                        return Err(JournalError::LostFence("it could not be renewed for a whole lease".into()));
                    }
                    () = tokio::time::sleep_until(slow.into()), if !shared.troubles.is_in_trouble() => {
                        shared.in_trouble(Reason::Slow, &format!("no answer for {} s", SLOW.as_secs()));
                    }
                }
            }
        };
        match answer {
            Err(error) if error.retryable() && !shutdown.is_cancelled() => {
                let reason = Reason::of(&error);
                shared.in_trouble(reason, &error.to_string());
                shared.metrics.append_errors.inc();
                tokio::select! { () = tokio::time::sleep(reason.retry()) => {}, () = shutdown.cancelled() => {} }
            }
            end => {
                if end.is_ok() {
                    shared.out_of_trouble();
                }
                return end;
            }
        }
    }
}

async fn ask<J: Journal>(journal: &mut J, write: Write<'_>) -> Result<Head, JournalError> {
    match write {
        Write::Batch(batch) => journal.append(batch).await,
        Write::Nothing => journal.confirm().await.map(|()| journal.head()),
    }
}

type Answered = (Option<oneshot::Sender<Result<Vec<Effect>, Rejection>>>, Submitted);

fn answer(shared: &Shared, state: &State, head: Head, answered: Vec<Answered>) {
    for (reply, submitted) in answered {
        // Every batch taken was appended, so nothing can be left unreleased.
        let Ok(effects) = submitted.release(&head) else {
            tracing::error!("an effect was not released: its batch is not in the journal");
            continue;
        };
        shared.release(state, &effects);
        if let Some(reply) = reply {
            let _ = reply.send(Ok(effects));
        }
    }
}

/// What time alone asks for: leases that ran out, attempts and jobs beyond their deadlines.
fn timed(state: &State, shared: &Shared, now: Timestamp) -> Vec<Command> {
    let lease = shared.lease();
    let mut lost: BTreeMap<&NodeId, (Vec<AttemptId>, bool)> = BTreeMap::new();
    for running in state.running() {
        let heard = shared.nodes.last_heard(&running.node).unwrap_or_default();
        // Each attempt has one whole lease, also on a node that was silent when it was placed, and after the journal was in
        // trouble: nobody could be heard to the end meanwhile.
        let one_whole = state.leader_since().max(running.placed_at).max(shared.troubles.over_since());
        let since = if planted("lease-ignored") { heard } else { heard.max(one_whole) };
        let silent = now.since(since).0 > lease.0;
        let limit = state.job(&running.attempt.task.job).map(|job| deadline(&job.spec).0.saturating_add(lease.0));
        let begun = running.placed_at.max(state.leader_since());
        if silent || limit.is_some_and(|limit| now.since(begun).0 > limit) {
            let entry = lost.entry(&running.node).or_default();
            entry.0.push(running.attempt.clone());
            entry.1 |= silent;
        }
    }
    let lose = |(node, (attempts, silent)): (&NodeId, (Vec<AttemptId>, bool))| {
        let message = if silent {
            format!("node {node} was silent for more than {} s", lease.0 / 1000)
        } else {
            format!("node {node} did not end the attempt by its deadline")
        };
        Command::LoseAttempts { node: node.clone(), attempts: Some(attempts), message }
    };
    let mut commands: Vec<Command> = lost.into_iter().map(lose).collect();
    let attempts = displace::drained(state, &shared.tenants.all());
    if !attempts.is_empty() {
        commands.push(Command::Drain { attempts, message: "its queue was stopped: stopPolicy HoldAndDrain".into() });
    }
    commands.push(Command::ExpireDeadlines);
    commands
}

/// Plans, and hands the plan to the core: a placement that lost a race is declined there and planned again.
fn place(cycle: &mut Cycle, core: &mut Core, shared: &Shared, now: Timestamp) -> Vec<Submitted> {
    if core.state().waiting_count() == 0 {
        shared.metrics.unschedulable.set(0);
        return Vec::new();
    }
    if !shared.tenants.listed() {
        return Vec::new();
    }
    // The core's time never goes back; what it would decide is what is planned.
    let now = now.max(core.state().time());
    let decided = cycle.decide(core.state(), &shared.nodes, &shared.tenants.all(), now, shared.lease());
    note_verdicts(shared, decided.verdicts, now);
    note_held(shared, &decided.order);
    let mut submitted = Vec::new();
    for Displaced { attempts, message } in decided.displaced {
        tracing::info!(%message, "preempted");
        let command = Command::Preempt { attempts, message };
        submitted.extend(core.submit(command, now));
    }
    if !submitted.is_empty() {
        shared.wake.notify_one();
    }
    if decided.placements.is_empty() {
        return submitted;
    }
    let planned: BTreeSet<TaskId> = decided.placements.iter().map(|placement| placement.task.clone()).collect();
    let Ok(placed) = core.submit(Command::Place(decided.placements), now) else { return submitted };
    let declined: BTreeSet<&TaskId> = placed.declined().iter().map(|(placement, _)| &placement.task).collect();
    cycle.committed(&decided.order, |task| planned.contains(task) && !declined.contains(task), declined.len());
    // There may be more to place: the request limit was reached, a job that fits again showed one task only, a gang that has
    // started may go on, or what was declined is free for others. Where all was declined nothing is different.
    if declined.len() < planned.len() {
        shared.wake.notify_one();
    }
    submitted.push(placed);
    submitted
}

fn note_verdicts(shared: &Shared, verdicts: BTreeMap<JobId, Option<WhyNot>>, now: Timestamp) {
    let mut why = shared.why.lock().unwrap_or_else(PoisonError::into_inner);
    for (job, verdict) in verdicts {
        let Some(verdict) = verdict else {
            if why.remove(&job).is_some() {
                shared.changed_jobs.add(job);
            }
            continue;
        };
        match why.get_mut(&job) {
            Some(noted) if noted.why == verdict => {}
            Some(noted) => {
                if noted.differs(&verdict) || now.since(noted.told) >= TELL {
                    noted.told = now;
                    shared.changed_jobs.add(job);
                }
                noted.why = verdict;
            }
            None => {
                why.insert(job.clone(), Noted { why: verdict, told: now });
                shared.changed_jobs.add(job);
            }
        }
    }
    shared.metrics.unschedulable.set(why.len() as i64);
}

/// Keeps the order for `explain`, and for the conditions why jobs are held.
fn note_held(shared: &Shared, order: &Arc<Order>) {
    let worth = order.held.iter().filter(|(_, held)| cycle::worth_saying(held));
    let now: BTreeMap<JobId, Held> = worth.cloned().collect();
    // What nodes lacked is not why these wait now.
    let instead = |held: &Held| matches!(held, Held::Suspended | Held::OverParallelism { .. } | Held::QueueStopped(_));
    let mut why = shared.why.lock().unwrap_or_else(PoisonError::into_inner);
    for (job, _) in order.held.iter().filter(|(_, held)| instead(held)) {
        if why.remove(job).is_some() {
            shared.changed_jobs.add(job.clone());
        }
    }
    drop(why);
    let mut before = shared.held.lock().unwrap_or_else(PoisonError::into_inner);
    for (job, held) in now.iter().filter(|(job, held)| before.get(*job) != Some(held)) {
        tracing::debug!(%job, %held, "held");
        shared.changed_jobs.add(job.clone());
    }
    for job in before.keys().filter(|job| !now.contains_key(*job)) {
        shared.changed_jobs.add(job.clone());
    }
    *before = now;
    *shared.order.lock().unwrap_or_else(PoisonError::into_inner) = order.clone();
}

fn gauge(metrics: &Metrics, state: &State) {
    metrics.tasks.with_label_values(&["waiting"]).set(state.waiting_count() as i64);
    metrics.tasks.with_label_values(&["running"]).set(state.running().count() as i64);
}

/// Counts attempts that end without a result, and reports that come too late.
fn count(metrics: &Metrics, state: &State, command: &Command) {
    let failed = |reason: FailureReason, n: usize| {
        metrics.attempts.with_label_values(&[reason.as_str()]).inc_by(n as u64);
    };
    match command {
        Command::Report { attempt, .. } if state.current(attempt).is_none() => metrics.reports_dropped.inc(),
        Command::Report { outcome: Outcome::Failure { reason, .. }, .. } => failed(*reason, 1),
        Command::Refuse { attempt, .. } if state.current(attempt).is_some() => failed(FailureReason::Refused, 1),
        Command::LoseAttempts { attempts: Some(attempts), .. } => failed(FailureReason::NodeLost, attempts.len()),
        _ => {}
    }
}
