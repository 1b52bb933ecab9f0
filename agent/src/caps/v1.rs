//! cgroup v1: a tree for each controller.
//!
//! in → the agent's cgroup in each · out → a [`Base`], or the reason why there is none · invariant: nothing is changed but
//! folders below the agent's own.

use super::{Base, Places, Version, mounts, writable};
use std::path::PathBuf;

/// The base, and what it lacks. There is nothing to claim.
pub fn find(places: &Places, _claim: bool) -> Result<(Base, Option<String>), String> {
    let memory = usable(places, "memory", "memory.limit_in_bytes")?;
    let (cpu, lack) = match usable(places, "cpu", "cpu.cfs_quota_us") {
        Ok(cpu) => (Some(cpu), None),
        Err(why) => (None, Some(format!("not the processor: {why}"))),
    };
    Ok((Base { version: Version::V1, memory, cpu }, lack))
}

fn usable(places: &Places, controller: &str, file: &str) -> Result<PathBuf, String> {
    let folder = mounts::folder(places, Some(controller))?;
    // A kernel may have the controller without the limit. The root of the tree has none either, but its children have.
    if !folder.join("release_agent").exists() && !folder.join(file).exists() {
        return Err(format!("the kernel has no {file}"));
    }
    if !writable(&folder) {
        return Err(format!("{} belongs to another user: root may use it, or give it to this one", folder.display()));
    }
    Ok(folder)
}
