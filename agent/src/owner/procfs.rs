//! Processes: whose they are, what they use, what they are called.
//!
//! in → `/proc` · out → the processor time of other programs, excluded programs that run · invariant: our own process and all
//! that descend from it are never counted as others; what cannot be read is "unknown", never zero.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Processor times of one moment, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks {
    /// Of all cores, busy or not.
    pub all: u64,
    /// Of all cores, busy.
    pub busy: u64,
    /// Of our own processes, those that ended included.
    pub own: u64,
}

impl Ticks {
    /// Reads them; `own` is our process.
    pub fn read(proc: &Path, own: u32) -> Option<Self> {
        let stat = fs::read_to_string(proc.join("stat")).ok()?;
        let fields: Vec<u64> =
            stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guests are within user.
        let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else { return None };
        let busy = user + nice + system + irq + softirq;
        let steal = fields.get(7).copied().unwrap_or(0);
        let own = family(proc, own).into_iter().filter_map(|pid| Stat::read(proc, pid)).map(|stat| stat.ticks).sum();
        Some(Self { all: busy + idle + iowait + steal, busy, own })
    }

    /// Percent of all cores that others used between `before` and now; `None` if no time has passed.
    pub fn others(&self, before: &Self) -> Option<f32> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(before.busy);
        let own = self.own.saturating_sub(before.own);
        Some(busy.saturating_sub(own) as f32 * 100.0 / all as f32)
    }
}

/// The interesting fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own, and those of its children that ended.
    ticks: u64,
}

impl Stat {
    fn read(proc: &Path, pid: u32) -> Option<Self> {
        let text = fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
        // The name stands in parentheses and may hold any character, parentheses too.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

/// Every process there is.
fn all(proc: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process and all that descend from it.
pub fn family(proc: &Path, root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        match children(proc, pid) {
            Some(children) => family.extend(children),
            // A kernel without CONFIG_PROC_CHILDREN: every process is asked for its parent, once.
            None if next == 0 => return by_parent(proc, root),
            None => {}
        }
        next += 1;
    }
    family
}

fn children(proc: &Path, pid: u32) -> Option<Vec<u32>> {
    let tasks = fs::read_dir(proc.join(format!("{pid}/task"))).ok()?;
    let mut found = Vec::new();
    for task in tasks.flatten() {
        let text = match fs::read_to_string(task.path().join("children")) {
            Ok(text) => text,
            // A thread that just ended; its children went to another.
            Err(_) if !task.path().exists() => continue,
            Err(_) => return None,
        };
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Some(found)
}

fn by_parent(proc: &Path, root: u32) -> Vec<u32> {
    let mut of: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all(proc) {
        if let Some(stat) = Stat::read(proc, pid) {
            of.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(of.remove(pid).unwrap_or_default());
        next += 1;
    }
    family
}

/// The first of the excluded programs that runs. The kernel keeps 15 bytes of a name; longer ones are compared so far, and
/// with the file name of the program, which tells interpreters' scripts and renamed threads apart.
pub fn running(proc: &Path, excluded: &[String]) -> Option<String> {
    if excluded.is_empty() {
        return None;
    }
    let is = |pid: u32| {
        let comm = fs::read(proc.join(format!("{pid}/comm"))).ok()?;
        let comm = String::from_utf8_lossy(&comm);
        let comm = comm.trim_end_matches('\n');
        let short = |name: &str| name.as_bytes().get(..15).map_or(name == comm, |head| head == comm.as_bytes());
        let program = || -> Option<PathBuf> { fs::read_link(proc.join(format!("{pid}/exe"))).ok() };
        let named = |name: &&String| {
            comm == name.as_str()
                || (name.len() > 15 && short(name))
                || program().is_some_and(|path| path.file_name().is_some_and(|file| file == name.as_str()))
        };
        excluded.iter().find(named).cloned()
    };
    all(proc).into_iter().find_map(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, name: &str, parent: u32, ticks: u64, children: &str) {
        fs::create_dir_all(proc.join(format!("{pid}/task/{pid}"))).unwrap();
        let stat = format!("{pid} ({name}) S {parent} 0 0 0 0 0 0 0 0 0 {ticks} 1 2 3 20 0 1 0 0 0 0");
        fs::write(proc.join(format!("{pid}/stat")), stat).unwrap();
        fs::write(proc.join(format!("{pid}/comm")), format!("{}\n", &name[..name.len().min(15)])).unwrap();
        if children != "unknown" {
            fs::write(proc.join(format!("{pid}/task/{pid}/children")), children).unwrap();
        }
    }

    #[test]
    fn our_own_processes_are_not_others() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        let stat = |busy: u64, idle: u64| {
            fs::write(proc.join("stat"), format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1\n")).unwrap();
        };
        process(proc, 10, "agent) (x", 1, 100, "11");
        process(proc, 11, "worker", 10, 50, "");
        process(proc, 12, "game", 1, 7, "");
        stat(1000, 1000);
        let before = Ticks::read(proc, 10).unwrap();
        assert_eq!(before, Ticks { all: 2000, busy: 1000, own: 162 });
        process(proc, 11, "worker", 10, 110, "");
        stat(1100, 1100);
        let now = Ticks::read(proc, 10).unwrap();
        assert_eq!(now.others(&before), Some(20.0), "100 of 200 busy, 60 of them ours");
        assert_eq!(now.others(&now), None);
        // A kernel that does not list children.
        fs::remove_dir_all(proc.join("10/task")).unwrap();
        fs::remove_dir_all(proc.join("11/task")).unwrap();
        assert_eq!(family(proc, 10), [10, 11]);
        assert_eq!(Ticks::read(&proc.join("nowhere"), 10), None);
    }

    #[test]
    fn an_excluded_program_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        process(proc, 12, "a-very-long-game-name", 1, 7, "");
        process(proc, 13, "MainThread", 1, 7, "");
        std::os::unix::fs::symlink("/opt/games/blender", proc.join("13/exe")).unwrap();
        let find = |name: &str| running(proc, &["nothing".into(), name.into()]);
        assert_eq!(find("a-very-long-game-name").as_deref(), Some("a-very-long-game-name"));
        assert_eq!(find("blender").as_deref(), Some("blender"));
        assert_eq!(find("a-very-long-gam"), Some("a-very-long-gam".into()));
        assert_eq!((find("a-very"), running(proc, &[])), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_can_be_read() {
        let proc = Path::new("/proc");
        assert!(Ticks::read(proc, std::process::id()).is_some_and(|ticks| ticks.all > ticks.busy));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(proc, std::process::id()).contains(&child.id()));
        let sleeps = || running(proc, &["sleep".into()]) == Some("sleep".into());
        assert!(sleeps());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!family(proc, std::process::id()).contains(&child.id()));
    }
}
