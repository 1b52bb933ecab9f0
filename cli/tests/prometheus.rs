//! A real Prometheus with the shipped configuration, rules and dashboard: it finds scheduler and agents, every panel's query
//! has data during a mixed load, and a machine that is killed fires its alert, which resolves when it returns.
//!
//! Nothing is written twice: configuration and rules are the shipped files with other addresses and shorter times.

mod common;

use common::{Home, Pool, Process, example, model, repository, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Tasks of one batch; there is always one under way.
const TASKS: usize = 60;

/// `PROMETHEUS`, else what `make deps` fetched, else PATH's.
fn prometheus_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PROMETHEUS") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(repository().join(".deps/bin")).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("prometheus")).find(|path| path.exists())
}

fn shipped(path: &str) -> String {
    std::fs::read_to_string(repository().join("deploy").join(path)).unwrap()
}

/// Each of these must be in the text: a shipped file that changes shall not be tested with what it no longer says.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        text.replace(from, to)
    })
}

/// The rules, with every `for:` made two seconds.
fn impatient(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s\n"),
        _ => format!("{line}\n"),
    };
    let text: String = rules.lines().map(line).collect();
    assert!(text.contains("for: 2s"), "{text}");
    text
}

/// A Prometheus that scrapes a pool every second.
struct Prometheus {
    process: Process,
    address: String,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
}

impl Prometheus {
    fn start(program: &Path, pool: &Pool) -> Self {
        let gateway: Value =
            serde_json::from_slice(&std::fs::read(pool.home.data().join("gateway.json")).unwrap()).unwrap();
        let scheduler = gateway["url"].as_str().unwrap().strip_prefix("http://").unwrap();
        let token = pool.home.data().join("prometheus.token");
        let config = replaced(
            &shipped("prometheus/prometheus.yml"),
            &[
                ("127.0.0.1:7445", scheduler),
                ("credentials_file: prometheus.token", &format!("credentials_file: {}", token.display())),
                ("scrape_interval: 15s", "scrape_interval: 1s"),
                ("evaluation_interval: 15s", "evaluation_interval: 1s"),
                ("scrape_timeout: 10s", "scrape_timeout: 1s"),
                ("refresh_interval: 30s", "refresh_interval: 1s"),
            ],
        );
        pool.home.write(
            "prometheus/rules/nightshift.rules.yml",
            impatient(&shipped("prometheus/rules/nightshift.rules.yml")),
        );
        let config = pool.home.write("prometheus/prometheus.yml", config);
        // It cannot be told to find a port by itself; nobody else takes a port that was free a moment ago, most likely.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", config.with_file_name("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let process = Process::start(&mut command);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let mut prometheus = Self { process, address, runtime, http };
        until("Prometheus answers", || {
            assert!(prometheus.process.has_ended().is_none(), "{}", prometheus.process.output());
            prometheus.get("/api/v1/status/buildinfo", &[])
        });
        prometheus
    }

    /// `data` of an answer; `None` while there is none.
    fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}{path}", self.address), query).unwrap();
        let request = self.http.get(url);
        let answer: Value = self.runtime.block_on(async { request.send().await?.json().await }).ok()?;
        assert_eq!(answer["status"], "success", "{path} {query:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// The numbers of an instant query, without those that are none.
    fn query(&self, expression: &str) -> Vec<f64> {
        let data = self.get("/api/v1/query", &[("query", expression)]).unwrap_or_default();
        let series = data["result"].as_array().cloned().unwrap_or_default();
        let number = |series: &Value| series["value"][1].as_str()?.parse::<f64>().ok();
        series.iter().filter_map(number).filter(|value| value.is_finite()).collect()
    }

    /// Nodes of which an alert fires.
    fn firing(&self, alert: &str) -> BTreeSet<String> {
        let data = self.get("/api/v1/alerts", &[]).unwrap_or_default();
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let fires = |found: &&Value| found["labels"]["alertname"] == alert && found["state"] == "firing";
        let node = |found: &Value| found["labels"]["node"].as_str().unwrap_or_default().to_string();
        alerts.iter().filter(fires).map(node).collect()
    }

    /// Every rule was evaluated without an error.
    fn rules_hold(&self) {
        let data = self.get("/api/v1/rules", &[]).unwrap();
        let rules = data["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        for rule in rules {
            assert_eq!(rule["health"], "ok", "{rule:#}");
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Prometheus\n{}", self.process.output());
        }
    }
}

/// (panel, query) of every target of the dashboard, its variables put in as Grafana would with everything selected.
fn panel_queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/nightshift.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let all: Vec<(String, &str)> = variables
        .iter()
        .filter(|variable| variable["type"] == "query")
        .map(|variable| (format!("${}", variable["name"].as_str().unwrap()), variable["allValue"].as_str().unwrap()))
        .collect();
    let substituted = |expression: &str| {
        let text = expression.replace("$__rate_interval", "15s").replace("$__range", "5m");
        let text = all.iter().fold(text, |text, (name, value)| text.replace(name, value));
        assert!(!text.contains('$'), "a variable is left in {text}");
        text
    };
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            queries.push((title.to_string(), substituted(target["expr"].as_str().unwrap())));
        }
    }
    queries
}

fn job(name: &str, model: &str, input: &str) -> String {
    format!(
        "apiVersion: nightshift.dev/v1alpha1\nkind: InferenceJob\nmetadata: {{name: {name}}}\n\
         spec:\n  modelRef: {{name: {model}}}\n  input: {input}\n"
    )
}

fn batch(name: &str) -> String {
    let mut items = String::from("\n    items:\n");
    for task in 0..TASKS {
        let samples: Vec<&str> = (0..512).map(|n| if n == task { "0.5" } else { "0" }).collect();
        writeln!(items, "      - \"[[{}]]\"", samples.join(",")).unwrap();
    }
    job(name, "silero-json", &items)
}

/// Batches, single sounds and inputs that cannot be read, one round after another, until told to stop. A job that nothing
/// can run waits all the while.
fn load(pool: &Pool, stop: &AtomicBool) {
    for round in 0.. {
        let (batch_name, bad) = (format!("batch-{round}"), format!("bad-{round}"));
        pool.apply_text(&batch_name, &batch(&batch_name));
        pool.apply_text(&bad, &job(&bad, "silero-vad", "{inline: \"no sound at all\"}"));
        until("the batch ends", || {
            let ended = pool.get(&format!("inferencejob/{batch_name}"))["status"]["state"] == "Complete";
            (ended || stop.load(Ordering::Relaxed)).then_some(())
        });
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// A machine of somebody else.
struct Machine {
    home: Home,
    name: &'static str,
    /// What `nightshift token create` said to type; the token in it is not looked at again after the first start.
    words: Vec<String>,
}

impl Machine {
    fn new(pool: &Pool, name: &'static str) -> Self {
        let issued = pool.cli_ok(&["token", "create", "--owner", name, "--ttl", "10m"]);
        Self { home: Home::new(), name, words: issued.split_whitespace().map(String::from).collect() }
    }

    fn start(&self) -> Process {
        let mut command = Command::new(self.home.agent());
        self.home.environment(&mut command);
        command.args(&self.words[1..]).arg("--data-dir").arg(self.home.data());
        Process::start(command.args(["--name", self.name, "--region", "home", "--threads", "1"]))
    }
}

#[test]
fn prometheus_sees_a_pool_at_work_a_machine_lost_and_returned() {
    let Some(program) = prometheus_program() else {
        eprintln!("skipped: prometheus is not installed (make deps fetches it, or set PROMETHEUS)");
        return;
    };
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--seed", model().to_str().unwrap()]);
    let (cellar, attic) = (Machine::new(&pool, "cellar"), Machine::new(&pool, "attic"));
    let (_stays, lost) = (cellar.start(), attic.start());
    pool.apply(&example("voice"));
    pool.apply(&example("too-big"));
    pool.apply_text("model", &common::sound::json_model());
    let prometheus = Prometheus::start(&program, &pool);
    until("scheduler and three agents are scraped", || {
        let agents = prometheus.query("sum(up{job=\"nightshift-agent\"})") == [3.0];
        (agents && prometheus.query("up{job=\"nightshift-scheduler\"}") == [1.0]).then_some(())
    });

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| load(&pool, &stop));
        let mut waiting = panel_queries();
        assert!(waiting.len() > 30, "{waiting:?}");
        let started = std::time::Instant::now();
        while !waiting.is_empty() && started.elapsed() < common::DEADLINE && !loading.is_finished() {
            waiting.retain(|(_, query)| prometheus.query(query).is_empty());
            std::thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(waiting.is_empty(), "no data: {waiting:#?}{}", pool.logs());
    });
    prometheus.rules_hold();
    assert_eq!(prometheus.firing("NightshiftNodeLost"), BTreeSet::new());

    lost.signal(Signal::SIGKILL);
    until("the alert fires for the machine that was killed", || {
        let firing = prometheus.firing("NightshiftNodeLost");
        assert!(firing.is_empty() || firing == BTreeSet::from(["attic".to_string()]), "{firing:?}");
        (!firing.is_empty()).then_some(())
    });
    assert_eq!(prometheus.query("up{job=\"nightshift-agent\", node=\"attic\"}"), [0.0], "it stays a target");
    drop(lost);
    let _returned = attic.start();
    until("the alert resolves", || prometheus.firing("NightshiftNodeLost").is_empty().then_some(()));
    assert_eq!(prometheus.query("up{job=\"nightshift-agent\", node=\"attic\"}"), [1.0]);
    pool.stop();
}
