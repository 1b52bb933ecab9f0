//! Thousands of jobs on a crowd of simulated machines, through the whole scheduler.

#[path = "../common/mod.rs"]
mod common;
mod fair;
mod mix;

use common::{Plane, reason};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use mix::{Kind, LARGEST, MODELS, TENANTS, job, machine, mixed};
use nightshift_crds::{InferenceJob, InferenceJobStatus};
use nightshift_testkit::agent::SimulatedAgent;
use nightshift_testkit::crowd::{Lasts, work};
use nightshift_testkit::until_within;
use nightshift_types::Milliseconds;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn size(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Jobs and machines; the numbers of the issue are 10,000 and 1,000.
const JOBS: u64 = 600;
const MACHINES: u64 = 60;
/// Of so many jobs one is urgent, and comes while the others wait.
const URGENT: u64 = 5;
/// A job starts within this after it is overdue and all that came to its queue before it have started: what runs on the
/// machines it needs ends (a large task: 8 s and a third), those of higher priority take their turns, and a plan is made.
const STARVATION_BOUND: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_shared_fairly_and_nobody_starves() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let (jobs, machines) = (size("NIGHTSHIFT_CROWD_JOBS", JOBS), size("NIGHTSHIFT_CROWD_MACHINES", MACHINES));
    // A small crowd does not place enough for windows in which 5 % are sure.
    let percent = if jobs >= 10_000 { 5 } else { 25 };
    let window = fair::window_of(Milliseconds(LARGEST), percent);
    println!("{jobs} jobs on {machines} machines; no job may start later than {STARVATION_BOUND:?} after its turn;");
    println!("shares within {percent} % in every window of {} s of reference time", window.0 / 1_000);
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start_with_lease(folder.path(), Duration::from_secs(60)).await;
    for (name, weight) in TENANTS {
        plane.apply_queue(name, weight).await;
    }
    for (name, gigaflops) in MODELS {
        plane.apply_model_of(name, gigaflops).await;
    }
    let began = Instant::now();
    let names = 0..machines;
    let joined: Vec<SimulatedAgent> =
        stream::iter(names).map(|number| plane.join_numbered(number)).buffered(4).collect().await;
    let early = jobs - jobs / URGENT;
    let mut kinds = apply(&plane, 0..early, false).await;
    until_within(Duration::from_secs(300), "every job is admitted", async || {
        (plane.leader.state().await.unfinished().count() as u64 == early).then_some(())
    })
    .await;
    println!("{machines} machines joined and {early} jobs were admitted in {:?}", began.elapsed());
    let crowd: Vec<_> = joined
        .into_iter()
        .enumerate()
        .map(|(number, agent)| tokio::spawn(work(agent, machine(number as u64), lasts())))
        .collect();
    for wave in 0..10 {
        let numbers = early + (jobs - early) * wave / 10..early + (jobs - early) * (wave + 1) / 10;
        kinds.extend(apply(&plane, numbers, true).await);
        let words = fair::explained(&plane.leader).await;
        println!("{:?}: waiting jobs say {words:?}", began.elapsed());
        assert!(
            wave < 5 || !words.contains_key("NoNodeYet"),
            "a job still says what was true before the machines came"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let can_end = kinds.values().filter(|kind| **kind != Kind::Hopeless).count();
    until_within(Duration::from_secs(900), "every job that can end has ended", async || {
        let state = plane.leader.state().await;
        let ended = state.jobs().filter(|job| job.result.is_some()).count();
        (ended >= can_end).then_some(())
    })
    .await;
    println!("{can_end} jobs ended {:?} after the start", began.elapsed());
    hopeless_jobs_say_why(&plane, &kinds).await;
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    let (windows, worst) = fair::shares(&state, window);
    println!("shares: {windows} windows, at most {worst:.2} % off, {percent} % allowed");
    let slowest = fair::slowest_start(&state);
    println!("the slowest start came {slowest} ms after its turn");
    drop(state);
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    plane.stop().await;
    assert!(windows > 0, "too little was placed to judge shares by");
    assert!(worst <= f64::from(percent), "a share was {worst:.2} % off");
    assert!(slowest <= STARVATION_BOUND.as_millis() as i64, "a job started {slowest} ms after its turn");
}

/// No machine can ever take them: the object itself says so, with numbers.
async fn hopeless_jobs_say_why(plane: &Plane, kinds: &BTreeMap<String, Kind>) {
    for name in kinds.iter().filter(|(_, kind)| **kind == Kind::Hopeless).map(|(name, _)| name) {
        let says = |status: &InferenceJobStatus| {
            matches!(reason(status, "Admitted"), Some(("False", "NoMatchingNode" | "PriceAboveLimit")))
        };
        let status = plane.status(name, "says that no machine takes it", says).await;
        assert!(!status.unschedulable.is_empty(), "{name}: {status:?}");
    }
}

/// Creates every job, as many clients would; their names and kinds.
async fn apply(plane: &Plane, numbers: std::ops::Range<u64>, urgent: bool) -> BTreeMap<String, Kind> {
    let api = plane.jobs();
    stream::iter(numbers)
        .map(|number| {
            let (kind, manifest) = job(number, urgent);
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
