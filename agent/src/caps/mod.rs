//! Caps on what workers take of the machine: by cgroup v2, else v1, else rlimits alone.
//!
//! in → the kernel's files, as the agent's user may write them · out → a [`Cage`] for each worker · invariant: the limit that a
//! worker sets itself (`RLIMIT_DATA`, on the CPU) is always there, and fails an allocation before a cage ends the process; a
//! cage also counts what that limit does not: shared memory, and a GPU worker's memory of the host. Never `RLIMIT_AS`: CUDA
//! reserves addresses by the terabyte.
//!
//! * v2 ([`v2`]): the agent's cgroup must be its own to part (`Delegate=` of its systemd unit; `install` writes it). It moves
//!   itself into a leaf, because a cgroup with processes hands no controllers on.
//! * v1 ([`v1`]): a folder below the agent's own in each of the controllers `memory` and `cpu`; mostly root alone may.

mod mounts;
mod v1;
mod v2;

use nightshift_types::Bytes;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a worker has beside a task's memory: libtorch's own data, the result's bytes, kernel structures. The limit that it sets
/// itself leaves less room, so a cage closes on what that one does not see.
const BESIDE: Bytes = Bytes::mebi(512);
/// The same for each thread: stack and allocator arena.
const PER_THREAD: Bytes = Bytes::mebi(16);
/// The period of processor quotas, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// Where the kernel shows itself: `/proc/self` of the process that is asked about, and what is before every path.
#[derive(Debug, Clone)]
pub struct Places {
    /// Has `cgroup` and `mountinfo`.
    pub process: PathBuf,
    /// `/`, or a tree of plain files in tests.
    pub root: PathBuf,
    /// The process.
    pub pid: u32,
}

impl Default for Places {
    fn default() -> Self {
        Self { process: "/proc/self".into(), root: "/".into(), pid: std::process::id() }
    }
}

impl Places {
    /// Writes to a file of the kernel's. In a tree of plain files it is made first, as the kernel makes them with a folder.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let plain = self.root != Path::new("/");
        std::fs::OpenOptions::new().write(true).create(plain).truncate(plain).open(path)?.write_all_at_once(text)
    }
}

trait WriteAllAtOnce {
    fn write_all_at_once(self, text: &str) -> io::Result<()>;
}

impl WriteAllAtOnce for std::fs::File {
    /// The kernel takes a value from one write.
    fn write_all_at_once(mut self, text: &str) -> io::Result<()> {
        io::Write::write_all(&mut self, text.as_bytes())
    }
}

/// The kernel's two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One tree.
    V2,
    /// A tree for each controller.
    V1,
}

/// Folders in which cages are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Which way.
    pub version: Version,
    /// Caps memory.
    pub memory: PathBuf,
    /// Caps the processor; the same folder in v2.
    pub cpu: Option<PathBuf>,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version == Version::V2 { "v2" } else { "v1" };
        let what = if self.cpu.is_some() { "memory and processor" } else { "memory" };
        write!(f, "{what} by cgroup {version} ({})", self.memory.display())
    }
}

/// What is in force, and why nothing better is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// `None`: rlimits alone.
    pub base: Option<Base>,
    /// One reason for each better way that is not there.
    pub why_not: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            Some(base) => write!(f, "{base}, and memory by RLIMIT_DATA")?,
            None => write!(f, "memory by RLIMIT_DATA alone (CPU devices), the processor by the number of threads")?,
        }
        self.why_not.iter().try_for_each(|why| write!(f, "; {why}"))
    }
}

/// Makes cages. Share it in an [`Arc`].
#[derive(Debug)]
pub struct Caps {
    places: Places,
    found: Found,
    /// Every cage has so much, whatever the task may take.
    exactly: Option<Bytes>,
    next: AtomicU64,
}

impl Caps {
    /// Rlimits alone.
    pub fn none() -> Arc<Self> {
        Self::with(Places::default(), Found::default(), None)
    }

    fn with(places: Places, found: Found, exactly: Option<Bytes>) -> Arc<Self> {
        Arc::new(Self { places, found, exactly, next: AtomicU64::new(0) })
    }

    /// The best that there is here. In v2 this process moves into a leaf of its cgroup; call it before workers start.
    pub fn claim(places: Places) -> Arc<Self> {
        Self::claim_exactly(places, None)
    }

    /// The same with cages of one size: in tests, where they are to close before the worker's own limit does.
    pub fn claim_exactly(places: Places, exactly: Option<Bytes>) -> Arc<Self> {
        let found = find(&places, true);
        if let Some(base) = &found.base {
            sweep(base);
        }
        Self::with(places, found, exactly)
    }

    /// What is in force.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// A cage for one worker. `memory` 0: as much as there is. `None`: there are rlimits alone, or it could not be made.
    pub fn cage(self: &Arc<Self>, threads: usize, memory: Bytes) -> Option<Cage> {
        let base = self.found.base.as_ref()?;
        let name = format!("{WORKER}{}-{}", self.places.pid, self.next.fetch_add(1, Ordering::Relaxed));
        let memory_dir = base.memory.join(&name);
        let cpu_dir = base.cpu.as_ref().map(|cpu| cpu.join(&name)).filter(|dir| *dir != memory_dir);
        let mut cage = Cage { caps: self.clone(), memory: memory_dir, cpu: cpu_dir, limit: None, threads };
        match cage.build(base.version, base.cpu.is_some()) {
            Ok(()) => {
                cage.raise(memory);
                Some(cage)
            }
            Err(error) => {
                tracing::warn!(%error, cage = %cage.memory.display(), "no cgroup for a worker: rlimits alone hold it");
                None
            }
        }
    }
}

/// Looks, and changes nothing.
pub fn look(places: &Places) -> Found {
    find(places, false)
}

fn find(places: &Places, claim: bool) -> Found {
    if !cfg!(target_os = "linux") {
        let why = "this system has no cgroups".to_string();
        return Found { base: None, why_not: vec![why] };
    }
    let mut why_not = Vec::new();
    for (version, found) in [
        (Version::V2, v2::find as fn(&Places, bool) -> Result<(Base, Option<String>), String>),
        (Version::V1, v1::find),
    ] {
        match found(places, claim) {
            Ok((base, lack)) => {
                why_not.extend(lack);
                return Found { base: Some(base), why_not };
            }
            Err(why) => {
                let version = if version == Version::V2 { "v2" } else { "v1" };
                why_not.push(format!("not cgroup {version}: {why}"));
            }
        }
    }
    Found { base: None, why_not }
}

/// Before every cage's name; whose it is stands behind.
const WORKER: &str = "nightshift-worker-";

/// Cages of an agent that was killed. One with processes cannot be removed, and is not.
fn sweep(base: &Base) {
    for dir in [Some(&base.memory), base.cpu.as_ref()].into_iter().flatten() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(WORKER)) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Whether this user may write there.
fn writable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// One worker's cgroup; gone when this is dropped, after the process.
#[derive(Debug)]
pub struct Cage {
    caps: Arc<Caps>,
    memory: PathBuf,
    /// Where it is another folder than `memory`.
    cpu: Option<PathBuf>,
    limit: Option<Bytes>,
    threads: usize,
}

impl Cage {
    fn build(&mut self, version: Version, cpu: bool) -> io::Result<()> {
        std::fs::create_dir(&self.memory)?;
        if let Some(cpu) = &self.cpu {
            std::fs::create_dir(cpu)?;
        }
        // What the worker's threads are for; on a machine with no more cores there is nothing to cap.
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        if cpu && self.threads < cores {
            let quota = self.threads.max(1) as u64 * PERIOD;
            let dir = self.cpu.as_ref().unwrap_or(&self.memory);
            match version {
                Version::V2 => self.caps.places.write(&dir.join("cpu.max"), &format!("{quota} {PERIOD}"))?,
                Version::V1 => {
                    self.caps.places.write(&dir.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                    self.caps.places.write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn version(&self) -> Version {
        self.caps.found.base.as_ref().map_or(Version::V2, |base| base.version)
    }

    /// Takes a process in, with all it starts from then on.
    pub fn take(&self, pid: u32) -> io::Result<()> {
        let dirs = [Some(&self.memory), self.cpu.as_ref()];
        dirs.into_iter()
            .flatten()
            .try_for_each(|dir| self.caps.places.write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// Lets it take as much as this task may. Never less than for the one before: what is loaded would be killed for it.
    pub fn raise(&mut self, memory: Bytes) {
        if memory == Bytes(0) || self.limit.is_some_and(|limit| memory <= limit) {
            return;
        }
        let most = memory + BESIDE + Bytes(PER_THREAD.0 * self.threads as u64);
        let most = self.caps.exactly.unwrap_or(most);
        // The higher of two limits first where both are to rise; swap counts too, so that the machine does not crawl.
        let (files, sure): (&[&str], &str) = match self.version() {
            Version::V2 => (&["memory.max"], "memory.max"),
            Version::V1 => (
                &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"],
                "memory.limit_in_bytes",
            ),
        };
        for file in files {
            if let Err(error) = self.caps.places.write(&self.memory.join(file), &most.0.to_string())
                && *file == sure
                && self.limit.is_none()
            {
                tracing::warn!(%error, cage = %self.memory.display(), "no memory cap for a worker");
            }
        }
        if self.version() == Version::V2 && self.limit.is_none() {
            // Not on kernels without swap accounting.
            let _ = self.caps.places.write(&self.memory.join("memory.swap.max"), "0");
        }
        self.limit = Some(memory);
    }

    /// Whether the kernel ended one of its processes because they took too much.
    pub fn was_full(&self) -> bool {
        let file = match self.version() {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        let text = std::fs::read_to_string(self.memory.join(file)).unwrap_or_default();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        kills.unwrap_or(0) > 0
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        for dir in [Some(&self.memory), self.cpu.as_ref()].into_iter().flatten() {
            // In a tree of plain files it is not empty, and stays.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
