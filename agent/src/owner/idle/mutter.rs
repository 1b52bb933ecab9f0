//! GNOME's compositor, which has no `ext-idle-notify-v1`: the time since the last input, exactly.

use super::IdleSource;
use anyhow::Context;
use std::time::Duration;
use zbus::blocking::{Proxy, connection::Builder};

/// Longest wait for an answer of the bus.
const PATIENCE: Duration = Duration::from_secs(2);

/// `org.gnome.Mutter.IdleMonitor` on the session's bus.
#[derive(Debug)]
pub struct Mutter {
    monitor: Proxy<'static>,
}

impl Mutter {
    /// Connects to the session's bus (or the given one), and asks once.
    pub fn open(bus: Option<&str>) -> anyhow::Result<Self> {
        let builder = match bus {
            Some(address) => Builder::address(address)?,
            None => Builder::session()?,
        };
        let connection = builder.method_timeout(PATIENCE).build().context("no session bus")?;
        let monitor = Proxy::new(
            &connection,
            "org.gnome.Mutter.IdleMonitor",
            "/org/gnome/Mutter/IdleMonitor/Core",
            "org.gnome.Mutter.IdleMonitor",
        );
        let mut source = Self { monitor: monitor.context("no Mutter")? };
        source.idle()?;
        Ok(source)
    }
}

impl IdleSource for Mutter {
    fn name(&self) -> String {
        "GNOME (Mutter's IdleMonitor)".into()
    }

    fn idle(&mut self) -> anyhow::Result<Duration> {
        let milliseconds: u64 = self.monitor.call("GetIdletime", &()).context("Mutter does not answer")?;
        Ok(Duration::from_millis(milliseconds))
    }
}
