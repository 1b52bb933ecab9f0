//! Agents in this process whose owner is the test, and agents as processes of their own.

use crate::session_support::{Fake, Scheduler, World, config};
use nightshift_agent::config::Config;
use nightshift_agent::engine::Sandbox;
use nightshift_agent::hardware::Hardware;
use nightshift_agent::owner::watch::Sense;
use nightshift_agent::owner::{Rules, Signals};
use nightshift_agent::serve::{DataDir, ServeError, serve_with};
use nightshift_types::{Bytes, Device, Measured};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the owner seems to do.
#[derive(Debug, Clone, Default)]
pub struct Told(pub Arc<Mutex<Signals>>);

impl Told {
    pub fn idle(&self, seconds: f64) {
        self.0.lock().unwrap().idle_seconds = Some(seconds);
    }
}

impl Sense for Told {
    fn look(&mut self, _: &Rules, _: Instant) -> Signals {
        self.0.lock().unwrap().clone()
    }
    fn source(&self) -> Option<String> {
        Some("a test".into())
    }
}

/// An agent whose model is a stand-in.
pub struct Guest {
    pub told: Told,
    pub dir: tempfile::TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Guest {
    /// Nobody has touched it for an hour.
    pub fn start(world: &Arc<World>, scheduler: &Scheduler, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(world, scheduler.address, dir.path());
        config.rules = Rules::default();
        change(&mut config);
        let told = Told::default();
        told.idle(3600.0);
        let (stop, sense) = (CancellationToken::new(), told.clone());
        let cancel = stop.clone();
        let task = tokio::spawn(async move {
            let data = DataDir::open(&config.data_dir)?;
            let identity = data.identity(&config).await?;
            let device = Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() };
            let free_memory = |device: &Device| device.memory;
            let (measured, sandbox) = (Measured::default(), Sandbox::default());
            let hardware = Hardware { devices: vec![device], measured, free_memory, sandbox };
            serve_with(&config, &data, identity, hardware, Arc::new(Fake::default()), sense, cancel).await
        });
        Self { told, dir, stop, task }
    }

    pub async fn stopped(self) -> Result<(), ServeError> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

/// The program, with nothing of the environment that concerns it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift-agent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIGHTSHIFT_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs it; stdout and stderr as text.
pub fn told(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// `nightshift-agent WORDS --data-dir DIR -o json`, which succeeds.
pub fn ask(dir: &Path, words: &[&str]) -> serde_json::Value {
    let mut command = program();
    command.args(words).args(["-o", "json"]).arg("--data-dir").arg(dir);
    let (code, stdout, stderr) = told(&mut command);
    assert_eq!(code, Some(0), "{words:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// An agent in a process of its own, killed when the test ends.
pub struct Process(pub Child);

impl Process {
    pub fn start(world: &World, scheduler: &Scheduler, dir: &Path, more: &[&str]) -> Self {
        let mut command = program();
        command.args(["run", "--server", &scheduler.address.to_string(), "--threads", "1", "--grace-seconds", "1"]);
        command.args(more).arg("--data-dir").arg(dir).env("NIGHTSHIFT_JOIN_TOKEN", world.token.to_string());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
