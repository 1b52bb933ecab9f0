//! Without a desktop: keyboards and mice themselves, the kernel's count of their interrupts, and terminals.
//!
//! in → `/dev/input`, `/proc/interrupts`, `/dev/tty*` and `/dev/pts` · out → since anything of that moved · invariant: of an
//! input event only its kind is looked at, never which key.

use super::{IdleSource, Roots};
use anyhow::bail;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What handlers of keyboards, mice and touchpads are called in `/proc/interrupts`.
const INTERRUPTS: [&str; 9] = ["i8042", "keyboard", "mouse", "touch", "i2c_hid", "elan", "syna", "wacom", "trackp"];
/// `struct input_event` of a 64-bit kernel: two times of 8 bytes, then type, code, value.
const EVENT: usize = 24;
const KIND: usize = 16;
/// Keys and buttons; movement. Not absolute axes: those of a gamepad tremble, and a touch presses a button too.
const COUNTED: [u16; 2] = [1, 2];

/// What there is of input on a machine without a desktop.
#[derive(Debug)]
pub struct Devices {
    roots: Roots,
    events: Vec<File>,
    interrupts: Option<u64>,
    terminals: usize,
    last: Instant,
}

impl Devices {
    /// Opens what this user may. An error where there is nothing to look at.
    pub fn open(roots: &Roots) -> anyhow::Result<Self> {
        let events = files(&roots.dev.join("input"), "event");
        let readable = |path: &PathBuf| {
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path).ok()
        };
        let source = Self {
            events: events.iter().filter_map(readable).collect(),
            interrupts: interrupts(&roots.proc),
            terminals: terminals(&roots.dev).len(),
            roots: roots.clone(),
            last: Instant::now(),
        };
        if source.events.is_empty() && source.interrupts.is_none() && source.terminals == 0 {
            bail!("no input device, no interrupt of one, no terminal");
        }
        Ok(source)
    }

    fn moved(&mut self) -> bool {
        let mut moved = false;
        for file in &mut self.events {
            let mut buffer = [0; EVENT * 64];
            while let Ok(read @ 1..) = file.read(&mut buffer) {
                let kind = |event: &[u8]| u16::from_ne_bytes([event[KIND], event[KIND + 1]]);
                moved |= buffer[..read].chunks_exact(EVENT).any(|event| COUNTED.contains(&kind(event)));
            }
        }
        let interrupts = interrupts(&self.roots.proc);
        moved |= interrupts != self.interrupts;
        self.interrupts = interrupts;
        moved
    }
}

impl IdleSource for Devices {
    fn name(&self) -> String {
        let mut parts = Vec::new();
        if !self.events.is_empty() {
            parts.push(format!("{} of /dev/input", self.events.len()));
        }
        if self.interrupts.is_some() {
            parts.push("interrupts of keyboard and mouse".into());
        }
        if self.terminals > 0 {
            parts.push("terminals".into());
        }
        format!("input devices ({})", parts.join(", "))
    }

    fn idle(&mut self) -> anyhow::Result<Duration> {
        if self.moved() {
            self.last = Instant::now();
        }
        let typed = terminals(&self.roots.dev).iter().filter_map(|path| typed(path)).min();
        Ok(typed.map_or(self.last.elapsed(), |typed| typed.min(self.last.elapsed())))
    }
}

fn files(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start));
    entries.flatten().map(|entry| entry.path()).filter(named).collect()
}

/// Terminals that somebody has; the kernel notes when something was typed there.
fn terminals(dev: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<u32>().is_ok());
    let mut all: Vec<PathBuf> = files(&dev.join("pts"), "").into_iter().filter(number).collect();
    // A console that nobody is logged in at belongs to root.
    let owned = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.uid() != 0);
    all.extend((1..=12).map(|number| dev.join(format!("tty{number}"))).filter(owned));
    all.retain(|path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device() || cfg!(test)));
    all
}

fn typed(path: &Path) -> Option<Duration> {
    let read = fs::metadata(path).ok()?.accessed().ok()?;
    Some(SystemTime::now().duration_since(read).unwrap_or_default())
}

/// The sum of the counts of all lines that are of input; `None` if there is none.
fn interrupts(proc: &Path) -> Option<u64> {
    let text = fs::read_to_string(proc.join("interrupts")).ok()?;
    let of_input = |line: &&str| {
        let line = line.to_lowercase();
        INTERRUPTS.iter().any(|name| line.contains(name))
    };
    let count = |line: &str| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum::<u64>();
    text.lines().filter(of_input).map(count).reduce(|a, b| a.wrapping_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn roots(folder: &Path) -> Roots {
        for name in ["dev/input", "dev/pts", "proc"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        Roots { proc: folder.join("proc"), sys: folder.join("sys"), dev: folder.join("dev") }
    }

    #[test]
    fn keys_and_movement_count_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let roots = roots(folder.path());
        let fifo = roots.dev.join("input/event0");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut devices = Devices::open(&roots).unwrap();
        assert_eq!(devices.name(), "input devices (1 of /dev/input)");
        let mut keyboard = OpenOptions::new().write(true).open(&fifo).unwrap();
        let mut event = |kind: u16| {
            let mut bytes = [0; EVENT];
            bytes[KIND..KIND + 2].copy_from_slice(&kind.to_ne_bytes());
            keyboard.write_all(&bytes).unwrap();
        };
        for (kind, counts) in [(0, false), (3, false), (5, false), (1, true), (2, true)] {
            event(kind);
            assert_eq!(devices.moved(), counts, "{kind}");
        }
        assert!(!devices.moved());
        let before = devices.idle().unwrap();
        event(1);
        assert!(devices.idle().unwrap() < before + Duration::from_millis(1));
    }

    #[test]
    fn interrupts_of_keyboard_and_mouse_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let roots = roots(folder.path());
        assert!(Devices::open(&roots).is_err(), "a server without a console");
        let write = |count: u64, other: u64| {
            let text = format!(
                "   CPU0 CPU1\n  1: {count} 4 IO-APIC 1-edge i8042\n 16: {other} 0 PCI-MSI xhci_hcd\n 51: 3 0 GPIO ELAN0501:00\n"
            );
            fs::write(roots.proc.join("interrupts"), text).unwrap();
        };
        write(10, 1);
        assert_eq!(interrupts(&roots.proc), Some(17));
        let mut devices = Devices::open(&roots).unwrap();
        write(10, 2);
        assert!(!devices.moved(), "USB carries all sorts of things");
        write(11, 2);
        assert!(devices.moved());
        assert_eq!(devices.name(), "input devices (interrupts of keyboard and mouse)");
    }

    #[test]
    fn what_was_typed_last_counts() {
        let folder = tempfile::tempdir().unwrap();
        let roots = roots(folder.path());
        let terminal = File::create(roots.dev.join("pts/3")).unwrap();
        File::create(roots.dev.join("pts/ptmx")).unwrap();
        let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        terminal.set_times(fs::FileTimes::new().set_accessed(ago(100)).set_modified(ago(0))).unwrap();
        let mut devices = Devices::open(&roots).unwrap();
        devices.last = Instant::now() - Duration::from_secs(500);
        let idle = devices.idle().unwrap().as_secs();
        assert!((100..110).contains(&idle), "{idle}");
    }
}
