//! The chart's rights against what the scheduler asked for. *In*: the roles, the API's audit log. *Out*: nothing, or a failed
//! test that names the verb. *Invariant*: nothing was denied, and nothing is granted that nobody used.

use nightshift_testkit::kube::{Kube, ok};
use serde_json::Value;
use std::collections::BTreeSet;

/// Granted, and asked for in rare cases only: (resource, verb, when).
const RARE: &[(&str, &str, &str)] = &[
    ("computenodes", "get", "when a node's object was there before the scheduler knew of it"),
    ("events", "patch", "when the same is told again within minutes"),
];

/// `resource[/subresource] verb`.
type Right = (String, String);

/// Compares them.
pub fn are_used_and_enough(kube: &Kube) {
    let (mut used, mut denied) = (BTreeSet::new(), BTreeSet::new());
    for line in kube.audit().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if !event["user"]["username"].as_str().unwrap().starts_with("system:serviceaccount:nightshift:") {
            continue;
        }
        let Some(resource) = event["objectRef"]["resource"].as_str() else { continue };
        let sub = event["objectRef"]["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        let right: Right = (format!("{resource}{sub}"), event["verb"].as_str().unwrap().into());
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            denied.insert(right.clone());
        }
        used.insert(right);
    }
    assert!(denied.is_empty(), "denied: {denied:?}");
    let rare = |right: &&Right| RARE.iter().any(|(resource, verb, _)| *resource == right.0 && *verb == right.1);
    let granted = granted(kube);
    let idle: Vec<&Right> = granted.difference(&used).filter(|right| !rare(right)).collect();
    assert!(idle.is_empty(), "the chart grants what nobody uses: {idle:?}; used: {used:?}");
}

fn granted(kube: &Kube) -> BTreeSet<Right> {
    let mut granted = BTreeSet::new();
    for role in ["clusterrole", "role"] {
        let query = ["get", role, "nightshift-scheduler", "-n", "nightshift", "-o", "json"];
        let role: Value = serde_json::from_str(&ok(&mut kube.kubectl(&query))).unwrap();
        for rule in role["rules"].as_array().unwrap() {
            let words = |key: &str| -> Vec<String> {
                rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().into()).collect()
            };
            for resource in words("resources") {
                granted.extend(words("verbs").into_iter().map(|verb| (resource.clone(), verb)));
            }
        }
    }
    granted
}
