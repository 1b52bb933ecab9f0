//! In: rows and a number of blocks → out: the rows in blocks, like with like, so that bounds are tight.
//! Invariant: every row is handed over once; rows that are alike stand in the order of their nodes' ids.
//!
//! Each cut is at the column in which the rows differ most. Columns are compared in octaves (the exponent and mantissa
//! of a float are a good logarithm), weighed by what a bound gains from a cut there.

use super::columns::{CLASSES, REGIONS, Row};
use super::tree::{ById, FAN};

/// One octave, or one step of a class.
const OCTAVE: u64 = 1 << 23;
/// Added to asks and base times, so that tiny ones do not count as many octaves apart: 0.004 points an hour, 4 ms.
const ASK_FLOOR: f32 = 4e9;
const BASE_FLOOR: f32 = 4e6;
/// Entries looked at to choose a cut.
const SAMPLE: usize = 64;

const COLUMNS: usize = 9;
/// The first column that has no better and worse.
const CLASS: usize = 6;
/// Worth of a cut, by column, in the order of [`coordinates`].
const WORTH: [u64; COLUMNS] = [16, 6, 8, 4, 6, 24, 16, 8, 8];

fn octaves(value: f32) -> u32 {
    value.to_bits()
}

/// Ask, slowness, link, load, base, size, class, tier, region.
fn coordinates(row: &Row) -> [u32; COLUMNS] {
    let step = |bits: u32| bits.trailing_zeros().min(31) * OCTAVE as u32;
    [
        octaves(row.ask + ASK_FLOOR),
        octaves(row.slowness),
        octaves(row.link),
        octaves(row.load),
        octaves(row.base + BASE_FLOOR),
        // The larger, the better.
        !octaves(row.size as f32 + 512.0),
        step(row.facts & CLASSES),
        step(!(row.facts >> 4)),
        step(row.facts & REGIONS) / 4,
    ]
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
fn cut(rows: &[Row], children: usize) -> Cut {
    let step = rows.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<[u32; COLUMNS]> = rows.iter().step_by(step).map(coordinates).collect();
    let mut best = (0, Cut::ById);
    let mut values = Vec::with_capacity(sample.len());
    for column in 0..COLUMNS {
        values.clear();
        values.extend(sample.iter().map(|point| point[column]));
        values.sort_unstable();
        let at = |share: usize| u64::from(values[(values.len() * share / 16).min(values.len() - 1)]);
        let middle = at(12) - at(4);
        // The best of the rest is so much worse.
        let tail = at(16 / children) - at(0);
        let numeric = column < CLASS;
        let (gain, cut) = if numeric && children > 2 {
            (tail * WORTH[column], Cut::Best(column))
        } else {
            (middle * WORTH[column], Cut::Middle(column))
        };
        if gain > best.0 {
            best = (gain, cut);
        }
    }
    best.1
}

/// Hands the rows of each of `blocks` blocks to `put`, in order. Entries are spread evenly.
pub(super) fn arrange(rows: &mut [Row], blocks: usize, by_id: ById<'_>, put: &mut dyn FnMut(&[Row])) {
    if blocks <= 1 {
        return put(rows);
    }
    // Blocks of a child of the tree's smallest node around all.
    let mut span = 1;
    while span * FAN < blocks {
        span *= FAN;
    }
    let children = blocks.div_ceil(span);
    let cut = if rows.is_empty() { Cut::ById } else { cut(rows, children) };
    let left = match cut {
        Cut::Best(_) => span,
        _ => span * children.next_power_of_two() / 2,
    };
    let at = (rows.len() * left).div_ceil(blocks);
    if at > 0 && at < rows.len() {
        match cut {
            Cut::Best(column) | Cut::Middle(column) => {
                rows.select_nth_unstable_by_key(at, |row| coordinates(row)[column]);
            }
            Cut::ById => {
                rows.select_nth_unstable_by(at, |a, b| by_id(a.who, b.who));
            }
        }
    }
    let (low, high) = rows.split_at_mut(at);
    arrange(low, left, by_id, put);
    arrange(high, blocks - left, by_id, put);
}

/// How badly a row would fit below a bound: what it would loosen counts most, then how far it is from the rest.
pub(super) fn misfit(row: &Row, bound: &Row) -> u64 {
    if !bound.open() {
        return OCTAVE * 16;
    }
    let mut sum = 0;
    for (column, (ours, theirs)) in coordinates(row).into_iter().zip(coordinates(bound)).enumerate().take(CLASS) {
        let looser = if ours < theirs { 8 } else { 1 };
        sum += u64::from(ours.abs_diff(theirs)) * WORTH[column] * looser / 16;
    }
    sum + u64::from((row.facts & !bound.facts).count_ones()) * OCTAVE
}
