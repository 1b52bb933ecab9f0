//! `nightshift state`: the journal of a real pool, checked, printed, saved, restored, and run again.

mod common;

use common::{Home, Pool, example, text};

#[test]
fn a_pool_is_saved_and_lives_on_elsewhere() {
    let home = Home::new();
    let pool = Pool::up(&home);
    pool.apply(&example("voice"));
    pool.wait("voice", "Complete");
    let busy = pool.cli(&["state", "verify"]);
    assert!(!busy.status.success() && text(&busy).contains("stop that one first"), "{}", text(&busy));
    pool.stop();

    let cli = |args: &[&str]| {
        let output = home.command().args(args).output().unwrap();
        assert!(output.status.success(), "nightshift {args:?}: {}", text(&output));
        text(&output)
    };
    assert!(cli(&["state", "verify"]).contains("OK: no gap in the chain"));
    let backup = home.folder.path().join("b.nsj");
    let backup = backup.to_str().unwrap();
    assert!(cli(&["state", "backup", backup]).contains("checked"));
    let verdict: serde_json::Value =
        serde_json::from_str(&cli(&["state", "verify", "--file", backup, "-o", "json"])).unwrap();
    assert_eq!((&verdict["jobs"], &verdict["unfinishedJobs"], &verdict["nodes"]), (&1.into(), &0.into(), &1.into()));
    let dump = cli(&["state", "dump", "--file", backup]);
    assert_eq!(dump.lines().count() as u64, verdict["events"].as_u64().unwrap() + 1, "and the queue default");
    let succeeded = |line: &&str| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"] == "TaskSucceeded";
    assert_eq!(dump.lines().filter(succeeded).count(), 1, "{dump}");

    // A journal that was lost: everything else in the data dir is there.
    std::fs::remove_file(home.data().join("journal.redb")).unwrap();
    assert!(cli(&["state", "restore", backup]).contains("under a new journal id"));
    let again = home.command().args(["state", "restore", backup]).output().unwrap();
    assert!(!again.status.success() && text(&again).contains("not empty"), "{}", text(&again));
    let pool = Pool::up(&home);
    let job = pool.get("inferencejob/voice");
    assert_eq!(job["status"]["state"], "Complete", "what was done is known: {job:#}");
    pool.cli_ok(&["results", "voice"]);
    pool.stop();
}
