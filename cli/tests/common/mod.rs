//! A whole pool for a test: the real `nightshift up`, agent, kubectl and model, in a temporary folder, on free ports.
//! *Invariant*: tests wait for conditions with a deadline; whatever a test does, its processes are gone afterwards.

#![allow(dead_code)] // Each test program uses its own part.

pub mod digits;
pub mod ledger;
pub mod sound;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything; machines that build at the same time are slow.
pub const DEADLINE: Duration = Duration::from_secs(180);

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

pub fn model() -> PathBuf {
    let path = repository().join(".deps/models/silero_vad.jit");
    assert!(path.exists(), "{} is missing: `make deps` fetches it", path.display());
    path
}

pub fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// kubectl: `KUBECTL`, else the one `make deps` fetched because PATH had none or an old one, else PATH's.
pub fn kubectl_program() -> PathBuf {
    if let Some(path) = std::env::var_os("KUBECTL") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(repository().join(".deps/bin")).chain(std::env::split_paths(&path));
    let found = folders.map(|folder| folder.join("kubectl")).find(|path| path.exists());
    found.expect("kubectl is missing: `make deps` fetches it, or set KUBECTL")
}

/// Waits until `look` gives something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A process in a group of its own, its output kept; killed when dropped.
pub struct Process {
    child: Child,
    pub lines: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    lines.lock().unwrap().push_back(line);
                }
            });
        }
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> String {
        self.lines.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        until("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A folder that several pools may use one after another.
pub struct Home {
    pub folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("nightshift-test-").tempdir().unwrap() }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The CLI, knowing nothing but this home.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
        self.environment(&mut command);
        command.env("NIGHTSHIFT_HOME", self.data());
        command
    }

    pub fn environment(&self, command: &mut Command) {
        command
            .env("HOME", self.folder.path())
            .env_remove("XDG_DATA_HOME")
            .env_remove("KUBECONFIG")
            .env_remove("RUST_LOG");
        // An agent built into a target directory elsewhere does not find the checkout's libtorch by itself.
        let libtorch = repository().join(".deps/libtorch/lib");
        if libtorch.exists() {
            command.env("LD_LIBRARY_PATH", libtorch);
        }
    }

    pub fn agent(&self) -> PathBuf {
        let path = Path::new(env!("CARGO_BIN_EXE_nightshift")).with_file_name("nightshift-agent");
        assert!(path.exists(), "{} is missing: cargo build -p nightshift-agent", path.display());
        path
    }
}

/// A pool that is up.
pub struct Pool<'a> {
    pub home: &'a Home,
    pub up: Process,
}

impl<'a> Pool<'a> {
    /// With the agent, and Silero's model in the blob store.
    pub fn up(home: &'a Home) -> Self {
        Self::up_with(home, &["--seed", model().to_str().unwrap()])
    }

    pub fn up_with(home: &'a Home, args: &[&str]) -> Self {
        home.agent();
        let any = "127.0.0.1:0";
        let mut command = home.command();
        command.args(["up", "--api-listen", any, "--agents-listen", any, "--http-listen", any]).args(args);
        let mut pool = Self { home, up: Process::start(&mut command) };
        until("`nightshift up` says that it is ready", || {
            let output = pool.up.output();
            if let Some(status) = pool.up.has_ended() {
                panic!("`nightshift up` ended ({status}):\n{output}{}", pool.logs());
            }
            output.lines().any(|line| line.starts_with("export KUBECONFIG=")).then_some(())
        });
        pool
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        self.home.command().args(args).output().unwrap()
    }

    /// The CLI's stdout; it must succeed.
    pub fn cli_ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(output.status.success(), "nightshift {args:?}: {}{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(kubectl_program());
        self.home.environment(&mut command);
        command.env_remove("LD_LIBRARY_PATH");
        command.env("KUBECONFIG", self.home.data().join("kubeconfig")).args(args).output().unwrap()
    }

    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {}{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl says when it refuses.
    pub fn kubectl_refused(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(!output.status.success(), "kubectl {args:?} succeeded: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn apply(&self, path: &Path) -> String {
        self.kubectl_ok(&["apply", "-f", path.to_str().unwrap()])
    }

    /// Applies a manifest written in the test.
    pub fn apply_text(&self, name: &str, manifest: &str) -> String {
        self.apply(&self.home.write(&format!("{name}.yaml"), manifest))
    }

    pub fn get(&self, what: &str) -> serde_json::Value {
        serde_json::from_str(&self.kubectl_ok(&["get", what, "-o", "json"])).unwrap()
    }

    pub fn wait(&self, job: &str, condition: &str) -> serde_json::Value {
        let what = format!("inferencejob/{job}");
        let timeout = format!("--timeout={}s", DEADLINE.as_secs());
        let output = self.kubectl(&["wait", &format!("--for=condition={condition}"), &what, &timeout]);
        let state = || self.kubectl_ok(&["get", &what, "-o", "yaml"]);
        assert!(output.status.success(), "{}{}{}", text(&output), state(), self.logs());
        self.get(&what)
    }

    /// The ends of the logs, for a failing test's message.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for name in ["nightshift.log", "agent.log"] {
            let text = std::fs::read_to_string(self.home.data().join("logs").join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            all.push_str(&format!("\n--- {name}\n{}", lines[lines.len().saturating_sub(25)..].join("\n")));
        }
        all
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) -> String {
        self.up.signal(Signal::SIGTERM);
        let status = self.up.wait();
        assert!(status.success(), "{status}: {}{}", self.up.output(), self.logs());
        until("its pipes close", || self.up.output().contains("stopped").then_some(()));
        self.up.output()
    }

    /// As if the machine lost its power, but for the disk.
    pub fn kill(mut self) {
        self.up.signal(Signal::SIGKILL);
        self.up.wait();
    }

    /// The name the local agent joined under.
    pub fn agent_node(&self) -> String {
        let text = std::fs::read_to_string(self.home.data().join("agent/identity/identity.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["node"].as_str().unwrap().to_string()
    }

    /// The agent's process id, by its parent.
    pub fn agent_pid(&self) -> Option<u32> {
        children(self.up.pid()).into_iter().next()
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // In order, so that the agent and its workers end with it; the Process's own drop is the last resort.
        if self.up.has_ended().is_none() {
            self.up.signal(Signal::SIGTERM);
            let started = Instant::now();
            while self.up.has_ended().is_none() && started.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub fn children(parent: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("ps (Debian: procps)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| {
        let (pid, ppid) = line.trim().split_once(' ')?;
        Some((pid.parse::<u32>().ok()?, ppid.trim().parse::<u32>().ok()?))
    });
    pairs.filter(|(_, ppid)| *ppid == parent).map(|(pid, _)| pid).collect()
}

pub fn is_alive(pid: u32) -> bool {
    nix::sys::signal::kill(Pid::from_raw(pid as i32), None).is_ok()
}

/// A job's condition.
pub fn condition<'a>(job: &'a serde_json::Value, kind: &str) -> &'a serde_json::Value {
    let all = job["status"]["conditions"].as_array().expect("conditions");
    all.iter().find(|found| found["type"] == kind).unwrap_or_else(|| panic!("no condition {kind} in {job:#}"))
}
