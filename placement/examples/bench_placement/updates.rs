//! What it costs to keep an index up to date.

use crate::common::Random;
use crate::cpu;
use crate::measure::{Peer, Runs, TURNS, row};
use crate::population::{Kind, MODELS, Shapes, digest, node};
use nightshift_placement::{Index, NodeView, Place};
use nightshift_types::{Bytes, NodeId, PicoPoints};

const CHANGES: usize = 100_000;

/// Up to a tenth more or less than it asked first.
fn ask(id: &NodeId, random: &mut Random) -> PicoPoints {
    let percent = 90 + random.below(21) as i128;
    PicoPoints(view(id).price_per_hour.0 * percent / 100)
}

/// The node as it joined.
fn view(id: &NodeId) -> NodeView {
    let number: u64 = id.as_str().trim_start_matches("node-").parse().expect("a number");
    node(Kind::Busy60, number, 0)
}

/// A change to a node.
type Change = fn(&mut Index, &Target, &mut Random, usize);

/// A node to change, and what it will ask.
struct Target {
    id: NodeId,
    place: Place,
    ask: PicoPoints,
}

fn fill(index: &mut Index, target: &Target, _: &mut Random, step: usize) {
    // Every second takes what the one before gave: the same node is not met twice in a row, so they even out.
    match step % 2 {
        0 => index.take(target.place, Bytes::mebi(512), 700),
        _ => index.release(target.place, Bytes::mebi(512), 700),
    }
}

fn price(index: &mut Index, target: &Target, _: &mut Random, _: usize) {
    index.set_ask(&target.id, target.ask);
}

fn willing(index: &mut Index, target: &Target, random: &mut Random, _: usize) {
    index.set_willing(&target.id, random.chance(0.9));
}

fn mixed(index: &mut Index, target: &Target, random: &mut Random, step: usize) {
    match step / 2 % 4 {
        0 | 1 => fill(index, target, random, step),
        2 => price(index, target, random, step),
        _ => willing(index, target, random, step),
    }
}

fn model(index: &mut Index, target: &Target, random: &mut Random, step: usize) {
    let model = digest(random.zipf(MODELS));
    index.set_cached(&target.id, &model, step.is_multiple_of(2));
}

fn leave_and_join(index: &mut Index, target: &Target, _: &mut Random, _: usize) {
    let view = NodeView { price_per_hour: target.ask, ..view(&target.id) };
    index.remove(&target.id);
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
            let targets: Vec<Target> = (0..count)
                .filter_map(|_| {
                    let id = NodeId::new(format!("node-{:07}", random.below(nodes as usize))).expect("a plain id");
                    let (place, ask) = (index.place(&id, 0)?, ask(&id, &mut random));
                    Some(Target { id, place, ask })
                })
                .collect();
            let start = cpu();
            for (step, target) in targets.iter().enumerate() {
                change(&mut index, target, &mut random, step);
            }
            runs.push(targets.len() as f64 / (cpu() - start).as_secs_f64());
        }
        row(&format!("{name}, {nodes} nodes"), "1/s", goal, &runs, &Peer::None);
    }
    index.check_invariants().expect("the index is sound after the run");
}
