//! How long a pool is without a leader: from the moment one is killed, or asked to stop, under load, to the first placement
//! by the next that stands in the journal. A plain `cargo test` skips it; `make bench WHAT=failover` runs it.

#[path = "../../../bench/measure.rs"]
mod measure;

use crate::common::ledger::Story;
use crate::pool::Cluster;
use crate::random;
use measure::{Peer, Runs, row};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const RUNS: usize = 20;
/// Of the leader's lease; `pool` starts schedulers with it.
const LEASE: Duration = Duration::from_secs(2);

/// One leader less: how long until another's first batch, and until something was placed.
async fn one(cluster: &mut Cluster, signal: Signal) -> [f64; 2] {
    let leader = cluster.leader().await;
    cluster.read_journal().await;
    let leaders = cluster.story.leaders.len();
    cluster.schedulers[leader].process.signal(signal);
    let began = Instant::now();
    cluster.read_until("somebody leads", |story| story.leaders.len() > leaders).await;
    let led = began.elapsed();
    let took_over = |story: &Story| story.leaders.len() > leaders && story.placed_by_leader > 0;
    cluster.read_until("somebody places", took_over).await;
    let placed = began.elapsed();
    cluster.schedulers[leader].process.wait();
    cluster.restart_scheduler(leader);
    [led.as_secs_f64(), placed.as_secs_f64()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes: make bench WHAT=failover"]
async fn how_long_a_takeover_takes() {
    let mut cluster = Cluster::start().await;
    cluster.apply_model().await;
    let mut seed = 0;
    for (name, signal, goal) in
        [("killed", Signal::SIGKILL, LEASE.as_secs_f64() + 0.5), ("asked to stop", Signal::SIGTERM, 0.2)]
    {
        let (mut led, mut placed, mut all) = (Runs::default(), Runs::default(), Vec::new());
        for run in 0..RUNS {
            // Any phase of the lease.
            tokio::time::sleep(LEASE.mul_f64((random(&mut seed) % 1000) as f64 / 1000.0)).await;
            let batch = format!("{}-{run}", name.replace(' ', "-"));
            let job = cluster.apply_batch(&batch).await;
            cluster.wait_for_successes(&job, 10).await;
            let took = one(&mut cluster, signal).await;
            led.push(took[0]);
            placed.push(took[1]);
            all.push(took[1]);
            cluster.wait_complete(&batch).await;
        }
        all.sort_by(f64::total_cmp);
        let mut late = Runs::default();
        late.push(all[RUNS * 9 / 10]);
        println!();
        row(&format!("leader {name}, to the next leader's first batch, p50"), "s", "", &led, &Peer::None);
        let goal = format!("value <= {goal}");
        row(&format!("leader {name}, to the next placement, p50"), "s", &goal, &placed, &Peer::None);
        row(&format!("leader {name}, to the next placement, p90"), "s", "", &late, &Peer::None);
    }
}
