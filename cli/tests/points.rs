//! Points end to end on one machine: a TenantQueue with kubectl, a grant and statements with the CLI, a real agent that earns.

mod common;

use common::{Home, Pool, condition, example, text, until};
use serde_json::Value;

const QUEUE: &str = "\
apiVersion: nightshift.dev/v1alpha1
kind: TenantQueue
metadata: {name: research}
spec:
  weight: 3
  budget: {points: \"50\", period: Week}
";

#[test]
fn a_queue_is_granted_points_and_pays_the_owner_with_them() {
    let home = Home::new();
    let pool = Pool::up(&home);
    let explained = pool.kubectl_ok(&["explain", "tq.spec.budget"]);
    assert!(explained.contains("TenantQueue") && explained.contains("onExhausted"), "{explained}");
    let downgrade = QUEUE.replace("period: Week", "onExhausted: Downgrade");
    let refused = pool.kubectl_refused(&["apply", "-f", home.write("downgrade.yaml", downgrade).to_str().unwrap()]);
    assert!(refused.contains("Downgrade is not supported by this version: use Hold"), "{refused}");

    let job = std::fs::read_to_string(example("voice").join("job.yaml")).unwrap();
    let job = job.replace("\nspec:\n", "\nspec:\n  queueName: research\n");
    assert!(job.contains("queueName"), "{job}");
    pool.apply(&example("voice"));
    pool.wait("voice", "Complete");
    pool.kubectl_ok(&["delete", "inferencejob", "voice", "--timeout=60s"]);
    pool.apply_text("job", &job);
    let reason = |wanted: &str| {
        until(&format!("the job says {wanted}"), || {
            let job = pool.get("inferencejob/voice");
            let admitted = condition(&job, "Admitted");
            (admitted["reason"] == wanted).then(|| admitted["message"].as_str().unwrap().to_string())
        })
    };
    assert!(reason("Misconfigured").contains("there is no TenantQueue \"research\""));
    let unknown = pool.cli(&["points", "grant", "research", "5"]);
    assert!(!unknown.status.success() && text(&unknown).contains("apply it first"), "{}", text(&unknown));
    pool.apply_text("queue", QUEUE);
    let why = reason("BudgetExhausted");
    assert!(why.contains("nightshift points grant research AMOUNT"), "{why}");

    let default = pool.cli(&["points", "grant", "default", "5"]);
    assert!(!default.status.success() && text(&default).contains("needs no grants"), "{}", text(&default));
    let grant = ["points", "grant", "research", "5", "--id", "november", "--note", "a, b"];
    assert_eq!(pool.cli_ok(&grant), "queue research has 5 points\n");
    pool.wait("voice", "Complete");
    let again = pool.cli(&grant);
    assert!(again.status.success() && text(&again).contains("november was granted before"), "{}", text(&again));

    let statement = |args: &[&str]| -> Value {
        serde_json::from_str(&pool.cli_ok(&[&["points", "statement", "-o", "json"], args].concat())).unwrap()
    };
    let (queue, default) = (statement(&["--queue", "research"]), statement(&[]));
    let kinds: Vec<&str> = queue["entries"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Grant", "Settlement"]);
    assert_eq!(
        (&queue["entries"][0]["about"], &queue["entries"][1]["about"]),
        (&"a, b".into(), &"default/voice".into())
    );
    assert_eq!(default["entries"].as_array().unwrap().len(), 1, "the first job was the mint's: {default}");
    let owner = queue["entries"][1]["other"].as_str().unwrap().strip_prefix("owner/").unwrap().to_string();
    let earned = statement(&["--owner", &owner]);
    assert_eq!(earned["entries"].as_array().unwrap().len(), 2);
    let csv = pool.cli_ok(&["points", "statement", "--queue", "research", "-o", "csv"]);
    assert!(csv.lines().nth(1).unwrap().contains("\"a, b\""), "{csv}");
    let table = pool.cli_ok(&["points", "balance"]);
    assert!(
        table.contains("research") && table.contains("50/Week") && table.contains(&format!("owner/{owner}")),
        "{table}"
    );

    let row = until("the queue's columns are real", || {
        let table = pool.kubectl_ok(&["get", "tq", "-o", "wide"]);
        let row = table.lines().find(|line| line.starts_with("research "))?.to_string();
        let words: Vec<&str> = row.split_whitespace().collect();
        // NAME WEIGHT TIER PENDING RUNNING SHARE SPENT ACTIVE AGE STOP RESERVED BALANCE BUDGET LEFT
        (words[..5] == ["research", "3", "Paid", "0", "0"] && words[6] != "0").then_some(row)
    });
    assert!(row.contains(" True "), "{row}");
    pool.stop();
    let dump = text(&home.command().args(["state", "dump"]).output().unwrap());
    let lines = dump.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let queues: Vec<Value> = lines.filter(|line| line["kind"] == "Queue").collect();
    assert_eq!(queues.iter().map(|q| q["queue"].as_str().unwrap()).collect::<Vec<_>>(), ["default", "research"]);
    assert!(queues.iter().all(|queue| queue["usageMilliseconds"].as_u64().unwrap() > 0), "{queues:?}");
}
