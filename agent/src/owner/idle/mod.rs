//! How long nobody has touched the machine.
//!
//! in → whatever this system offers · out → one [`IdleSource`], the best that works, and its name · invariant: a source that
//! cannot tell says so, and the next one is asked; what was typed is never looked at.

mod devices;
#[cfg(target_os = "linux")]
mod logind;
pub mod macos;
#[cfg(target_os = "linux")]
mod mutter;
#[cfg(target_os = "linux")]
mod wayland;
#[cfg(target_os = "linux")]
mod x11;

use super::Roots;
pub use devices::Devices;
#[cfg(target_os = "linux")]
pub use logind::Logind;
#[cfg(target_os = "linux")]
pub use mutter::Mutter;
use std::path::PathBuf;
use std::time::{Duration, Instant};
#[cfg(target_os = "linux")]
pub use wayland::Wayland;
#[cfg(target_os = "linux")]
pub use x11::X11;

/// Knows when somebody touched the machine last.
pub trait IdleSource: Send {
    /// What it is, for the owner.
    fn name(&self) -> String;
    /// Since the last input. An error means that the source is gone.
    fn idle(&mut self) -> anyhow::Result<Duration>;
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The kernel's files.
    pub roots: Roots,
    /// D-Bus address of the system bus; `None`: the system's.
    pub bus: Option<String>,
    /// D-Bus address of the session's bus; `None`: the session's.
    pub session_bus: Option<String>,
    /// `DISPLAY` values to try.
    pub displays: Vec<String>,
    /// Wayland sockets to try.
    pub compositors: Vec<PathBuf>,
}

impl Places {
    /// This session's, and else what a desktop of this user may have opened: a service is often started before it.
    pub fn of_this_session() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut places = Self::default();
        let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        if let Some(name) = variable("WAYLAND_DISPLAY") {
            let name = PathBuf::from(name);
            places.compositors.push(runtime.as_ref().map_or(name.clone(), |runtime| runtime.join(&name)));
        }
        let sockets = |folder: &PathBuf, start: &str| -> Vec<PathBuf> {
            let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
            let named =
                |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(start));
            let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(named).collect();
            found.retain(|path| path.extension().is_none());
            found.sort();
            found
        };
        places.compositors.extend(runtime.iter().flat_map(|runtime| sockets(runtime, "wayland-")));
        places.displays.extend(variable("DISPLAY").and_then(|value| value.into_string().ok()));
        for socket in sockets(&"/tmp/.X11-unix".into(), "X") {
            let name = socket.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            places.displays.push(format!(":{}", name.trim_start_matches('X')));
        }
        places.compositors.dedup();
        places.displays.dedup();
        places
    }
}

/// The best source that works here and its rank, 0 is best; `None`: nobody can tell, as on a server without a console.
#[cfg(target_os = "linux")]
pub fn choose(places: &Places, better_than: usize) -> Option<(usize, Box<dyn IdleSource>)> {
    let mut open: Vec<(usize, Open<'_>)> = Vec::new();
    for path in &places.compositors {
        open.push((0, Box::new(move || Ok(Box::new(Wayland::open(path)?)))));
    }
    open.push((1, Box::new(|| Ok(Box::new(Mutter::open(places.session_bus.as_deref())?)))));
    // Under Wayland an X server sees the input of old programs alone.
    for display in places.displays.iter().filter(|_| places.compositors.is_empty()) {
        open.push((2, Box::new(move || Ok(Box::new(X11::open(display)?)))));
    }
    open.push((3, Box::new(|| Ok(Box::new(Logind::open(places.bus.as_deref())?)))));
    open.push((4, Box::new(|| Ok(Box::new(Devices::open(&places.roots)?)))));
    first(open, better_than)
}

/// On a Mac the system itself.
#[cfg(not(target_os = "linux"))]
pub fn choose(places: &Places, better_than: usize) -> Option<(usize, Box<dyn IdleSource>)> {
    let _ = places;
    let open: Vec<(usize, Open<'_>)> = vec![(0, Box::new(|| Ok(Box::new(macos::IoKit::open()?))))];
    first(open, better_than)
}

type Open<'a> = Box<dyn Fn() -> anyhow::Result<Box<dyn IdleSource>> + 'a>;

fn first(open: Vec<(usize, Open<'_>)>, better_than: usize) -> Option<(usize, Box<dyn IdleSource>)> {
    open.into_iter().filter(|(rank, _)| *rank < better_than).find_map(|(rank, open)| match open() {
        Ok(source) => Some((rank, source)),
        Err(error) => {
            tracing::debug!(rank, error = format!("{error:#}"), "an idle source does not work here");
            None
        }
    })
}

/// Longest wait for all sources together; a bus that hangs must not hang us.
const PATIENCE: Duration = Duration::from_secs(10);

fn in_time(places: Places, better_than: usize) -> Option<(usize, Box<dyn IdleSource>)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let looking = move || drop(sender.send(choose(&places, better_than)));
    std::thread::Builder::new().name("nightshift-idle".into()).spawn(looking).ok()?;
    receiver.recv_timeout(PATIENCE).ok().flatten()
}

/// How often a better source is looked for: a desktop may begin after us.
const LOOK: Duration = Duration::from_secs(30);

/// The source in use; another one where it fails, or where a better one comes.
pub struct Chosen {
    places: Box<dyn Fn() -> Places + Send>,
    source: Option<(usize, Box<dyn IdleSource>)>,
    looked: Option<Instant>,
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chosen({:?})", self.name())
    }
}

impl Chosen {
    /// `places` is asked again and again: where to look changes.
    pub fn new(places: impl Fn() -> Places + Send + 'static) -> Self {
        Self { places: Box::new(places), source: None, looked: None }
    }

    /// What is in use, in words.
    pub fn name(&self) -> Option<String> {
        self.source.as_ref().map(|(_, source)| source.name())
    }

    /// Since the last input; `None`: nobody can tell.
    pub fn idle(&mut self, now: Instant) -> Option<Duration> {
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK) {
            self.looked = Some(now);
            let rank = self.source.as_ref().map_or(usize::MAX, |(rank, _)| *rank);
            if let Some(better) = in_time((self.places)(), rank) {
                tracing::info!(source = better.1.name(), "tells whether somebody uses this machine");
                self.source = Some(better);
            } else if self.source.is_none() {
                tracing::debug!("nothing here tells whether somebody uses this machine");
            }
        }
        match self.source.as_mut()?.1.idle() {
            Ok(idle) => Some(idle),
            Err(error) => {
                let name = self.name();
                tracing::warn!(
                    source = name,
                    error = format!("{error:#}"),
                    "does not tell any more; another is looked for"
                );
                (self.source, self.looked) = (None, None);
                // Until another one is found somebody may well be there.
                Some(Duration::ZERO)
            }
        }
    }
}
