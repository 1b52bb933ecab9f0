//! The owner's file, the service, doctor, and leaving.

use super::lab::{Process, ask, program, told};
use crate::session_support::{Scheduler, World, until};
use nightshift_wire::proto::agent_message::Kind as Up;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn config_is_written_once_and_checked() {
    let home = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| told(program().args(words).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME"));
    let (_, path, _) = run(&["config", "path"]);
    let path = path.trim();
    assert!(path.ends_with("/nightshift/agent.toml"), "{path}");
    assert_eq!(run(&["config", "init"]).0, Some(0));
    let (code, _, again) = run(&["config", "init"]);
    assert_eq!(code, Some(1));
    assert!(again.contains("exists already"), "{again}");
    let (_, json, _) = run(&["config", "show", "-o", "json", "--set", "availability.idle_after=9m"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["availability"]["idle_after"], &json["limits"]["threads"]), (&"9m".into(), &0.into()));
    fs::write(path, "[limits]\npower = \"lots\"").unwrap();
    let (code, _, error) = run(&["config", "show"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("line 2 (power = \"lots\")"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_counts_at_once_and_a_bad_one_changes_nothing() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let file = dir.path().join("agent.toml");
    fs::write(&file, "[availability]\nwhen = \"always\"\n").unwrap();
    let data = dir.path().join("data");
    let agent = Process::start(
        &world,
        &scheduler,
        &data,
        &["--config", file.to_str().unwrap(), "--set", "availability.temperature_limit=0.0"],
    );
    world.hello().await;
    until("it is ready", || data.join("agent.sock").exists() && ask(&data, &["status"])["state"] == "Ready").await;
    fs::write(&file, "price_per_hour = \"0.5\"\n[availability]\nwhen = \"always\"\nquiet_hours = [\"00:00-24:00\"]\n")
        .unwrap();
    until("it pauses", || ask(&data, &["status"])["reason"] == "OutsideWindow").await;
    let price = |up: &Up| matches!(up, Up::Offer(offer) if offer.price_per_hour == "0.5");
    world.wait("the new price", |seen| seen.iter().any(price).then_some(())).await;

    fs::write(&file, "[availability]\nwhen = \"sometimes\"\n").unwrap();
    let hang_up =
        || assert!(Command::new("kill").args(["-HUP", &agent.0.id().to_string()]).status().unwrap().success());
    hang_up();
    fs::write(&file, "price_per_hour = \"0.7\"\n[availability]\nwhen = \"sometimes\"\n").unwrap();
    hang_up();
    // The mistake was read before what follows, and changed nothing: neither the price in it nor the hours.
    fs::write(&file, "price_per_hour = \"0.9\"\n[availability]\nwhen = \"always\"\nquiet_hours = [\"00:00-24:00\"]\n")
        .unwrap();
    hang_up();
    let price = |up: &Up| if let Up::Offer(offer) = up { Some(offer.price_per_hour.clone()) } else { None };
    world.wait("the last price", |seen| (seen.iter().rev().find_map(price)? == "0.9").then_some(())).await;
    assert!(!world.seen.lock().unwrap().iter().filter_map(price).any(|price| price == "0.7"));
    assert_eq!(ask(&data, &["status"])["reason"], "OutsideWindow");
    fs::remove_file(&file).unwrap();
    hang_up();
    drop(agent);
}

/// A `systemctl` that only writes down what it was told.
fn fake_systemctl(home: &Path) -> String {
    let bin = home.join("bin");
    fs::create_dir(&bin).unwrap();
    let script = bin.join("systemctl");
    fs::write(&script, format!("#!/bin/sh\necho \"$@\" >> {}/systemctl.log\n", home.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

fn below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            found.extend(below(&entry.path()));
        }
    }
    found
}

#[cfg(target_os = "linux")]
#[test]
fn uninstall_leaves_nothing_behind() {
    let (home, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = fake_systemctl(tools.path());
    let run = |words: &[&str]| {
        let mut command = program();
        command.args(words).env("HOME", home.path()).env("PATH", &path);
        told(command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME"))
    };
    let token = nightshift_wire::token::JoinToken::generate(nightshift_types::Digest([7; 32])).to_string();
    let (code, dry, _) = run(&["install", "--server", "pool.example.org:7443", "--dry-run"]);
    assert_eq!((code, below(home.path()).len()), (Some(0), 0), "{dry}");
    assert!(dry.contains("ExecStart=") && dry.contains("# then: systemctl --user enable --now"), "{dry}");
    let (code, _, error) = run(&["install"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--server: nobody to dial"), "{error}");

    let (code, _, error) = run(&["install", "--server", "pool.example.org:7443", "--join", &token]);
    assert_eq!(code, Some(0), "{error}");
    let unit = home.path().join(".config/systemd/user/nightshift-agent.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(!text.contains(&token) && text.contains("--join-file"), "{text}");
    let (_, shown, _) = run(&["config", "show", "-o", "json"]);
    assert!(shown.contains("pool.example.org:7443"), "{shown}");
    let data = home.path().join(".local/share/nightshift/agent");
    assert_eq!(fs::read_to_string(data.join("join-token")).unwrap(), token);
    for name in ["models", "outbox", "identity"] {
        fs::create_dir(data.join(name)).unwrap();
        fs::write(data.join(name).join("x"), "x").unwrap();
    }
    let (code, _, error) = run(&["uninstall"]);
    assert_eq!(code, Some(0), "{error}");
    let left: Vec<String> = below(home.path()).into_iter().filter(|path| Path::new(path).is_file()).collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(!home.path().join(".local/share/nightshift").exists() && !home.path().join(".config/nightshift").exists());
    let log = fs::read_to_string(tools.path().join("systemctl.log")).unwrap();
    let expected = ["--user daemon-reload", "--user enable --now nightshift-agent.service"];
    let after = ["--user disable --now nightshift-agent.service", "--user daemon-reload"];
    assert_eq!(log.lines().collect::<Vec<_>>(), [expected, after].concat());
    assert_eq!(run(&["uninstall"]).0, Some(0), "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_ends_the_agent_and_deletes_what_it_kept() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let scheduler = Scheduler::start(&world);
    let data = dir.path().join("data");
    let mut agent = Process::start(&world, &scheduler, &data, &["--when", "always"]);
    world.hello().await;
    let answer = ask(&data, &["leave"]);
    assert_eq!((&answer["removed"], &answer["resultsNotDelivered"]), (&true.into(), &0.into()));
    assert!(!data.exists());
    assert_eq!(agent.0.wait().unwrap().code(), Some(0));
    let (code, _, error) = told(program().arg("leave").arg("--data-dir").arg(&data));
    assert_eq!(code, Some(1));
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn doctor_and_self_test_say_what_works_here() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    fs::write(&config, "price_per_hour = \"0.25\"").unwrap();
    let run = |words: &[&str]| {
        let mut command = program();
        command.args(words).arg("--config").arg(&config).env("NIGHTSHIFT_DATA_DIR", dir.path().join("data"));
        told(command.args(["-o", "json"]))
    };
    let (code, stdout, stderr) = run(&["doctor"]);
    let checks: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(0), "{checks:#} {stderr}");
    let names: Vec<&str> = checks.as_array().unwrap().iter().filter_map(|check| check["name"].as_str()).collect();
    let expected =
        ["config", "libtorch", "devices", "sandbox", "limits", "input", "battery", "heat", "power", "disk", "clock"];
    assert_eq!(names[..11], expected);
    assert_eq!(names[11..], ["server", "identity", "agent"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, stdout, _) = run(&["doctor", "--server", &closed]);
    assert_eq!(code, Some(1), "a server that cannot be reached");
    assert!(stdout.contains("cannot be reached"), "{stdout}");

    let (code, stdout, stderr) = run(&["self-test"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["pricePerHour"], "0.25");
    assert!(report["modelGigaflops"].as_f64().unwrap() > 0.0, "{report}");
    assert!(!dir.path().join("data").exists(), "nothing is kept");
}
