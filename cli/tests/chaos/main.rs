//! Proof by breaking it: a real etcd of three members, two schedulers, simulated machines and a real one, and an adversary
//! that kills, stops, cuts and slows them by a schedule that is drawn from a seed. Afterwards a judge that shares no code with
//! the scheduler reads the journal, and what agents and clients were told. docs/chaos.md is about it.
//!
//! `make chaos SEEDS=20` runs many seeds; one that fails keeps its journal and says how to run it again.

mod adversary;
mod agents;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod judge;
mod record;
mod run;
mod world;

use run::{Plan, one};

fn number(name: &str, unset: u64) -> u64 {
    std::env::var(name).ok().map_or(unset, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_each_task_is_settled_once() {
    let outcome = one(Plan::bounded(number("NIGHTSHIFT_CHAOS_SEED", 1))).await;
    println!("{outcome}");
    assert!(outcome.verdict.violations.is_empty(), "{}", outcome.complaint());
}

/// `make chaos`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many seeds, about a minute and a half each: make chaos"]
async fn many_seeds() {
    let (first, seeds) = (number("NIGHTSHIFT_CHAOS_SEED", 1), number("NIGHTSHIFT_CHAOS_SEEDS", 20));
    let (mut failed, mut tasks) = (Vec::new(), 0);
    println!("{}", run::HEADER);
    for seed in first..first + seeds {
        let outcome = one(Plan::whole(seed)).await;
        println!("{outcome}");
        tasks += outcome.verdict.settled;
        if !outcome.verdict.violations.is_empty() {
            println!("{}", outcome.complaint());
            failed.push(seed);
        }
    }
    println!("{seeds} seeds, {tasks} tasks settled, {} seeds with violations: {failed:?}", failed.len());
    assert!(failed.is_empty());
}

/// Each is planted in both schedulers by its name (`planted` in `state` and `scheduler`), in a binary that is built for this.
const BUGS: [&str; 11] = [
    "fence-removed",
    "epoch-unchecked",
    "settled-again",
    "acknowledged-early",
    "released-early",
    "entry-doubled",
    "settled-apart",
    "reservation-kept",
    "lease-ignored",
    "batch-skipped",
    "time-goes-back",
];
/// Seeds in which each must have shown.
const WITHIN: u64 = 5;

/// `make chaos-bugs`: what the judge is worth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes: make chaos-bugs"]
async fn planted_bugs_are_caught() {
    let only = std::env::var("NIGHTSHIFT_CHAOS_BUG").ok().filter(|name| !name.is_empty());
    let mut missed = Vec::new();
    println!("| planted | caught by seed | by | violations | s |\n|---|---|---|---|---|");
    for bug in BUGS.into_iter().filter(|bug| only.as_ref().is_none_or(|only| only == bug)) {
        let mut caught = false;
        for seed in 1..=WITHIN {
            let outcome = one(Plan::planted(seed, bug)).await;
            let counts = judge::count(&outcome.verdict.violations);
            caught = !counts.is_empty();
            if caught {
                let by: Vec<String> = counts.keys().map(|invariant| format!("{invariant:?}")).collect();
                let (all, took) = (outcome.verdict.violations.len(), outcome.took.as_secs());
                println!("| {bug} | {seed} | {} | {all} | {took} |", by.join(", "));
                println!("    {}", outcome.verdict.violations[0]);
                break;
            }
        }
        if !caught {
            println!("| {bug} | **not within {WITHIN}** | | 0 | |");
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// One of them in every `make test`, so that a judge who sees nothing is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_bug_is_caught() {
    let outcome = one(Plan::planted(1, "settled-apart")).await;
    let counts = judge::count(&outcome.verdict.violations);
    assert!(counts.contains_key(&judge::Invariant::Settlement), "{counts:?}");
}
