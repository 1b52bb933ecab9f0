//! In: a queue's book, the time. Out: what it may still spend, and how much of the pool it had lately. Invariant: what is
//! placed costs no more than [`State::spendable`] says, so budget and balance are never overdrawn.

use crate::ledger::QueueBook;
use crate::state::{Running, State};
use nightshift_types::{AccountId, BudgetPeriod, DEFAULT_QUEUE, Milliseconds, PicoPoints, Timestamp};

impl State {
    /// Work placed for a queue, in milliseconds of reference time; it counts half after ten minutes
    /// ([`nightshift_types::queue::USAGE_HALF_LIFE`]). A task counts from its placement with its whole reference time;
    /// an attempt that ends without a result gives back what it had not run of it.
    pub fn usage(&self, queue: &str, now: Timestamp) -> u64 {
        self.ledger.queue(queue).usage.at(now)
    }

    /// What a queue may spend beside what is reserved: what is left of its budget in this period or of its balance,
    /// whichever is less. `None`: there is no limit, as of the queue default without a budget.
    pub fn spendable(&self, queue: &str, now: Timestamp) -> Option<PicoPoints> {
        let book = self.ledger.queue(queue);
        let balance = (queue != DEFAULT_QUEUE)
            .then(|| self.balance(&AccountId::Tenant(queue.to_owned())) - book.drawn)
            .map(|left| left.max(PicoPoints::ZERO));
        [balance, book.budget_left(now)].into_iter().flatten().min()
    }
}

impl QueueBook {
    /// Settled in the period that holds `now`. What is reserved counts where it is settled.
    pub fn spent_in(&self, period: BudgetPeriod, now: Timestamp) -> PicoPoints {
        let (start, spent) = self.periods[period as usize];
        if start == period.start(now) { spent } else { PicoPoints::ZERO }
    }

    /// What is left of the budget in this period, never less than nothing; `None`: it has none.
    pub fn budget_left(&self, now: Timestamp) -> Option<PicoPoints> {
        let budget = self.budget?;
        let left = budget.points - self.spent_in(budget.period, now) - self.reserved;
        Some(left.max(PicoPoints::ZERO))
    }

    pub(crate) fn placed(&mut self, running: &Running, reference: Milliseconds) {
        self.reserved += running.quote;
        if running.drawn {
            self.drawn += running.quote;
        }
        self.usage.add(reference, running.placed_at);
    }

    /// `cut`: when it ended without a result.
    pub(crate) fn ended(&mut self, running: &Running, reference: Milliseconds, cut: Option<Timestamp>) {
        self.reserved -= running.quote;
        if running.drawn {
            self.drawn -= running.quote;
        }
        if let Some(end) = cut {
            let ran = end.since(running.placed_at);
            self.usage.take_back(Milliseconds(reference.0.max(1).saturating_sub(ran.0)), end);
        }
    }

    pub(crate) fn settled(&mut self, paid: PicoPoints, now: Timestamp) {
        self.spent += paid;
        for period in BudgetPeriod::ALL {
            let spent = self.spent_in(period, now) + paid;
            self.periods[period as usize] = (period.start(now), spent);
        }
    }
}
