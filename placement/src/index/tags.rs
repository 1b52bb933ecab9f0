//! In: which node or device carries which tag → out: a bit for common tags, a list of carriers for rare ones.
//! Invariant: a carrier of a tag has its bit, if the tag has one, and stands in its list, if not: never both.
//!
//! A common tag's bit stands in each entry and, or-ed, in the bounds, so that a search prunes by it; the carriers of a
//! rare one are looked at one by one, before anything else. When bits are short the most carried tags have them.

use std::collections::BTreeSet;

/// From this many carriers on a tag gets a bit, as long as there are any.
const COMMON: u32 = 256;
/// Below this many it loses it.
const RARE: u32 = 64;
/// Bits of a word from here on are shared: by listed tags, where a word has any.
pub(super) const BLOOM: u32 = 64;
const UNTRACKED: u8 = u8::MAX;

/// Tags of one kind; tags and carriers are numbers.
#[derive(Debug, Clone)]
pub(super) struct Tags {
    tags: Vec<Tag>,
    /// Which tag has each bit; the first is `shift`.
    owners: Vec<Option<u32>>,
    shift: u32,
    /// Of tags without a bit: tag and carrier.
    carriers: BTreeSet<(u32, u32)>,
    /// The same, carrier first.
    carried: BTreeSet<(u32, u32)>,
    /// Tags to look at for more, or for less, than a list.
    grown: Vec<u32>,
    shrunk: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Tag {
    carriers: u32,
    bit: u8,
}

/// What must be done to the entries after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The carrier's entries get, or lose, this bit.
    Bit(u128),
    /// Nothing: the lists have it.
    Listed,
}

impl Change {
    /// The bit, or 0.
    pub fn bit(&self) -> u128 {
        match self {
            Self::Bit(bit) => *bit,
            Self::Listed => 0,
        }
    }
}

impl Tags {
    /// With `bits` bits of a word, from bit `shift` on.
    pub fn new(shift: u32, bits: usize) -> Self {
        let (carriers, carried) = (BTreeSet::new(), BTreeSet::new());
        let owners = vec![None; bits];
        Self { tags: Vec::new(), owners, shift, carriers, carried, grown: Vec::new(), shrunk: Vec::new() }
    }

    fn tag(&mut self, tag: u32) -> &mut Tag {
        let at = tag as usize;
        if at >= self.tags.len() {
            self.tags.resize(at + 1, Tag { carriers: 0, bit: UNTRACKED });
        }
        &mut self.tags[at]
    }

    fn known(&self, tag: u32) -> Option<&Tag> {
        self.tags.get(tag as usize).filter(|tag| tag.carriers > 0)
    }

    /// The tag's bit; 0 if it has none.
    pub fn bit(&self, tag: u32) -> u128 {
        self.tags.get(tag as usize).map_or(0, |tag| if tag.bit == UNTRACKED { 0 } else { 1 << tag.bit })
    }

    /// One above the highest tag ever carried.
    pub fn limit(&self) -> u32 {
        self.tags.len() as u32
    }

    /// How many carry it.
    pub fn count(&self, tag: u32) -> u32 {
        self.known(tag).map_or(0, |tag| tag.carriers)
    }

    /// Who carries a tag without a bit, rising.
    pub fn listed(&self, tag: u32) -> impl Iterator<Item = u32> + '_ {
        self.carriers.range((tag, 0)..=(tag, u32::MAX)).map(|(_, carrier)| *carrier)
    }

    /// Whether a carrier stands in the list of a tag without a bit.
    pub fn is_listed(&self, tag: u32, carrier: u32) -> bool {
        self.carriers.contains(&(tag, carrier))
    }

    /// What a carrier carries: by the bits of its entry's `word`, and by the lists.
    pub fn of(&self, carrier: u32, word: u128) -> Vec<u32> {
        let bits = self.owners.iter().enumerate().filter(|(bit, _)| word >> (self.shift as usize + bit) & 1 != 0);
        let listed = self.carried.range((carrier, 0)..=(carrier, u32::MAX)).map(|(_, tag)| *tag);
        bits.filter_map(|(_, owner)| *owner).chain(listed).collect()
    }

    /// One more carrier, which did not carry it.
    pub fn add(&mut self, tag: u32, carrier: u32) -> Change {
        let entry = self.tag(tag);
        entry.carriers += 1;
        if entry.bit != UNTRACKED {
            return Change::Bit(1 << entry.bit);
        }
        // Each time its number doubles: often enough, and seldom.
        if entry.carriers >= COMMON && entry.carriers.is_power_of_two() {
            self.grown.push(tag);
        }
        self.carriers.insert((tag, carrier));
        self.carried.insert((carrier, tag));
        Change::Listed
    }

    /// One carrier less, which carried it.
    pub fn remove(&mut self, tag: u32, carrier: u32) -> Change {
        let entry = self.tag(tag);
        entry.carriers -= 1;
        if entry.bit != UNTRACKED {
            let bit = 1 << entry.bit;
            if entry.carriers < RARE {
                self.shrunk.push(tag);
            }
            return Change::Bit(bit);
        }
        self.carriers.remove(&(tag, carrier));
        self.carried.remove(&(carrier, tag));
        Change::Listed
    }

    /// The last tag that grew, if it should get a bit now.
    pub fn next_common(&mut self) -> Option<u32> {
        let tag = self.grown.pop()?;
        let Some(&Tag { carriers, bit }) = self.known(tag) else { return self.next_common() };
        // Four times as many as the least carried: so bits do not go to and fro.
        let rival = || self.least().is_none_or(|(_, least)| carriers / 4 > least);
        let common = bit == UNTRACKED && carriers >= COMMON && (self.owners.contains(&None) || rival());
        if common { Some(tag) } else { self.next_common() }
    }

    /// A tag whose bit is no longer worth it.
    pub fn next_rare(&mut self) -> Option<u32> {
        let tag = self.shrunk.pop()?;
        let rare = self.tags.get(tag as usize).is_some_and(|tag| tag.bit != UNTRACKED && tag.carriers < RARE);
        if rare { Some(tag) } else { self.next_rare() }
    }

    /// Whether a carrier whose entry has `word` carries the tag.
    pub fn carries(&self, tag: u32, carrier: u32, word: u128) -> bool {
        match self.bit(tag) {
            0 => self.is_listed(tag, carrier),
            bit => word & bit != 0,
        }
    }

    /// Bits that the tags in a carrier's list share, of the 64 from [`BLOOM`] on: one a tag.
    pub fn bloom_of(&self, carrier: u32) -> u128 {
        let tags = self.carried.range((carrier, 0)..=(carrier, u32::MAX));
        tags.fold(0, |bits, (_, tag)| bits | self.bloom(*tag))
    }

    /// The bit that a listed tag has, together with others (a Bloom filter with one hash).
    pub fn bloom(&self, tag: u32) -> u128 {
        let mixed = (tag + self.shift).wrapping_mul(0x9E37_79B9);
        1 << (BLOOM + (mixed >> 26))
    }

    /// Before anything is carried: bits for the tags that will be carried most, told how many will carry each.
    pub fn reserve(&mut self, counts: &[u32]) {
        let mut common: Vec<(u32, u32)> =
            (0..).zip(counts.iter().copied()).filter(|(_, count)| *count >= COMMON).collect();
        common.sort_unstable_by_key(|&(tag, count)| (std::cmp::Reverse(count), tag));
        for (free, (tag, _)) in common.into_iter().take(self.owners.len()).enumerate() {
            self.owners[free] = Some(tag);
            self.tag(tag).bit = free as u8 + self.shift as u8;
        }
    }

    fn least(&self) -> Option<(u32, u32)> {
        let owners = self.owners.iter().flatten();
        owners.map(|&owner| (owner, self.tags[owner as usize].carriers)).min_by_key(|(_, carriers)| *carriers)
    }

    /// The tag that must give up its bit before another can have one.
    pub fn to_demote(&self) -> Option<u32> {
        if self.owners.contains(&None) { None } else { self.least().map(|(tag, _)| tag) }
    }

    /// Gives a listed tag a free bit: the bit, and the carriers whose entries need it.
    pub fn promote(&mut self, tag: u32) -> Option<(u128, Vec<u32>)> {
        let free = self.owners.iter().position(Option::is_none)?;
        self.owners[free] = Some(tag);
        let bit = free as u32 + self.shift;
        self.tag(tag).bit = bit as u8;
        let carriers: Vec<u32> = self.listed(tag).collect();
        for &carrier in &carriers {
            self.carriers.remove(&(tag, carrier));
            self.carried.remove(&(carrier, tag));
        }
        Some((1 << bit, carriers))
    }

    /// Takes a tag's bit and lists its `carriers`, who lose it.
    pub fn demote(&mut self, tag: u32, carriers: impl Iterator<Item = u32>) {
        let bit = std::mem::replace(&mut self.tag(tag).bit, UNTRACKED);
        self.owners[(u32::from(bit) - self.shift) as usize] = None;
        for carrier in carriers {
            self.carriers.insert((tag, carrier));
            self.carried.insert((carrier, tag));
        }
    }
}
