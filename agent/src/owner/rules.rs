//! What the owner wants looked at, checked.

use super::hours::Hours;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Whether the owner's own use of the machine counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Work while nobody uses the machine: input, other programs, battery and excluded programs count.
    #[default]
    Idle,
    /// A dedicated machine: hours, temperature, power and `pause` alone count.
    Always,
}

impl When {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Always => "always",
        }
    }
}

/// The rules of `owner::decide`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Whether the owner's use counts at all.
    pub when: When,
    /// Without input for this long the machine is idle.
    pub idle_after: Duration,
    /// Whether to work on battery.
    pub on_battery: bool,
    /// Most of the processor, in percent of all cores, that other programs may use; `None`: it does not matter.
    pub other_programs: Option<f32>,
    /// What ended must stay away for this long before work begins again.
    pub resume_after: Duration,
    /// No work while one of these runs: process names as `ps -o comm` prints them.
    pub excluded: Vec<String>,
    /// When work is allowed.
    pub hours: Hours,
    /// Hottest processor, in °C.
    pub temperature: Option<f32>,
    /// Most power of the processor's package, in watts.
    pub power: Option<f32>,
    /// Longest that an attempt which is almost done may go on when the owner returns.
    pub grace: Duration,
}

impl Default for Rules {
    /// The defaults of a fresh config file.
    fn default() -> Self {
        Self {
            when: When::Idle,
            idle_after: Duration::from_secs(180),
            on_battery: false,
            other_programs: Some(25.0),
            resume_after: Duration::from_secs(30),
            excluded: Vec::new(),
            hours: Hours::default(),
            temperature: Some(90.0),
            power: None,
            grace: Duration::from_millis(500),
        }
    }
}
