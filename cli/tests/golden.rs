//! What users read, kept as files: every `--help`, explanations, one-line errors. `UPDATE_GOLDEN=1 cargo test -p
//! nightshift-cli --test golden` writes them anew; read the diff before you commit it.

use nightshift_cli::cmd::{explain, points};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

fn check(file: &str, actual: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected == actual { Ok(()) } else { Err(format!("{file}: UPDATE_GOLDEN=1 accepts this:\n{actual}")) }
}

fn collect(command: &mut clap::Command, path: &str, into: &mut Vec<(String, String)>) {
    into.push((path.to_string(), command.render_long_help().to_string()));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path}-{}", sub.get_name());
        collect(sub, &path, into);
    }
}

fn all_help(program: &str, width: usize) -> Vec<(String, String)> {
    let mut command = nightshift_cli::command(Some(&OsString::from(program))).term_width(width).max_term_width(width);
    command.build();
    let mut texts = Vec::new();
    collect(&mut command, "nightshift", &mut texts);
    texts
}

#[test]
fn help() {
    let texts = all_help("nightshift", 100);
    let wrong: Vec<String> =
        texts.iter().filter_map(|(name, text)| check(&format!("help/{name}.txt"), text).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, text) in &texts {
        let has = text.contains("Examples:")
            || text.contains("Begin:")
            || ["nightshift-token", "nightshift-state", "nightshift-points"].contains(&name.as_str());
        assert!(has, "{name} has no examples");
        assert!(!text.contains('\u{1b}'), "{name} has colour codes");
    }
    // Commands to copy stand on one line each, also in a terminal of 100 columns.
    let examples = |text: &str| text.lines().skip_while(|line| !["Examples:", "Begin:"].contains(line)).count();
    for ((name, narrow), (_, wide)) in texts.iter().zip(&all_help("nightshift", 400)) {
        assert_eq!(examples(narrow), examples(wide), "{name}: an example is wrapped");
    }
}

#[test]
fn as_a_kubectl_plugin() {
    let texts = all_help("/usr/local/bin/kubectl-nightshift", 100);
    let run = texts.iter().find(|(name, _)| name == "nightshift-run").unwrap();
    assert!(run.1.contains("Usage: kubectl nightshift run "), "{}", run.1);
}

#[test]
fn explanations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain");
    let mut wrong = Vec::new();
    for name in ["too-big", "failed", "batch", "waiting"] {
        let json = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let text = explain::text(&name.parse().unwrap(), &serde_json::from_str(&json).unwrap());
        wrong.extend(check(&format!("explain/{name}.txt"), &text).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn accounts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/points");
    let read = |name: &str| std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let mut wrong = Vec::new();
    for (name, (table, csv)) in [
        ("balances", points::balances_text(&read("balances")).unwrap()),
        ("statement", points::statement_text(&read("statement")).unwrap()),
    ] {
        wrong.extend(check(&format!("points/{name}.txt"), &table).err());
        wrong.extend(check(&format!("points/{name}.csv"), &csv).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Command lines that can only be refused, with no pool anywhere.
#[test]
fn errors_are_one_line_with_a_remedy() {
    let cases: &[(&[&str], i32)] = &[
        (&["status"], 1),
        (&["push", "/no/such/file"], 1),
        (&["explain", "pod/x"], 2),
        (&["run", "--model", "m"], 2),
        (&["run", "--model", "m", "--input", "a", "--text", "b"], 2),
        (&["run", "--model", "m", "--text", "a", "--timeout", "soon"], 2),
        (&["run", "--model", "m", "--text", "a", "--param", "x"], 2),
        (&["up", "--agents-listen", "everywhere"], 2),
        (&["up", "--price-per-hour", "-1"], 2),
        (&["up", "--allow-files", "/srv"], 2),
        (&["up", "--seed", "/no/such/model", "--no-agent"], 1),
        (&["up", "--agent-program", "/no/such/agent"], 1),
        (&["token", "create", "--tier", "Friend"], 2),
        (&["nodes", "-o", "yaml"], 2),
        (&["points", "grant", "research", "-5"], 2),
        (&["points", "grant", "research", "0"], 2),
        (&["points", "statement", "--queue", "a", "--owner", "b"], 2),
        (&["strat"], 2),
    ];
    let home = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (args, code) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_nightshift"))
            .args(*args)
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_DATA_HOME", home.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap().replace(home.path().to_str().unwrap(), "$HOME");
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
        if *code == 1 {
            assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        }
        text.push_str(&format!("$ nightshift {}\n{}\n", args.join(" "), stderr.trim_end()));
    }
    check("errors.txt", &text).unwrap();
}

#[test]
fn completion_scripts_and_version() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nightshift")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef nightshift"), ("fish", "complete -c nightshift")] {
        let script = run(&["completion", shell]);
        assert!(script.contains(mark) && script.contains("explain"), "{shell}");
    }
    assert!(run(&["version"]).starts_with("nightshift 0."));
    let json: serde_json::Value = serde_json::from_str(&run(&["version", "-o", "json"])).unwrap();
    assert_eq!(json["api"], "nightshift.dev/v1alpha1");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script =
        format!("set -o pipefail; {} completion bash | head -c 10 >/dev/null", env!("CARGO_BIN_EXE_nightshift"));
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
