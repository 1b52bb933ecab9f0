//! In: devices → out: leaves of them under a tree of bounds.
//! Invariant: group `g` of level 0 bounds leaves `FAN × g …`, group `g` of a level above the groups `FAN × g …` below; a
//! device's place is where its entry is. A tree of one leaf has no levels.
//!
//! The tree is a set of arrays without pointers. A leaf that overflows is arranged anew together with its neighbours:
//! with the smallest part of the tree around it that has room enough.

use super::columns::{Columns, NOBODY, Row};
use super::kd;
use super::names::{ALL, Names, device_of};
use std::ops::Range;

/// Entries of a leaf.
pub(super) const LANES: usize = 8;
/// Children of a node.
pub(super) const FAN: usize = 16;
/// Entries a leaf has when all are arranged anew.
const FILL: usize = 7;
/// Arranged anew at a time to keep bounds tight: what a group of this level bounds.
const TIDY_LEVEL: usize = 1;

/// Changes a row, before.
const TIDY_CHANGES: usize = 4;

pub(super) type Leaf = [u32; LANES];

const EMPTY: Leaf = [NOBODY; LANES];

/// Bounds of up to [`FAN`] leaves or groups.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub bounds: Columns<FAN>,
    /// Entries below each, open or not.
    pub used: [u32; FAN],
}

impl Group {
    const EMPTY: Self = Self { bounds: Columns::EMPTY, used: [0; FAN] };
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Whose places it keeps: [`ALL`], or a model.
    which: u32,
    pub leaves: Vec<Leaf>,
    /// From those over the leaves to the root; the last has one group.
    pub levels: Vec<Vec<Group>>,
    len: usize,
    changes: usize,
    tidied: usize,
}

/// Those of a leaf that are there.
pub(super) fn used(leaf: &Leaf) -> impl Iterator<Item = u32> + '_ {
    leaf.iter().copied().filter(|&entry| entry != NOBODY)
}

impl Tree {
    pub fn new(which: u32) -> Self {
        Self { which, leaves: Vec::new(), levels: Vec::new(), len: 0, changes: 0, tidied: 0 }
    }

    /// All of these at once, into an empty tree.
    pub fn fill_with(&mut self, entries: impl Iterator<Item = u32>, names: &mut Names) {
        let mut rows: Vec<Row> = entries.map(|entry| names.row(entry)).collect();
        if !rows.is_empty() {
            self.reset(&mut rows, names);
        }
    }

    /// Devices have other numbers from now on.
    pub fn renumber(&mut self, new: &[u32]) {
        let leaves = self.leaves.iter_mut().flatten();
        let firsts = self.levels.iter_mut().flatten().flat_map(|group| &mut group.bounds.who);
        leaves.chain(firsts).filter(|entry| **entry != NOBODY).for_each(|entry| *entry = new[*entry as usize]);
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Leaf and lane of an entry.
    pub fn place(&self, entry: u32, names: &Names) -> (usize, usize) {
        let place = names.place(self.which, entry) as usize;
        (place / LANES, place % LANES)
    }

    /// Every entry.
    pub fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.leaves.iter().flat_map(used)
    }

    /// What bounds the open ones of a leaf; `who` is left to the groups.
    pub fn bound_of(leaf: &Leaf, names: &Names) -> Row {
        let mut bound = Row::EMPTY;
        for entry in used(leaf) {
            if names.hot[device_of(entry) as usize].open() {
                bound.join(&names.row(entry));
            }
        }
        bound
    }

    /// A device filled or emptied; what it had free, and its round trip and wait, before.
    pub fn fill(&mut self, place: u32, (old_free, old_base): (f32, f32), names: &Names) {
        if self.levels.is_empty() {
            return;
        }
        let (leaf, lane) = (place as usize / LANES, place as usize % LANES);
        let entry = self.leaves[leaf][lane];
        let hot = &names.hot[device_of(entry) as usize];
        match (old_free >= 0.0, hot.open()) {
            (true, true) => {
                let bounds = &self.levels[0][leaf / FAN].bounds;
                let (most, least) = (bounds.free[leaf % FAN], bounds.base[leaf % FAN]);
                let load = if old_free < most && old_base > least {
                    if hot.free <= most && hot.base >= least {
                        return;
                    }
                    (most.max(hot.free), least.min(hot.base))
                } else {
                    let open = used(&self.leaves[leaf]).map(|entry| &names.hot[device_of(entry) as usize]);
                    let open = open.filter(|hot| hot.open());
                    open.fold((-1.0f32, f32::MAX), |load, hot| (load.0.max(hot.free), load.1.min(hot.base)))
                };
                self.reload(leaf, load);
            }
            (true, false) => self.refresh(leaf, names),
            (false, true) => self.loosen(leaf, &names.row(entry)),
            (false, false) => {}
        }
    }

    fn reload(&mut self, leaf: usize, mut load: (f32, f32)) {
        let mut at = leaf;
        for groups in &mut self.levels {
            let (bounds, lane) = (&mut groups[at / FAN].bounds, at % FAN);
            if (bounds.free[lane], bounds.base[lane]) == load {
                return;
            }
            (bounds.free[lane], bounds.base[lane]) = load;
            load = bounds.load();
            at /= FAN;
        }
    }

    /// An open row more in a leaf.
    fn loosen(&mut self, leaf: usize, row: &Row) {
        let mut at = leaf;
        for groups in &mut self.levels {
            let (bounds, lane) = (&mut groups[at / FAN].bounds, at % FAN);
            let old = bounds.get(lane);
            let mut new = old;
            new.join(row);
            if new == old {
                return;
            }
            bounds.set(lane, &new);
            at /= FAN;
        }
    }

    /// Bounds of a leaf that changed, and of those above as far as that matters.
    pub fn refresh(&mut self, leaf: usize, names: &Names) {
        if self.levels.is_empty() {
            return;
        }
        let mut at = leaf;
        let mut bound = Self::bound_of(&self.leaves[leaf], names);
        for groups in &mut self.levels {
            let (group, lane) = (&mut groups[at / FAN], at % FAN);
            bound.who = group.bounds.who[lane];
            if group.bounds.get(lane) == bound {
                return;
            }
            group.bounds.set(lane, &bound);
            bound = group.bounds.bound();
            at /= FAN;
        }
    }

    /// A device asks another price than before.
    pub fn ask(&mut self, entry: u32, old: f32, names: &mut Names) {
        let (leaf, _) = self.place(entry, names);
        let hot = &names.hot[device_of(entry) as usize];
        let (new, open) = (hot.ask, hot.open());
        if open && new < old && self.levels.len() > TIDY_LEVEL {
            let part = leaf / FAN.pow(TIDY_LEVEL as u32);
            if new < self.levels[TIDY_LEVEL][part / FAN].bounds.ask[part % FAN] {
                self.remove(entry, names);
                return self.insert(entry, names);
            }
        }
        if open && !self.levels.is_empty() {
            if new < old {
                self.loosen(leaf, &names.row(entry));
            } else if old <= self.levels[0][leaf / FAN].bounds.ask[leaf % FAN] {
                self.refresh(leaf, names);
            }
        }
        self.tidy(names);
    }

    /// A device's row is another.
    pub fn change(&mut self, entry: u32, names: &mut Names) {
        let (leaf, _) = self.place(entry, names);
        self.refresh(leaf, names);
        self.tidy(names);
    }

    fn count(&mut self, leaf: usize, more: u32) {
        let mut at = leaf;
        for groups in &mut self.levels {
            let used = &mut groups[at / FAN].used[at % FAN];
            *used = used.wrapping_add(more);
            at /= FAN;
        }
        self.len = self.len.wrapping_add(more as i32 as usize);
    }

    pub fn insert(&mut self, entry: u32, names: &mut Names) {
        let row = names.row(entry);
        if self.leaves.is_empty() {
            self.leaves.push(EMPTY);
        }
        let leaf = self.descend(&row);
        let Some(lane) = self.leaves[leaf].iter().position(|&other| other == NOBODY) else {
            return self.overflow(leaf, row, names);
        };
        self.leaves[leaf][lane] = entry;
        names.set_place(self.which, entry, (leaf * LANES + lane) as u32);
        self.count(leaf, 1);
        if row.open() {
            self.loosen(leaf, &row);
        }
        let mut at = leaf;
        for groups in &mut self.levels {
            let first = &mut groups[at / FAN].bounds.who[at % FAN];
            if *first == NOBODY || names.by_id(entry, *first).is_lt() {
                *first = entry;
            }
            at /= FAN;
        }
    }

    /// The leaf a row fits best, as far as a walk from the root tells; one with room, if there is any.
    fn descend(&self, row: &Row) -> usize {
        let (mut at, point) = (0, kd::coordinates(row));
        for level in (0..self.levels.len()).rev() {
            let group = &self.levels[level][at];
            let room = (LANES * FAN.pow(level as u32)) as u32;
            let misfit = |&lane: &usize| {
                let used = group.used[lane];
                (used >= room, kd::misfit(row, &point, &group.bounds.get(lane)), used)
            };
            at = at * FAN + (0..self.children(level, at)).min_by_key(misfit).unwrap_or(0);
        }
        at
    }

    /// How many leaves or groups a group bounds.
    pub fn children(&self, level: usize, group: usize) -> usize {
        let below = if level == 0 { self.leaves.len() } else { self.levels[level - 1].len() };
        (below - group * FAN).min(FAN)
    }

    pub fn remove(&mut self, entry: u32, names: &mut Names) {
        let (leaf, lane) = self.place(entry, names);
        self.leaves[leaf][lane] = NOBODY;
        names.set_place(self.which, entry, NOBODY);
        self.count(leaf, 1u32.wrapping_neg());
        self.refresh(leaf, names);
        let mut at = leaf;
        let mut first = first_of(&self.leaves[leaf], names);
        for level in 0..self.levels.len() {
            let (group, lane) = (at / FAN, at % FAN);
            if self.levels[level][group].bounds.who[lane] != entry {
                break;
            }
            self.levels[level][group].bounds.who[lane] = first;
            first = first_of(&self.levels[level][group].bounds.who, names);
            at /= FAN;
        }
        if self.len == 0 {
            *self = Self::new(self.which);
        } else if self.leaves.len() > 1 && self.len < self.leaves.len() * LANES / 4 {
            let mut rows = self.drain(0..self.leaves.len(), names);
            self.reset(&mut rows, names);
        }
    }

    /// No room in its leaf: the smallest part around it that is not too dense takes the row and is arranged anew.
    fn overflow(&mut self, leaf: usize, row: Row, names: &mut Names) {
        let mut span = 1;
        for level in 0..self.levels.len() {
            span *= FAN;
            let group = leaf / span;
            let part = group * span..((group + 1) * span).min(self.leaves.len());
            // The larger the part, the more room it must keep: so each rearrangement pays for many insertions below.
            let room = part.len() * (LANES * 64 - (level + 1).min(5) * 12);
            let used: u32 = self.levels[level][group].used.iter().sum();
            if used as usize * 64 < room {
                let mut rows = self.drain(part.clone(), names);
                rows.push(row);
                self.len += 1;
                return self.arrange(&mut rows, part, names);
            }
        }
        let mut rows = self.drain(0..self.leaves.len(), names);
        rows.push(row);
        self.reset(&mut rows, names);
    }

    fn drain(&mut self, part: Range<usize>, names: &Names) -> Vec<Row> {
        let mut rows = Vec::with_capacity(part.len() * LANES + 1);
        for leaf in &mut self.leaves[part] {
            rows.extend(used(leaf).map(|entry| names.row(entry)));
            *leaf = EMPTY;
        }
        rows
    }

    /// Puts rows into empty leaves, and renews all bounds of theirs.
    fn arrange(&mut self, rows: &mut [Row], part: Range<usize>, names: &mut Names) {
        let mut at = part.start;
        let worth = if self.which == ALL { &kd::BY_ASK } else { &kd::BY_TIME };
        kd::arrange(rows, part.len(), worth, &|a, b| names.by_id(a, b), &mut |rows| {
            for (entry, row) in self.leaves[at].iter_mut().zip(rows) {
                *entry = row.who;
            }
            at += 1;
        });
        for leaf in part.clone() {
            for (lane, entry) in self.leaves[leaf].into_iter().enumerate().filter(|(_, entry)| *entry != NOBODY) {
                names.set_place(self.which, entry, (leaf * LANES + lane) as u32);
            }
        }
        let (mut low, mut high) = (part.start, part.end);
        for level in 0..self.levels.len() {
            for at in low..high {
                let (mut bound, count);
                if level == 0 {
                    let leaf = &self.leaves[at];
                    bound = Self::bound_of(leaf, names);
                    (bound.who, count) = (first_of(leaf, names), used(leaf).count() as u32);
                } else {
                    let group = &self.levels[level - 1][at];
                    bound = group.bounds.bound();
                    (bound.who, count) = (first_of(&group.bounds.who, names), group.used.iter().sum());
                }
                let group = &mut self.levels[level][at / FAN];
                group.bounds.set(at % FAN, &bound);
                group.used[at % FAN] = count;
            }
            (low, high) = (low / FAN, high.div_ceil(FAN));
        }
    }

    /// All anew, in as many leaves as there should be.
    fn reset(&mut self, rows: &mut [Row], names: &mut Names) {
        let leaves = if rows.len() <= LANES { 1 } else { rows.len().div_ceil(FILL) };
        self.leaves = vec![EMPTY; leaves];
        self.levels.clear();
        let mut width = leaves;
        while width > 1 {
            width = width.div_ceil(FAN);
            self.levels.push(vec![Group::EMPTY; width]);
        }
        (self.len, self.tidied) = (rows.len(), 0);
        self.arrange(rows, 0..leaves, names);
    }

    /// A row was changed in a column that leaves are arranged by: after some changes for each row of a part the next part is
    /// arranged anew, so that bounds stay tight.
    fn tidy(&mut self, names: &mut Names) {
        self.changes += 1;
        let span = FAN.pow(TIDY_LEVEL as u32 + 1).min(self.leaves.len());
        if self.changes < span * LANES * TIDY_CHANGES {
            return;
        }
        self.changes = 0;
        let start = self.tidied * span % self.leaves.len() / span * span;
        self.tidied += 1;
        let part = start..(start + span).min(self.leaves.len());
        let mut rows = self.drain(part.clone(), names);
        self.arrange(&mut rows, part, names);
    }

    pub fn bytes(&self) -> usize {
        let bounds: usize = self.levels.iter().map(|level| level.capacity() * size_of::<Group>()).sum();
        self.leaves.capacity() * size_of::<Leaf>() + bounds
    }
}

/// The one of the first id.
fn first_of(entries: &[u32], names: &Names) -> u32 {
    let known = entries.iter().copied().filter(|&entry| entry != NOBODY);
    known.reduce(|a, b| if names.by_id(a, b).is_le() { a } else { b }).unwrap_or(NOBODY)
}
