//! The edge over real mTLS: who may do what, and that nothing malformed gets far.

mod common;

use common::Plane;
use nightshift_testkit::agent::{SimulatedAgent, anonymous};
use nightshift_wire::pki;
use nightshift_wire::proto;
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::token::JoinToken;
use serde_json::json;
use tonic::Code;

const GIB: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_joins_one_key_once() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let ca = plane.leader.ca().certificate_pem().to_string();
    let token = plane.token("ada").await;
    let (key, csr) = pki::node_request().unwrap();
    let join = |token: JoinToken, key: String, csr: String| {
        let ca = ca.clone();
        async move { SimulatedAgent::join_with(plane.agents, &ca, &token, "pc", key, csr).await }
    };
    let first = join(token.clone(), key.clone(), csr.clone()).await.unwrap();
    let again = join(token.clone(), key, csr).await.unwrap();
    assert_eq!(first.node, again.node, "a join that was cut off is repeated with the same key");
    let (key, csr) = pki::node_request().unwrap();
    let other = join(token.clone(), key.clone(), csr.clone()).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
    let forged: JoinToken = JoinToken::generate(plane.leader.ca().hash());
    let wrong = join(forged, key.clone(), csr.clone()).await.unwrap_err();
    assert_eq!(wrong.message(), other.message(), "which part was wrong is nobody's business");
    let second = join(plane.token("bob").await, key, csr).await.unwrap();
    assert_eq!((first.node.as_str(), second.node.as_str()), ("pc", "pc-2"));
    // After a restart the journal still knows both the spent token and the node's key.
    plane.stop().await;
    let plane = Plane::start(folder.path()).await;
    let back = first.at(plane.agents);
    back.open(back.hello(1, GIB)).await.unwrap();
    let (key, csr) = pki::node_request().unwrap();
    let spent = SimulatedAgent::join_with(plane.agents, &ca, &token, "x", key, csr).await.unwrap_err();
    assert_eq!(spent.code(), Code::PermissionDenied);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let ca = plane.leader.ca().certificate_pem().to_string();
    let mut client = anonymous(plane.agents, &ca).await.unwrap();
    let request = proto::FetchBlobRequest { attempt: "test/j/0/1".into(), ..Default::default() };
    assert_eq!(client.fetch_blob(request).await.unwrap_err().code(), Code::Unauthenticated);
    let frames = tokio_stream::empty::<proto::AgentMessage>();
    assert_eq!(client.session(frames).await.unwrap_err().code(), Code::Unauthenticated);
    let renewal = proto::RenewRequest { csr_pem: String::new() };
    assert_eq!(client.renew(renewal).await.unwrap_err().code(), Code::Unauthenticated);
    // A certificate of another CA does not even get through the handshake.
    let other = pki::CertificateAuthority::generate("other").unwrap();
    assert!(anonymous(plane.agents, other.certificate_pem()).await.is_err());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_end_their_session_alone() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    let (good, bad) = (plane.join("good").await, plane.join("bad").await);
    let mut steady = good.open(good.hello(1, GIB)).await.unwrap();
    let hellos = [
        (proto::Hello { devices: vec![proto::Device::default(); 17], ..bad.hello(1, GIB) }, "devices"),
        (proto::Hello { attempts: vec!["nonsense".into()], ..bad.hello(1, GIB) }, "attempt"),
        (
            proto::Hello {
                offer: Some(proto::Offer { price_per_hour: "-1".into(), ..Default::default() }),
                ..bad.hello(1, GIB)
            },
            "price",
        ),
    ];
    for (hello, field) in hellos {
        let error = bad.open(hello).await.unwrap_err();
        assert!(error.message().contains(field), "{error:?}");
    }
    let frames = [
        (Up::Outcome(proto::Outcome::default()), "outcome.result"),
        (Up::Hello(bad.hello(9, GIB)), "hello"),
        (
            Up::Heartbeat(proto::Heartbeat {
                models: vec![proto::CachedModel { digest: "sha256:zz".into(), ..Default::default() }],
                ..Default::default()
            }),
            "digest",
        ),
        (Up::Refusal(proto::Refusal { message: "x".repeat(70_000), ..Default::default() }), "70"),
    ];
    for (number, (frame, field)) in frames.into_iter().enumerate() {
        let mut session = bad.open(bad.hello(2 + number as u64, GIB)).await.unwrap();
        session.send(frame).await;
        let end = session.next_of_interest().await.unwrap_err();
        assert!(end.message().contains(field), "frame {number}: {end:?}");
    }
    steady.send(Up::Heartbeat(proto::Heartbeat::default())).await;
    plane.apply_model().await;
    plane.apply_job("j", &["[1]"], json!({})).await;
    let assignment = steady.assignment().await.unwrap();
    assert!(assignment.attempt.starts_with("test/"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_read_for_ones_own_current_attempt_alone() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let (owner, stranger) = (plane.join("owner").await, plane.join("stranger").await);
    let mut session = owner.open(owner.hello(1, GIB)).await.unwrap();
    plane.apply_job("j", &["[1, 2]"], json!({})).await;
    let assignment = session.assignment().await.unwrap();
    let (attempt, input) = (assignment.attempt.clone(), assignment.input.unwrap().digest);
    let model = assignment.model.unwrap().file.unwrap().digest;
    assert_eq!(session.fetch(&attempt, &input, 0).await.unwrap(), b"[1, 2]");
    assert_eq!(session.fetch(&attempt, &model, 2).await.unwrap(), &common::MODEL[2..]);
    assert_eq!(session.fetch(&attempt, &input, 999).await.unwrap_err().code(), Code::OutOfRange);
    let unknown = format!("sha256:{}", "0".repeat(64));
    assert_eq!(session.fetch(&attempt, &unknown, 0).await.unwrap_err().code(), Code::PermissionDenied);
    // No device of its own, so nothing was placed there.
    let mut other = stranger.open(stranger.hello(1, 0)).await.unwrap();
    assert_eq!(other.fetch(&attempt, &input, 0).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(other.put(&attempt, b"mine").await.unwrap_err().code(), Code::FailedPrecondition);
    other.acknowledged(&attempt).await.expect("what nobody wants is not kept for ever");
    // Nor may it report for another's attempt: the report is dropped, and acknowledged so that it stops.
    other.succeed(&attempt, "[]").await;
    session.succeed(&attempt, "[3]").await;
    session.acknowledged(&attempt).await.unwrap();
    assert_eq!(session.fetch(&attempt, &input, 0).await.unwrap_err().code(), Code::PermissionDenied);
    let status = plane.status("j", "completes", |s| s.completion_time.is_some()).await;
    assert_eq!(status.results[0].output, "[3]");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_higher_session_wins_and_gets_the_work_again() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let agent = plane.join("a").await;
    let mut old = agent.open(agent.hello(5, GIB)).await.unwrap();
    plane.apply_job("j", &["[1]"], json!({})).await;
    let attempt = old.assignment().await.unwrap().attempt;
    assert_eq!(agent.open(agent.hello(4, GIB)).await.unwrap_err().code(), Code::AlreadyExists);
    // A restarted agent that lost the assignment gets the same attempt, not a second one.
    let mut new = agent.open(agent.hello(6, GIB)).await.unwrap();
    assert_eq!(new.assignment().await.unwrap().attempt, attempt);
    // One that still has it does not; what it has beyond the journal is stopped.
    let stale = format!("{}/7", attempt.rsplit_once('/').unwrap().0);
    let hello = proto::Hello { attempts: vec![attempt.clone(), stale.clone()], ..agent.hello(7, GIB) };
    let mut newest = agent.open(hello).await.unwrap();
    newest.acknowledged(&stale).await.unwrap();
    newest.succeed(&attempt, "[]").await;
    newest.acknowledged(&attempt).await.unwrap();
    plane.stop().await;
}
