//! The order of merged lists.
//!
//! In: the elements of a merged list, the order that the patch gives and that of the stored list.
//! Out: the list, in which both orders hold as far as they agree. Invariant: no element is lost.

use crate::gotext;
use serde_json::Value;
use std::collections::HashMap;

/// What an element is found by: its merge key's value, or itself.
pub(super) fn identity(item: &Value, merge_key: Option<&str>) -> String {
    match merge_key {
        Some(key) => item.get(key).map(gotext::json).unwrap_or_default(),
        None => gotext::json(item),
    }
}

/// Positions by identity, of the first of equals.
fn positions(list: &[Value], merge_key: Option<&str>) -> HashMap<String, usize> {
    let mut found = HashMap::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        found.entry(identity(item, merge_key)).or_insert(i);
    }
    found
}

/// Orders `merged`: what stands in `wanted` by that, the rest by `stored`, interleaved by `stored`.
pub(super) fn enforce(merged: Vec<Value>, wanted: &[Value], stored: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let wanted = positions(wanted, merge_key);
    let stored = positions(stored, merge_key);
    let (mut patched, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let identity = identity(&item, merge_key);
        let place = stored.get(&identity).copied();
        match wanted.get(&identity) {
            Some(order) => patched.push((*order, place, item)),
            None => others.push((place, item)),
        }
    }
    patched.sort_by_key(|(order, ..)| *order);
    others.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut others = others.into_iter().peekable();
    let mut all = Vec::with_capacity(patched.len() + others.len());
    for (_, place, item) in patched {
        let before = |other: &(Option<usize>, Value)| matches!((other.0, place), (Some(a), Some(b)) if a < b);
        while let Some((_, other)) = others.next_if(before) {
            all.push(other);
        }
        all.push(item);
    }
    all.extend(others.map(|(_, other)| other));
    all
}
