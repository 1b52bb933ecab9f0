//! In: keys and values → out: the values used last, as many as there is room for. Invariant: never more than that.

use std::collections::BTreeMap;

/// Values by key; the one used longest ago goes first.
#[derive(Debug, Clone)]
pub(super) struct Lru<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    room: usize,
    uses: u64,
}

impl<K: Ord + Clone, V: Default> Lru<K, V> {
    /// With room for so many; for one at least.
    pub fn new(room: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), room: room.max(1), uses: 0 }
    }

    /// Without counting as a use.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Uses a value; a new one if there is none.
    pub fn touch(&mut self, key: &K) -> &mut V {
        self.uses += 1;
        let used = self.uses;
        if let Some((before, _)) = self.entries.get(key) {
            self.order.remove(before);
        } else if self.entries.len() >= self.room
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(used, key.clone());
        let (stamp, value) = self.entries.entry(key.clone()).or_insert_with(|| (used, V::default()));
        *stamp = used;
        value
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut lru: Lru<u32, u32> = Lru::new(2);
        *lru.touch(&1) = 10;
        *lru.touch(&2) = 20;
        lru.touch(&1);
        *lru.touch(&3) = 30;
        assert_eq!(lru.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>(), [(1, 10), (3, 30)]);
        assert!(lru.get(&2).is_none() && lru.len() == 2 && lru.order.len() == 2);
    }
}
