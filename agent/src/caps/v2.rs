//! cgroup v2: one tree, of which the agent needs a part of its own.
//!
//! in → the agent's cgroup · out → a [`Base`], or the reason why there is none · invariant: nothing is moved or enabled where
//! other processes share the cgroup; what could not be completed is undone.

use super::{Base, Places, Version, mounts, writable};
use std::path::{Path, PathBuf};

/// Where the agent's own process lives, beside its workers.
const LEAF: &str = "nightshift-agent";
const REMEDY: &str = "install it as a service (`nightshift-agent install`), or start it with `systemd-run --user --scope -p \
                      Delegate=yes nightshift-agent run …`";

/// The base, and what it lacks.
pub fn find(places: &Places, claim: bool) -> Result<(Base, Option<String>), String> {
    let own = mounts::folder(places, None)?;
    let (base, inside) = part(places, &own)?;
    let controllers = words(&base.join("cgroup.controllers"));
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    if !has("memory") {
        return Err(match controllers.is_empty() {
            true => format!("{} has no controllers: they are v1's here, or not delegated", base.display()),
            false => format!("the memory controller is not delegated to {}: {REMEDY}", base.display()),
        });
    }
    for file in ["cgroup.procs", "cgroup.subtree_control"] {
        if !writable(&base.join(file)) {
            return Err(format!("{} is not delegated to this user: {REMEDY}", base.display()));
        }
    }
    if claim && !inside {
        settle(places, &base)?;
    }
    if claim {
        enable(places, &base, has("cpu"))?;
    }
    let lack = (!has("cpu")).then(|| {
        "not the processor: its controller is not delegated (systemd: `Delegate=cpu memory` of user@.service)"
            .to_string()
    });
    let cpu = has("cpu").then(|| base.clone());
    Ok((Base { version: Version::V2, memory: base, cpu }, lack))
}

/// The part of the tree that is the agent's, and whether its process is in the leaf already.
fn part(places: &Places, own: &Path) -> Result<(PathBuf, bool), String> {
    if let (true, Some(parent)) = (own.ends_with(LEAF), own.parent()) {
        return Ok((parent.to_owned(), true));
    }
    let me = places.pid.to_string();
    let others = words(&own.join("cgroup.procs")).iter().filter(|pid| **pid != me).count();
    if others > 0 {
        let own = own.display();
        return Err(format!("{own} is shared with {others} other processes: {REMEDY}"));
    }
    Ok((own.to_owned(), false))
}

/// A cgroup with processes hands no controllers to its children: ours moves into one of them.
fn settle(places: &Places, base: &Path) -> Result<(), String> {
    let leaf = base.join(LEAF);
    let failed = |error: std::io::Error| format!("{}: {error}: {REMEDY}", leaf.display());
    match std::fs::create_dir(&leaf) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    places.write(&leaf.join("cgroup.procs"), &places.pid.to_string()).map_err(failed)
}

fn enable(places: &Places, base: &Path, cpu: bool) -> Result<(), String> {
    let control = base.join("cgroup.subtree_control");
    let done = words(&control);
    let missing = |name: &str| !done.iter().any(|word| word == name);
    let wanted = [("memory", true), ("cpu", cpu)].into_iter().filter(|(name, wanted)| *wanted && missing(name));
    let wanted: Vec<String> = wanted.map(|(name, _)| format!("+{name}")).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    places.write(&control, &wanted.join(" ")).map_err(|error| {
        let _ = places.write(&base.join("cgroup.procs"), &places.pid.to_string());
        let _ = std::fs::remove_dir(base.join(LEAF));
        format!("{} takes no {}: {error}", control.display(), wanted.join(" "))
    })
}

fn words(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
