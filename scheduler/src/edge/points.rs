//! Points through the gateway: grants, balances, statements.
//!
//! in → HTTP under `/v1/points` · out → JSON; amounts are decimal strings · invariant: what is answered is committed; a
//! statement's opening balance and its lines add up to its closing balance.

use super::http::{Answer, Failure, Gateway};
use crate::leader::SubmitError;
use crate::tenants::Tenants;
use axum::Json;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use nightshift_state::archive::Concerns;
use nightshift_state::{Command, EntryKind, Past, Posted, Rejection, State};
use nightshift_types::{AccountId, DEFAULT_QUEUE, PicoPoints, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Most lines of one statement: the newest.
const MAX_LINES: usize = 100_000;
/// Longest word a grant is known by. Bytes.
const MAX_ID: usize = 128;

fn bad(text: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, text.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GrantRequest {
    /// Its name among the queue's, made up by whoever asks: the same again is granted once.
    id: String,
    queue: String,
    amount: String,
    #[serde(default)]
    note: String,
}

pub(super) async fn grant(Shared(gateway): Shared<Gateway>, Json(request): Json<GrantRequest>) -> Answer<Json<Value>> {
    let GrantRequest { id, queue, amount, note } = request;
    let amount: PicoPoints = amount.parse().map_err(|e| bad(format!("amount: {e}")))?;
    if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(bad(format!("id must be 1 to {MAX_ID} bytes of text")));
    }
    known(gateway.leader.tenants(), &queue)?;
    let again = gateway.leader.state().await.ledger().granted(&queue, &id).is_some();
    let command = Command::Grant { id: id.clone(), queue: queue.clone(), amount, note };
    gateway.leader.try_submit(command).await.map_err(|error| match error {
        SubmitError::Rejected(Rejection::Invalid { field, what }) => bad(format!("{field}: {what}")),
        SubmitError::Rejected(other) => Failure(StatusCode::CONFLICT, other.to_string()),
        other => Failure::not_now(&other),
    })?;
    nightshift_state::pass!("grant.after");
    // Jobs that waited for points need not wait for the clock.
    gateway.leader.wake();
    let balance = gateway.leader.state().await.balance(&AccountId::Tenant(queue.clone()));
    Ok(Json(json!({ "id": id, "queue": queue, "balance": balance.to_string(), "repeated": again })))
}

/// Points for a queue that nobody made would be lost to sight.
fn known(tenants: &Tenants, queue: &str) -> Result<(), Failure> {
    if queue == DEFAULT_QUEUE || tenants.get(queue).is_some() {
        return Ok(());
    }
    if !tenants.listed() {
        let text = "the TenantQueues are not read yet: try again";
        return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, text.into()));
    }
    let text = format!("there is no TenantQueue {queue}: apply it first; `kubectl get tenantqueues` lists them");
    Err(Failure(StatusCode::NOT_FOUND, text))
}

pub(super) async fn balances(Shared(gateway): Shared<Gateway>) -> Json<Value> {
    let now = gateway.leader.now();
    let known = gateway.leader.tenants().all();
    let state = gateway.leader.state().await;
    let ledger = state.ledger();
    let names: BTreeSet<&str> = ledger.queues().map(|(name, _)| name).chain(known.keys().map(String::as_str)).collect();
    let queues: Vec<Value> = names.into_iter().map(|name| queue(&state, name, now)).collect();
    let account = |(account, amount): (&AccountId, PicoPoints)| json!({ "account": account.to_string(), "balance": amount.to_string() });
    let accounts: Vec<Value> = ledger.balances().map(account).collect();
    Json(json!({ "accounts": accounts, "queues": queues }))
}

fn queue(state: &State, name: &str, now: Timestamp) -> Value {
    let book = state.ledger().queue(name);
    let text = |points: PicoPoints| points.to_string();
    let budget = book.budget.map(|budget| {
        json!({
            "points": text(budget.points),
            "period": budget.period.as_str(),
            "spent": text(book.spent_in(budget.period, now)),
            "left": book.budget_left(now).map(text),
            "endsMilliseconds": budget.period.end(now).0,
        })
    });
    json!({
        "queue": name,
        "balance": (name != DEFAULT_QUEUE).then(|| text(state.balance(&AccountId::Tenant(name.into())))),
        "spent": text(book.spent),
        "reserved": text(book.reserved),
        "spendable": state.spendable(name, now).map(text),
        "usageMilliseconds": state.usage(name, now),
        "budget": budget,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StatementOf {
    queue: Option<String>,
    owner: Option<String>,
    /// Entries since then, wherever they are by now; else the newest, which are in memory.
    from_milliseconds: Option<u64>,
}

/// A queue's or an owner's account. Of `default`, which has none, its part of the mint's.
pub(super) async fn statement(Shared(gateway): Shared<Gateway>, Query(of): Query<StatementOf>) -> Answer<Json<Value>> {
    let (account, queue) = match (of.queue, of.owner) {
        (Some(queue), None) if queue == DEFAULT_QUEUE => (AccountId::Mint, Some(queue)),
        (Some(queue), None) => (AccountId::Tenant(queue.clone()), Some(queue)),
        (None, Some(owner)) => (AccountId::Owner(owner), None),
        _ => return Err(bad("name one account: ?queue=NAME or ?owner=NAME")),
    };
    let of_queue = |posted: &Posted| match &posted.entry.kind {
        EntryKind::Settlement { queue: of, .. } | EntryKind::Grant { queue: of, .. } => {
            queue.as_ref().is_none_or(|queue| queue == of)
        }
    };
    let concerns = |posted: &Posted| posted.entry.postings.iter().any(|(of, _)| *of == account) && of_queue(posted);
    let past = match of.from_milliseconds {
        Some(from) => Some(past(&gateway, Timestamp(from), &concerns).await?),
        None => None,
    };
    let state = gateway.leader.state().await;
    let ledger = state.ledger();
    // Of what memory holds, that which was committed after the past was read.
    let newer = past.as_ref().map_or(u64::MAX, |past| ledger.entries().saturating_sub(past.total));
    let skipped = (ledger.recent().len() as u64).saturating_sub(newer) as usize;
    if past.is_some() && newer > ledger.recent().len() as u64 {
        return Err(unavailable("the ledger grows faster than its history is read: try again"));
    }
    let since = match &past {
        Some(past) => past.since,
        None if ledger.entries() > ledger.recent().len() as u64 => ledger.recent().next().map(|oldest| oldest.at),
        None => None,
    };
    let recent = ledger.recent().skip(skipped).filter(|posted| concerns(posted));
    let entries: Vec<&Posted> = past.iter().flat_map(|past| &past.entries).chain(recent).collect();
    let closing = match &queue {
        Some(queue) if account == AccountId::Mint => -ledger.queue(queue).spent,
        _ => ledger.balance(&account),
    };
    let known = !entries.is_empty() || closing != PicoPoints::ZERO || ledger.balances().any(|(of, _)| *of == account);
    let mut balance = closing - entries.iter().map(|posted| posted.entry.change(&account)).sum();
    let opening = balance;
    let lines: Vec<Value> = entries
        .into_iter()
        .map(|posted| {
            balance += posted.entry.change(&account);
            line(posted, &account, balance)
        })
        .collect();
    Ok(Json(json!({
        "account": account.to_string(),
        "queue": queue,
        "known": known,
        "sinceMilliseconds": since.map(|since| since.0),
        "opening": opening.to_string(),
        "closing": closing.to_string(),
        "entries": lines,
    })))
}

fn unavailable(text: &str) -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, text.into())
}

/// What is in journal and archive.
async fn past(gateway: &Gateway, from: Timestamp, concerns: &Concerns<'_>) -> Result<Past, Failure> {
    let history = gateway.leader.history().ok_or_else(|| unavailable("this scheduler leads no more: try again"))?;
    history.read(from, MAX_LINES, concerns).await.map_err(|error| {
        tracing::warn!(%error, "the ledger's history cannot be read");
        unavailable(&format!("the ledger's history cannot be read: {error}"))
    })
}

fn line(posted: &Posted, account: &AccountId, balance: PicoPoints) -> Value {
    let entry = &posted.entry;
    let others = entry.postings.iter().filter(|(of, _)| of != account).map(|(of, _)| of.to_string());
    let (kind, queue, about) = match &entry.kind {
        EntryKind::Settlement { queue, .. } => ("Settlement", queue, posted.job.as_str()),
        EntryKind::Grant { queue, note } => ("Grant", queue, note.as_str()),
    };
    json!({
        "timeMilliseconds": posted.at.0,
        "id": entry.id,
        "kind": kind,
        "queue": queue,
        "about": about,
        "other": others.collect::<Vec<_>>().join(" "),
        "amount": entry.change(account).to_string(),
        "balance": balance.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_unknown_only_when_all_are_read() {
        let tenants = Tenants::default();
        let refused = |queue: &str| known(&tenants, queue).map_err(|Failure(status, _)| status);
        assert_eq!(refused("research"), Err(StatusCode::SERVICE_UNAVAILABLE));
        tenants.set_listed();
        assert_eq!(refused("research"), Err(StatusCode::NOT_FOUND));
        assert_eq!(refused(DEFAULT_QUEUE), Ok(()), "that it needs no grants is for the ledger to say");
    }
}
