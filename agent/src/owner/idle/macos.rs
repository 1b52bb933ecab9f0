//! macOS: IOKit's `HIDIdleTime`, and `pmset` for the battery, through the system's own tools. Not tried on a Mac yet; what
//! reads their answers is tested with samples of them.

use std::time::Duration;

/// The last `"HIDIdleTime" = N` of `ioreg -c IOHIDSystem -d 4`, in nanoseconds.
pub fn hid_idle(text: &str) -> Option<Duration> {
    let value = text.lines().find_map(|line| line.split_once("\"HIDIdleTime\" = "))?.1;
    Some(Duration::from_nanos(value.split_whitespace().next()?.parse().ok()?))
}

/// Whether `pmset -g batt` says that the machine draws from its battery; `None` without one.
pub fn on_battery(text: &str) -> Option<bool> {
    text.contains("InternalBattery").then(|| text.contains("'Battery Power'"))
}

#[cfg(target_os = "macos")]
pub use kit::{IoKit, battery};

#[cfg(target_os = "macos")]
mod kit {
    use crate::owner::idle::IdleSource;
    use anyhow::Context;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// A process is started for every answer: not more often than this.
    const FRESH: Duration = Duration::from_millis(400);

    /// IOKit's registry.
    #[derive(Debug)]
    pub struct IoKit {
        last: Option<(Instant, Duration)>,
    }

    impl IoKit {
        /// Asks once.
        pub fn open() -> anyhow::Result<Self> {
            let mut source = Self { last: None };
            source.idle()?;
            Ok(source)
        }
    }

    impl IdleSource for IoKit {
        fn name(&self) -> String {
            "IOKit (HIDIdleTime)".into()
        }

        fn idle(&mut self) -> anyhow::Result<Duration> {
            if let Some((at, idle)) = self.last.filter(|(at, _)| at.elapsed() < FRESH) {
                return Ok(idle + at.elapsed());
            }
            let text = output(&["/usr/sbin/ioreg", "-c", "IOHIDSystem", "-d", "4"])?;
            let idle = super::hid_idle(&text).context("IOKit has no HIDIdleTime")?;
            self.last = Some((Instant::now(), idle));
            Ok(idle)
        }
    }

    /// Whether the machine draws from its battery.
    pub fn battery() -> Option<bool> {
        super::on_battery(&output(&["/usr/bin/pmset", "-g", "batt"]).ok()?)
    }

    fn output(command: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(command[0]).args(&command[1..]).output().context(command[0].to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_answers_are_understood() {
        let ioreg = "  | |   \"HIDIdleTime\" = 4527830958\n  | |   \"HIDServiceSupport\" = Yes\n";
        assert_eq!(hid_idle(ioreg), Some(Duration::from_nanos(4_527_830_958)));
        assert_eq!(hid_idle("nothing"), None);
        let pmset = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t81%; discharging;";
        assert_eq!(on_battery(pmset), Some(true));
        assert_eq!(on_battery(&pmset.replace("'Battery Power'", "'AC Power'")), Some(false));
        assert_eq!(on_battery("Now drawing from 'AC Power'\n"), None);
    }
}
