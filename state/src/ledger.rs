//! In: outcomes. Out: entries and balances. Invariant: every entry sums to zero, so all balances do.

use nightshift_types::{AccountId, AttemptId, Budget, PicoPoints, Timestamp, Usage};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Entries kept in memory for statements; older ones are in the journal.
pub const MAX_RECENT: usize = 10_000;
/// Grants of one queue that are remembered by name, so that one that is repeated is granted once, however many other
/// queues there are.
pub const MAX_GRANTS: usize = 64;

/// Why points moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// An accepted result was paid, by its quote.
    Settlement {
        /// Settles at most once.
        attempt: AttemptId,
        /// The TenantQueue that spent it.
        queue: String,
    },
    /// The operator brought points in.
    Grant {
        /// The TenantQueue that got them.
        queue: String,
        /// What for, in words.
        note: String,
    },
}

fn grant_id(queue: &str, name: &str) -> String {
    format!("grant/{queue}/{name}")
}

/// Points moved between accounts, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Unique: a settlement's is its attempt's id, a grant's is `grant/QUEUE/NAME`.
    pub id: String,
    /// What each account gains; sums to zero.
    pub postings: Vec<(AccountId, PicoPoints)>,
    /// Why.
    pub kind: EntryKind,
}

impl LedgerEntry {
    /// The price of a result goes to the node's owner: from the queue's account if it was `drawn` on, else from the mint.
    pub fn settlement(attempt: &AttemptId, queue: &str, drawn: bool, owner: &str, quote: PicoPoints) -> Self {
        let payer = if drawn { AccountId::Tenant(queue.to_owned()) } else { AccountId::Mint };
        Self {
            id: attempt.to_string(),
            postings: vec![(payer, -quote), (AccountId::Owner(owner.to_owned()), quote)],
            kind: EntryKind::Settlement { attempt: attempt.clone(), queue: queue.to_owned() },
        }
    }

    /// Points from the mint for a queue; `name` is the grant's among those of this queue.
    pub fn grant(name: &str, queue: String, amount: PicoPoints, note: String) -> Self {
        let id = grant_id(&queue, name);
        let postings = vec![(AccountId::Mint, -amount), (AccountId::Tenant(queue.clone()), amount)];
        Self { id, postings, kind: EntryKind::Grant { queue, note } }
    }

    /// What an account gains by it.
    pub fn change(&self, account: &AccountId) -> PicoPoints {
        self.postings.iter().filter(|(of, _)| of == account).map(|(_, amount)| *amount).sum()
    }

    /// What the postings add up to; zero in every valid entry. `None` if it is beyond all points.
    pub fn sum(&self) -> Option<PicoPoints> {
        self.postings.iter().try_fold(0i128, |sum, (_, amount)| sum.checked_add(amount.0)).map(PicoPoints)
    }
}

/// An entry, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Its batch's time.
    pub at: Timestamp,
    /// The entry.
    pub entry: LedgerEntry,
    /// `NAMESPACE/NAME` of the job that was paid for; empty for what is no settlement.
    pub job: String,
}

/// What a queue spent, holds back, may spend and had of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueBook {
    /// Settled so far.
    pub spent: PicoPoints,
    /// Quotes of running tasks.
    pub reserved: PicoPoints,
    /// Those of them that its own balance pays.
    pub drawn: PicoPoints,
    /// What it may spend in a period; `None`: all that its account holds.
    pub budget: Option<Budget>,
    /// What of the pool it had lately.
    pub usage: Usage,
    /// Settled in the newest day, week and month: when that began, and how much.
    pub(crate) periods: [(Timestamp, PicoPoints); 3],
}

/// Balances: the fold of all entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    pub(crate) balances: BTreeMap<AccountId, PicoPoints>,
    pub(crate) queues: BTreeMap<String, QueueBook>,
    pub(crate) entries: u64,
    pub(crate) grants: u64,
    /// By queue: ids and amounts of its newest grants, oldest first.
    pub(crate) newest_grants: BTreeMap<String, VecDeque<(String, PicoPoints)>>,
    /// The newest entries, oldest first.
    pub(crate) recent: VecDeque<Arc<Posted>>,
}

impl Ledger {
    /// What an account holds; zero for one never seen. Only the mint is ever below zero.
    pub fn balance(&self, account: &AccountId) -> PicoPoints {
        self.balances.get(account).copied().unwrap_or_default()
    }

    /// Every account that was ever posted to, in order.
    pub fn balances(&self) -> impl Iterator<Item = (&AccountId, PicoPoints)> {
        self.balances.iter().map(|(account, amount)| (account, *amount))
    }

    /// What a queue spent and reserved.
    pub fn queue(&self, name: &str) -> QueueBook {
        self.queues.get(name).copied().unwrap_or_default()
    }

    /// Every queue that ever reserved anything, in order.
    pub fn queues(&self) -> impl Iterator<Item = (&str, QueueBook)> {
        self.queues.iter().map(|(name, book)| (name.as_str(), *book))
    }

    /// Number of entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Number of grants among them.
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// What the grant of this name brought a queue, as far as that is remembered.
    pub fn granted(&self, queue: &str, name: &str) -> Option<PicoPoints> {
        self.grant_of(queue, &grant_id(queue, name))
    }

    fn grant_of(&self, queue: &str, id: &str) -> Option<PicoPoints> {
        self.newest_grants.get(queue)?.iter().find(|(known, _)| known == id).map(|(_, amount)| *amount)
    }

    /// The newest [`MAX_RECENT`] entries, oldest first.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Posted> + ExactSizeIterator {
        self.recent.iter().map(|posted| &**posted)
    }

    pub(crate) fn note_grant(&mut self, queue: &str, entry: &LedgerEntry) -> Option<()> {
        self.grant_of(queue, &entry.id).is_none().then_some(())?;
        self.book(queue);
        self.grants += 1;
        let newest = self.newest_grants.entry(queue.to_owned()).or_default();
        newest.push_back((entry.id.clone(), entry.change(&AccountId::Tenant(queue.to_owned()))));
        if newest.len() > MAX_GRANTS {
            newest.pop_front();
        }
        Some(())
    }

    pub(crate) fn book(&mut self, queue: &str) -> &mut QueueBook {
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.to_owned(), QueueBook::default());
        }
        self.queues.get_mut(queue).expect("inserted above")
    }

    pub(crate) fn post(&mut self, at: Timestamp, entry: &LedgerEntry, job: String) {
        for (account, amount) in &entry.postings {
            *self.balances.entry(account.clone()).or_default() += *amount;
        }
        self.entries += 1;
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::new(Posted { at, entry: entry.clone(), job }));
    }
}
