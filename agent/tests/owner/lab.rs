//! Agents in this process whose owner is the test, and agents as processes of their own.

use crate::session_support::{Fake, Scheduler, World, config};
use nightshift_agent::config::Config;
use nightshift_agent::engine::{Engine, EngineConfig, Sandbox};
use nightshift_agent::executor::Executor;
use nightshift_agent::hardware::Hardware;
use nightshift_agent::owner::idle::Places;
use nightshift_agent::owner::watch::{Machine, Sense};
use nightshift_agent::owner::{Roots, Rules, Signals};
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
        let told = Told::default();
        told.idle(3600.0);
        Self::start_as(world, scheduler, change, told.clone(), told, |_| Arc::new(Fake::default()))
    }

    /// With real workers, and what another `/proc` says of the load.
    #[cfg(target_os = "linux")]
    pub fn with_workers(world: &Arc<World>, scheduler: &Scheduler, proc: std::path::PathBuf) -> Self {
        let roots = Roots { proc, sys: "/nowhere".into(), dev: "/nowhere".into() };
        let sense = Machine::new(roots, std::process::id(), || Places {
            roots: Roots { proc: "/nowhere".into(), sys: "/nowhere".into(), dev: "/nowhere".into() },
            bus: Some("unix:path=/nowhere".into()),
            session_bus: Some("unix:path=/nowhere".into()),
            ..Places::default()
        });
        let change = |config: &mut Config| config.rules.resume_after = std::time::Duration::ZERO;
        let engine = |dir: &Path| -> Arc<dyn Executor> {
            let mut engine = EngineConfig::new(env!("CARGO_BIN_EXE_nightshift-agent"), dir.join("run"));
            engine.threads = 1;
            Arc::new(Engine::new(engine))
        };
        Self::start_as(world, scheduler, change, Told::default(), sense, engine)
    }

    fn start_as(
        world: &Arc<World>,
        scheduler: &Scheduler,
        change: impl FnOnce(&mut Config),
        told: Told,
        sense: impl Sense + 'static,
        executor: impl FnOnce(&Path) -> Arc<dyn Executor>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(world, scheduler.address, dir.path());
        config.rules = Rules::default();
        change(&mut config);
        let executor = executor(dir.path());
        let stop = CancellationToken::new();
        let cancel = stop.clone();
        let task = tokio::spawn(async move {
            let data = DataDir::open(&config.data_dir)?;
            let identity = data.identity(&config).await?;
            let device = Device { name: "cpu0".into(), memory: Bytes::gibi(4), ..Device::default() };
            let free_memory = |device: &Device| device.memory;
            let (measured, sandbox) = (Measured::default(), Sandbox::default());
            let hardware = Hardware { devices: vec![device], measured, free_memory, sandbox };
            serve_with(&config, &data, identity, hardware, executor, sense, cancel).await
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
        Self::start_with(world, scheduler, dir, more, &[])
    }

    pub fn start_with(
        world: &World,
        scheduler: &Scheduler,
        dir: &Path,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = program();
        command.args(["run", "--server", &scheduler.address.to_string(), "--threads", "1", "--grace-seconds", "1"]);
        command.args(more).arg("--data-dir").arg(dir).env("NIGHTSHIFT_JOIN_TOKEN", world.token.to_string());
        command.envs(environment.iter().copied());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
