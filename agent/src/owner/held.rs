//! What the workers hold, seen from the kernel's side and not from our books.
//!
//! in → `/proc` · out → [`Held`] · invariant: memory counts as freed when no process of ours is left that held it and no
//! shared memory stays mapped, not when somebody was told to let go.

use super::procfs;
use nightshift_types::Bytes;
use std::path::Path;

/// Memory beside the agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Processes that descend from the agent.
    pub processes: usize,
    /// Resident memory of them.
    pub resident: Bytes,
    /// Shared memory that the agent itself has mapped.
    pub shared: Bytes,
}

impl Held {
    /// Looks; `None` where there is no `/proc`.
    pub fn look(proc: &Path, own: u32) -> Option<Self> {
        let shared = kilobytes(proc, own, "RssShmem:")?;
        let workers: Vec<u32> = procfs::family(proc, own).into_iter().skip(1).collect();
        // A process that ended and is not waited for yet holds nothing, and has no VmRSS.
        let resident: Vec<u64> = workers.iter().filter_map(|pid| kilobytes(proc, *pid, "VmRSS:")).collect();
        Some(Self {
            processes: resident.len(),
            resident: Bytes(resident.iter().sum::<u64>() * 1024),
            shared: Bytes(shared * 1024),
        })
    }

    /// Everything together.
    pub fn total(&self) -> Bytes {
        self.resident + self.shared
    }
}

fn kilobytes(proc: &Path, pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn children_are_seen_while_they_live() {
        let look = || Held::look(Path::new("/proc"), std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = look();
        assert!(held.processes >= 1 && held.resident > Bytes(0), "{held:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Held::look(Path::new("/nowhere"), 1), None);
    }
}
