//! How long a pool is without a leader: from the moment one is killed, or asked to stop, under load, to the first placement
//! by the next that stands in the journal. A plain `cargo test` skips it:
//! `cargo test -p nightshift-cli --test cluster -- --ignored --nocapture`.

use crate::common::ledger::Story;
use crate::pool::Cluster;
use crate::random;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const RUNS: usize = 20;
/// Of the leader's lease; `pool` starts schedulers with it.
const LEASE: Duration = Duration::from_secs(2);

/// One leader less; returns how long nothing was placed.
async fn one(cluster: &mut Cluster, signal: Signal) -> Duration {
    let leader = cluster.leader().await;
    cluster.read_journal().await;
    let leaders = cluster.story.leaders.len();
    cluster.schedulers[leader].process.signal(signal);
    let began = Instant::now();
    let took_over = |story: &Story| story.leaders.len() > leaders && story.placed_by_leader > 0;
    cluster.read_until("somebody takes over", took_over).await;
    let took = began.elapsed();
    cluster.schedulers[leader].process.wait();
    cluster.restart_scheduler(leader);
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes"]
async fn how_long_a_takeover_takes() {
    let mut cluster = Cluster::start().await;
    cluster.apply_model().await;
    let mut seed = 0;
    for (name, signal) in [("killed", Signal::SIGKILL), ("asked to stop", Signal::SIGTERM)] {
        let mut runs = Vec::new();
        for run in 0..RUNS {
            // Any phase of the lease.
            tokio::time::sleep(LEASE.mul_f64((random(&mut seed) % 1000) as f64 / 1000.0)).await;
            let batch = format!("{}-{run}", name.replace(' ', "-"));
            let job = cluster.apply_batch(&batch).await;
            cluster.wait_for_successes(&job, 10).await;
            runs.push(one(&mut cluster, signal).await.as_secs_f64());
            cluster.wait_complete(&batch).await;
        }
        runs.sort_by(f64::total_cmp);
        let (p50, p90) = (runs[RUNS / 2], runs[RUNS * 9 / 10]);
        println!(
            "leader {name}, lease {LEASE:?}: to the next placement p50 {p50:.2} s, p90 {p90:.2} s, all {runs:.2?}"
        );
    }
}
