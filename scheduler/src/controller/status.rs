//! Facts of the journal → an InferenceJob's status.
//!
//! in → the fold's job, why its tasks wait, the status before · out → the status to write · invariant: pure; the same
//! facts give the same status, so that nothing is written twice.

use super::conditions::{self, Wanted};
use crate::downloads::Downloading;
use crate::leader::Leader;
use nightshift_crds::{
    InferenceJobStatus, InferenceResult, JobState, PointsString, Time, UnschedulableReason, job_condition as condition,
};
use nightshift_placement::queue::Held;
use nightshift_placement::{AdmittedReason, Change, Count, Nearest, ReasonKind, WhyNot};
use nightshift_state::event::MAX_INLINE_OUTPUT;
use nightshift_state::{Job, JobResult, OutputBody, Rejection, State, TaskState};
use nightshift_types::{PicoPoints, Timestamp};
use std::collections::BTreeSet;

/// Tasks up to which results stand in the status.
const MAX_RESULTS: usize = 16;
const MAX_NODES: usize = 16;
/// What `Admitted=True` says in words.
const ADMITTED: &str = "model and input are in the blob store; the job is in its queue";
const IS_SUSPENDED: &str = "spec.suspend is true: set it to false to go on";
/// Index ranges beyond this are cut: `status` is for people.
const MAX_INDEXES: usize = 4096;

/// A moment of the journal as the API writes it: whole seconds.
pub fn time(at: Timestamp) -> Time {
    let second = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap_or_default())
}

/// Why a job's tasks wait, as people and conditions say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// One of the API's reasons.
    pub reason: &'static str,
    /// In words, with the numbers.
    pub message: String,
    /// What each node lacks, where nodes were looked at.
    pub why: Option<WhyNot>,
    /// The queue, where what it has left and not the job's own `maxCost` is the limit that `why` speaks of.
    payer: Option<String>,
}

impl Waits {
    /// What the last cycle found of a job, if there is anything to say.
    pub fn of(leader: &Leader, state: &State, job: &Job) -> Option<Self> {
        match leader.held(&job.id) {
            Some(held) => Some(Self::held(job, &held, leader.tenants().trouble(&job.spec.queue))),
            None => leader.why(&job.id).map(|why| Self::no_node(state, job, why, leader.now())),
        }
    }

    /// Its queue lets it start nothing now; `trouble` is what is wrong with the queue itself.
    fn held(job: &Job, held: &Held, trouble: Option<String>) -> Self {
        let queue = &job.spec.queue;
        let message = match (held, trouble) {
            (Held::QueueStopped(_), Some(trouble)) => trouble,
            (Held::QueueStopped(_), None) => {
                format!("{held}; an operator starts it with spec.stopPolicy None of TenantQueue {queue}")
            }
            _ => format!("{held}: TenantQueue {queue}, spec.quotas"),
        };
        Self { reason: held.as_str(), message, why: None, payer: None }
    }

    /// That the queue cannot pay is said as just that, and not as a price that is too high.
    fn no_node(state: &State, job: &Job, why: WhyNot, now: Timestamp) -> Self {
        let left = queues_means(state, job, now);
        let reason = why.admitted_reason();
        let unpaid =
            left.filter(|_| reason == AdmittedReason::PriceAboveLimit).and_then(|left| unpaid(job, &why, left));
        if let Some(message) = unpaid {
            return Self { reason: "BudgetExhausted", message, why: Some(why), payer: Some(job.spec.queue.clone()) };
        }
        let payer = left.map(|_| job.spec.queue.clone());
        let message = words(&why.message(), payer.as_deref());
        Self { reason: reason.as_str(), message, why: Some(why), payer }
    }

    /// A reason or a suggestion of `why`, in words that name whose limit it is.
    pub fn say(&self, what: &impl std::fmt::Display) -> String {
        words(&what.to_string(), self.payer.as_deref())
    }
}

/// Placement knows one limit of costs, the lower of the job's and its queue's, and calls it the job's.
fn words(text: &str, payer: Option<&str>) -> String {
    let Some(queue) = payer else { return text.to_owned() };
    let of_queue = text.replace("points left of maxCost", &format!("points left of queue {queue}"));
    of_queue.replace("with maxCost raised by", &format!("with the points of queue {queue} raised by"))
}

/// What the job's queue has left, where that is less than what is left of the job's own `maxCost`.
fn queues_means(state: &State, job: &Job, now: Timestamp) -> Option<PicoPoints> {
    let left = state.spendable(&job.spec.queue, now)?;
    let own = job.spec.max_cost.map(|limit| limit - job.cost - job.reserved);
    own.is_none_or(|own| left < own).then_some(left)
}

/// That a queue which has so much left cannot pay the cheapest quote, and what helps.
fn unpaid(job: &Job, why: &WhyNot, left: PicoPoints) -> Option<String> {
    let cost = |counts: &[Count]| {
        counts.iter().find_map(|count| match (count.kind, &count.nearest) {
            (ReasonKind::Cost, Nearest::Points(_, quote)) => Some(*quote),
            _ => None,
        })
    };
    // Of a node that asks too much an hour too, only the misses say that it costs too much; where a higher price an hour
    // alone would help, the queue can pay.
    let price_helps = why.suggestions().iter().any(|one| matches!(one.change, Change::PricePerHour(_)));
    let quote = cost(&why.counts).or_else(|| cost(&why.misses).filter(|_| !price_helps))?;
    let queue = job.spec.queue.clone();
    (quote > left).then(|| Rejection::BudgetExhausted { queue, left, quote }.to_string())
}

/// What is known of a job beside the journal: soft, and as of now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Soft {
    /// Why tasks wait.
    pub waits: Option<Waits>,
    /// Models on their way to its attempts.
    pub downloading: Option<Downloading>,
}

impl Soft {
    /// All of a job.
    pub fn of(leader: &Leader, state: &State, job: &Job) -> Self {
        Self { waits: Waits::of(leader, state, job), downloading: leader.downloads().of(&job.id) }
    }

    /// A condition's message, with how far its models are.
    fn with_downloads(&self, message: &str) -> String {
        self.downloading.map_or_else(|| message.to_owned(), |coming| format!("{message}; {coming}"))
    }
}

/// The status of a job that the journal knows; `soft` is what the last cycle found, in words too, `seen` its object's
/// generation, `url` where its results are.
pub fn of_job(
    before: &InferenceJobStatus,
    job: &Job,
    soft: &Soft,
    url: &str,
    seen: i64,
    now: Timestamp,
) -> InferenceJobStatus {
    // A finished job's spec is no longer taken over, but what changed of its object was seen.
    let generation = Some(job.spec.generation.max(seen));
    let count = |n: u32| Some(i32::try_from(n).unwrap_or(i32::MAX));
    let total = job.tasks.len();
    let mut status = InferenceJobStatus {
        start_time: job.started_at.map(time),
        completion_time: job.result.as_ref().map(|(_, at)| time(*at)),
        active: count(job.running),
        succeeded: count(job.succeeded),
        failed: count(failed_attempts(job)),
        completions: count(total as u32),
        completed_indexes: Some(indexes(job, |state| matches!(state, TaskState::Succeeded(_)))),
        failed_indexes: Some(indexes(job, |state| matches!(state, TaskState::Failed { .. }))).filter(|s| !s.is_empty()),
        progress: Some(format!("{}/{total}", job.succeeded)),
        nodes: nodes(job),
        variant: Some(job.spec.variant.clone()),
        cost: Some(PointsString::from(job.cost)),
        quoted_cost: Some(PointsString::from(job.cost + job.reserved)),
        results: results(job),
        results_url: Some(url.to_string()),
        unschedulable: soft.waits.as_ref().map(unschedulable).unwrap_or_default(),
        observed_generation: generation,
        conditions: before.conditions.clone(),
        ..InferenceJobStatus::default()
    };
    // A leader that was deposed may have written how it ends; only the journal says so.
    let ended = [condition::FAILED, condition::COMPLETE];
    status.conditions.retain(|condition| job.result.is_some() || !ended.contains(&condition.type_.as_str()));
    let mut set = |type_, status_, reason: &str, message: &str| {
        let wanted = Wanted { type_, status: Some(status_), reason, message };
        conditions::set(&mut status.conditions, wanted, generation, &time(now));
    };
    match &job.result {
        Some((result, _)) => set_finished(&mut set, job, result),
        None => {
            // Of a job that never was suspended nothing is said of it.
            if !job.spec.suspend && conditions::find(&before.conditions, condition::SUSPENDED).is_some() {
                set(condition::SUSPENDED, false, "JobResumed", "");
            }
            if job.spec.suspend && conditions::find(&before.conditions, condition::SCHEDULED).is_some() {
                set(condition::SCHEDULED, false, "Suspended", IS_SUSPENDED);
            }
            set_unfinished(&mut set, job, soft);
        }
    }
    summarize(&mut status, job);
    status
}

/// Attempts that failed: those of the fold's counter are only the counted ones. Stopped by suspension is not failed.
fn failed_attempts(job: &Job) -> u32 {
    let ended = |task: &nightshift_state::Task| match task.state {
        TaskState::Running(_) | TaskState::Succeeded(_) => task.attempts.saturating_sub(1 + task.cancelled),
        _ => task.attempts.saturating_sub(task.cancelled),
    };
    job.tasks.iter().map(ended).sum()
}

fn set_finished(set: &mut impl FnMut(&'static str, bool, &str, &str), job: &Job, result: &JobResult) {
    let scheduled = job.started_at.is_some();
    match result {
        JobResult::Complete => {
            let message = format!("{} of {} tasks succeeded", job.succeeded, job.tasks.len());
            set(condition::ADMITTED, true, "Admitted", ADMITTED);
            set(condition::SCHEDULED, scheduled, "Placed", "every task had a node");
            set(condition::COMPLETE, true, "CompletionsReached", &message);
        }
        JobResult::Failed { reason, message } => set(condition::FAILED, true, reason, message),
        JobResult::Cancelled { message } => set(condition::FAILED, true, "Cancelled", message),
    }
}

fn set_unfinished(set: &mut impl FnMut(&'static str, bool, &str, &str), job: &Job, soft: &Soft) {
    if job.spec.suspend {
        set(condition::ADMITTED, false, "Suspended", IS_SUSPENDED);
        set(condition::SUSPENDED, true, "JobSuspended", IS_SUSPENDED);
        return;
    }
    let said = |message: &str| soft.with_downloads(message);
    match &soft.waits {
        Some(Waits { reason, message, .. }) if job.running == 0 => {
            set(condition::ADMITTED, false, reason, message);
            set(condition::SCHEDULED, false, reason, message);
        }
        Some(Waits { reason, message, .. }) => {
            set(condition::ADMITTED, true, "Admitted", ADMITTED);
            set(condition::SCHEDULED, false, reason, &said(message));
        }
        None => {
            set(condition::ADMITTED, true, "Admitted", ADMITTED);
            let waiting = job.waiting();
            match (waiting, last_failure(job)) {
                (0, _) => set(condition::SCHEDULED, true, "Placed", &said("every task has a node")),
                (_, Some(failure)) => set(condition::SCHEDULED, false, "RetryingAfterFailure", &said(&failure)),
                (n, None) => {
                    set(condition::SCHEDULED, false, "Queued", &said(&format!("{n} tasks wait for their turn")));
                }
            }
        }
    }
}

/// The newest failure of a task that waits, in words: what a person asks for while nothing seems to happen.
fn last_failure(job: &Job) -> Option<String> {
    let waits = |task: &&nightshift_state::Task| matches!(task.state, TaskState::Waiting { .. });
    let newest = job.tasks.iter().filter(waits).filter_map(|task| task.last_failure.as_ref()).max_by_key(|f| f.at)?;
    Some(format!("attempt {} on {} failed: {}: {}", newest.attempt.number, newest.node, newest.reason, newest.message))
}

fn summarize(status: &mut InferenceJobStatus, job: &Job) {
    let (state, type_) = match &job.result {
        Some((JobResult::Complete, _)) => (JobState::Complete, condition::COMPLETE),
        Some(_) => (JobState::Failed, condition::FAILED),
        None if job.spec.suspend => (JobState::Suspended, condition::SUSPENDED),
        None if job.running > 0 || job.succeeded > 0 => (JobState::Running, condition::SCHEDULED),
        None => (JobState::Pending, condition::ADMITTED),
    };
    status.state = Some(state);
    status.reason = conditions::find(&status.conditions, type_).map(|condition| condition.reason.clone());
}

/// A job that is not admitted: the journal does not know it yet, or never will.
pub fn of_unknown(
    before: &InferenceJobStatus,
    verdict: Wanted<'_>,
    generation: Option<i64>,
    now: Timestamp,
) -> InferenceJobStatus {
    let mut status = before.clone();
    conditions::set(&mut status.conditions, verdict, generation, &time(now));
    status.state = Some(if verdict.type_ == condition::FAILED { JobState::Failed } else { JobState::Pending });
    if verdict.type_ == condition::FAILED && status.completion_time.is_none() {
        status.completion_time = Some(time(now));
    }
    status.reason = Some(verdict.reason.into());
    status.observed_generation = generation;
    status
}

/// A job whose model or input is not there yet; that it is suspended goes before any other reason.
pub fn of_waiting(
    before: &InferenceJobStatus,
    why: Wanted<'_>,
    suspend: bool,
    generation: Option<i64>,
    now: Timestamp,
) -> InferenceJobStatus {
    let why = if suspend { Wanted { reason: "Suspended", message: IS_SUSPENDED, ..why } } else { why };
    let mut status = of_unknown(before, why, generation, now);
    let (reason, message) = if suspend { ("JobSuspended", IS_SUSPENDED) } else { ("JobResumed", "") };
    if suspend || conditions::find(&before.conditions, condition::SUSPENDED).is_some() {
        let wanted = Wanted { type_: condition::SUSPENDED, status: Some(suspend), reason, message };
        conditions::set(&mut status.conditions, wanted, generation, &time(now));
    }
    if suspend {
        (status.state, status.reason) = (Some(JobState::Suspended), Some(reason.into()));
    }
    status
}

/// Whether a status says that the job ended.
pub fn is_terminal(status: &InferenceJobStatus) -> bool {
    [condition::COMPLETE, condition::FAILED].iter().any(|type_| conditions::is_true(&status.conditions, type_))
}

/// `1,3-5`.
fn indexes(job: &Job, wanted: impl Fn(&TaskState) -> bool) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for index in job.tasks.iter().enumerate().filter(|(_, task)| wanted(&task.state)).map(|(index, _)| index) {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == index => *end = index,
            _ => ranges.push((index, index)),
        }
    }
    let mut text = String::new();
    for (start, end) in ranges {
        if text.len() > MAX_INDEXES {
            text.push_str(",…");
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&if start == end { start.to_string() } else { format!("{start}-{end}") });
    }
    text
}

fn nodes(job: &Job) -> Vec<String> {
    let running: BTreeSet<String> = job.running_tasks().map(|running| running.node.to_string()).collect();
    let done = || {
        job.tasks.iter().filter_map(|task| match &task.state {
            TaskState::Succeeded(success) => Some(success.node.to_string()),
            _ => None,
        })
    };
    let nodes = if running.is_empty() { done().collect() } else { running };
    nodes.into_iter().take(MAX_NODES).collect()
}

fn results(job: &Job) -> Vec<InferenceResult> {
    if job.tasks.len() > MAX_RESULTS {
        return Vec::new();
    }
    let result = |(index, task): (usize, &nightshift_state::Task)| match &task.state {
        TaskState::Succeeded(success) => match &success.output.body {
            OutputBody::Inline(bytes) if bytes.len() <= MAX_INLINE_OUTPUT => {
                let output = String::from_utf8(bytes.clone()).ok()?;
                Some(InferenceResult { index: index as i32, output })
            }
            _ => None,
        },
        _ => None,
    };
    job.tasks.iter().enumerate().filter_map(result).collect()
}

fn unschedulable(waits: &Waits) -> Vec<UnschedulableReason> {
    let reason = |count: &Count| UnschedulableReason {
        reason: count.kind.as_str().into(),
        count: i32::try_from(count.nodes).unwrap_or(i32::MAX),
        message: Some(waits.say(count)),
    };
    waits.why.iter().flat_map(|why| &why.counts).take(16).map(reason).collect()
}
