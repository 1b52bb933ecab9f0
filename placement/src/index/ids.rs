//! In: ids and words → out: small numbers for them. Invariant: two that differ have different numbers, as long as they are held.

use nightshift_types::NodeId;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Nobody there.
const EMPTY: u32 = u32::MAX;

/// Node ids to numbers, at 8 to 16 bytes each: open addressing over the numbers alone; the ids stand with the nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    slots: Vec<u32>,
    count: usize,
}

fn hash(id: &NodeId) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish() as usize
}

impl Ids {
    /// The number of `id`, where `id_of` tells each number's id.
    pub fn find<'a>(&self, id: &NodeId, id_of: impl Fn(u32) -> Option<&'a NodeId>) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash(id) & mask;
        loop {
            match self.slots[at] {
                EMPTY => return None,
                number if id_of(number) == Some(id) => return Some(number),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds `number`, whose id is not there yet.
    pub fn insert<'a>(&mut self, number: u32, id: &NodeId, id_of: impl Fn(u32) -> Option<&'a NodeId>) {
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            let larger = vec![EMPTY; (self.slots.len() * 2).max(16)];
            let old = std::mem::replace(&mut self.slots, larger);
            for number in old.into_iter().filter(|&number| number != EMPTY) {
                if let Some(id) = id_of(number) {
                    self.put(number, id);
                }
            }
        }
        self.put(number, id);
        self.count += 1;
    }

    fn put(&mut self, number: u32, id: &NodeId) {
        let mask = self.slots.len() - 1;
        let mut at = hash(id) & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = number;
    }

    /// Removes `number`, whose id is still known to `id_of`.
    pub fn remove<'a>(&mut self, number: u32, id: &NodeId, id_of: impl Fn(u32) -> Option<&'a NodeId>) {
        let mask = self.slots.len() - 1;
        let mut hole = hash(id) & mask;
        while self.slots[hole] != number {
            hole = (hole + 1) & mask;
        }
        // Those behind move up, so that every search still ends at an empty place.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let number = self.slots[at];
            let Some(id) = (number != EMPTY).then(|| id_of(number)).flatten() else { break };
            let home = hash(id) & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = number;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
        self.count -= 1;
    }

    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}

/// Words, held as often as they are used, to numbers; a number whose word nobody holds is used again.
#[derive(Debug, Clone)]
pub(super) struct Interner<T> {
    numbers: HashMap<T, u32>,
    /// Word and holders.
    words: Vec<(Option<T>, u32)>,
    unused: Vec<u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), words: Vec::new(), unused: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    pub fn find<Q: Hash + Eq + ?Sized>(&self, word: &Q) -> Option<u32>
    where
        T: std::borrow::Borrow<Q>,
    {
        self.numbers.get(word).copied()
    }

    /// The word's number, held once more.
    pub fn hold(&mut self, word: &T) -> u32 {
        if let Some(&number) = self.numbers.get(word) {
            self.words[number as usize].1 += 1;
            return number;
        }
        let number = self.unused.pop().unwrap_or(self.words.len() as u32);
        if number as usize == self.words.len() {
            self.words.push((None, 0));
        }
        self.words[number as usize] = (Some(word.clone()), 1);
        self.numbers.insert(word.clone(), number);
        number
    }

    /// Held once less.
    pub fn release(&mut self, number: u32) {
        let (word, holders) = &mut self.words[number as usize];
        *holders -= 1;
        if *holders == 0
            && let Some(word) = word.take()
        {
            self.numbers.remove(&word);
            self.unused.push(number);
        }
    }

    /// One above the highest number ever used.
    pub fn limit(&self) -> usize {
        self.words.len()
    }

    pub fn word(&self, number: u32) -> Option<&T> {
        self.words.get(number as usize)?.0.as_ref()
    }
}
