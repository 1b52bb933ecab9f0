//! systemd-logind: what desktops and terminals tell it.
//!
//! in → the manager's `IdleHint` and `IdleSinceHintMonotonic` · out → since when every session is idle · invariant: no session
//! says it is idle while one is used. A desktop sets the hint when its own idle time is over (GNOME: 5 minutes).

use super::IdleSource;
use anyhow::{Context, bail};
use std::time::Duration;
use zbus::blocking::{Connection, Proxy, connection::Builder};

/// Longest wait for an answer of the bus.
const PATIENCE: Duration = Duration::from_secs(2);

/// logind's manager.
#[derive(Debug)]
pub struct Logind {
    manager: Proxy<'static>,
}

impl Logind {
    /// Connects to the bus, and asks once.
    pub fn open(bus: Option<&str>) -> anyhow::Result<Self> {
        let builder = match bus {
            Some(address) => Builder::address(address)?,
            None => Builder::system()?,
        };
        let connection: Connection = builder.method_timeout(PATIENCE).build().context("no system bus")?;
        let manager = zbus::blocking::proxy::Builder::new(&connection)
            .destination("org.freedesktop.login1")?
            .path("/org/freedesktop/login1")?
            .interface("org.freedesktop.login1.Manager")?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .context("no logind")?;
        let mut source = Self { manager };
        source.idle()?;
        Ok(source)
    }
}

impl IdleSource for Logind {
    fn name(&self) -> String {
        "logind (IdleHint)".into()
    }

    fn idle(&mut self) -> anyhow::Result<Duration> {
        let idle: bool = self.manager.get_property("IdleHint").context("logind does not answer")?;
        if !idle {
            return Ok(Duration::ZERO);
        }
        let since: u64 = self.manager.get_property("IdleSinceHintMonotonic").context("logind does not answer")?;
        // Microseconds since boot; 0 where no session ever was.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).context("no clock")?;
        let now = Duration::from(now);
        match now.checked_sub(Duration::from_micros(since)) {
            Some(idle) => Ok(idle),
            None => bail!("logind has another clock"),
        }
    }
}
