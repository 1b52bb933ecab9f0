//! A good guest: when this machine may work, and what happens when its owner returns.
//!
//! in → input, load, battery, heat, programs, hours, what the owner says by hand · out → [`Verdict`]s for the session ·
//! invariant: sources are thin and say what they are; what decides is [`decide()`], which is pure.
//!
//! [`idle`], [`procfs`], [`sysfs`] → [`watch`] (a thread) → [`decide()`] → a channel → `session`, which stops accepting, hands
//! work back and frees the memory; [`held`] looks whether it is free. [`control`] is what the owner's commands and page talk to.

pub mod control;
pub mod decide;
pub mod held;
pub mod history;
pub mod hours;
pub mod idle;
pub mod page;
pub mod procfs;
pub mod rules;
pub mod socket;
pub mod sysfs;
pub mod watch;

pub use decide::{Cause, Manual, Now, Pause, Seen, Signals, Verdict, decide};
pub use rules::{Rules, When};

use std::path::PathBuf;

/// Where the kernel's files are; other folders in tests.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into() }
    }
}
