//! An agent beside the control plane. *In*: its program and where to dial. *Out*: a child that is started again whenever
//! it dies, and news of it. *Invariant*: one child a plan at a time, in a process group of its own: Ctrl-C reaches us, not
//! it; it ends when we do, however we end.

use super::logs;
use crate::gateway::{Gateway, TokenRequest};
use crate::paths::DataDir;
use anyhow::Context;
use nightshift_crds::TrustTier;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name of the agent's program.
pub const PROGRAM: &str = "nightshift-agent";
/// Account of the local agent's owner.
const OWNER: &str = "local";
/// Longest time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// An agent that lived this long has not failed to start.
const HEALTHY: Duration = Duration::from_secs(60);
const TOKEN_LIFE: Duration = Duration::from_secs(600);
const SHOWN_LINES: usize = 8;

/// What the agent is started with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its program.
    pub program: PathBuf,
    /// The address it dials.
    pub server: String,
    /// Our data dir.
    pub data_dir: DataDir,
    /// Its owner's ask, if not the agent's default.
    pub price_per_hour: Option<String>,
    /// Which of this machine's agents it is, from 1.
    pub number: u16,
    /// How many agents share this machine: each gets its part of the processor and of the memory.
    pub of: u16,
}

/// News of the agent.
#[derive(Debug)]
pub enum News {
    /// It did not start, or ended by itself.
    Died {
        /// Which, from 1.
        number: u16,
        /// Why, in a few words.
        how: String,
        /// The end of its log.
        lines: Vec<String>,
        /// When it is started again.
        again_in: Duration,
    },
}

/// The given program, or the one beside ours.
pub fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        anyhow::ensure!(path.is_file(), "--agent-program {}: there is no such file", path.display());
        return std::path::absolute(path).context("--agent-program");
    }
    let own = std::env::current_exe().and_then(|path| path.canonicalize()).context("where is this program?")?;
    let beside = own.with_file_name(PROGRAM);
    anyhow::ensure!(
        beside.is_file(),
        "there is no {PROGRAM} beside {}: build it (`cargo build -p nightshift-agent`), name it with --agent-program, or start without one (--no-agent)",
        own.display()
    );
    Ok(beside)
}

impl Plan {
    /// The name this machine joined under; `None` before it has.
    pub fn node(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.identity()).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(value.get("node")?.as_str()?.to_string())
    }

    fn identity(&self) -> PathBuf {
        self.data_dir.agent(self.number).join("identity/identity.json")
    }

    fn join_file(&self) -> PathBuf {
        self.data_dir.agent(self.number).with_extension("join")
    }

    /// Arguments that give it its part of this machine. What the user's environment says goes before.
    fn share(&self) -> Vec<(&'static str, String)> {
        if self.of < 2 {
            return Vec::new();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / usize::from(self.of)).max(1).to_string();
        // One agent alone takes half of the memory.
        let memory = format!("{}%", (50 / self.of).max(1));
        let all = [("NIGHTSHIFT_THREADS", "--threads", threads), ("NIGHTSHIFT_MEMORY", "--memory", memory)];
        let unset = all.into_iter().filter(|(variable, ..)| std::env::var_os(variable).is_none());
        unset.map(|(_, argument, value)| (argument, value)).collect()
    }

    fn log(&self) -> PathBuf {
        self.data_dir.agent_log(self.number)
    }

    /// Runs the agent until `stop`, then ends it with grace.
    pub async fn supervise(self, gateway: Gateway, news: mpsc::Sender<News>, stop: CancellationToken) {
        let mut delay = FIRST_DELAY;
        let mut failed_to_start = false;
        loop {
            let from = std::fs::metadata(self.log()).map_or(0, |meta| meta.len());
            let started = Instant::now();
            let how = match self.start(&gateway, failed_to_start).await {
                Err(error) => crate::exit::one_line(&error),
                Ok(mut child) => tokio::select! {
                    status = child.wait() => ended(status),
                    () = stop.cancelled() => return end(child).await,
                },
            };
            failed_to_start = started.elapsed() < HEALTHY;
            delay = if failed_to_start { delay } else { FIRST_DELAY };
            let lines = logs::last_lines(&self.log(), from, SHOWN_LINES);
            let _ = news.send(News::Died { number: self.number, how, lines, again_in: delay }).await;
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                () = stop.cancelled() => return,
            }
        }
    }

    /// With a join token where the agent has no identity, or may have one that is no longer good.
    async fn start(&self, gateway: &Gateway, with_token: bool) -> anyhow::Result<Child> {
        let join_file = self.join_file();
        let mut command = Command::new(&self.program);
        command
            // Whoever starts a pool here and sits before it wants it to work.
            .args(["run", "--exit-with-parent", "--when", "always", "--server", &self.server])
            .arg("--data-dir")
            .arg(self.data_dir.agent(self.number));
        for (argument, value) in self.share() {
            command.arg(argument).arg(value);
        }
        // What the user's environment says of another agent is not for this one.
        for variable in ["NIGHTSHIFT_JOIN_TOKEN", "NIGHTSHIFT_JOIN_FILE"] {
            command.env_remove(variable);
        }
        if with_token || !self.identity().exists() {
            let (owner, tier) = (OWNER.into(), TrustTier::Operator.to_string());
            let request = TokenRequest { owner, tier, ttl_seconds: TOKEN_LIFE.as_secs() };
            let issued = gateway.token(&request).await.context("no join token for the agent")?;
            write_private(&join_file, &issued.token)?;
            command.arg("--join-file").arg(&join_file);
        }
        if let Some(price) = &self.price_per_hour {
            command.args(["--price-per-hour", price]);
        }
        let log = logs::open(&self.log())?;
        let also = log.try_clone().context("the agent's log")?;
        command.stdin(Stdio::null()).stdout(log).stderr(also).process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Removes what is left of a join token.
    pub fn forget_token(&self) {
        let _ = std::fs::remove_file(self.join_file());
    }
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::remove_file(path);
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{text}"));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn ended(status: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (_, Some(signal)) => format!("it was ended by signal {signal}"),
            _ => "it ended".into(),
        },
        Err(error) => format!("it was lost: {error}"),
    }
}

/// SIGTERM, grace, SIGKILL, to the whole group.
async fn end(mut child: Child) {
    let Some(pid) = child.id() else { return };
    let group = Pid::from_raw(pid as i32);
    let _ = killpg(group, Signal::SIGTERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        tracing::warn!("the agent did not stop within {GRACE:?}, so it was killed");
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// An agent of a shell script, with an identity so that no token is needed.
    fn plan(script: &str) -> (tempfile::TempDir, Plan, Gateway) {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::resolve(Some(folder.path())).unwrap();
        let program = folder.path().join("agent.sh");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(data_dir.logs()).unwrap();
        std::fs::create_dir_all(data_dir.agent(1).join("identity")).unwrap();
        std::fs::write(data_dir.agent(1).join("identity/identity.json"), r#"{"node":"attic"}"#).unwrap();
        std::fs::write(data_dir.gateway(), r#"{"url":"http://127.0.0.1:1","token":"t"}"#).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let gateway = Gateway::from_file(&data_dir.gateway()).unwrap();
        (
            folder,
            Plan { program, server: "127.0.0.1:1".into(), data_dir, price_per_hour: None, number: 1, of: 1 },
            gateway,
        )
    }

    #[tokio::test]
    async fn a_dead_agent_is_told_of_and_started_again() {
        let (_folder, plan, gateway) = plan("echo going down >&2; exit 3");
        assert_eq!(plan.node().as_deref(), Some("attic"));
        let (sender, mut news) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let task = tokio::spawn(plan.supervise(gateway, sender, stop.clone()));
        let News::Died { number: 1, how, lines, again_in } = news.recv().await.unwrap() else {
            panic!("not the first")
        };
        assert_eq!(
            (how.as_str(), lines, again_in),
            ("it ended with exit code 3", vec!["going down".into()], FIRST_DELAY)
        );
        // The second start asks for a token, as the identity may be no good; nobody answers here.
        let News::Died { how, again_in, .. } = news.recv().await.unwrap();
        assert!(how.contains("no join token") && again_in == 2 * FIRST_DELAY, "{how}");
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn stopping_is_orderly() {
        let (folder, plan, gateway) = plan("trap 'echo bye; exit 0' TERM; echo \"$@\"; while :; do sleep 0.05; done");
        let (sender, mut news) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let task = tokio::spawn(plan.supervise(gateway, sender, stop.clone()));
        let log = folder.path().join("logs/agent.log");
        let begun = async {
            while !std::fs::read_to_string(&log).unwrap_or_default().contains("--exit-with-parent") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), begun).await.unwrap();
        stop.cancel();
        tokio::time::timeout(GRACE / 2, task).await.unwrap().unwrap();
        assert!(std::fs::read_to_string(&log).unwrap().contains("bye"));
        assert!(news.recv().await.is_none());
    }

    #[test]
    fn agents_share_the_machine() {
        let (_folder, plan, _) = plan("exit 0");
        assert_eq!((plan.share(), plan.log().ends_with("logs/agent.log")), (Vec::new(), true));
        let third = Plan { number: 3, of: 3, ..plan };
        assert!(third.share().contains(&("--memory", "16%".into())), "{:?}", third.share());
        assert!(third.log().ends_with("logs/agent-3.log") && third.join_file().ends_with("agent-3.join"));
        assert_eq!(third.node(), None);
    }

    #[test]
    fn tokens_are_private() {
        let (_folder, plan, _) = plan("exit 0");
        write_private(&plan.join_file(), "secret").unwrap();
        assert_eq!(std::fs::metadata(plan.join_file()).unwrap().permissions().mode() & 0o777, 0o600);
        plan.forget_token();
        assert!(!plan.join_file().exists());
        assert!(find(Some(Path::new("/no/such/agent"))).unwrap_err().to_string().contains("--agent-program"));
    }
}
