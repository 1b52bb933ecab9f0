//! The idle sources against real counterparts: an X server, a message bus with a logind on it, a compositor.

use nightshift_agent::owner::idle::{IdleSource, Logind, Mutter, Places, Wayland, X11, choose};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Killed when the test ends.
pub struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn installed(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    let there = there.is_ok_and(|status| status.success());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// An X server of our own, and its display; `None`, said aloud, where it is not installed.
pub fn x_server() -> Option<(Killed, String)> {
    if !installed("Xvfb") || !installed("xdotool") {
        return None;
    }
    // The server finds a free display by itself and says which.
    let mut server = Command::new("Xvfb");
    server.args(["-displayfd", "1", "-screen", "0", "640x480x8", "-nolisten", "tcp"]);
    let mut server = Killed(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut number = String::new();
    let stdout = server.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut number).unwrap();
    Some((server, format!(":{}", number.trim())))
}

/// Somebody moves the mouse.
pub fn touch(display: &str, x: &str) {
    let moved = Command::new("xdotool").args(["mousemove", x, "100"]).env("DISPLAY", display).status().unwrap();
    assert!(moved.success());
}

#[test]
fn an_x_server_tells_of_a_moved_mouse() {
    let Some((server, display)) = x_server() else { return };
    let mut source = X11::open(&display).unwrap();
    assert_eq!(source.name(), format!("X11 {display} (screen saver extension)"));
    until("it is idle", || source.idle().unwrap() >= Duration::from_millis(700));
    touch(&display, "100");
    touch(&display, "120");
    until("the mouse was seen", || source.idle().unwrap() < Duration::from_millis(600));
    drop(server);
    until("it is gone", || source.idle().is_err());
}

/// As much of logind as anybody asks: an idle hint and since when.
struct Manager {
    idle: bool,
    since: u64,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    #[zbus(property)]
    fn idle_hint(&self) -> bool {
        self.idle
    }
    #[zbus(property)]
    fn idle_since_hint_monotonic(&self) -> u64 {
        self.since
    }
}

/// A message bus of our own, and its address; `None`, said aloud, where it is not installed.
fn message_bus(folder: &Path) -> Option<(Killed, String)> {
    if !installed("dbus-daemon") {
        return None;
    }
    let address = format!("unix:path={}", folder.join("bus").display());
    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--session", "--nofork", "--print-address", "--address", &address]);
    let mut daemon = Killed(daemon.stdout(Stdio::piped()).spawn().unwrap());
    let _ = daemon.0.stdout.take().unwrap().read(&mut [0; 16]).unwrap();
    Some((daemon, address))
}

/// As much of GNOME's compositor as anybody asks.
struct Monitor;

#[zbus::interface(name = "org.gnome.Mutter.IdleMonitor")]
impl Monitor {
    fn get_idletime(&self) -> u64 {
        181_000
    }
}

#[test]
fn gnome_tells_how_long_nobody_touched_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some((daemon, address)) = message_bus(folder.path()) else { return };
    assert!(Mutter::open(Some(&address)).is_err(), "a bus without GNOME");
    let builder = zbus::blocking::connection::Builder::address(address.as_str()).unwrap();
    let builder = builder.name("org.gnome.Mutter.IdleMonitor").unwrap();
    let bus = builder.serve_at("/org/gnome/Mutter/IdleMonitor/Core", Monitor).unwrap().build().unwrap();
    let mut source = Mutter::open(Some(&address)).unwrap();
    assert_eq!(source.idle().unwrap(), Duration::from_secs(181));
    let places = Places { session_bus: Some(address), bus: Some("unix:path=/nowhere".into()), ..Places::default() };
    let (_, chosen) = choose(&places, usize::MAX).unwrap();
    assert_eq!(chosen.name(), "GNOME (Mutter's IdleMonitor)", "better than logind and devices");
    drop((daemon, bus));
    until("it is gone", || source.idle().is_err());
}

#[test]
fn logind_tells_since_when_every_session_is_idle() {
    let folder = tempfile::tempdir().unwrap();
    let Some((daemon, address)) = message_bus(folder.path()) else { return };
    assert!(Logind::open(Some(&address)).is_err(), "a bus without logind");

    let path = "/org/freedesktop/login1";
    let builder = zbus::blocking::connection::Builder::address(address.as_str()).unwrap();
    let builder = builder.name("org.freedesktop.login1").unwrap();
    let bus = builder.serve_at(path, Manager { idle: false, since: 0 }).unwrap().build().unwrap();
    let mut source = Logind::open(Some(&address)).unwrap();
    assert_eq!(source.name(), "logind (IdleHint)");
    assert_eq!(source.idle().unwrap(), Duration::ZERO, "somebody is there");
    let manager = bus.object_server().interface::<_, Manager>(path).unwrap();
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let now = u64::try_from(Duration::from(now).as_micros()).unwrap();
    (manager.get_mut().idle, manager.get_mut().since) = (true, now.saturating_sub(240_000_000));
    let idle = source.idle().unwrap();
    assert!(idle >= Duration::from_micros(240_000_000.min(now)), "{idle:?}");
    manager.get_mut().idle = false;
    assert_eq!(source.idle().unwrap(), Duration::ZERO);
    drop(daemon);
    until("it is gone", || source.idle().is_err());
}

mod compositor {
    //! A compositor that has a seat and `ext-idle-notify-v1`, and whose user is the test.

    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use wayland_protocols::ext::idle_notify::v1::server::ext_idle_notification_v1::ExtIdleNotificationV1;
    use wayland_protocols::ext::idle_notify::v1::server::ext_idle_notifier_v1::{ExtIdleNotifierV1, Request};
    use wayland_server::protocol::wl_seat::WlSeat;
    use wayland_server::{Client, DataInit, Dispatch, Display, DisplayHandle, GlobalDispatch, New};

    /// What the clients asked for.
    #[derive(Default)]
    pub struct State {
        pub notifications: Arc<Mutex<Vec<ExtIdleNotificationV1>>>,
        pub timeout: Arc<Mutex<u32>>,
    }

    impl GlobalDispatch<WlSeat, ()> for State {
        fn bind(
            _: &mut Self,
            _: &DisplayHandle,
            _: &Client,
            seat: New<WlSeat>,
            (): &(),
            init: &mut DataInit<'_, Self>,
        ) {
            init.init(seat, ());
        }
    }
    impl Dispatch<WlSeat, ()> for State {
        fn request(
            _: &mut Self,
            _: &Client,
            _: &WlSeat,
            _: <WlSeat as wayland_server::Resource>::Request,
            (): &(),
            _: &DisplayHandle,
            _: &mut DataInit<'_, Self>,
        ) {
        }
    }
    impl GlobalDispatch<ExtIdleNotifierV1, ()> for State {
        fn bind(
            _: &mut Self,
            _: &DisplayHandle,
            _: &Client,
            notifier: New<ExtIdleNotifierV1>,
            (): &(),
            init: &mut DataInit<'_, Self>,
        ) {
            init.init(notifier, ());
        }
    }
    impl Dispatch<ExtIdleNotifierV1, ()> for State {
        fn request(
            state: &mut Self,
            _: &Client,
            _: &ExtIdleNotifierV1,
            request: Request,
            (): &(),
            _: &DisplayHandle,
            init: &mut DataInit<'_, Self>,
        ) {
            if let Request::GetIdleNotification { id, timeout, .. }
            | Request::GetInputIdleNotification { id, timeout, .. } = request
            {
                *state.timeout.lock().unwrap() = timeout;
                state.notifications.lock().unwrap().push(init.init(id, ()));
            }
        }
    }
    impl Dispatch<ExtIdleNotificationV1, ()> for State {
        fn request(
            _: &mut Self,
            _: &Client,
            _: &ExtIdleNotificationV1,
            _: <ExtIdleNotificationV1 as wayland_server::Resource>::Request,
            (): &(),
            _: &DisplayHandle,
            _: &mut DataInit<'_, Self>,
        ) {
        }
    }

    /// Serves on `socket` until `stop`; `events` runs in between and may send.
    pub fn serve(socket: &Path, notifier: bool, events: impl Fn(&State) -> bool) {
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut display = Display::<State>::new().unwrap();
        let mut handle = display.handle();
        handle.create_global::<State, WlSeat, _>(1, ());
        if notifier {
            handle.create_global::<State, ExtIdleNotifierV1, _>(2, ());
        }
        let mut state = State::default();
        while events(&state) {
            if let Ok((stream, _)) = listener.accept() {
                handle.insert_client(stream, Arc::new(())).unwrap();
            }
            display.dispatch_clients(&mut state).unwrap();
            display.flush_clients().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[test]
fn a_compositor_says_when_input_stops_and_is_back() {
    use std::sync::mpsc::{TryRecvError, channel};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("wayland-7");
    let (say, heard) = channel::<bool>();
    let path = socket.clone();
    let server = std::thread::spawn(move || {
        compositor::serve(&path, true, |state| {
            match heard.try_recv() {
                Ok(idle) => {
                    assert_eq!(*state.timeout.lock().unwrap(), 250);
                    for notification in state.notifications.lock().unwrap().iter() {
                        if idle { notification.idled() } else { notification.resumed() }
                    }
                }
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => {}
            }
            true
        });
    });
    until("it listens", || socket.exists());
    let mut source = Wayland::open(&socket).unwrap();
    assert_eq!(source.name(), "Wayland wayland-7 (ext-idle-notify-v1)");
    assert_eq!(source.idle().unwrap(), Duration::ZERO, "nothing was said yet");
    say.send(true).unwrap();
    until("it is idle", || source.idle().unwrap() >= Duration::from_millis(250));
    say.send(false).unwrap();
    until("somebody is back", || source.idle().unwrap() == Duration::ZERO);
    drop(say);
    server.join().unwrap();
    until("it is gone", || source.idle().is_err());
}

#[test]
fn a_compositor_without_the_protocol_is_no_source() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("wayland-8");
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let (path, stopped) = (socket.clone(), stop.clone());
    let server = std::thread::spawn(move || compositor::serve(&path, false, |_| !stopped.load(SeqCst)));
    until("it listens", || socket.exists());
    let error = Wayland::open(&socket).unwrap_err();
    assert!(error.to_string().contains("no ext-idle-notify-v1"), "{error:#}");
    stop.store(true, SeqCst);
    server.join().unwrap();
}
