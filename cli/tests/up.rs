//! `nightshift up` itself: one a data dir, errors that name the flag, an orderly end, an agent that comes back, machines
//! that join.

mod common;

use common::{Home, Pool, Process, text, until};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::process::Command;

#[test]
fn a_second_one_is_told_who_has_the_data_dir() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--no-agent"]);
    let second = home.command().args(["up", "--no-agent", "--api-listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", pool.up.pid())) && said.contains("--data-dir"), "{said}");

    let status = pool.cli_ok(&["status"]);
    assert!(status.contains(&format!("process {}", pool.up.pid())) && status.contains("0 ready of 0"), "{status}");
    let nodes = pool.cli(&["nodes"]);
    assert!(nodes.status.success() && text(&nodes).contains("nightshift token create"), "{}", text(&nodes));
    pool.stop();
    let status = home.command().arg("status").output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status).contains("`nightshift up` starts one"), "{}", text(&status));
}

#[test]
fn a_taken_port_names_its_flag() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for flag in ["--api-listen", "--agents-listen", "--http-listen"] {
        let home = Home::new();
        let mut command = home.command();
        command.args(["up", "--no-agent"]);
        for other in ["--api-listen", "--agents-listen", "--http-listen"] {
            command.args([other, if other == flag { &taken } else { "127.0.0.1:0" }]);
        }
        let output = command.output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&taken) && said.contains(&format!("{flag} 127.0.0.1:0")), "{said}");
    }
}

#[test]
fn ctrl_c_ends_everything_in_order() {
    let home = Home::new();
    let mut pool = Pool::up_with(&home, &[]);
    let agent = pool.agent_pid().expect("the agent's process");
    pool.up.signal(Signal::SIGINT);
    let status = pool.up.wait();
    let said = pool.up.output();
    assert!(status.success(), "{status}: {said}");
    assert!(!common::is_alive(agent), "the agent lives on");
    until("its last line", || pool.up.output().contains("everything is kept").then_some(()));
    assert!(!said.contains('\u{1b}'), "colour codes without a terminal: {said}");
    let log = std::fs::read_to_string(home.data().join("logs/agent.log")).unwrap();
    assert!(log.contains("the agent has stopped"), "{log}");
    assert!(!home.data().join("agent.join").exists(), "the join token lies about");
}

#[test]
fn a_dead_agent_comes_back() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &[]);
    let first = pool.agent_pid().expect("the agent's process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    let second = until("another agent is started", || pool.agent_pid().filter(|pid| *pid != first));
    assert!(pool.up.output().contains("warning: the agent died: it was ended by signal 9"), "{}", pool.up.output());
    let node = pool.agent_node();
    until("the node is ready again", || {
        let conditions = pool.get(&format!("computenode/{node}"))["status"]["conditions"].clone();
        let ready = conditions.as_array()?.iter().find(|found| found["type"] == "Ready")?;
        (ready["status"] == "True" && common::is_alive(second)).then_some(())
    });
    pool.stop();
}

#[test]
fn another_machine_joins() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &[]);
    let output = pool.cli(&["token", "create", "--owner", "anna", "--ttl", "10m"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--agents-listen 0.0.0.0:7444"), "{}", text(&output));
    let command = String::from_utf8(output.stdout).unwrap();
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("nightshift-agent"));
    let there = Home::new();
    let mut agent = Command::new(there.agent());
    there.environment(&mut agent);
    agent.args(words).arg("--data-dir").arg(there.data()).args(["--name", "anna-pc", "--price-per-hour", "0.5"]);
    let mut agent = Process::start(&mut agent);
    until("two nodes are ready", || {
        assert!(agent.has_ended().is_none(), "{}", agent.output());
        pool.cli_ok(&["status"]).contains("2 ready of 2").then_some(())
    });
    let nodes = pool.cli_ok(&["nodes"]);
    assert!(nodes.lines().any(|line| line.starts_with("anna-pc") && line.contains("0.5")), "{nodes}");
    assert_eq!(pool.cli_ok(&["nodes", "-o", "name"]).lines().next(), Some("computenode.nightshift.dev/anna-pc"));
    let node = pool.get("computenode/anna-pc");
    assert_eq!(
        (node["spec"]["ownerRef"]["name"].as_str(), node["spec"]["trustTier"].as_str()),
        (Some("anna"), Some("Vetted"))
    );
    pool.stop();
}
