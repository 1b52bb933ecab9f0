//! The paths and words of both versions on trees of plain files; and this machine's own cgroups, where they may be used.

use super::*;
use std::fs;

/// A tree as a kernel shows it; `tempfile` deletes it.
struct Tree {
    folder: tempfile::TempDir,
    places: Places,
}

impl Tree {
    fn new(cgroup: &str, mountinfo: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("proc/self");
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("cgroup"), cgroup).unwrap();
        fs::write(process.join("mountinfo"), mountinfo).unwrap();
        let places = Places { process, root: folder.path().into(), pid: 77 };
        Self { folder, places }
    }

    fn put(&self, path: &str, text: &str) -> &Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

const UNIT: &str = "sys/fs/cgroup/user.slice/nightshift-agent.service";

/// A systemd user service with `Delegate=`, as proc(5) and systemd show it.
fn service(controllers: &str) -> Tree {
    let tree = Tree::new(
        "0::/user.slice/nightshift-agent.service\n",
        "24 1 0:22 / /sys rw - sysfs sysfs rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    );
    tree.put(&format!("{UNIT}/cgroup.controllers"), controllers);
    tree.put(&format!("{UNIT}/cgroup.procs"), "77\n").put(&format!("{UNIT}/cgroup.subtree_control"), "");
    tree
}

#[test]
fn a_delegated_service_moves_into_a_leaf_and_makes_cages_beside_it() {
    let tree = service("cpu memory pids\n");
    let looked = look(&tree.places);
    assert_eq!(looked.why_not, Vec::<String>::new());
    assert!(!tree.folder.path().join(UNIT).join("nightshift-agent").exists(), "to look changes nothing");
    let caps = Caps::claim(tree.places.clone());
    assert_eq!(caps.found(), &looked);
    assert!(looked.to_string().starts_with("memory and processor by cgroup v2 ("), "{looked}");
    assert_eq!(tree.text(&format!("{UNIT}/nightshift-agent/cgroup.procs")), "77");
    assert_eq!(tree.text(&format!("{UNIT}/cgroup.subtree_control")), "+memory +cpu");
    let mut cage = caps.cage(0, Bytes::gibi(1)).unwrap();
    cage.take(99).unwrap();
    let inside = |file: &str| tree.text(&format!("{UNIT}/nightshift-worker-77-0/{file}"));
    assert_eq!((inside("cgroup.procs").as_str(), inside("memory.swap.max").as_str()), ("99", "0"));
    assert_eq!(inside("memory.max"), (Bytes::gibi(1) + BESIDE).0.to_string());
    // Fewer threads than any machine has cores, so the processor is capped: of no thread to one core.
    if std::thread::available_parallelism().unwrap().get() > 0 {
        assert_eq!(inside("cpu.max"), "100000 100000");
    }
    cage.raise(Bytes::mebi(5));
    assert_eq!(inside("memory.max"), (Bytes::gibi(1) + BESIDE).0.to_string(), "never lowered");
    cage.raise(Bytes::gibi(2));
    assert_eq!(inside("memory.max"), (Bytes::gibi(2) + BESIDE).0.to_string());
    assert!(!cage.was_full());
    tree.put(&format!("{UNIT}/nightshift-worker-77-0/memory.events"), "low 0\noom 3\noom_kill 1\n");
    assert!(cage.was_full());
}

#[test]
fn what_is_not_delegated_is_said_with_the_remedy() {
    let no_cpu = Caps::claim(service("memory pids\n").places.clone());
    let text = no_cpu.found().to_string();
    assert!(text.starts_with("memory by cgroup v2 (") && text.contains("not the processor: its controller"), "{text}");

    let text = look(&service("pids\n").places).to_string();
    assert!(text.starts_with("memory by RLIMIT_DATA alone"), "{text}");
    assert!(text.contains("not cgroup v2: the memory controller is not delegated to"), "{text}");
    assert!(text.contains("nightshift-agent install"), "{text}");
    assert!(text.contains("not cgroup v1: the kernel has no controller memory there"), "{text}");

    let shared = service("memory\n");
    shared.put(&format!("{UNIT}/cgroup.procs"), "12\n77\n13\n");
    let text = Caps::claim(shared.places.clone()).found().to_string();
    assert!(text.contains("is shared with 2 other processes"), "{text}");
    assert!(!shared.folder.path().join(UNIT).join("nightshift-agent").exists(), "nothing is moved");

    let container = Tree::new("0::/../other\n", "30 24 0:26 /mine /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    let text = look(&container.places).to_string();
    assert!(text.contains("is in no mount"), "{text}");
    let bare = Tree::new("", "");
    assert!(look(&bare.places).to_string().contains("not cgroup v2: the kernel has none"));
    let nothing = Places { process: "/nonexistent".into(), ..Places::default() };
    assert_eq!(look(&nothing).base, None);
}

#[test]
fn one_that_is_in_its_leaf_already_goes_on_there() {
    let tree = service("memory cpu\n");
    let caps = Caps::claim(tree.places.clone());
    fs::write(tree.places.process.join("cgroup"), "0::/user.slice/nightshift-agent.service/nightshift-agent\n")
        .unwrap();
    assert_eq!(Caps::claim(tree.places.clone()).found(), caps.found());
}

#[test]
fn version_1_has_a_folder_in_each_controller() {
    let tree = Tree::new(
        "4:memory:/box\n1:cpu,cpuacct:/\n0::/\n",
        "40 30 0:30 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup \
         rw,cpu,cpuacct\n42 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    );
    tree.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "").put("sys/fs/cgroup/memory/notify_on_release", "0");
    tree.put("sys/fs/cgroup/cpu/release_agent", "").put("sys/fs/cgroup/unified/cgroup.procs", "");
    let caps = Caps::claim(tree.places.clone());
    let text = caps.found().to_string();
    assert!(text.starts_with("memory and processor by cgroup v1 ("), "{text}");
    assert!(text.contains("not cgroup v2: ") && text.contains("has no controllers: they are v1's here"), "{text}");
    let cage = caps.cage(0, Bytes::gibi(1)).unwrap();
    cage.take(5).unwrap();
    let most = (Bytes::gibi(1) + BESIDE).0.to_string();
    assert_eq!(tree.text("sys/fs/cgroup/memory/nightshift-worker-77-0/memory.limit_in_bytes"), most);
    assert_eq!(tree.text("sys/fs/cgroup/memory/nightshift-worker-77-0/memory.memsw.limit_in_bytes"), most);
    for controller in ["memory", "cpu"] {
        assert_eq!(tree.text(&format!("sys/fs/cgroup/{controller}/nightshift-worker-77-0/cgroup.procs")), "5");
    }
    assert_eq!(tree.text("sys/fs/cgroup/cpu/nightshift-worker-77-0/cpu.cfs_quota_us"), "100000");
}

/// The kernel's own: what is left of an agent that was killed goes, a cage goes with its worker.
#[test]
fn this_machines_own() {
    let found = look(&Places::default());
    let Some(base) = &found.base else { return println!("skipped: {found}") };
    if base.version == Version::V2 {
        return println!("skipped: the test's process would have to move: {found}");
    }
    let stale = base.memory.join(format!("{WORKER}0-0"));
    let _ = fs::create_dir(&stale);
    let caps = Caps::claim(Places::default());
    assert!(!stale.exists());
    let cage = caps.cage(1, Bytes::mebi(64)).unwrap();
    let limit = fs::read_to_string(cage.memory.join("memory.limit_in_bytes")).unwrap();
    assert_eq!(limit.trim(), (Bytes::mebi(64) + BESIDE + PER_THREAD).0.to_string());
    let (dir, cpu) = (cage.memory.clone(), cage.cpu.clone());
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    cage.take(child.id()).unwrap();
    assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap().trim(), child.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(cage);
    assert!(!dir.exists() && !cpu.is_some_and(|cpu| cpu.exists()));
}
