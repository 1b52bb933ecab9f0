//! In: keys and values → out: the values used last, as many as there is room for. Invariant: never more than that, and
//! they stand in the order of their last use.

use nightshift_types::Timestamp;
use std::collections::BTreeMap;

/// Values by key; the one used longest ago goes first.
#[derive(Debug, Clone)]
pub(super) struct Lru<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    order: BTreeMap<u64, K>,
    room: usize,
    uses: u64,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    number: u64,
    used: Timestamp,
    value: V,
}

impl<K: Ord + Clone, V: Default> Lru<K, V> {
    /// With room for so many; for one at least.
    pub fn new(room: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), room: room.max(1), uses: 0 }
    }

    /// Without counting as a use.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Uses a value; a new one if there is none.
    pub fn touch(&mut self, key: &K, now: Timestamp) -> &mut V {
        self.uses += 1;
        let (number, used) = (self.uses, now);
        if let Some(entry) = self.entries.get(key) {
            self.order.remove(&entry.number);
        } else if self.entries.len() >= self.room
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(number, key.clone());
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry { number, used, value: V::default() });
        (entry.number, entry.used) = (number, used);
        &mut entry.value
    }

    /// The one used longest ago, if that was before `then`; it is gone afterwards.
    pub fn take_unused(&mut self, then: Timestamp) -> Option<(K, V)> {
        let first = self.order.first_entry()?;
        self.entries.get(first.get()).filter(|entry| entry.used < then)?;
        let key = first.remove();
        let entry = self.entries.remove(&key)?;
        Some((key, entry.value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut lru: Lru<u32, u32> = Lru::new(2);
        *lru.touch(&1, Timestamp(1)) = 10;
        *lru.touch(&2, Timestamp(2)) = 20;
        lru.touch(&1, Timestamp(3));
        *lru.touch(&3, Timestamp(4)) = 30;
        assert_eq!(lru.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>(), [(1, 10), (3, 30)]);
        assert!(lru.get(&2).is_none() && lru.len() == 2 && lru.order.len() == 2);
        assert_eq!((lru.take_unused(Timestamp(3)), lru.take_unused(Timestamp(4))), (None, Some((1, 10))));
        assert!(lru.get(&1).is_none() && lru.len() == 1 && lru.order.len() == 1);
    }
}
