//! The walls around a process that runs a model.
//!
//! *In*: the model's open file and the device's name. *Out*: what the walls consist of. *Invariant*: [`confine`] runs after
//! every library is loaded, before a byte of the model is read, and while the process has one thread: it holds for all
//! that come later and cannot be undone. What the kernel offers and refuses is an error; what it does not offer is reported.
//!
//! * Landlock: no file but the model's, and what libtorch reads of the system; no writing anywhere; no TCP; no signal and no
//!   abstract socket to the outside (each as far as the kernel's ABI goes).
//! * seccomp: no sockets, no programs, no processes, nothing of others (see `syscalls`). A denied call fails; it kills nothing.
//! * `no_new_privs`: a set-user-ID program would give nothing, if one could be started.

use crate::engine::Failed;
use nightshift_types::FailureReason;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io;

/// Landlock ABI that denies TCP.
const ABI_TCP: i32 = 4;
/// Landlock ABI that denies signals to other processes and abstract sockets.
const ABI_SCOPES: i32 = 6;

/// What the walls of this machine's workers consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Landlock's ABI in force; 0: the kernel has none.
    pub landlock: i32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether no program could get privileges that this process has not.
    pub no_new_privileges: bool,
}

impl Sandbox {
    /// Whether files and system calls are both walled off.
    pub fn is_whole(&self) -> bool {
        self.landlock > 0 && self.seccomp && self.no_new_privileges
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            0 => write!(f, "no Landlock: files are open to models")?,
            abi => {
                write!(f, "Landlock ABI {abi} (files")?;
                write!(f, "{}", if abi >= ABI_TCP { ", TCP" } else { "" })?;
                write!(f, "{})", if abi >= ABI_SCOPES { ", signals" } else { "" })?;
            }
        }
        write!(f, "; {}", if self.seccomp { "seccomp" } else { "no seccomp: system calls are open to models" })?;
        write!(f, "{}", if self.no_new_privileges { "; no new privileges" } else { "" })
    }
}

/// Confines this process, for good. `model`: the file it may read, by descriptor; `device`: the engine's name of one,
/// which says whether a GPU's files are needed.
///
/// # Errors
/// The process has more than one thread, or the kernel refuses what it offers: then no model may be loaded.
#[cfg(target_os = "linux")]
pub fn confine(model: Option<&File>, device: &str) -> io::Result<Sandbox> {
    let gpu = device.starts_with("cuda") && crate::sys::cuda::load();
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        // Landlock is for the calling thread and those it starts.
        return Err(io::Error::other(format!("there are {threads} threads already")));
    }
    nix::sys::prctl::set_no_new_privs()?;
    let landlock = linux::landlock(model, gpu)?;
    let seccomp = super::syscalls::filter()?;
    Ok(Sandbox { landlock, seccomp, no_new_privileges: true })
}

/// Elsewhere there are no walls yet, and the answer says so.
#[cfg(not(target_os = "linux"))]
pub fn confine(_model: Option<&File>, _device: &str) -> io::Result<Sandbox> {
    Ok(Sandbox::default())
}

/// A model that is not loaded, because its process cannot be confined.
pub fn failed(error: &io::Error) -> Failed {
    Failed::new(FailureReason::Internal, format!("the model is not loaded: its process cannot be confined: {error}"))
}

#[cfg(target_os = "linux")]
mod linux {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError, Ruleset,
        RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
    };
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::io;
    use std::path::{Path, PathBuf};

    /// The newest ABI whose rights are denied where the kernel knows them.
    const NEWEST: ABI = ABI::V10;

    /// What libtorch and the C library read of the system while they compute: this process, the processor's shape (threads
    /// and kernels are chosen by it), memory. Not one of them has a secret.
    const SYSTEM: &[&str] = &[
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/sys/vm/overcommit_memory",
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        "/sys/kernel/mm/transparent_hugepage",
        "/dev/urandom",
    ];

    /// What NVIDIA's driver reads beside it.
    const GPU_SYSTEM: &[&str] =
        &["/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/bus/pci", "/etc/ld.so.cache"];

    /// Restricts this thread and those it starts. Answers the ABI in force; 0: the kernel has no Landlock.
    pub fn landlock(model: Option<&File>, gpu: bool) -> io::Result<i32> {
        let rules = || -> Result<RulesetCreated, Box<dyn std::error::Error + Send + Sync>> {
            let mut rules = Ruleset::default()
                .handle_access(AccessFs::from_all(NEWEST))?
                .handle_access(AccessNet::from_all(NEWEST))?
                .scope(Scope::from_all(NEWEST))?
                .create()?;
            if let Some(model) = model {
                rules = rules.add_rule(PathBeneath::new(model, AccessFs::ReadFile))?;
            }
            for path in SYSTEM {
                rules = allow(rules, Path::new(path), reading())?;
            }
            if gpu {
                rules = allow_gpu(rules)?;
            }
            Ok(rules)
        };
        let status = rules().map_err(io::Error::other)?.restrict_self().map_err(io::Error::other)?;
        match status.landlock {
            LandlockStatus::Available { .. } if status.ruleset == RulesetStatus::NotEnforced => {
                Err(io::Error::other("Landlock is there but is not enforced"))
            }
            LandlockStatus::Available { effective_abi, kernel_abi } => Ok(kernel_abi.unwrap_or(effective_abi as i32)),
            _ => Ok(0),
        }
    }

    fn reading() -> BitFlags<AccessFs> {
        make_bitflags!(AccessFs::{ReadFile | ReadDir})
    }

    /// A path that this machine has not is not needed.
    fn allow(
        rules: RulesetCreated,
        path: &Path,
        access: BitFlags<AccessFs>,
    ) -> Result<RulesetCreated, Box<dyn std::error::Error + Send + Sync>> {
        let fd = match PathFd::new(path) {
            Ok(fd) => fd,
            Err(PathFdError::OpenCall { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(rules),
            Err(error) => return Err(error.into()),
        };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        Ok(rules.add_rule(PathBeneath::new(fd, access))?)
    }

    /// The GPU's device files, and the folders of the libraries that are loaded: cuDNN and the driver load more of
    /// themselves, from beside what is there, when they are first used.
    fn allow_gpu(mut rules: RulesetCreated) -> Result<RulesetCreated, Box<dyn std::error::Error + Send + Sync>> {
        for path in GPU_SYSTEM {
            rules = allow(rules, Path::new(path), reading())?;
        }
        for bus in entries("/sys/devices", "pci") {
            rules = allow(rules, &bus, reading())?;
        }
        for folder in library_folders()? {
            rules = allow(rules, &folder, reading())?;
        }
        let device = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});
        for node in entries("/dev", "nvidia") {
            rules = allow(rules, &node, device)?;
        }
        Ok(rules)
    }

    fn entries(folder: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect()
    }

    fn library_folders() -> io::Result<BTreeSet<PathBuf>> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let files = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
        let libraries =
            files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")));
        Ok(libraries.filter_map(Path::parent).map(Path::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_missing() {
        let none = Sandbox::default();
        assert!(
            !none.is_whole() && none.to_string().contains("no Landlock") && none.to_string().contains("no seccomp")
        );
        let old = Sandbox { landlock: 3, seccomp: true, no_new_privileges: true };
        assert!(old.is_whole());
        assert_eq!(old.to_string(), "Landlock ABI 3 (files); seccomp; no new privileges");
        assert!(!Sandbox { landlock: 0, ..old }.is_whole() && !Sandbox { seccomp: false, ..old }.is_whole());
    }
}
