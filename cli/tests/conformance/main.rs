//! The end-to-end suite on a real kube-apiserver, under the rights that the chart ships, and the same kubectl commands on
//! both homes side by side. `make conformance` runs it and builds what it needs; a plain `cargo test` skips it.

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod rights;
mod steps;

use cluster::{Cluster, Place};
use common::{Home, Pool, digits, example, model};
use nightshift_testkit::kube::ok;
use serde_json::Value;
use std::collections::BTreeMap;

const AGENTS: usize = 3;
const MANY: usize = 200;

fn complete(place: &Place, job: &str) {
    let timeout = format!("--timeout={}s", common::DEADLINE.as_secs());
    place.ok(&["wait", "--for=condition=Complete", &format!("inferencejob/{job}"), &timeout]);
}

#[test]
#[ignore = "needs a real Kubernetes API: make conformance"]
fn voice_and_batch_under_the_shipped_rights() {
    let cluster = Cluster::start(AGENTS);
    let place = cluster.place();
    for path in [example("voice"), example("digits").join("model.yaml"), example("batch")] {
        place.ok(&["apply", "-f", path.to_str().unwrap()]);
    }
    complete(&place, "voice");
    let text = place.ok(&["get", "inferencejob", "voice", "-o", "jsonpath={.status.results[0].output}"]);
    let reference = std::fs::read_to_string(example("voice").join("reference/expected.json")).unwrap();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&text), json(&reference));

    complete(&place, "batch");
    let job = json(&place.ok(&["get", "inferencejob", "batch", "-o", "json"]));
    assert_eq!(job["status"]["completedIndexes"], format!("0-{}", MANY - 1));
    assert_eq!(job["status"]["nodes"].as_array().unwrap().len(), AGENTS, "{}", job["status"]["nodes"]);
    let mut labels = BTreeMap::new();
    for line in cluster.cli(&["results", "batch"]).lines() {
        let result = json(line);
        let label = result["output"][0]["label"].as_str().unwrap().to_string();
        assert_eq!(labels.insert(result["index"].as_u64().unwrap(), label), None, "an index is there twice");
    }
    digits::check(&labels, MANY, &digits::expected()["batch"]["right"]);

    // A takeover: the standby leads, its pod carries the label, and what was done is known.
    let before = cluster.leader();
    cluster.kill(&before);
    let after = common::until("another scheduler leads", || Some(cluster.leader()).filter(|pod| *pod != before));
    place.ok(&["delete", "inferencejob", "voice"]);
    place.ok(&["apply", "-f", example("voice").to_str().unwrap()]);
    complete(&place, "voice");
    let labelled = ok(&mut cluster.kube.kubectl(&["get", "pods", "-A", "-l", "nightshift.dev/role", "-o", "name"]));
    assert_eq!(labelled.trim(), format!("pod/{after}"));
    let brief = "{apiVersion: nightshift.dev/v1alpha1, kind: InferenceJob, metadata: {name: brief}, \
                 spec: {modelRef: {name: digits}, input: {inline: '[]'}, ttlSecondsAfterFinished: 1}}";
    assert!(place.run(&["apply", "-f", "-"], Some(brief)).status.success());
    place.ok(&["wait", "--for=delete", "inferencejob/brief", "--timeout=180s"]);
    place.ok(&["delete", "inferencejob", "--all"]);
    rights::are_used_and_enough(&cluster.kube);
    let said = cluster.scheduler_logs();
    assert!(!said.to_lowercase().contains("forbidden"), "the chart's rights are too few:\n{said}");
}

#[test]
#[ignore = "needs a real Kubernetes API: make conformance"]
fn both_homes_answer_alike() {
    let real = {
        let cluster = Cluster::start(AGENTS);
        steps::run(&cluster.place())
    };
    let embedded = {
        let home = Home::new();
        let seeds = ["--seed", model().to_str().unwrap(), "--seed", &digits::model()].map(String::from);
        let agents = ["--agents".to_string(), AGENTS.to_string()];
        let arguments: Vec<&str> = agents.iter().chain(&seeds).map(String::as_str).collect();
        let pool = Pool::up_with(&home, &arguments);
        let answers = steps::run(&Place { kubeconfig: home.data().join("kubeconfig"), kubectl: cluster::kubectl() });
        pool.stop();
        answers
    };
    compare::check(&embedded, &real);
}
