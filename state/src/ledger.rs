//! In: outcomes. Out: entries and balances. Invariant: every entry sums to zero, so all balances do.

use nightshift_types::{AccountId, AttemptId, PicoPoints};
use std::collections::BTreeMap;

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
}

/// Points moved between accounts, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Unique: a settlement's is its attempt's id.
    pub id: String,
    /// What each account gains; sums to zero.
    pub postings: Vec<(AccountId, PicoPoints)>,
    /// Why.
    pub kind: EntryKind,
}

impl LedgerEntry {
    /// The price of a result goes to the node's owner. Every queue draws on the mint for now, as `default` always will.
    pub fn settlement(attempt: &AttemptId, queue: &str, owner: &str, quote: PicoPoints) -> Self {
        Self {
            id: attempt.to_string(),
            postings: vec![(AccountId::Mint, -quote), (AccountId::Owner(owner.to_owned()), quote)],
            kind: EntryKind::Settlement { attempt: attempt.clone(), queue: queue.to_owned() },
        }
    }

    /// What the postings add up to; zero in every valid entry. `None` if it is beyond all points.
    pub fn sum(&self) -> Option<PicoPoints> {
        self.postings.iter().try_fold(0i128, |sum, (_, amount)| sum.checked_add(amount.0)).map(PicoPoints)
    }
}

/// What a queue spent and holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueBook {
    /// Settled so far.
    pub spent: PicoPoints,
    /// Quotes of running tasks.
    pub reserved: PicoPoints,
}

/// Balances: the fold of all entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    pub(crate) balances: BTreeMap<AccountId, PicoPoints>,
    pub(crate) queues: BTreeMap<String, QueueBook>,
    pub(crate) entries: u64,
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

    pub(crate) fn book(&mut self, queue: &str) -> &mut QueueBook {
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.to_owned(), QueueBook::default());
        }
        self.queues.get_mut(queue).expect("inserted above")
    }

    pub(crate) fn post(&mut self, entry: &LedgerEntry) {
        for (account, amount) in &entry.postings {
            *self.balances.entry(account.clone()).or_default() += *amount;
        }
        self.entries += 1;
    }
}
