//! What it costs to keep an index up to date.

use crate::measure::{Peer, Runs, TURNS, row};
use crate::population::{Kind, MODELS, Random, digest, node};
use crate::{cpu, population};
use nightshift_placement::{Index, Place};
use nightshift_types::{Bytes, NodeId, PicoPoints};

const CHANGES: usize = 100_000;

fn ask(random: &mut Random) -> PicoPoints {
    PicoPoints((random.below(500) as i128 + 1) * 1_000_000_000)
}

/// A change to a node, by its number among `ids` and its first device's place.
type Change = fn(&mut Index, &NodeId, Place, &mut Random, usize);

fn fill(index: &mut Index, _: &NodeId, place: Place, _: &mut Random, step: usize) {
    // Every second takes what the one before gave: the same node is not met twice in a row, so they even out.
    match step % 2 {
        0 => index.take(place, Bytes::mebi(512), 700),
        _ => index.release(place, Bytes::mebi(512), 700),
    }
}

fn price(index: &mut Index, id: &NodeId, _: Place, random: &mut Random, _: usize) {
    index.set_ask(id, ask(random));
}

fn willing(index: &mut Index, id: &NodeId, _: Place, random: &mut Random, _: usize) {
    index.set_willing(id, random.chance(0.9));
}

fn mixed(index: &mut Index, id: &NodeId, place: Place, random: &mut Random, step: usize) {
    match step / 2 % 4 {
        0 | 1 => fill(index, id, place, random, step),
        2 => price(index, id, place, random, step),
        _ => willing(index, id, place, random, step),
    }
}

fn model(index: &mut Index, id: &NodeId, _: Place, random: &mut Random, step: usize) {
    let model = digest(population::Random::zipf(random, MODELS));
    index.set_cached(id, &model, step.is_multiple_of(2));
}

fn leave_and_join(index: &mut Index, id: &NodeId, _: Place, random: &mut Random, _: usize) {
    let number: u64 = id.as_str().trim_start_matches("node-").parse().expect("a number");
    let mut view = node(Kind::Busy60, number, 0);
    view.price_per_hour = ask(random);
    index.remove(id);
    index.insert(&view);
}

pub fn measure(nodes: u64) {
    let mut index = Index::new((0..nodes).map(|number| node(Kind::Busy60, number, nodes)));
    let kinds: [(&str, &str, Change); 6] = [
        ("updates: fills, releases, asks, availability", "value >= 1000000", mixed),
        ("updates: fills and releases", "", fill),
        ("updates: asks", "", price),
        ("updates: availability", "", willing),
        ("updates: models cached or dropped", "", model),
        ("updates: a node leaves and joins, with making its view", "", leave_and_join),
    ];
    for (name, goal, change) in kinds {
        let mut runs = Runs::default();
        let mut random = Random(11);
        for _ in 0..TURNS {
            let count = if goal.is_empty() { CHANGES / 4 } else { CHANGES };
            let targets: Vec<(NodeId, Place)> = (0..count)
                .filter_map(|_| {
                    let id = NodeId::new(format!("node-{:07}", random.below(nodes as usize))).expect("a plain id");
                    let place = index.place(&id, 0)?;
                    Some((id, place))
                })
                .collect();
            let start = cpu();
            for (step, (id, place)) in targets.iter().enumerate() {
                change(&mut index, id, *place, &mut random, step);
            }
            runs.push(targets.len() as f64 / (cpu() - start).as_secs_f64());
        }
        row(&format!("{name}, {nodes} nodes"), "1/s", goal, &runs, &Peer::None);
    }
    index.check_invariants().expect("the index is sound after the run");
}
