//! In: what a TenantQueue may spend, and points for it. Out: its budget, a grant. Invariant: both may be repeated; the queue
//! default draws on the mint and is granted nothing.

use super::{MAX_QUOTE, check_account, check_name, shorten};
use crate::command::{Decision, Rejection};
use crate::event::Event;
use crate::ledger::LedgerEntry;
use crate::state::State;
use nightshift_types::{Budget, DEFAULT_QUEUE, PicoPoints};

pub(super) fn set(state: &State, queue: String, budget: Option<Budget>) -> Result<Decision, Rejection> {
    state.cell().ok_or(Rejection::NotStarted)?;
    check_account("queue", &queue)?;
    if let Some(budget) = budget {
        amount("budget", budget.points)?;
    }
    let news = state.ledger().queue(&queue).budget != budget;
    let events = news.then_some(Event::QueueSet { queue, budget }).into_iter().collect();
    Ok(Decision { events, ..Decision::default() })
}

pub(super) fn grant(
    state: &State,
    name: String,
    queue: String,
    points: PicoPoints,
    note: String,
) -> Result<Decision, Rejection> {
    state.cell().ok_or(Rejection::NotStarted)?;
    check_account("queue", &queue)?;
    check_name("id", &name)?;
    let invalid = |field, what: &str| Err(Rejection::Invalid { field, what: what.into() });
    if name.is_empty() {
        return invalid("id", "must not be empty");
    }
    if queue == DEFAULT_QUEUE {
        return invalid("queue", "the queue default draws on the mint and needs no grants; spec.budget limits it");
    }
    amount("amount", points)?;
    if points == PicoPoints::ZERO {
        return invalid("amount", "must be more than 0");
    }
    if let Some(before) = state.ledger().granted(&queue, &name) {
        let other =
            || invalid("id", &format!("grant {name} brought queue {queue} {before} points: name this one otherwise"));
        return if before == points { Ok(Decision::default()) } else { other() };
    }
    let entry = LedgerEntry::grant(&name, queue, points, shorten(note));
    Ok(Decision { events: vec![Event::Transferred { entry }], ..Decision::default() })
}

fn amount(field: &'static str, points: PicoPoints) -> Result<(), Rejection> {
    if (PicoPoints::ZERO..=MAX_QUOTE).contains(&points) {
        return Ok(());
    }
    Err(Rejection::Invalid { field, what: format!("{points} must be 0 to {MAX_QUOTE}") })
}
