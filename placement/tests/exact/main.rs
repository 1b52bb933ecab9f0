//! The index finds what looking at every node finds, ties included, while nodes join, leave, fill and change.
//!
//! The ordinary run is bounded; the whole one is `cargo test --release -p nightshift-placement --test exact -- --ignored`.

#[path = "../common/mod.rs"]
mod common;
mod oracle;
mod pool;

use common::Random;
use nightshift_placement::{Ask, Cursor, Index, NodeView, Request, Weights};
use nightshift_types::{Bytes, Milliseconds, PicoPoints};
use pool::Kind;

/// An index, and the same nodes as plain values.
struct Twin {
    index: Index,
    nodes: Vec<NodeView>,
    /// Placed and not released: node, device, bytes, milliseconds.
    placed: Vec<(nightshift_types::NodeId, usize, u64, u64)>,
    kind: Kind,
    joined: u64,
    changes: usize,
}

/// What was seen.
#[derive(Debug, Default)]
struct Tally {
    pairs: usize,
    /// With at most three nodes that fit.
    scarce: usize,
    placed: usize,
    changes: usize,
}

impl Twin {
    fn new(random: &mut Random, kind: Kind, count: usize) -> Self {
        let start = random.next() % 1_000_000;
        let nodes: Vec<NodeView> = (0..count as u64).map(|i| pool::node(random, kind, start + i)).collect();
        let index = Index::new(nodes.iter());
        Self { index, nodes, placed: Vec::new(), kind, joined: start + count as u64, changes: 0 }
    }

    /// One change, on both sides.
    fn change(&mut self, random: &mut Random) {
        self.changes += 1;
        if self.nodes.is_empty() || random.percent(8) {
            let node = pool::node(random, self.kind, self.joined);
            self.joined += 1;
            self.index.insert(&node);
            return self.nodes.push(node);
        }
        let at = random.below(self.nodes.len());
        let id = self.nodes[at].id.clone();
        let node = &mut self.nodes[at];
        match random.below(10) {
            0 => {
                self.placed.retain(|(other, ..)| *other != id);
                assert!(self.index.remove(&id));
                self.nodes.swap_remove(at);
            }
            1 | 2 => {
                node.price_per_hour = PicoPoints(random.of(&[-1i128, 0, 1, 2, 3, 7]) * 100_000_000_000);
                if node.price_per_hour.0 < 0 {
                    // The oracle knows of no negative asks.
                    node.price_per_hour.0 = (random.next() % 900_000_000_000) as i128;
                }
                assert!(self.index.set_ask(&id, node.price_per_hour));
            }
            3 => {
                node.round_trip = Milliseconds(random.next() % 200);
                assert!(self.index.set_round_trip(&id, node.round_trip));
            }
            4 => {
                (node.ready, node.unschedulable) = (random.percent(80), false);
                node.unavailable = None;
                assert!(self.index.set_willing(&id, node.ready));
            }
            5 => {
                let model = pool::any_model(random);
                let there = !node.cached.contains(&model);
                if there {
                    node.cached.push(model)
                } else {
                    node.cached.retain(|other| *other != model)
                }
                // A node without devices keeps no models.
                assert!(self.index.set_cached(&id, &model, there) || node.devices.is_empty());
            }
            6 if !node.devices.is_empty() => {
                let position = random.below(node.devices.len());
                let (model, warm) = (pool::any_model(random), &mut node.devices[position].warm);
                let there = !warm.contains(&model);
                if there {
                    warm.push(model)
                } else {
                    warm.retain(|other| *other != model)
                }
                let place = self.index.place(&id, position).unwrap();
                assert!(self.index.set_resident(place, &model, there));
            }
            7 => {
                // Anything may be different at once, but for what the tasks there hold.
                let mut other = pool::node(random, self.kind, 0);
                other.id = id.clone();
                other.labels.remove("kubernetes.io/hostname");
                self.placed.retain(|(other, ..)| *other != id);
                self.index.insert(&other);
                self.nodes[at] = other;
            }
            _ => self.release(random),
        }
    }

    fn release(&mut self, random: &mut Random) {
        if self.placed.is_empty() {
            return;
        }
        let (id, position, memory, busy) = self.placed.swap_remove(random.below(self.placed.len()));
        let place = self.index.place(&id, position).unwrap();
        self.index.release(place, Bytes(memory), busy);
        let node = self.nodes.iter_mut().find(|node| node.id == id).unwrap();
        let device = &mut node.devices[position];
        device.free.0 += memory;
        device.running -= 1;
        device.queued_ms -= busy;
    }

    /// One decision, on both sides; both commit it.
    fn decide(&mut self, request: &Request, cursor: &mut Cursor, tally: &mut Tally) {
        let weights = Weights::default();
        let ask = Ask::from(request);
        let version = self.index.version();
        let found = self.index.best(&ask, &weights);
        assert_eq!(found, self.index.best(&ask, &weights), "deciding twice changes nothing");
        assert_eq!(version, self.index.version());
        assert_eq!(found, self.index.next_best(cursor, &ask, &weights), "a cursor finds the same");
        let (fitting, expected) = oracle::best(self.nodes.iter(), request, 0, weights.waiting_per_hour.0);
        let expected = expected.map(|(n, d)| (&self.nodes[n].id, d));
        assert_eq!(found.map(|found| (found.node, found.position)), expected, "{fitting} fit {request:?}");
        tally.pairs += 1;
        tally.scarce += usize::from(fitting <= 3);
        let Some(found) = found else { return };
        tally.placed += 1;
        let (id, position, place, busy) = (found.node.clone(), found.position, found.place, found.busy_ms);
        self.index.take(place, request.spec.memory, busy);
        let node = self.nodes.iter_mut().find(|node| node.id == id).unwrap();
        assert_eq!(oracle::take(node, position, request), busy);
        self.placed.push((id, position, request.spec.memory.0, busy));
    }
}

/// A pool of `count` nodes: `requests` decisions with `changes` changes before each.
fn case(seed: u64, count: usize, requests: usize, changes: usize, tally: &mut Tally) {
    let mut random = Random(seed);
    let kind = random.of(&[Kind::Mixed, Kind::Mixed, Kind::Equal, Kind::Wide]);
    let mut twin = Twin::new(&mut random, kind, count);
    twin.index.check_invariants().unwrap();
    for _ in 0..requests {
        (0..changes).for_each(|_| twin.change(&mut random));
        let request = pool::request(&mut random, &twin.nodes);
        // A few tasks that are alike, between which nothing changes; then of two kinds in turns.
        let (other, mut cursor, mut other_cursor) =
            (pool::request(&mut random, &twin.nodes), Cursor::default(), Cursor::default());
        for _ in 0..random.of(&[1, 1, 1, 1, 1, 2, 8]) {
            twin.decide(&request, &mut cursor, tally);
            if random.percent(10) {
                twin.decide(&other, &mut other_cursor, tally);
            }
        }
    }
    twin.index.check_invariants().unwrap_or_else(|error| panic!("seed {seed}, {kind:?}, {count} nodes: {error}"));
    assert_eq!(twin.index.len(), twin.nodes.len());
    tally.changes += twin.changes;
}

/// Log-uniform in 1 … `most`.
fn log_uniform(random: &mut Random, most: f64) -> usize {
    let share = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    (most.ln() * share).exp().round() as usize
}

fn enough_of_both(tally: &Tally) {
    assert!(tally.scarce * 5 >= tally.pairs, "at least a fifth must have 0 to 3 nodes: {tally:?}");
    assert!(tally.placed * 3 >= tally.pairs, "at least a third must fit somewhere: {tally:?}");
}

#[test]
fn the_index_finds_what_a_look_at_every_node_finds() {
    let (mut random, mut tally) = (Random(1), Tally::default());
    for seed in 0..60 {
        let count = log_uniform(&mut random, 2_000.0);
        case(seed, count, 100, 10, &mut tally);
    }
    enough_of_both(&tally);
}

#[test]
#[ignore = "minutes in release: the whole of the exactness claim"]
fn a_hundred_thousand_pairs() {
    let (mut random, mut tally) = (Random(2), Tally::default());
    for seed in 1_000..1_500 {
        let count = log_uniform(&mut random, 10_000.0);
        case(seed, count, 200, 5, &mut tally);
    }
    println!("n in 1 … 10,000: {tally:?}");
    assert!(tally.pairs >= 100_000 && tally.changes >= 500 * 1_000);
    enough_of_both(&tally);
    let mut large = Tally::default();
    for seed in 2_000..2_100 {
        case(seed, 100_000, 20, 50, &mut large);
    }
    println!("n = 100,000: {large:?}");
    assert!(large.changes >= 100 * 1_000);
    enough_of_both(&large);
}

#[test]
fn an_empty_index_fits_nothing() {
    let index = Index::default();
    index.check_invariants().unwrap();
    let request = pool::request(&mut Random(3), &[]);
    assert!(index.is_empty() && index.best(&Ask::from(&request), &Weights::default()).is_none());
}

/// Grows from nothing, one by one, and shrinks to nothing again.
#[test]
fn one_by_one() {
    let (mut random, mut tally) = (Random(4), Tally::default());
    let mut twin = Twin::new(&mut random, Kind::Mixed, 0);
    for number in 0..3_000 {
        let node = pool::node(&mut random, Kind::Mixed, number);
        twin.index.insert(&node);
        twin.nodes.push(node);
        if number % 100 == 0 {
            twin.index.check_invariants().unwrap();
            let request = pool::request(&mut random, &twin.nodes);
            twin.decide(&request, &mut Cursor::default(), &mut tally);
        }
    }
    while !twin.nodes.is_empty() {
        let node = twin.nodes.swap_remove(random.below(twin.nodes.len()));
        assert!(twin.index.remove(&node.id) && !twin.index.remove(&node.id));
        if twin.nodes.len().is_multiple_of(200) {
            twin.index.check_invariants().unwrap();
            let request = pool::request(&mut random, &twin.nodes);
            twin.decide(&request, &mut Cursor::default(), &mut tally);
        }
    }
    assert!(tally.placed > 10);
}
