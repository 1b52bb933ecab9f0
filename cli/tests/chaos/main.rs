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
