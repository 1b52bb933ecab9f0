//! The agent's session against a scheduler with real TLS; the model is a stand-in.
#![allow(missing_docs)]

mod session_support;

use nightshift_agent::edge::Edge;
use nightshift_agent::identity::Store;
use nightshift_agent::join::JoinError;
use nightshift_agent::serve::ServeError;
use nightshift_types::Digest;
use nightshift_wire::proto::{self, agent_message::Kind as Up, scheduler_message::Kind as Down};
use nightshift_wire::{pki, token::JoinToken};
use session_support::{Scheduler, World, config, failure, inline, outbox, start, until};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn join_error(result: Result<(), ServeError>) -> JoinError {
    match result {
        Err(ServeError::Join(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_interrupted_join_is_repeated_with_the_same_key_and_done_once() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    world.lost_joins.store(1, Ordering::SeqCst);
    let mut patient = config(&world, scheduler.address, dir.path());
    patient.name = "attic-wish".into();
    let agent = start(patient.clone());
    let hello = world.hello().await;
    assert_eq!(hello.devices[0].name, "cpu0");
    agent.stopped().await.unwrap();
    let keys = world.join_keys.lock().unwrap().clone();
    assert_eq!((keys.len(), keys[0] == keys[1]), (2, true));

    // With the token again, and without: joined already.
    for token in [patient.token.clone(), None] {
        let before = world.hellos();
        let agent = start(with_token(&patient, token));
        until("another hello", || world.hellos() > before).await;
        agent.stopped().await.unwrap();
    }
    assert_eq!(world.join_keys.lock().unwrap().len(), 2);
    let numbers: Vec<u64> = world.seen.lock().unwrap().iter().filter_map(session_number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");

    let other = JoinToken::generate(Digest([5; 32]));
    let error = join_error(start(with_token(&patient, Some(other))).ended().await);
    assert!(matches!(error, JoinError::OtherCluster { .. }), "{error}");
}

fn session_number(up: &Up) -> Option<u64> {
    if let Up::Hello(hello) = up { Some(hello.session_number) } else { None }
}

fn with_token(config: &nightshift_agent::config::Config, token: Option<JoinToken>) -> nightshift_agent::config::Config {
    let mut config = config.clone();
    config.token = token;
    config
}

#[tokio::test]
async fn who_may_not_join_is_told_why() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let good = config(&world, scheduler.address, dir.path());
    let error = join_error(start(with_token(&good, None)).ended().await);
    assert!(matches!(error, JoinError::NoToken), "{error}");

    let error = join_error(start(with_token(&good, Some(JoinToken::generate(Digest([5; 32]))))).ended().await);
    assert!(matches!(error, JoinError::WrongServer { .. }), "{error}");
    assert!(error.to_string().contains("does not show the CA"), "{error}");

    let unknown = JoinToken::generate(world.ca.hash());
    let error = join_error(start(with_token(&good, Some(unknown.clone()))).ended().await);
    assert!(matches!(error, JoinError::Refused(_)), "{error}");
    assert!(!error.to_string().contains(unknown.secret()));

    let mut nobody = good.clone();
    (nobody.servers, nobody.join_patience) = (vec!["127.0.0.1:1".into()], Duration::from_millis(100));
    let error = join_error(start(nobody).ended().await);
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    assert!(world.join_keys.lock().unwrap().is_empty(), "no secret went to a wrong server, no key with a wrong secret");
}

#[tokio::test]
async fn two_agents_never_share_a_folder() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let first = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let second = start(config(&world, scheduler.address, dir.path())).ended().await;
    assert!(matches!(second, Err(ServeError::Locked(_))));
    first.stopped().await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_key() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    agent.stopped().await.unwrap();
    let store = Store::open(&dir.path().join("identity")).unwrap();
    let identity = store.load().unwrap().unwrap();
    let edge = Edge::new(&[scheduler.address.to_string()], &identity).unwrap();
    let csr = pki::node_request_for(&identity.key_pem).unwrap();
    let answer = edge.renew_certificate(csr).await.unwrap();
    let renewed = store.save(&answer, identity.ca_hash().unwrap()).unwrap();
    assert_eq!((renewed.node, renewed.key_pem), (identity.node, identity.key_pem));
    assert_ne!(renewed.certificate_pem, identity.certificate_pem);
}

#[tokio::test]
async fn an_attempt_from_assignment_to_acknowledgement() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    world.tell(Down::Ping(proto::Ping { nonce: 77 })).await;
    let pong = |up: &Up| matches!(up, Up::Heartbeat(beat) if beat.pong == 77);
    world.wait("pong", |seen| seen.iter().any(pong).then_some(())).await;

    world.assign("local/job/0/1", b"hello", &[]).await;
    assert_eq!(inline(&world.outcome("local/job/0/1", 1).await), b"hello");
    until("an empty outbox", || outbox(dir.path()) == 0).await;
    let cached = |up: &Up| matches!(up, Up::Heartbeat(beat) if beat.models.len() == 1 && !beat.models[0].loaded);
    world.wait("the model in the cache", |seen| seen.iter().any(cached).then_some(())).await;

    world.tell(Down::Scrape(proto::Scrape { id: 5 })).await;
    until("metrics", || !world.metrics.lock().unwrap().is_empty()).await;
    let metrics = world.metrics.lock().unwrap()[0].clone();
    assert_eq!(metrics.id, 5);
    for line in ["attempts_total{result=\"Succeeded\"} 1", "session_connected 1", "fetch_bytes_total 12"] {
        assert!(metrics.text.contains(line), "{line} is not in\n{}", metrics.text);
    }
    agent.stopped().await.unwrap();
}

#[tokio::test]
async fn an_outcome_is_resent_across_restarts_until_it_is_acknowledged() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    world.acknowledge.store(0, Ordering::SeqCst);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    world.assign("local/job/0/1", b"kept", &[]).await;
    world.outcome("local/job/0/1", 1).await;

    let address = scheduler.crash();
    let before = world.hellos();
    world.epoch.lock().unwrap().1 = 3;
    let scheduler = Scheduler::start_at(&world, address);
    world.outcome("local/job/0/1", 2).await;
    assert!(world.hellos() > before);
    assert_eq!(world.hello().await.attempts, ["local/job/0/1"]);
    agent.stopped().await.unwrap();
    assert_eq!(outbox(dir.path()), 1, "the agent stopped; its outcome waits");

    let agent = start(config(&world, scheduler.address, dir.path()));
    assert_eq!(inline(&world.outcome("local/job/0/1", 3).await), b"kept");
    world.ack("local/job/0/1").await;
    until("an empty outbox", || outbox(dir.path()) == 0).await;
    agent.stopped().await.unwrap();
    assert_eq!(world.outcomes("local/job/0/1"), 3);
}

#[tokio::test]
async fn work_goes_on_while_the_scheduler_is_away() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let size = 3_000_000.to_string();
    world.assign("local/job/0/1", b"x", &[("size", &size), ("pause", "500")]).await;
    world.computing("local/job/0/1").await;
    let address = scheduler.crash();
    let scheduler = Scheduler::start_at(&world, address);
    let outcome = world.outcome("local/job/0/1", 1).await;
    match outcome.result {
        Some(proto::outcome::Result::Success(proto::Success {
            output: Some(proto::success::Output::Blob(blob)),
            ..
        })) => assert_eq!(blob.size_bytes, 3_000_000),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.staged.lock().unwrap()["local/job/0/1"], vec![7; 3_000_000]);
    until("an empty outbox", || outbox(dir.path()) == 0).await;
    assert_eq!(agent.executor.runs.load(Ordering::SeqCst), 1);
    agent.stopped().await.unwrap();
    drop(scheduler);
}

#[tokio::test]
async fn what_may_not_run_is_refused_and_what_runs_can_be_cancelled() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let mut stale = world.assignment("local/job/0/1", b"x", &[]);
    stale.epoch.as_mut().unwrap().revision = 1;
    world.tell(Down::Assignment(stale)).await;
    assert!(world.refusal("local/job/0/1").await.message.starts_with("stale epoch"));

    let mut large = world.assignment("local/job/1/1", b"x", &[]);
    large.memory_bytes = 5 << 30;
    world.tell(Down::Assignment(large)).await;
    let refusal = world.refusal("local/job/1/1").await;
    assert_eq!(refusal.free_memory_bytes, 4 << 30);
    assert!(refusal.message.contains("needs 5Gi"), "{}", refusal.message);

    world.assign("local/job/2/1", b"x", &[("sleep", "")]).await;
    world.computing("local/job/2/1").await;
    world.tell(Down::Cancel(proto::Cancel { attempt: "local/job/2/1".into(), reason: "job deleted".into() })).await;
    assert_eq!(failure(&world.outcome("local/job/2/1", 1).await), ("Cancelled", "job deleted"));

    let mut short = world.assignment("local/job/3/1", b"x", &[("sleep", "")]);
    short.deadline_ms = 100;
    world.tell(Down::Assignment(short)).await;
    assert_eq!(failure(&world.outcome("local/job/3/1", 1).await).0, "DeadlineExceeded");

    world.assign("local/job/4/1", b"x", &[("panic", "")]).await;
    assert_eq!(failure(&world.outcome("local/job/4/1", 1).await).0, "Internal");
    agent.stopped().await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_wrong_missing_or_torn() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let corrupt = world.assignment("local/job/0/1", b"what was promised", &[]);
    let digest = corrupt.input.as_ref().unwrap().digest.clone();
    world.blobs.lock().unwrap().insert(digest, b"what was sent ...".to_vec());
    world.tell(Down::Assignment(corrupt)).await;
    assert_eq!(failure(&world.outcome("local/job/0/1", 1).await).0, "DigestMismatch");

    let missing = world.assignment("local/job/1/1", b"gone", &[]);
    world.blobs.lock().unwrap().remove(&missing.input.as_ref().unwrap().digest);
    world.tell(Down::Assignment(missing)).await;
    let outcome = world.outcome("local/job/1/1", 1).await;
    assert_eq!(failure(&outcome).0, "FetchFailed");
    assert!(failure(&outcome).1.contains("no such blob"), "{outcome:?}");

    // A large input whose stream breaks is resumed where it broke.
    let large = vec![3u8; 1_000_000];
    let assignment = world.assignment("local/job/2/1", &large, &[("size", "4")]);
    let digest = assignment.input.as_ref().unwrap().digest.clone();
    *world.break_after.lock().unwrap() = Some(700_000);
    world.tell(Down::Assignment(assignment)).await;
    world.outcome("local/job/2/1", 1).await;
    let fetches = world.fetches.lock().unwrap().clone();
    let offsets: Vec<u64> = fetches.iter().filter(|f| f.digest == digest).map(|f| f.offset).collect();
    assert_eq!(offsets.len(), 2, "{offsets:?}");
    assert!(offsets[0] == 0 && offsets[1] > 0, "{offsets:?}");
    agent.stopped().await.unwrap();
}

#[tokio::test]
async fn a_model_is_fetched_once_and_again_if_the_disk_damaged_it() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let model = world.blob(b"a model").digest;
    let fetched = || world.fetches.lock().unwrap().iter().filter(|fetch| fetch.digest == model).count();
    world.assign("local/job/9/1", b"x", &[("damaged", "")]).await;
    assert_eq!(inline(&world.outcome("local/job/9/1", 1).await), b"x");
    assert_eq!(fetched(), 2);
    let half = dir.path().join("models").join(&model["sha256:".len()..]);
    std::fs::remove_file(&half).unwrap();
    std::fs::write(half.with_extension("part"), b"a mo").unwrap();
    for i in 0..4 {
        world.assign(&format!("local/job/{i}/1"), b"same", &[]).await;
    }
    for i in 0..4 {
        assert_eq!(inline(&world.outcome(&format!("local/job/{i}/1"), 1).await), b"same");
    }
    assert_eq!(fetched(), 3);
    assert_eq!(world.fetches.lock().unwrap().iter().rfind(|f| f.digest == model).unwrap().offset, 4, "resumed");
    agent.stopped().await.unwrap();
}

#[tokio::test]
async fn how_far_a_model_is_goes_to_the_scheduler_the_owner_and_the_metrics() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let agent = start(config(&world, scheduler.address, dir.path()));
    world.hello().await;
    let large = vec![5u8; 1_000_000];
    *world.hold_after.lock().unwrap() = Some(345_678);
    let two = ["local/job/0/1", "local/job/1/1"];
    for attempt in two {
        let mut assignment = world.assignment(attempt, b"x", &[]);
        assignment.model.as_mut().unwrap().file = Some(world.blob(&large));
        world.tell(Down::Assignment(assignment)).await;
    }
    for attempt in two {
        let running = world.downloaded(attempt, 345_678).await;
        assert_eq!((running.phase.as_str(), running.percent), ("Fetching", 34));
        assert_eq!(running.download.unwrap().total_bytes, 1_000_000);
    }
    // It stands still, so what is left takes ever longer; that somebody promises a time at all needs half a second.
    let promised = |up: &Up| match up {
        Up::Heartbeat(beat) => beat.running.first().and_then(|r| r.download).and_then(|d| d.seconds_left),
        _ => None,
    };
    assert!(world.wait("a promise", |seen| seen.iter().rev().find_map(promised)).await > 0);
    let (folder, status) = (dir.path().to_path_buf(), nightshift_agent::owner::control::Request::Status);
    let status = tokio::task::spawn_blocking(move || nightshift_agent::owner::socket::ask(&folder, &status));
    let status = status.await.unwrap().unwrap();
    assert_eq!(status["running"][0]["download"]["doneBytes"], 345_678, "{status}");
    world.tell(Down::Scrape(proto::Scrape { id: 1 })).await;
    until("metrics", || !world.metrics.lock().unwrap().is_empty()).await;
    let text = world.metrics.lock().unwrap()[0].text.clone();
    for line in [
        "model_downloads 1",
        "model_downloads_done_bytes 345678",
        "model_downloads_total_bytes 1000000",
        "model_cache_bytes 1000000",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    *world.hold_after.lock().unwrap() = None;
    for attempt in two {
        assert_eq!(inline(&world.outcome(attempt, 1).await), b"x");
    }
    let seen = world.seen.lock().unwrap().len();
    let quiet = |up: &Up| matches!(up, Up::Heartbeat(beat) if beat.running.iter().all(|r| r.download.is_none()));
    world.wait("no download", |all| all[seen..].iter().any(quiet).then_some(())).await;
    agent.stopped().await.unwrap();
}

#[tokio::test]
async fn stopping_blames_nobody_and_takes_nothing_new() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let mut slow = config(&world, scheduler.address, dir.path());
    slow.grace = Duration::from_secs(1);
    let agent = start(slow);
    world.hello().await;
    world.assign("local/job/0/1", b"x", &[("sleep", "")]).await;
    world.computing("local/job/0/1").await;
    agent.stop.cancel();
    let away = |up: &Up| matches!(up, Up::Heartbeat(beat) if !beat.availability.as_ref().unwrap().available);
    world.wait("going away", |seen| seen.iter().any(away).then_some(())).await;
    world.assign("local/job/1/1", b"x", &[]).await;
    assert!(world.refusal("local/job/1/1").await.message.contains("Stopping"));
    assert_eq!(failure(&world.outcome("local/job/0/1", 1).await).0, "OwnerActive");
    agent.stopped().await.unwrap();
    assert_eq!(outbox(dir.path()), 0);
}
