//! Wayland's `ext-idle-notify-v1`: the compositor says when input stops and when it is back.
//!
//! in → idled, resumed · out → since the last input, to a quarter of a second · invariant: before the first word of the
//! compositor somebody is there.

use super::IdleSource;
use anyhow::Context;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::{wl_registry, wl_seat};
use wayland_client::{Connection, Dispatch, EventQueue, QueueHandle, delegate_noop};
use wayland_protocols::ext::idle_notify::v1::client::{ext_idle_notification_v1, ext_idle_notifier_v1};

/// After so long without input the compositor says "idled": input before that is "now".
const TIMEOUT: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Seen {
    /// When the last input was, at the latest.
    since: Option<Instant>,
}

/// One compositor.
#[derive(Debug)]
pub struct Wayland {
    connection: Connection,
    queue: EventQueue<Seen>,
    seen: Seen,
    socket: PathBuf,
}

impl Wayland {
    /// Connects and asks to be notified.
    pub fn open(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("no compositor")?;
        let connection = Connection::from_socket(stream).context("no compositor")?;
        let (globals, mut queue) = registry_queue_init::<Seen>(&connection).context("no Wayland registry")?;
        let handle = queue.handle();
        let notifier: ext_idle_notifier_v1::ExtIdleNotifierV1 =
            globals.bind(&handle, 1..=2, ()).context("the compositor has no ext-idle-notify-v1")?;
        let seat: wl_seat::WlSeat = globals.bind(&handle, 1..=1, ()).context("the compositor has no seat")?;
        let timeout = u32::try_from(TIMEOUT.as_millis())?;
        // Version 2 can leave out who asked to keep the screen on: a film is no input.
        if wayland_client::Proxy::version(&notifier) >= 2 {
            notifier.get_input_idle_notification(timeout, &seat, &handle, ());
        } else {
            notifier.get_idle_notification(timeout, &seat, &handle, ());
        }
        let mut seen = Seen::default();
        queue.roundtrip(&mut seen).context("the compositor does not answer")?;
        Ok(Self { connection, queue, seen, socket: socket.into() })
    }
}

impl IdleSource for Wayland {
    fn name(&self) -> String {
        let name = self.socket.file_name().unwrap_or_default().to_string_lossy();
        format!("Wayland {name} (ext-idle-notify-v1)")
    }

    fn idle(&mut self) -> anyhow::Result<Duration> {
        // Reads what is there, and waits for nothing.
        self.queue.dispatch_pending(&mut self.seen)?;
        self.connection.flush()?;
        if let Some(reading) = self.connection.prepare_read() {
            match reading.read() {
                Ok(_) => {}
                Err(wayland_client::backend::WaylandError::Io(error))
                    if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the compositor is gone"),
            }
        }
        self.queue.dispatch_pending(&mut self.seen)?;
        Ok(self.seen.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

impl Dispatch<ext_idle_notification_v1::ExtIdleNotificationV1, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &ext_idle_notification_v1::ExtIdleNotificationV1,
        event: ext_idle_notification_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            ext_idle_notification_v1::Event::Idled => seen.since = Instant::now().checked_sub(TIMEOUT),
            ext_idle_notification_v1::Event::Resumed => seen.since = None,
            _ => {}
        }
    }
}

impl Dispatch<wl_registry::WlRegistry, GlobalListContents> for Seen {
    fn event(
        _: &mut Self,
        _: &wl_registry::WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

delegate_noop!(Seen: ignore wl_seat::WlSeat);
delegate_noop!(Seen: ext_idle_notifier_v1::ExtIdleNotifierV1);
