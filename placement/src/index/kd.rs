//! In: rows and a number of blocks → out: the rows in blocks, like with like, so that bounds are tight.
//! Invariant: every row is handed over once; rows that are alike stand in the order of their nodes' ids.
//!
//! Each cut is at the column in which the rows differ most. Columns are compared in octaves (the exponent and mantissa
//! of a float are a good logarithm), weighed by what a bound gains from a cut there: [`Worth`].

use super::columns::{CLASSES, REGIONS, Row};
use super::tree::FAN;
use std::cmp::Ordering;

/// One octave, or one step of a class.
const OCTAVE: u64 = 1 << 23;
/// Added to asks, base times and loading, so that tiny ones do not count as many octaves apart: 0.004 points an hour, 4 ms,
/// 20 GB/s.
const ASK_FLOOR: f32 = 4e9;
const BASE_FLOOR: f32 = 4e6;
const LOAD_FLOOR: f32 = 5e4;
/// Entries looked at to choose a cut.
const SAMPLE: usize = 64;

const COLUMNS: usize = 9;
/// The first column that has no better and worse.
const CLASS: usize = 6;
/// Worth of a cut, by column, in the order of [`coordinates`].
pub(super) type Worth = [u64; COLUMNS];
/// Where most searches are for what is cheap: among all devices.
pub(super) const BY_ASK: Worth = [32, 6, 4, 2, 6, 24, 24, 16, 16];
/// Where they are for what is fast, too: among those that have the model.
pub(super) const BY_TIME: Worth = [24, 10, 2, 8, 10, 20, 24, 10, 10];

fn octaves(value: f32) -> u32 {
    value.to_bits()
}

/// Ask, slowness, link, load, base, size, class, tier, region.
pub(super) fn coordinates(row: &Row) -> [u32; COLUMNS] {
    std::array::from_fn(|column| coordinate(row, column))
}

fn coordinate(row: &Row, column: usize) -> u32 {
    let step = |bits: u32| bits.trailing_zeros().min(31) * OCTAVE as u32;
    match column {
        0 => octaves(row.ask + ASK_FLOOR),
        1 => octaves(row.slowness),
        2 => octaves(row.link),
        3 => octaves(row.load + LOAD_FLOOR),
        4 => octaves(row.base + BASE_FLOOR),
        // The larger, the better.
        5 => !octaves(row.size as f32 + 512.0),
        6 => step(row.facts & CLASSES),
        7 => step(!(row.facts >> 4)),
        _ => step(row.facts & REGIONS) / 4,
    }
}

/// How to part rows in two.
enum Cut {
    /// The best of a column into one child, the rest into the others.
    Best(usize),
    /// In the middle of a column.
    Middle(usize),
    /// All alike.
    ById,
}

/// The cut that bounds gain most by, for rows that fill `children` of the tree.
fn cut(rows: &[Row], children: usize, worth: &Worth) -> Cut {
    let step = rows.len().div_ceil(SAMPLE).max(1);
    let mut best = (0, Cut::ById);
    let mut values = Vec::with_capacity(SAMPLE);
    for (column, worth) in worth.iter().enumerate() {
        values.clear();
        values.extend(rows.iter().step_by(step).map(|row| coordinate(row, column)));
        let last = values.len() - 1;
        let mut at = |share: usize| u64::from(*values.select_nth_unstable((last + 1) * share / 16).1);
        let (gain, cut) = if column < CLASS && children > 2 {
            // The best of the rest is so much worse.
            let tail = at(16 / children) - u64::from(*values.iter().min().unwrap_or(&0));
            (tail * worth, Cut::Best(column))
        } else {
            ((at(12) - at(4)) * worth, Cut::Middle(column))
        };
        if gain > best.0 {
            best = (gain, cut);
        }
    }
    best.1
}

/// Hands the rows of each of `blocks` blocks to `put`, in order. Entries are spread evenly.
pub(super) fn arrange(
    rows: &mut [Row],
    blocks: usize,
    worth: &Worth,
    by_id: &dyn Fn(u32, u32) -> Ordering,
    put: &mut dyn FnMut(&[Row]),
) {
    if blocks <= 1 {
        return put(rows);
    }
    // Blocks of a child of the tree's smallest node around all.
    let mut span = 1;
    while span * FAN < blocks {
        span *= FAN;
    }
    let children = blocks.div_ceil(span);
    let cut = if rows.is_empty() { Cut::ById } else { cut(rows, children, worth) };
    let left = match cut {
        Cut::Best(_) => span,
        _ => span * children.next_power_of_two() / 2,
    };
    let at = (rows.len() * left).div_ceil(blocks);
    if at > 0 && at < rows.len() {
        match cut {
            Cut::Best(column) | Cut::Middle(column) => {
                rows.select_nth_unstable_by_key(at, |row| coordinate(row, column));
            }
            Cut::ById => {
                rows.select_nth_unstable_by(at, |a, b| by_id(a.who, b.who));
            }
        }
    }
    let (low, high) = rows.split_at_mut(at);
    arrange(low, left, worth, by_id, put);
    arrange(high, blocks - left, worth, by_id, put);
}

/// How badly a row, which has these coordinates, would fit below a bound: what it would loosen counts most, then how far it
/// is from the rest.
pub(super) fn misfit(row: &Row, point: &[u32; COLUMNS], bound: &Row) -> u64 {
    if !bound.open() {
        return OCTAVE * 16;
    }
    let mut sum = 0;
    for (column, &ours) in point.iter().enumerate().take(CLASS) {
        let theirs = coordinate(bound, column);
        let looser = if ours < theirs { 8 } else { 1 };
        sum += u64::from(ours.abs_diff(theirs)) * BY_ASK[column] * looser / 16;
    }
    sum + u64::from((row.facts & !bound.facts).count_ones()) * OCTAVE
}
