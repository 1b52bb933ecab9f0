//! A job that names a least reputation is kept from nodes whose attempts failed by their own doing; agents are simulated.

mod common;

use common::{Plane, reason};
use kube::api::Api;
use nightshift_crds::{ComputeNode, InferenceJobStatus, JobState};
use nightshift_testkit::agent::SimulatedSession;
use nightshift_testkit::until;
use nightshift_types::{FailureReason, NodeId};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

async fn node(plane: &Plane, name: &str) -> SimulatedSession {
    let agent = plane.join(name).await;
    let session = agent.open(agent.hello(1, GIB)).await.unwrap();
    session.keep_alive();
    session
}

async fn reputation(plane: &Plane, node: &str) -> u16 {
    let state = plane.leader.state().await;
    state.check_invariants().unwrap();
    state.node(&NodeId::new(node).unwrap()).unwrap().reputation().permille()
}

async fn explained(plane: &Plane, job: &str) -> Value {
    let url = format!("http://{}/v1/namespaces/default/jobs/{job}/explain", plane.http);
    let answer = reqwest::Client::new().get(&url).bearer_auth(&plane.gateway_token).send().await.unwrap();
    answer.json().await.unwrap()
}

/// Waits until a job is refused, and gives its condition's message.
async fn refused(plane: &Plane, job: &str) -> (InferenceJobStatus, String) {
    let waits = |s: &InferenceJobStatus| reason(s, "Admitted") == Some(("False", "NoMatchingNode"));
    let status = plane.status(job, "is refused", waits).await;
    let message = status.conditions.iter().find(|c| c.type_ == "Admitted").unwrap().message.clone();
    (status, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_bad_name_is_not_used_where_a_good_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let plane = Plane::start(folder.path()).await;
    plane.apply_model().await;
    let mut bad = node(&plane, "bad").await;
    let once_each = json!({ "backoffLimitPerIndex": 0, "parallelism": 1 });
    plane.apply_job("doomed", &["[0]", "[1]", "[2]"], once_each).await;
    for _ in 0..3 {
        let attempt = bad.assignment().await.unwrap().attempt;
        bad.report(&attempt, Err((FailureReason::WorkerCrashed, "signal 11".into()))).await;
    }
    plane.status("doomed", "fails", |s| s.state == Some(JobState::Failed)).await;
    assert_eq!(reputation(&plane, "bad").await, 200);

    // Nothing else is there: the job waits, and says so in numbers.
    plane.apply_job("picky", &["[0]"], json!({ "minReputation": "0.4" })).await;
    let (status, message) = refused(&plane, "picky").await;
    let (miss, help) = ("1 below reputation 0.4 (best 0.2)", "with minReputation 0.2, 1 node would fit");
    assert_eq!(message, format!("0/1 nodes fit: {miss}; {help}"));
    assert_eq!((status.unschedulable[0].reason.as_str(), status.unschedulable[0].count), ("Reputation", 1));
    let why = explained(&plane, "picky").await;
    assert_eq!(why["nodes"]["counts"], json!([{ "reason": "Reputation", "count": 1, "message": miss }]));
    assert_eq!((&why["reason"], &why["suggestion"]), (&json!("NoMatchingNode"), &json!(help)));

    // A node of which nothing is known has half, which is enough.
    let mut new = node(&plane, "new").await;
    let attempt = new.assignment().await.unwrap().attempt;
    new.succeed(&attempt, "0").await;
    let status = plane.status("picky", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert_eq!(status.nodes, ["new"]);
    let nodes: Api<ComputeNode> = Api::all(plane.client.clone());
    until("the node shows its reputation", || async {
        let shown = nodes.get_opt("new").await.unwrap().and_then(|node| node.status?.reputation);
        shown.filter(|shown| shown.0 == "0.666")
    })
    .await;

    // More is earned by work: as soon as it is, the job that asks for it goes on.
    plane.apply_job("strict", &["[0]"], json!({ "minReputation": "0.7" })).await;
    let (_, message) = refused(&plane, "strict").await;
    let expected = "0/2 nodes fit: 2 below reputation 0.7 (best 0.666); with minReputation 0.666, 1 node would fit";
    assert_eq!(message, expected);
    for (name, session) in [("new", &mut new), ("bad", &mut bad)] {
        let here = json!({ "nodeSelector": { "kubernetes.io/hostname": name } });
        plane.apply_job(&format!("plain-{name}"), &["[0]"], here).await;
        let attempt = session.assignment().await.unwrap().attempt;
        session.succeed(&attempt, "0").await;
    }
    let attempt = new.assignment().await.unwrap().attempt;
    new.succeed(&attempt, "0").await;
    let status = plane.status("strict", "completes", |s| s.state == Some(JobState::Complete)).await;
    assert_eq!(status.nodes, ["new"]);
    let after = (reputation(&plane, "new").await, reputation(&plane, "bad").await);
    plane.stop().await;

    // The names are the journal's: another leader knows them.
    let plane = Plane::start(folder.path()).await;
    assert_eq!((reputation(&plane, "new").await, reputation(&plane, "bad").await), after);
    plane.stop().await;
}
