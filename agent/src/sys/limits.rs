//! A worker's own limits and what it has used.
//!
//! *In*: a number of bytes. *Out*: a limit that makes allocations fail instead of the machine swap. *Invariant*: the limit
//! counts from what the process had when it started, because libtorch's own data is no task's.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use std::fs;

/// What a thread's stack and allocator arena may take beside a task's own memory.
const PER_THREAD: u64 = 16 << 20;

/// Private memory of this process now, in bytes; 0 where the system does not say.
pub fn private_memory() -> u64 {
    status_kilobytes("VmData:").unwrap_or(0) * 1024
}

fn status_kilobytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Lets this process take `bytes` more than `baseline`; 0: as much as there is. Linux only: macOS has no such limit.
pub fn limit_memory(baseline: u64, bytes: u64, threads: usize) {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) else { return };
    let allowance = baseline.saturating_add(bytes).saturating_add(PER_THREAD * threads as u64);
    let soft = if bytes == 0 || baseline == 0 { hard } else { allowance.min(hard) };
    if let Err(error) = setrlimit(Resource::RLIMIT_DATA, soft, hard) {
        tracing::warn!(%error, "no memory limit for this worker");
    }
}

/// Most memory this process has had, in bytes. On Linux not getrusage's figure, which counts from before exec: it would be
/// that of whoever started us.
pub fn peak_memory() -> u64 {
    if let Some(kilobytes) = status_kilobytes("VmHWM:") {
        return kilobytes * 1024;
    }
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.max_rss()).unwrap_or(0) * unit
}

/// Asks the kernel to end this process before others when memory runs out: the owner's programs come first.
pub fn be_the_first_to_go() {
    let _ = fs::write("/proc/self/oom_score_adj", "500");
}

/// How many processes the kernel has ended for want of memory since it started; 0 where it does not say.
pub fn out_of_memory_kills() -> u64 {
    let Ok(text) = fs::read_to_string("/proc/vmstat") else { return 0 };
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_system_answers() {
        assert!(private_memory() > 0);
        assert!(peak_memory() > 0);
    }
}
