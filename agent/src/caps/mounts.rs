//! Where a process' cgroups are in the file system.
//!
//! in → `/proc/PID/cgroup` and `/proc/PID/mountinfo` (proc(5)) · out → folders · invariant: a cgroup that no mount shows, as
//! in a container, is none.

use super::Places;
use std::path::{Path, PathBuf};

/// One mount of a cgroup file system.
struct Mount {
    /// The part of the tree that is mounted.
    root: PathBuf,
    point: PathBuf,
    v2: bool,
    options: String,
}

/// The folder of the process' cgroup: in the one tree of v2 (`None`), or in that of a controller of v1.
pub fn folder(places: &Places, controller: Option<&str>) -> Result<PathBuf, String> {
    let read = |name: &str| {
        let path = places.process.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let own = own(&read("cgroup")?, controller).ok_or_else(|| match controller {
        Some(name) => format!("the kernel has no controller {name} there"),
        None => "the kernel has none".to_string(),
    })?;
    let text = read("mountinfo")?;
    let fits = |mount: &Mount| match controller {
        None => mount.v2,
        Some(name) => !mount.v2 && mount.options.split(',').any(|option| option == name),
    };
    let mounts: Vec<Mount> = text.lines().filter_map(mount).filter(fits).collect();
    if mounts.is_empty() {
        return Err("it is not mounted".into());
    }
    let shown = mounts.iter().find_map(|mount| Some(mount.point.join(own.strip_prefix(&mount.root).ok()?)));
    let folder = shown.ok_or_else(|| format!("{} is in no mount", own.display()))?;
    let folder = places.root.join(folder.strip_prefix("/").unwrap_or(&folder));
    if folder.is_dir() { Ok(folder) } else { Err(format!("{} is not there", folder.display())) }
}

/// `0::/user.slice/x` of v2, `4:cpu,cpuacct:/x` of v1.
fn own(text: &str, controller: Option<&str>) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = match controller {
            None => number == "0" && names.is_empty(),
            Some(wanted) => names.split(',').any(|name| name == wanted),
        };
        found.then(|| PathBuf::from(path))
    })
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - cgroup2 cgroup2 rw,nsdelegate`.
fn mount(line: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (unescaped(before.next()?), unescaped(before.next()?));
    let mut behind = behind.split(' ');
    let v2 = match behind.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options = behind.nth(1).unwrap_or_default().to_string();
    Some(Mount { root, point, v2, options })
}

/// Spaces and such stand as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Path::new(&out).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let text = "4:memory:/a\n2:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/user.slice/d";
        assert_eq!(own(text, Some("memory")), Some("/a".into()));
        assert_eq!(own(text, Some("cpu")), Some("/b".into()));
        assert_eq!(own(text, None), Some("/user.slice/d".into()));
        assert_eq!(own(text, Some("pids")), None);
        assert_eq!(own("nonsense\n0", None), None);
        let line = "30 24 0:26 / /sys/fs/cgroup\\040x rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let found = mount(line).unwrap();
        assert_eq!((found.v2, found.point.to_str().unwrap()), (true, "/sys/fs/cgroup x"));
        assert!(mount("30 24 0:26 / /sys rw - sysfs sysfs rw").is_none() && mount("").is_none());
        assert_eq!(unescaped("a\\b\\9").to_str().unwrap(), "a\\b\\9");
    }
}
