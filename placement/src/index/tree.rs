//! In: rows → out: blocks of them under a tree of bounds.
//! Invariant: group `g` of level 0 bounds blocks `FAN × g …`, group `g` of a level above the groups `FAN × g …` below; a
//! device's place is where its row is.
//!
//! The tree is a set of arrays without pointers. A block that overflows is arranged anew together with its neighbours:
//! with the smallest part of the tree around it that has room enough.

use super::columns::{Columns, NOBODY, Row};
use super::kd;
use std::cmp::Ordering;
use std::ops::Range;

/// Rows of a block.
pub(super) const LANES: usize = 16;
/// Children of a node.
pub(super) const FAN: usize = 8;
/// Rows a block has when all are arranged anew.
const FILL: usize = 14;
/// Arranged anew at a time to keep bounds tight: what a group of this level bounds.
const TIDY_LEVEL: usize = 1;

pub(super) type Block = Columns<LANES>;

/// Bounds of up to [`FAN`] blocks or groups.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub bounds: Columns<FAN>,
    /// Rows below each, open or not.
    pub used: [u32; FAN],
}

impl Group {
    const EMPTY: Self = Self { bounds: Columns::EMPTY, used: [0; FAN] };
}

/// Compares the ids of two devices' nodes.
pub(super) type ById<'a> = &'a dyn Fn(u32, u32) -> Ordering;

#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub blocks: Vec<Block>,
    /// From those over the blocks to the root; the last has one group.
    pub levels: Vec<Vec<Group>>,
    /// By device: block × [`LANES`] + lane.
    places: Vec<u32>,
    len: usize,
    changes: usize,
    tidied: usize,
}

impl Tree {
    pub fn new(mut rows: Vec<Row>, by_id: ById<'_>) -> Self {
        let (blocks, levels, places) = (Vec::new(), Vec::new(), Vec::new());
        let mut tree = Self { blocks, levels, places, len: 0, changes: 0, tidied: 0 };
        tree.reset(&mut rows, by_id);
        tree
    }

    /// Rows in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Block and lane of a device.
    pub fn place(&self, device: u32) -> (usize, usize) {
        let place = self.places[device as usize] as usize;
        (place / LANES, place % LANES)
    }

    pub fn row(&self, device: u32) -> Row {
        let (block, lane) = self.place(device);
        self.blocks[block].get(lane)
    }

    /// Every row.
    pub fn rows(&self) -> Vec<Row> {
        self.blocks.iter().flat_map(|block| block.used().map(|lane| block.get(lane))).collect()
    }

    /// Devices whose rows have one of these bits.
    pub fn marked(&self, labels: u128, models: u128) -> Vec<u32> {
        let marked = |row: &Row| (row.labels & labels) | (row.models & models) != 0;
        self.rows().into_iter().filter(marked).map(|row| row.who).collect()
    }

    /// Changes a device's row without a thought for where it stands: for what blocks are not arranged by.
    pub fn adjust(&mut self, device: u32, change: impl FnOnce(&mut Block, usize)) {
        let (block, lane) = self.place(device);
        change(&mut self.blocks[block], lane);
        self.refresh(block);
    }

    /// A device fills or empties: what it has free, and its round trip and wait. Most do not touch their block's bound.
    pub fn fill(&mut self, device: u32, free: f32, base: f32) {
        let (block, lane) = self.place(device);
        let rows = &mut self.blocks[block];
        let old_free = std::mem::replace(&mut rows.free[lane], free);
        let old_base = std::mem::replace(&mut rows.base[lane], base);
        let bounds = &self.levels[0][block / FAN].bounds;
        let (most, least) = (bounds.free[block % FAN], bounds.base[block % FAN]);
        let inside = |free: f32, base: f32| free < most && base > least;
        let unseen = match (old_free >= 0.0, free >= 0.0) {
            (true, true) => inside(old_free, old_base) && inside(free, base),
            (was_open, open) => !was_open && !open,
        };
        if !unseen {
            self.refresh(block);
        }
    }

    /// A device's row is another. One that would loosen the bounds of many moves to where it fits.
    pub fn change(&mut self, new: &Row, by_id: ById<'_>) {
        let (block, lane) = self.place(new.who);
        let old = self.blocks[block].get(lane);
        if new.open() && new.ask < old.ask && self.levels.len() > TIDY_LEVEL + 1 {
            let (group, lane) = (block / FAN.pow(TIDY_LEVEL as u32 + 2), block / FAN.pow(TIDY_LEVEL as u32 + 1) % FAN);
            if new.ask < self.levels[TIDY_LEVEL + 1][group].bounds.ask[lane] {
                self.remove(new.who, by_id);
                return self.insert(new, by_id);
            }
        }
        self.blocks[block].set(lane, new);
        self.refresh(block);
        if (new.ask, new.link, new.load, new.slowness) != (old.ask, old.link, old.load, old.slowness) {
            self.tidy(by_id);
        }
    }

    /// Bounds of a block that changed, and of those above as far as that matters.
    pub fn refresh(&mut self, block: usize) {
        let mut at = block;
        let mut bound = self.blocks[block].bound();
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

    fn count(&mut self, block: usize, more: u32) {
        let mut at = block;
        for groups in &mut self.levels {
            let used = &mut groups[at / FAN].used[at % FAN];
            *used = used.wrapping_add(more);
            at /= FAN;
        }
        self.len = self.len.wrapping_add(more as i32 as usize);
    }

    pub fn insert(&mut self, row: &Row, by_id: ById<'_>) {
        if self.places.len() <= row.who as usize {
            self.places.resize(row.who as usize + 1, NOBODY);
        }
        let block = self.descend(row);
        let Some(lane) = self.blocks[block].who.iter().position(|&who| who == NOBODY) else {
            return self.overflow(block, row, by_id);
        };
        self.blocks[block].set(lane, row);
        self.places[row.who as usize] = (block * LANES + lane) as u32;
        self.count(block, 1);
        self.refresh(block);
        let mut at = block;
        for groups in &mut self.levels {
            let first = &mut groups[at / FAN].bounds.who[at % FAN];
            if *first == NOBODY || by_id(row.who, *first).is_lt() {
                *first = row.who;
            }
            at /= FAN;
        }
    }

    /// The block a row fits best, as far as a walk from the root tells; one with room, if there is any.
    fn descend(&self, row: &Row) -> usize {
        let mut at = 0;
        for level in (0..self.levels.len()).rev() {
            let group = &self.levels[level][at];
            let room = (LANES * FAN.pow(level as u32)) as u32;
            let misfit = |&lane: &usize| {
                let used = group.used[lane];
                (used >= room, kd::misfit(row, &group.bounds.get(lane)), used)
            };
            at = at * FAN + (0..self.children(level, at)).min_by_key(misfit).unwrap_or(0);
        }
        at
    }

    /// How many blocks or groups a group bounds.
    pub fn children(&self, level: usize, group: usize) -> usize {
        let below = if level == 0 { self.blocks.len() } else { self.levels[level - 1].len() };
        (below - group * FAN).min(FAN)
    }

    pub fn remove(&mut self, device: u32, by_id: ById<'_>) {
        let (block, lane) = self.place(device);
        self.blocks[block].set(lane, &Row::EMPTY);
        self.places[device as usize] = NOBODY;
        self.count(block, 1u32.wrapping_neg());
        self.refresh(block);
        let mut at = block;
        let mut first = self.first_of(&self.blocks[block].who, by_id);
        for level in 0..self.levels.len() {
            let (group, lane) = (at / FAN, at % FAN);
            if self.levels[level][group].bounds.who[lane] != device {
                break;
            }
            self.levels[level][group].bounds.who[lane] = first;
            first = self.first_of(&self.levels[level][group].bounds.who, by_id);
            at /= FAN;
        }
        if self.blocks.len() > FAN && self.len < self.blocks.len() * LANES / 4 {
            let mut rows = self.drain(0..self.blocks.len());
            self.reset(&mut rows, by_id);
        }
    }

    fn first_of(&self, devices: &[u32], by_id: ById<'_>) -> u32 {
        let known = devices.iter().copied().filter(|&device| device != NOBODY);
        known.reduce(|a, b| if by_id(a, b).is_le() { a } else { b }).unwrap_or(NOBODY)
    }

    /// No room in its block: the smallest part around it that is not too dense takes the row and is arranged anew.
    fn overflow(&mut self, block: usize, row: &Row, by_id: ById<'_>) {
        let mut span = 1;
        for level in 0..self.levels.len() {
            span *= FAN;
            let group = block / span;
            let part = group * span..((group + 1) * span).min(self.blocks.len());
            // The larger the part, the more room it must keep: so each rearrangement pays for many insertions below.
            let room = part.len() * (LANES * 64 - (level + 1).min(6) * 24);
            let used: u32 = self.levels[level][group].used.iter().sum();
            if used as usize * 64 < room {
                let mut rows = self.drain(part.clone());
                rows.push(*row);
                self.len += 1;
                return self.arrange(&mut rows, part, by_id);
            }
        }
        let mut rows = self.drain(0..self.blocks.len());
        rows.push(*row);
        self.reset(&mut rows, by_id);
    }

    fn drain(&mut self, part: Range<usize>) -> Vec<Row> {
        let mut rows = Vec::with_capacity(part.len() * LANES);
        for block in &mut self.blocks[part] {
            rows.extend(block.used().map(|lane| block.get(lane)));
            *block = Block::EMPTY;
        }
        rows
    }

    /// Puts rows into empty blocks, and renews all bounds of theirs.
    fn arrange(&mut self, rows: &mut [Row], part: Range<usize>, by_id: ById<'_>) {
        let mut block = part.start;
        kd::arrange(rows, part.len(), by_id, &mut |rows| {
            for (lane, row) in rows.iter().enumerate() {
                self.blocks[block].set(lane, row);
                self.places[row.who as usize] = (block * LANES + lane) as u32;
            }
            block += 1;
        });
        let (mut low, mut high) = (part.start, part.end);
        for level in 0..self.levels.len() {
            for at in low..high {
                let (mut bound, used);
                if level == 0 {
                    let block = &self.blocks[at];
                    bound = block.bound();
                    (bound.who, used) = (self.first_of(&block.who, by_id), block.used().count() as u32);
                } else {
                    let group = &self.levels[level - 1][at];
                    bound = group.bounds.bound();
                    (bound.who, used) = (self.first_of(&group.bounds.who, by_id), group.used.iter().sum());
                }
                let group = &mut self.levels[level][at / FAN];
                group.bounds.set(at % FAN, &bound);
                group.used[at % FAN] = used;
            }
            (low, high) = (low / FAN, high.div_ceil(FAN));
        }
    }

    /// All anew, in as many blocks as there should be.
    fn reset(&mut self, rows: &mut [Row], by_id: ById<'_>) {
        let blocks = rows.len().div_ceil(FILL).max(1);
        self.blocks = vec![Block::EMPTY; blocks];
        self.levels.clear();
        let mut width = blocks;
        loop {
            width = width.div_ceil(FAN);
            self.levels.push(vec![Group::EMPTY; width]);
            if width == 1 {
                break;
            }
        }
        let devices = rows.iter().map(|row| row.who as usize + 1).max().unwrap_or(0);
        self.places.resize(self.places.len().max(devices), NOBODY);
        (self.len, self.tidied) = (rows.len(), 0);
        self.arrange(rows, 0..blocks, by_id);
    }

    /// A row was changed in a column that blocks are arranged by: after as many changes as a part has rows, the next part
    /// is arranged anew, so that bounds stay tight.
    fn tidy(&mut self, by_id: ById<'_>) {
        self.changes += 1;
        let span = FAN.pow(TIDY_LEVEL as u32 + 1);
        if self.changes < span * LANES {
            return;
        }
        self.changes = 0;
        let start = self.tidied * span % self.blocks.len() / span * span;
        self.tidied += 1;
        let part = start..(start + span).min(self.blocks.len());
        let mut rows = self.drain(part.clone());
        self.arrange(&mut rows, part, by_id);
    }

    pub fn bytes(&self) -> usize {
        let bounds: usize = self.levels.iter().map(|level| level.capacity() * size_of::<Group>()).sum();
        self.blocks.capacity() * size_of::<Block>() + bounds + self.places.capacity() * size_of::<u32>()
    }
}
