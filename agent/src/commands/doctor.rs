//! `nightshift-agent doctor`: what works on this machine, what does not, and what would help.
//!
//! in → the machine · out → [`Check`]s, one a matter · invariant: it changes nothing, and needs no running agent; it fails
//! only where the agent would.

use super::Common;
use crate::config::file::{Settings, bytes};
use crate::config::server;
use crate::engine::Sandbox;
use crate::identity::{Identity, Store};
use crate::owner::idle::{self, Places};
use crate::owner::{When, sysfs};
use crate::{caps, device, join};
use clap::Args;
use nightshift_types::Bytes;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Longest wait for a server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Less free disk than this is no place for models.
const LEAST_DISK: Bytes = Bytes::gibi(1);

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    /// Whom the agent would dial, beside those of its file
    #[arg(long, env = "NIGHTSHIFT_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<String>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// The agent runs without it.
    Warning,
    /// The agent does not run so.
    Failed,
}

/// One matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Which.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, state: State::Ok, found: found.into(), remedy: None }
}
fn bad(name: &'static str, state: State, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, state, found: found.into(), remedy: Some(remedy.into()) }
}

/// Runs every check and prints them; 1 if one failed.
pub async fn run(args: &Doctor) -> anyhow::Result<ExitCode> {
    let checks = checks(args).await?;
    args.common.print(&checks, |checks| {
        let line = |check: &Check| {
            let sign = match check.state {
                State::Ok => "ok  ",
                State::Warning => "warn",
                State::Failed => "FAIL",
            };
            let remedy =
                check.remedy.as_ref().map_or_else(String::new, |remedy| format!("\n               → {remedy}"));
            format!("{sign} {:<9} {}{remedy}", check.name, check.found)
        };
        checks.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    let failed = checks.iter().any(|check| check.state == State::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every check, in the order in which they matter.
pub async fn checks(args: &Doctor) -> anyhow::Result<Vec<Check>> {
    let program = std::env::current_exe()?;
    let places = &args.common.places;
    let data_dir = places.data_dir().map_err(anyhow::Error::msg)?;
    let (path, named) = places.config();
    let read = Settings::read(path.as_deref(), named, &[]);
    let settings = read.clone().unwrap_or_default();
    let mut checks = vec![config(path, &read), libtorch(&program).await];
    checks.push(devices(&program).await);
    checks.push(sandbox(device::sandbox(&program).await, settings.limits.require_sandbox));
    checks.push(limits(&data_dir));
    let when = settings.availability.when;
    checks.push(tokio::task::spawn_blocking(move || input(when)).await?);
    checks.extend(sensors(Path::new("/sys"), &settings));
    checks.push(disk(&data_dir, bytes(&settings.limits.cache_disk).unwrap_or_default()));
    let identity = joined(&data_dir);
    checks.push(clock(identity.as_ref()));
    let mut servers = args.server.clone();
    servers.extend(settings.server);
    servers.dedup();
    checks.extend(reach(&servers, identity.as_ref()).await);
    checks.push(identity_check(identity.as_ref()));
    checks.push(running(&data_dir));
    Ok(checks)
}

fn config(path: Option<PathBuf>, read: &Result<Settings, String>) -> Check {
    let path = path.map_or_else(|| "nowhere".into(), |path| path.display().to_string());
    match read {
        Ok(_) if Path::new(&path).exists() => ok("config", path),
        Ok(_) => ok("config", format!("every default; {path} does not exist")),
        Err(error) => bad("config", State::Failed, error, "correct it; `nightshift-agent config show` checks it"),
    }
}

async fn libtorch(program: &Path) -> Check {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let library =
        maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("libtorch_cpu"));
    let version = library.and_then(|path| Some(Path::new(path).parent()?.parent()?.join("build-version")));
    let version = version.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    match device::measure(program).await {
        Ok(measured) => {
            let (gigaflops, memory) = (measured.gigaflops, measured.memory_bandwidth >> 30);
            let place = library.unwrap_or("libtorch");
            ok("libtorch", format!("{} at {place}: {gigaflops} GFLOP/s, {memory} GiB/s of memory", version.trim()))
        }
        Err(error) => {
            let remedy = "put libtorch's lib folder beside the program (../lib), or into LD_LIBRARY_PATH";
            bad("libtorch", State::Failed, format!("it does not compute: {error:#}"), remedy)
        }
    }
}

async fn devices(program: &Path) -> Check {
    let all = device::probe(program, 100).await;
    let one = |device: &nightshift_types::Device| {
        let model = device.attributes.get("model").map_or("", String::as_str);
        format!("{} ({model}, {}, {} free)", device.name, device.memory.human(), device::free_memory(device).human())
    };
    ok("devices", all.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn sandbox(found: anyhow::Result<Sandbox>, required: bool) -> Check {
    let state = if required { State::Failed } else { State::Warning };
    match found {
        Ok(sandbox) if sandbox.is_whole() => ok("sandbox", sandbox.to_string()),
        Ok(sandbox) => {
            bad("sandbox", state, sandbox.to_string(), "Linux 5.13 or later with Landlock and seccomp confines models")
        }
        Err(error) => bad(
            "sandbox",
            State::Failed,
            format!("no model can be confined, so none is loaded: {error:#}"),
            "see the error",
        ),
    }
}

/// What caps workers: what the running agent says, because its cgroup is not this shell's; else what it would be from here.
fn limits(data_dir: &Path) -> Check {
    let status = crate::owner::socket::ask(data_dir, &crate::owner::control::Request::Status).ok();
    let told = status.and_then(|status| Some(status["caps"].as_str()?.to_string()));
    let (whole, text) = match told {
        Some(text) => (!text.starts_with("memory by RLIMIT_DATA alone"), format!("the running agent: {text}")),
        None => {
            let found = caps::look(&caps::Places::default());
            (found.base.is_some(), format!("started from here: {found}"))
        }
    };
    if whole {
        return ok("limits", text);
    }
    let remedy =
        "memory is capped without it too, but for what a model shares or a GPU's driver takes; see docs/agent.md";
    bad("limits", State::Warning, text, remedy)
}

fn input(when: When) -> Check {
    if when == When::Always {
        return ok("input", "not looked at: availability.when = \"always\"");
    }
    match idle::choose(&Places::of_this_session(), usize::MAX) {
        Some((_, mut source)) => {
            let idle =
                source.idle().map_or_else(|error| format!("{error:#}"), |idle| super::human_time(idle.as_secs_f64()));
            ok("input", format!("{}; idle for {idle}", source.name()))
        }
        None => bad(
            "input",
            State::Warning,
            "nothing tells whether somebody uses this machine: it works whenever other programs leave the processor alone",
            "with a desktop: start the agent in its session, or install it as a user service",
        ),
    }
}

fn sensors(sys: &Path, settings: &Settings) -> Vec<Check> {
    let battery = match sysfs::on_battery(sys) {
        Some(true) => ok("battery", "on battery"),
        Some(false) => ok("battery", "on mains"),
        None => ok("battery", "none"),
    };
    let sensors = sysfs::sensors(sys);
    let heat = match sysfs::celsius(sys) {
        Some(hottest) => {
            ok("heat", format!("{hottest:.0} °C, the hottest of {} sensors of {}", sensors.len(), sensors[0].0))
        }
        None => bad("heat", State::Warning, "no sensor of the processor", "the temperature limit has no effect here"),
    };
    let mut power = sysfs::Power::default();
    power.watts(sys, std::time::Instant::now());
    std::thread::sleep(Duration::from_millis(100));
    let power = match power.watts(sys, std::time::Instant::now()) {
        Some(watts) => ok("power", format!("{watts:.0} W")),
        None if settings.limits.power > 0.0 => {
            let remedy = "limits.power has no effect here; let the agent's user read /sys/class/powercap/*/energy_uj";
            bad("power", State::Warning, "not readable", remedy)
        }
        None => ok("power", "not readable, and no limit is set"),
    };
    vec![battery, heat, power]
}

fn disk(data_dir: &Path, cap: Bytes) -> Check {
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = match nix::sys::statvfs::statvfs(there) {
        #[allow(clippy::useless_conversion)] // on a Mac these are 32 bits
        Ok(stat) => Bytes(u64::from(stat.blocks_available()) * stat.fragment_size()),
        Err(error) => {
            return bad("disk", State::Failed, format!("{}: {error}", there.display()), "name another --data-dir");
        }
    };
    let found = format!("{} free for {}, at most {} for models", free.human(), data_dir.display(), cap.human());
    if free < LEAST_DISK {
        return bad("disk", State::Failed, found, "free some disk, or name another --data-dir");
    }
    if free < cap {
        return bad("disk", State::Warning, found, "set limits.cache_disk to less than what is free");
    }
    ok("disk", found)
}

fn joined(data_dir: &Path) -> Option<Identity> {
    let folder = data_dir.join("identity");
    folder.exists().then(|| Store::open(&folder).ok()?.load().ok()?).flatten()
}

/// A clock that is wrong makes certificates look expired.
fn clock(identity: Option<&Identity>) -> Check {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let shown = jiff::Timestamp::from_second(i64::try_from(now).unwrap_or(0))
        .map_or_else(|_| "?".into(), |now| now.to_string());
    let built = 1_760_000_000; // October 2025: before this program was
    if now < built || identity.is_some_and(|identity| now > identity.renewal().1) {
        return bad(
            "clock",
            State::Failed,
            shown,
            "set the clock (NTP); if it is right, the certificate has expired: join again",
        );
    }
    ok("clock", shown)
}

async fn reach(servers: &[String], identity: Option<&Identity>) -> Vec<Check> {
    let mut checks = Vec::new();
    for text in servers {
        checks.push(match server(text) {
            Err(error) => bad("server", State::Failed, error, "correct it"),
            Ok(address) => dial(&address, identity).await,
        });
    }
    if servers.is_empty() {
        checks.push(bad("server", State::Warning, "none is named", "set `server` in the config, or give --server"));
    }
    checks
}

async fn dial(address: &str, identity: Option<&Identity>) -> Check {
    let dialled = async {
        match identity.map(Identity::ca_hash) {
            Some(Ok(ca)) => join::show_ca(address, ca)
                .await
                .map(|_| "answers with the pool's certificate")
                .map_err(|e| e.to_string()),
            _ => {
                let stream = tokio::net::TcpStream::connect(address).await;
                stream.map(|_| "accepts connections").map_err(|error| format!("cannot be reached ({error})"))
            }
        }
    };
    match tokio::time::timeout(PATIENCE, dialled).await {
        Ok(Ok(found)) => ok("server", format!("{address} {found}")),
        Ok(Err(error)) => bad(
            "server",
            State::Failed,
            format!("{address}: {error}"),
            "check address, firewall, and that the pool is up",
        ),
        Err(_) => {
            bad("server", State::Failed, format!("{address} does not answer in time"), "check address and firewall")
        }
    }
}

fn identity_check(identity: Option<&Identity>) -> Check {
    match identity {
        Some(identity) => ok("identity", format!("joined as {}", identity.node)),
        None => bad(
            "identity",
            State::Warning,
            "this machine has not joined",
            "make a token with `nightshift token create`, and give it to `run --join`",
        ),
    }
}

fn running(data_dir: &Path) -> Check {
    match crate::owner::socket::ask(data_dir, &crate::owner::control::Request::Status) {
        Ok(status) => ok("agent", format!("runs: {}", status["state"].as_str().unwrap_or("?"))),
        Err(_) => ok("agent", "does not run with this data folder"),
    }
}
