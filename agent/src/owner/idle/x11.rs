//! The X server's screen saver extension: the time since the last input, exactly. Not that of Xwayland, which sees only what
//! is meant for old programs.

use super::IdleSource;
use anyhow::{Context, bail};
use std::time::Duration;
use x11rb::connection::Connection;
use x11rb::protocol::screensaver::ConnectionExt as _;
use x11rb::protocol::xproto::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

/// One display.
#[derive(Debug)]
pub struct X11 {
    connection: RustConnection,
    root: u32,
    display: String,
}

impl X11 {
    /// Connects, and asks once. `display` is as in `DISPLAY`.
    pub fn open(display: &str) -> anyhow::Result<Self> {
        let (connection, screen) = RustConnection::connect(Some(display)).context("no X server")?;
        let root = connection.setup().roots.get(screen).context("the X server has no screen")?.root;
        let xwayland =
            connection.query_extension(b"XWAYLAND").context("no X server")?.reply().context("no X server")?;
        if xwayland.present {
            bail!("this X server is Xwayland");
        }
        let mut source = Self { connection, root, display: display.into() };
        source.idle()?;
        Ok(source)
    }
}

impl IdleSource for X11 {
    fn name(&self) -> String {
        format!("X11 {} (screen saver extension)", self.display)
    }

    fn idle(&mut self) -> anyhow::Result<Duration> {
        let answer = self.connection.screensaver_query_info(self.root).context("no screen saver extension")?;
        let answer = answer.reply().context("no screen saver extension")?;
        Ok(Duration::from_millis(answer.ms_since_user_input.into()))
    }
}
