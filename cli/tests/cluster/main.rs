//! Cluster mode with real parts: etcd, two `nightshift scheduler` processes, three real agents, a Kubernetes API over TLS.
//! The agent with the most work and the leading scheduler are killed in the middle of a batch, over and over: each task is
//! settled once, as the journal itself says to code that shares nothing with the fold.

#[path = "../common/mod.rs"]
mod common;
mod pool;
mod takeover;

use kube::api::Api;
use nightshift_testkit::free_port;
use nix::sys::signal::Signal;
use pool::{Cluster, TASKS, scheduler_at, until};
use std::time::Instant;

const ROUNDS: u64 = 20;

/// Small numbers from a seed (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_leaders_are_killed_and_each_task_is_settled_once() {
    let rounds = std::env::var("NIGHTSHIFT_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut cluster = Cluster::start().await;
    cluster.apply_model().await;
    for round in 0..rounds {
        let mut seed = round;
        // Between 20 % and 80 % of the batch, the agent first.
        let (a, b) = (40 + random(&mut seed) % 108, 40 + random(&mut seed) % 108);
        let (first, second) = (a.min(b), a.max(b));
        let name = format!("batch-{round}");
        let started = Instant::now();
        let job = cluster.apply_batch(&name).await;
        cluster.wait_for_successes(&job, first).await;
        let busiest = cluster.story.busiest(&job).expect("somebody works");
        cluster.kill_agent(&busiest).await;
        cluster.wait_for_successes(&job, second).await;
        let before = cluster.story.successes(&job) as u64;
        assert!((40..=160).contains(&before), "round {round}: the kill came too late, at {before}");
        cluster.kill_leader().await;
        cluster.wait_for_successes(&job, TASKS).await;
        let status = cluster.wait_complete(&name).await;
        assert_eq!(status.completed_indexes.as_deref(), Some("0-199"));
        cluster.read_journal().await;
        cluster.story.assert_settled_once(&job, TASKS);
        let lost = cluster.story.ended.iter().filter(|(a, how)| a.0 == job && **how == "failed").count();
        cluster.restart_agent(&busiest).await;
        println!(
            "round {round}: {busiest} killed at {first}, the leader at {before} of {TASKS}; {lost} attempts lost; {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    assert!(cluster.story.leaders.len() as u64 > rounds, "each round had a new leader");
    println!(
        "{} batches, {} bytes of journal for {} tasks",
        cluster.story.sequence,
        cluster.story.bytes,
        rounds * TASKS
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_through_its_lease_writes_nothing_and_ends() {
    let mut cluster = Cluster::start().await;
    cluster.apply_model().await;
    let job = cluster.apply_batch("batch").await;
    cluster.wait_for_successes(&job, 40).await;
    let old = cluster.leader().await;
    cluster.schedulers[old].process.signal(Signal::SIGSTOP);
    cluster.wait_for_leaders(2).await;
    let leaders = cluster.story.leaders.len();
    // A job that the sleeper has never heard of: it must not say that the journal has lost it.
    let late = cluster.apply_batch("late").await;
    cluster.wait_for_successes(&late, 1).await;
    // Awake again it has reports of agents and a plan of its own: its write is refused, and it ends.
    cluster.schedulers[old].process.signal(Signal::SIGCONT);
    let status = cluster.schedulers[old].process.wait();
    assert_eq!(status.code(), Some(1), "{}", cluster.logs());
    assert!(cluster.schedulers[old].process.output().contains("no longer leads"), "{}", cluster.logs());
    cluster.wait_complete("batch").await;
    let late = cluster.wait_complete("late").await;
    assert!(late.conditions.iter().all(|c| c.type_ != "Failed"), "{:?}", late.conditions);
    cluster.read_journal().await;
    cluster.story.assert_settled_once(&job, TASKS);
    assert_eq!(cluster.story.leaders.len(), leaders, "nobody else led");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_asked_to_stop_hands_over() {
    let mut cluster = Cluster::start().await;
    cluster.apply_model().await;
    let job = cluster.apply_batch("batch").await;
    cluster.wait_for_successes(&job, 40).await;
    let old = cluster.leader().await;
    cluster.schedulers[old].process.signal(Signal::SIGTERM);
    let status = cluster.schedulers[old].process.wait();
    assert!(status.success(), "{status}{}", cluster.logs());
    cluster.wait_complete("batch").await;
    cluster.read_journal().await;
    cluster.story.assert_settled_once(&job, TASKS);
    assert_eq!(cluster.story.leaders.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_and_probes_reach_a_clusters_gateway_over_tls() {
    let cluster = Cluster::start().await;
    let (agents_port, port) = (free_port(), free_port());
    // Beyond loopback by its address; dialled on loopback.
    let third = scheduler_at(&cluster.home, &cluster.etcd, agents_port, &format!("0.0.0.0:{port}"));
    let url = format!("https://127.0.0.1:{port}");
    let api: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(cluster.client.clone(), "default");
    let ca = api.get("nightshift-scheduler").await.unwrap().data.unwrap()["ca.crt"].0.clone();
    let ca = reqwest::Certificate::from_pem(&ca).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let token = cluster.gateway_token().await;
    let get = async |path: &str, token: Option<&str>| {
        let mut request = http.get(format!("{url}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    };
    until("the standby has folded the journal", async || (get("/readyz", None).await?.0 == 200).then_some(())).await;
    assert_eq!(get("/readyz", None).await.unwrap().1, "standing by");
    assert_eq!(get("/healthz", None).await.unwrap().0, 200);
    assert_eq!(get("/metrics", None).await.unwrap().0, 401, "metrics are not for strangers");
    assert_eq!(get("/metrics", Some("wrong")).await.unwrap().0, 401);
    assert!(get("/metrics", Some(&token)).await.unwrap().1.contains("\nnightshift_scheduler_leader 0\n"));
    let (status, said) = get("/v1/namespaces/default/jobs/x/explain", Some(&token)).await.unwrap();
    assert!(status == 503 && said.contains("stands by"), "{status} {said}");

    let folder = cluster.home.folder.path().join("mine");
    let cli = |args: &[&str]| {
        let mut command = cluster.home.command();
        command.env_remove("NIGHTSHIFT_HOME").args(args).arg("--data-dir").arg(&folder);
        command.arg("--kubeconfig").arg(cluster.home.data().join("api/kubeconfig"));
        command.output().unwrap()
    };
    let refused = cli(&["connect", "--url", &url]);
    assert!(!refused.status.success() && common::text(&refused).contains("stands by"), "{}", common::text(&refused));
    assert!(!folder.join("gateway.json").exists(), "nothing is written before the gateway has answered");
    for scheduler in &cluster.schedulers {
        scheduler.process.signal(Signal::SIGTERM);
    }
    until("the third leads", async || Some(()).filter(|()| third.output().contains(" leading "))).await;
    let connected = cli(&["connect", "--url", &url]);
    assert!(connected.status.success(), "{}", common::text(&connected));
    let issued = cli(&["token", "create", "-o", "json"]);
    assert!(issued.status.success() && common::text(&issued).contains("nsj1."), "{}", common::text(&issued));
    let wrong = cli(&["connect", "--url", &url, "--secret", "nobody"]);
    assert!(
        !wrong.status.success() && common::text(&wrong).contains("name the release's namespace with -n"),
        "{}",
        common::text(&wrong)
    );
}
