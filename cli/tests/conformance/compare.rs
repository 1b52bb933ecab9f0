//! Both homes' answers → the differences, each with its reason, and `docs/conformance.md`. *Invariant*: a difference without
//! a reason fails, and so does a reason without a difference.

use super::common::repository;
use super::steps::Answer;
use std::fmt::Write as _;

/// Commands that may answer differently, and why.
const REASONS: &[(&str, &str)] = &[
    ("kubectl version", "each says what it is; the embedded API names the Kubernetes version it follows and its own."),
    (
        "kubectl api-versions",
        "the embedded API serves Nightshift's kinds and the few around them, no workloads and no RBAC objects.",
    ),
    (
        "kubectl api-resources --api-group=nightshift.dev -o wide",
        "the order of the verbs: alphabetical, as Kubernetes has it for its own kinds; no client reads an order from it.",
    ),
    ("kubectl auth whoami", "the name in the kubeconfig's token; the embedded one has no uid."),
    (
        "kubectl auth can-i --list --namespace default",
        "the embedded API has an admin and a viewer instead of RBAC, so the rights that RBAC gives to everybody are not listed.",
    ),
    (
        "kubectl patch inferencejob waiting --type=json -p [{\"op\":\"test\",\"path\":\"/spec/backoffLimit\",\"value\":3}]",
        "both refuse it as Invalid; the embedded API says which test failed.",
    ),
    (
        "kubectl scale inferencejob waiting --replicas=2",
        "both refuse it: a job has no scale. The real API knows no such path (404), the embedded one no such method on it (405).",
    ),
    (
        "kubectl patch inferencejob waiting --type=strategic -p {\"spec\":{\"backoffLimit\":4}}",
        "both refuse it; server-side apply is missing in the embedded API's list of what it takes.",
    ),
    ("kubectl apply --server-side --field-manager=other -f -", SERVER_SIDE),
    ("kubectl apply --server-side --field-manager=other --force-conflicts -f -", SERVER_SIDE),
    (
        "kubectl get inferencejob waiting -o yaml --show-managed-fields",
        "the embedded API keeps no managedFields, and the two commands before changed the object on the real one alone.",
    ),
    ("kubectl get all", "a cluster has a Service of its own."),
];

const SERVER_SIDE: &str =
    "the embedded API has no server-side apply yet; `kubectl apply` without the flag works on both.";

/// How the report begins.
const HEAD: &str = "\
# Two homes, the same answers

Written by `UPDATE=1 make conformance`; do not edit. kubectl 1.36.2 was asked the same on both homes, one after the other:

* **embedded**: `nightshift up --agents 3`, which brings its own Kubernetes API;
* **real**: kube-apiserver 1.36.2 with RBAC and the controllers that need no machines, the chart installed with Helm, the journal
  in etcd with TLS, two schedulers in the place of the Deployment's pods (there is no kubelet) with the pods' names, the
  containers' arguments and their service account's token, and three agents.

$COMMANDS commands, $DIFFERENT of them answered differently:

$LIST

Everything else is equal after taking out what differs between any two runs: uids, times, ages, resource versions, ports, points,
measured speeds and sizes, names of nodes, the width of columns, and the order of a spec's faults (the real server's is random).

`make conformance` fails on any other difference, and on one of these that is gone. Besides, it runs the voice job and the batch of
200 on the real API under the chart's RBAC, kills the leader, reads the API's audit log, and fails if a request of the scheduler was
denied or if the chart grants a right that nobody used.

## Every command
";

/// Longer answers that are equal are shown in part.
const SHOWN: usize = 12;

/// Fails on what is not explained; with `UPDATE=1` writes the report.
pub fn check(embedded: &[Answer], real: &[Answer]) {
    assert_eq!(embedded.len(), real.len());
    let pairs: Vec<(&Answer, &Answer)> = embedded.iter().zip(real).collect();
    let report = report(&pairs);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(repository().join("docs/conformance.md"), &report).unwrap();
    }
    let mut wrong = String::new();
    for (embedded, real) in &pairs {
        let same = embedded.text == real.text;
        if same == reason(embedded.command).is_none() {
            continue;
        }
        let what = if same { "has a reason to differ, but does not" } else { "differs without a reason" };
        writeln!(wrong, "{} {what}\n--- embedded\n{}\n--- real\n{}", embedded.command, embedded.text, real.text)
            .unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn reason(command: &str) -> Option<&'static str> {
    REASONS.iter().find(|(of, _)| *of == command).map(|(_, why)| *why)
}

fn report(pairs: &[(&Answer, &Answer)]) -> String {
    let different = pairs.iter().filter(|(embedded, real)| embedded.text != real.text);
    let mut list = String::new();
    for (embedded, _) in different.clone() {
        writeln!(list, "* `{}`: {}", embedded.command, reason(embedded.command).unwrap_or("NO REASON YET")).unwrap();
    }
    let mut text = HEAD
        .replace("$COMMANDS", &pairs.len().to_string())
        .replace("$DIFFERENT", &different.count().to_string())
        .replace("$LIST", list.trim_end());
    for (embedded, real) in pairs {
        writeln!(text, "\n### `{}`\n", embedded.command).unwrap();
        if let Some(input) = embedded.input {
            writeln!(text, "```yaml\n{input}```\n").unwrap();
        }
        if embedded.text == real.text {
            writeln!(text, "{}", block(&shortened(&real.text))).unwrap();
        } else {
            let why = reason(embedded.command).unwrap_or("NO REASON YET");
            writeln!(
                text,
                "**Differs:** {why}\n\nembedded:\n\n{}\nreal:\n\n{}",
                block(&embedded.text),
                block(&real.text)
            )
            .unwrap();
        }
    }
    text
}

fn block(text: &str) -> String {
    format!("```\n{text}\n```\n")
}

fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= SHOWN + 3 {
        return text.into();
    }
    format!("{}\n… {} more lines, the same", lines[..SHOWN].join("\n"), lines.len() - SHOWN)
}
