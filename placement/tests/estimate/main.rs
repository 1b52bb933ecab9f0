//! What observed runs make of predictions: calibration over a mixed workload, and what a dishonest node cannot do.

#[path = "../common/mod.rs"]
mod common;
mod honesty;
mod world;

use world::{Ended, Setting, World};

const SETTING: Setting = Setting {
    nodes: 40,
    models: 14,
    runs: 4_000,
    load: 0.5,
    noise: 0.2,
    unlike: 0.2,
    steady: 1_500,
    owners: 12,
    corrected: true,
};
/// Runs before predictions are judged.
const WARM_UP: usize = 1_200;

/// What predictions were worth.
#[derive(Debug)]
struct Quality {
    /// Share of runs within the predicted 95th percentile.
    within: f64,
    /// Median of |observed ÷ expected − 1|.
    error: f64,
    /// Median of p95 ÷ expected.
    percentile: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn quality<'e>(runs: impl Iterator<Item = &'e Ended> + Clone) -> Quality {
    let count = runs.clone().count() as f64;
    let of = |value: fn(&Ended) -> f64| median(runs.clone().map(value).collect());
    Quality {
        within: runs.clone().filter(|run| run.verdict.within).count() as f64 / count,
        error: of(|run| (run.verdict.took as f64 / run.expected as f64 - 1.0).abs()),
        percentile: of(|run| run.verdict.p95 as f64 / run.expected as f64),
    }
}

fn simulate(seed: u64, setting: Setting) -> World {
    let mut world = World::new(seed, setting);
    world.run();
    world
}

/// Runs a pool with and without corrections, and prints what predictions were worth in both.
fn compare(name: &str, seed: u64, setting: Setting) -> [Quality; 2] {
    [false, true].map(|corrected| {
        let world = simulate(seed, Setting { corrected, ..setting });
        let late = &world.ended[WARM_UP..];
        let all = quality(late.iter());
        let cold = quality(late.iter().filter(|run| run.cold));
        let shares: Vec<f64> = (0..setting.models)
            .map(|model| late.iter().filter(move |run| run.model == model))
            .filter(|runs| runs.clone().count() >= 200)
            .map(|runs| quality(runs).within)
            .collect();
        let (least, most) = (shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
        println!(
            "| {name} | {} | {:.1} % | {:.0} % | {:.2} | {:.1} % | {:.1} … {:.1} % |",
            if corrected { "observed" } else { "none, 150 %" },
            all.within * 100.0,
            all.error * 100.0,
            all.percentile,
            cold.within * 100.0,
            least * 100.0,
            most * 100.0
        );
        all
    })
}

#[test]
fn of_a_mixed_workload_the_predicted_percentile_holds_for_95_of_100_runs() {
    println!("| pool | corrections | within p95 | median error | p95 ÷ expected | cold runs within | by model |");
    println!("|---|---|---|---|---|---|---|");
    let pools = [
        ("40 nodes, 12 owners", 1, SETTING),
        ("busy", 3, Setting { load: 4.0, ..SETTING }),
        ("noisy", 4, Setting { noise: 0.4, ..SETTING }),
        ("ever changing", 5, Setting { steady: 150, ..SETTING }),
        ("classes unlike", 8, Setting { unlike: 0.8, ..SETTING }),
        ("one owner, 6 nodes", 6, Setting { nodes: 6, owners: 1, ..SETTING }),
        ("120 nodes, 40 models", 7, Setting { nodes: 120, models: 40, runs: 8_000, owners: 50, ..SETTING }),
    ];
    for (name, seed, setting) in pools {
        let [prior, observed] = compare(name, seed, setting);
        assert!((0.93..=0.985).contains(&observed.within), "{name}: {observed:?}");
        assert!(observed.error < prior.error * 0.7, "{name}: {prior:?}, {observed:?}");
    }
}

#[test]
fn the_same_runs_give_the_same_estimates() {
    let setting = Setting { runs: 600, ..SETTING };
    let (a, b) = (simulate(9, setting), simulate(9, setting));
    let all = |world: &World| world.estimator.nodes().map(|(id, node)| (id.clone(), node)).collect::<Vec<_>>();
    assert_eq!(all(&a), all(&b));
    assert!(a.ended.iter().zip(&b.ended).all(|(a, b)| a.verdict == b.verdict));
}
