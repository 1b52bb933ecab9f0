//! The agent's own book of device memory.
//!
//! in → what an attempt needs, what is loaded, what is free · out → admitted with the warm copies to evict first, or a
//! [`Shortage`] with the free bytes · invariant: reservations of a device never exceed what its owner lets us use, and
//! with the warm copies of idle models they exceed it never at an admission. A model's copy is counted once, however many
//! attempts use it; each attempt adds what it needs beyond.

use nightshift_types::{Bytes, Device, Digest};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// What one attempt takes of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The device's name.
    pub device: String,
    /// The model's file.
    pub model: Digest,
    /// Memory reserved for the attempt, context and weights included.
    pub memory: Bytes,
    /// What stays taken while the model is loaded and idle: context and weights.
    pub warm: Bytes,
}

/// Why there is no room; the text goes to the scheduler and on to `nightshift explain`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Shortage {
    /// No device of this name.
    #[error("this node has no device {0:?}")]
    NoDevice(String),
    /// The book says no.
    #[error("{device} has {} free of {}, the attempt needs {}", free.human(), capacity.human(), need.human())]
    Memory {
        /// Which device.
        device: String,
        /// What the attempt needs.
        need: Bytes,
        /// What is left in the book, idle models evicted.
        free: Bytes,
        /// What the owner lets us use.
        capacity: Bytes,
    },
    /// The book says yes, the machine says no: other programs use it.
    #[error("{device} has {} free in the machine, the attempt needs {} more", free.human(), need.human())]
    Machine {
        /// Which device.
        device: String,
        /// What the attempt needs beyond what is loaded.
        need: Bytes,
        /// What the machine has.
        free: Bytes,
    },
}

impl Demand {
    /// What it takes beyond the loaded model.
    fn own(&self) -> Bytes {
        self.memory.saturating_sub(self.warm)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Copy {
    warm: Bytes,
    /// What its users take beyond, together.
    own: Bytes,
    users: usize,
    last_used: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    capacity: Bytes,
    copies: BTreeMap<Digest, Copy>,
}

impl Account {
    /// What running attempts take, the copies they use included.
    fn reserved(&self) -> Bytes {
        self.copies.values().filter(|copy| copy.users > 0).map(|copy| copy.warm + copy.own).sum()
    }
    fn idle(&self) -> Bytes {
        self.copies.values().filter(|copy| copy.users == 0).map(|copy| copy.warm).sum()
    }
    /// What a copy would add to what is taken, were this attempt to use it.
    fn added(&self, demand: &Demand) -> Bytes {
        let there = self.copies.get(&demand.model).map_or(Bytes(0), |copy| copy.warm);
        demand.warm.saturating_sub(there) + demand.own()
    }
    /// The least recently used idle copy but `keep`.
    fn coldest(&self, keep: &Digest, gone: &BTreeSet<Digest>) -> Option<(Digest, Bytes)> {
        let idle = self.copies.iter().filter(|(digest, copy)| copy.users == 0 && *digest != keep);
        let idle = idle.filter(|(digest, _)| !gone.contains(digest));
        idle.min_by_key(|(_, copy)| copy.last_used).map(|(digest, copy)| (*digest, copy.warm))
    }
}

/// One account a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    accounts: BTreeMap<String, Account>,
    clock: u64,
}

impl Book {
    /// With nothing reserved.
    pub fn new(devices: &[Device]) -> Self {
        let account = |d: &Device| (d.name.clone(), Account { capacity: d.memory, ..Account::default() });
        Self { accounts: devices.iter().map(account).collect(), clock: 0 }
    }

    /// Reserves, or says why not. `free_now` is what the machine has free on that device; `evict` what the plan wants
    /// gone. Answers the idle models to evict before the attempt starts: the plan's, and more if that is not enough.
    pub fn admit(&mut self, demand: &Demand, evict: &[Digest], free_now: Bytes) -> Result<Vec<Digest>, Shortage> {
        let account = self
            .accounts
            .get(&demand.device)
            .ok_or_else(|| Shortage::NoDevice(demand.device.chars().take(63).collect()))?;
        let gone = Self::room(account, demand, evict, free_now)?;
        self.clock += 1;
        let clock = self.clock;
        let Some(account) = self.accounts.get_mut(&demand.device) else { return Ok(Vec::new()) };
        account.copies.retain(|digest, _| !gone.contains(digest));
        let copy = account.copies.entry(demand.model).or_default();
        let (warm, own) = (demand.warm.max(copy.warm), copy.own + demand.own());
        *copy = Copy { warm, own, users: copy.users + 1, last_used: clock };
        Ok(gone.into_iter().collect())
    }

    fn room(
        account: &Account,
        demand: &Demand,
        evict: &[Digest],
        free_now: Bytes,
    ) -> Result<BTreeSet<Digest>, Shortage> {
        let mut gone = BTreeSet::new();
        let mut released = Bytes(0);
        for digest in evict {
            if let Some(copy) = account.copies.get(digest).filter(|copy| copy.users == 0 && *digest != demand.model)
                && gone.insert(*digest)
            {
                released = released + copy.warm;
            }
        }
        let need_more = account.added(demand);
        loop {
            let taken = (account.reserved() + account.idle()).saturating_sub(released);
            let fits = taken + need_more <= account.capacity;
            let machine = need_more <= free_now + released;
            if fits && machine {
                return Ok(gone);
            }
            let Some((digest, warm)) = account.coldest(&demand.model, &gone) else {
                let device = demand.device.clone();
                return Err(if fits {
                    Shortage::Machine { device, need: need_more, free: free_now + released }
                } else {
                    let shared = account.copies.get(&demand.model).is_some_and(|copy| copy.users > 0);
                    let need = if shared { need_more } else { demand.memory };
                    let free = account.capacity.saturating_sub(account.reserved());
                    Shortage::Memory { device, need, free, capacity: account.capacity }
                });
            };
            gone.insert(digest);
            released = released + warm;
        }
    }

    /// Gives back what [`Self::admit`] reserved; the model stays, idle.
    pub fn release(&mut self, demand: &Demand) {
        let Some(account) = self.accounts.get_mut(&demand.device) else { return };
        if let Some(copy) = account.copies.get_mut(&demand.model) {
            copy.users = copy.users.saturating_sub(1);
            copy.own = if copy.users == 0 { Bytes(0) } else { copy.own.saturating_sub(demand.own()) };
        }
    }

    /// Forgets idle copies that the engine no longer has.
    pub fn observe(&mut self, loaded: &[(Digest, String)]) {
        for (name, account) in &mut self.accounts {
            let is_loaded = |digest: &Digest| loaded.iter().any(|(d, device)| d == digest && device == name);
            account.copies.retain(|digest, copy| copy.users > 0 || is_loaded(digest));
        }
    }

    /// What the book has free of one device, idle models counted as taken.
    pub fn free(&self, device: &str) -> Bytes {
        let free = |account: &Account| account.capacity.saturating_sub(account.reserved() + account.idle());
        self.accounts.get(device).map_or(Bytes(0), free)
    }

    /// What all attempts together reserve.
    pub fn reserved(&self) -> Bytes {
        self.accounts.values().map(Account::reserved).sum()
    }

    /// The devices' names.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.accounts.keys().map(String::as_str)
    }

    /// Says what is wrong with the book, given the demands that should be in it.
    pub fn check_invariants<'a>(&self, running: impl Iterator<Item = &'a Demand>) -> Result<(), String> {
        let mut expected: BTreeMap<(&str, Digest), (usize, Bytes, Bytes)> = BTreeMap::new();
        for demand in running {
            let (users, own, warm) = expected.entry((&demand.device, demand.model)).or_default();
            (*users, *own, *warm) = (*users + 1, *own + demand.own(), demand.warm.max(*warm));
        }
        for (name, account) in &self.accounts {
            for (model, copy) in &account.copies {
                let (users, own, warm) = expected.remove(&(name.as_str(), *model)).unwrap_or_default();
                if (copy.users, copy.own) != (users, own) || copy.warm < warm {
                    return Err(format!("{name}: {copy:?} of {model}, {users} run and take {own} beyond {warm}"));
                }
            }
            if account.reserved() > account.capacity {
                return Err(format!("{name}: {} reserved of {}", account.reserved(), account.capacity));
            }
        }
        match expected.keys().next() {
            Some((device, model)) => Err(format!("{device}: attempts of {model} run, and the book has no copy")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBI: u64 = 1 << 30;

    fn book() -> Book {
        Book::new(&[Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() }])
    }
    fn demand(model: u8, memory: u64, warm: u64) -> Demand {
        Demand {
            device: "cpu0".into(),
            model: Digest([model; 32]),
            memory: Bytes(memory * GIBI),
            warm: Bytes(warm * GIBI),
        }
    }

    #[test]
    fn reservations_stop_at_the_owners_share() {
        let mut book = book();
        let plenty = Bytes::gibi(64);
        book.admit(&demand(1, 3, 2), &[], plenty).unwrap();
        let refused = book.admit(&demand(2, 2, 1), &[], plenty).unwrap_err();
        assert_eq!(refused.to_string(), "cpu0 has 1Gi free of 4Gi, the attempt needs 2Gi");
        book.release(&demand(1, 3, 2));
        assert_eq!(book.free("cpu0"), Bytes::gibi(2), "the idle model still takes its 2Gi");
        assert_eq!(book.admit(&demand(2, 3, 1), &[], plenty).unwrap(), [Digest([1; 32])], "and makes room");
    }

    #[test]
    fn a_model_that_is_loaded_is_not_counted_twice() {
        let mut book = book();
        book.admit(&demand(1, 3, 3), &[], Bytes::gibi(3)).unwrap();
        book.release(&demand(1, 3, 3));
        assert_eq!(book.admit(&demand(1, 4, 3), &[], Bytes::gibi(1)).unwrap(), []);
    }

    #[test]
    fn attempts_of_one_model_share_its_copy_and_add_their_own() {
        let mut book = book();
        let plenty = Bytes::gibi(64);
        // 2 GiB of weights, 1 GiB an attempt, in 4 GiB.
        assert_eq!(book.admit(&demand(1, 3, 2), &[], plenty).unwrap(), []);
        assert_eq!(
            book.admit(&demand(1, 3, 2), &[], Bytes::gibi(1)).unwrap(),
            [],
            "the machine gives its own part alone"
        );
        assert_eq!((book.reserved(), book.free("cpu0")), (Bytes::gibi(4), Bytes(0)));
        let refused = book.admit(&demand(1, 3, 2), &[], plenty).unwrap_err();
        assert_eq!(refused.to_string(), "cpu0 has 0 free of 4Gi, the attempt needs 1Gi");
        book.check_invariants([demand(1, 3, 2), demand(1, 3, 2)].iter()).unwrap();
        book.release(&demand(1, 3, 2));
        assert_eq!(book.reserved(), Bytes::gibi(3));
        book.release(&demand(1, 3, 2));
        assert_eq!((book.reserved(), book.free("cpu0")), (Bytes(0), Bytes::gibi(2)), "the copy stays warm");
        book.check_invariants([].iter()).unwrap();
    }

    #[test]
    fn two_of_three_models_stay_and_the_least_recently_used_goes() {
        let mut book = book();
        let plenty = Bytes::gibi(64);
        let mut gone = Vec::new();
        for model in [1, 2, 1, 3, 1, 2, 3] {
            gone.push(book.admit(&demand(model, 2, 2), &[], plenty).unwrap());
            book.release(&demand(model, 2, 2));
        }
        let digest = |model| vec![Digest([model; 32])];
        assert_eq!(gone, [vec![], vec![], vec![], digest(2), vec![], digest(3), digest(1)]);
        book.admit(&demand(2, 2, 2), &[], plenty).unwrap();
        book.admit(&demand(3, 2, 2), &[], plenty).unwrap();
        book.admit(&demand(1, 2, 2), &[], plenty).unwrap_err();
    }

    #[test]
    fn the_machine_has_the_last_word() {
        let mut book = book();
        let refused = book.admit(&demand(1, 2, 1), &[], Bytes::gibi(1)).unwrap_err();
        assert!(matches!(refused, Shortage::Machine { .. }), "{refused}");
        assert_eq!(book.reserved(), Bytes(0));
        let refused = book.admit(&Demand { device: "cuda0".into(), ..demand(1, 1, 1) }, &[], Bytes(0)).unwrap_err();
        assert_eq!(refused, Shortage::NoDevice("cuda0".into()));
    }

    #[test]
    fn the_plan_is_evicted_first_and_busy_models_never() {
        let mut book = book();
        let plenty = Bytes::gibi(64);
        for model in [1, 2] {
            book.admit(&demand(model, 1, 1), &[], plenty).unwrap();
        }
        book.release(&demand(2, 1, 1));
        let gone = book.admit(&demand(3, 1, 1), &[Digest([1; 32]), Digest([2; 32])], plenty).unwrap();
        assert_eq!(gone, [Digest([2; 32])]);
        book.observe(&[]);
        book.check_invariants([demand(1, 1, 1), demand(3, 1, 1)].iter()).unwrap();
    }
}
