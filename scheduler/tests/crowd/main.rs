//! Thousands of jobs on a crowd of simulated machines, through the whole scheduler.

#[path = "../common/mod.rs"]
mod common;
mod mix;

use common::Plane;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use mix::{Kind, MODELS, job, machine, mixed};
use nightshift_crds::InferenceJob;
use nightshift_testkit::agent::SimulatedAgent;
use nightshift_testkit::crowd::{Lasts, work};
use nightshift_testkit::until_within;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn size(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_shared_fairly_and_nobody_starves() {
    let (jobs, machines) = (size("NIGHTSHIFT_CROWD_JOBS", 1_000), size("NIGHTSHIFT_CROWD_MACHINES", 100));
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start_with_lease(folder.path(), Duration::from_secs(30)).await;
    for (name, gigaflops) in MODELS {
        plane.apply_model_of(name, gigaflops).await;
    }
    let began = Instant::now();
    let joined: Vec<SimulatedAgent> =
        stream::iter(0..machines).map(|number| plane.join_numbered(number)).buffered(4).collect().await;
    println!("{machines} machines joined in {:?}", began.elapsed());
    let kinds = apply(&plane, jobs).await;
    println!("{jobs} jobs applied {:?} after the start", began.elapsed());
    until_within(Duration::from_secs(300), "every job is admitted", async || {
        let admitted = plane.leader.state().await.unfinished().count() as u64;
        if began.elapsed().as_millis() % 5_000 < 25 {
            println!("{admitted} of {jobs} admitted {:?} after the start", began.elapsed());
        }
        (admitted == jobs).then_some(())
    })
    .await;
    println!("all admitted {:?} after the start", began.elapsed());
    let crowd: Vec<_> = joined
        .into_iter()
        .enumerate()
        .map(|(number, agent)| tokio::spawn(work(agent, machine(number as u64), lasts())))
        .collect();
    let can_end = kinds.values().filter(|kind| **kind != Kind::Hopeless).count();
    until_within(Duration::from_secs(900), "every job that can end has ended", async || {
        let state = plane.leader.state().await;
        let ended = state.jobs().filter(|job| job.result.is_some()).count();
        (ended >= can_end).then_some(())
    })
    .await;
    println!("{can_end} jobs ended {:?} after the start", began.elapsed());
    plane.leader.state().await.check_invariants().unwrap();
    for machine in crowd {
        machine.abort();
    }
    plane.stop().await;
}

/// Creates every job, as many clients would; their names and kinds.
async fn apply(plane: &Plane, jobs: u64) -> BTreeMap<String, Kind> {
    let api = plane.jobs();
    stream::iter(0..jobs)
        .map(|number| {
            let (kind, manifest) = job(number);
            let api = api.clone();
            async move {
                let object: InferenceJob = serde_json::from_value(manifest).unwrap();
                let made = api.create(&PostParams::default(), &object).await?;
                Ok::<_, kube::Error>((made.metadata.name.unwrap_or_default(), kind))
            }
        })
        .buffer_unordered(32)
        .try_collect()
        .await
        .unwrap()
}

/// About as long as the reference machine would take, some more, some less.
fn lasts() -> Lasts {
    Arc::new(|assignment| {
        let name = assignment.model.as_ref().map(|model| model.name.clone()).unwrap_or_default();
        let gigaflops = MODELS.iter().find(|(model, _)| name.ends_with(model)).map_or(100, |(_, work)| *work);
        let noise = 70 + mixed(assignment.attempt.bytes().map(u64::from).sum(), 7) % 60;
        Duration::from_millis(u64::from(gigaflops) * 10 * noise / 100)
    })
}
