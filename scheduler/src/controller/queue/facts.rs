//! What the journal says of queues, and the status that says it.
//!
//! in → the fold, a TenantQueue, what is wrong with it · out → its status · invariant: pure.

use crate::controller::conditions::{self, Wanted};
use crate::controller::status;
use kube::ResourceExt;
use nightshift_crds::{
    DEFAULT_QUEUE, FractionString, PointsString, StopPolicy, TenantQueue, TenantQueueStatus, queue_condition,
};
use nightshift_state::{QueueBook, State};
use nightshift_types::{AccountId, PicoPoints, Timestamp};
use std::collections::BTreeMap;

/// What of a status people wait for.
pub(super) fn words(status: &TenantQueueStatus) -> Vec<(&str, &str)> {
    status.conditions.iter().map(|condition| (condition.status.as_str(), condition.reason.as_str())).collect()
}

/// What the journal says of one queue.
#[derive(Default)]
pub(super) struct Fact {
    pending: i64,
    running: i64,
    usage: u64,
    balance: PicoPoints,
    spendable: Option<PicoPoints>,
    pub(super) book: QueueBook,
}

/// What the journal says of all of them.
pub(super) struct Facts {
    pub(super) queues: BTreeMap<String, Fact>,
    usage: u128,
}

impl Facts {
    pub(super) fn of(state: &State, now: Timestamp) -> Self {
        let mut queues: BTreeMap<String, Fact> = BTreeMap::new();
        for (name, book) in state.ledger().queues() {
            let (usage, spendable) = (state.usage(name, now), state.spendable(name, now));
            let balance = state.balance(&AccountId::Tenant(name.into()));
            queues.insert(name.into(), Fact { usage, balance, spendable, book, ..Fact::default() });
        }
        for job in state.unfinished() {
            if !queues.contains_key(&job.spec.queue) {
                queues.insert(job.spec.queue.clone(), Fact::new(&job.spec.queue));
            }
            if let Some(fact) = queues.get_mut(&job.spec.queue) {
                fact.pending += i64::from(job.waiting());
                fact.running += i64::from(job.running);
            }
        }
        let usage = queues.values().map(|fact| u128::from(fact.usage)).sum();
        Self { queues, usage }
    }
}

impl Fact {
    /// Of a queue that never had anything.
    fn new(queue: &str) -> Self {
        Self { spendable: (queue != DEFAULT_QUEUE).then_some(PicoPoints::ZERO), ..Self::default() }
    }
}

pub(super) fn status_of(
    before: &TenantQueueStatus,
    object: &TenantQueue,
    broken: Option<&str>,
    facts: &Facts,
    now: Timestamp,
) -> TenantQueueStatus {
    let (name, generation) = (object.name_any(), object.metadata.generation);
    let nothing = Fact::new(&name);
    let fact = facts.queues.get(&name).unwrap_or(&nothing);
    let mut after = TenantQueueStatus {
        pending_tasks: Some(fact.pending),
        running_tasks: Some(fact.running),
        spent: Some(fact.book.spent.into()),
        reserved: Some(fact.book.reserved.into()),
        balance: (name != DEFAULT_QUEUE).then(|| fact.balance.into()),
        budget_left: fact.book.budget_left(now).map(PointsString::from),
        share: Some(share(fact.usage, facts.usage)),
        observed_generation: generation,
        conditions: before.conditions.clone(),
    };
    let mut set = |type_, status, reason, message: &str| {
        let wanted = Wanted { type_, status: Some(status), reason, message };
        conditions::set(&mut after.conditions, wanted, generation, &status::time(now));
    };
    let stop = object.spec.stop_policy;
    match (broken, stop) {
        (Some(why), _) => set(queue_condition::ACTIVE, false, "Misconfigured", why),
        (None, StopPolicy::None) => set(queue_condition::ACTIVE, true, "Active", "its tasks may start"),
        (None, _) => {
            let message = format!("spec.stopPolicy is {stop}: nothing starts; set it to None to go on");
            set(queue_condition::ACTIVE, false, "Stopped", &message);
        }
    }
    let (available, reason, message) = means(&name, fact, now);
    set(queue_condition::BUDGET_AVAILABLE, available, reason, &message);
    after
}

/// Whether something is left to spend; and if not, how much there was and what helps.
fn means(queue: &str, fact: &Fact, now: Timestamp) -> (bool, &'static str, String) {
    match (fact.spendable, fact.book.budget) {
        (None, _) => (true, "Unlimited", "it draws on the mint, without a budget".into()),
        (Some(left), _) if left > PicoPoints::ZERO => (true, "Available", "something is left to spend".into()),
        (Some(_), Some(budget)) if fact.book.budget_left(now) == Some(PicoPoints::ZERO) => {
            let again = status::time(budget.period.end(now)).0;
            let (points, period) = (budget.points, budget.period);
            let spent = fact.book.spent_in(period, now);
            let message = format!(
                "{spent} of {points} points a {period} are spent and {} reserved; the next begins at {again}: raise \
                 spec.budget.points, or wait",
                fact.book.reserved
            );
            (false, "BudgetExhausted", message)
        }
        (Some(_), _) => {
            let message = format!(
                "{} points of its balance of {} are reserved: bring more in with `nightshift points grant {queue} AMOUNT`",
                fact.book.drawn, fact.balance
            );
            (false, "NoBalance", message)
        }
    }
}

/// Two decimals, so that what merely ages is not written again and again.
fn share(part: u64, all: u128) -> FractionString {
    let hundredths = (u128::from(part) * 100 + all / 2).checked_div(all).unwrap_or(0);
    PicoPoints(hundredths as i128 * 10_000_000_000).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_two_decimals() {
        for (part, all, text) in [(0, 0, "0"), (1, 3, "0.33"), (2, 3, "0.67"), (7, 7, "1"), (1, 1_000, "0")] {
            assert_eq!(share(part, all).0, text);
        }
    }
}
