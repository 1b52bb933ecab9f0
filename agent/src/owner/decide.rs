//! May this machine work now? Pure: no clock, no files.
//!
//! in → what was seen, the rules, what was seen before, the time · out → [`Verdict`], and what to remember · invariant: never
//! `Work` while a rule is broken or was within `resume_after`; `Work` once all of them were kept for that long.

use super::rules::{Rules, When};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A limit that was passed is kept again only so far below: 5 °C, a tenth of the watts and of the percents.
const COOLER: f32 = 5.0;
const LESS: f32 = 0.9;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident => $wire:literal;)*) => {
        /// Why a machine pauses, most important first; the name is shown to the owner and in metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Cause { $($(#[$doc])* $name,)* }
        impl Cause {
            /// Every cause.
            pub const ALL: &[Cause] = &[$(Self::$name,)*];
            /// The word.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
            /// The scheduler's word, which has fewer: the message says the rest.
            pub fn wire(self) -> &'static str { match self { $(Self::$name => $wire,)* } }
        }
    };
}

causes! {
    /// The owner said `pause`.
    Paused => "OwnerActive";
    /// Not in these hours.
    OutsideWindow => "OutsideWindow";
    /// No mains.
    OnBattery => "OnBattery";
    /// Too hot.
    Hot => "Hot";
    /// Draws more power than allowed.
    PowerLimit => "Hot";
    /// A program runs beside which nothing may.
    ExcludedProgram => "OwnerActive";
    /// Somebody uses keyboard, mouse or touch.
    OwnerActive => "OwnerActive";
    /// Other programs need the processor.
    OtherPrograms => "OwnerActive";
}

/// What the sources say now; `None`: nobody can tell, and the rule does not hold anything up.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signals {
    /// Seconds since the last input.
    pub idle_seconds: Option<f64>,
    /// Percent of all cores that other programs use.
    pub other_programs_percent: Option<f32>,
    /// Whether the machine runs on battery.
    pub on_battery: Option<bool>,
    /// Hottest part of the processor, in °C.
    pub celsius: Option<f32>,
    /// Power of the processor's package.
    pub watts: Option<f32>,
    /// An excluded program that runs.
    pub excluded_program: Option<String>,
}

/// What the owner said by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Manual {
    /// Nothing, or `resume`.
    #[default]
    No,
    /// `pause`.
    Paused,
    /// `pause --for`, until then.
    Until(Timestamp),
}

/// The time: one clock that never jumps, one that people read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since some moment, for durations.
    pub running: Duration,
    /// The wall's.
    pub wall: Timestamp,
}

/// When each cause held last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen(BTreeMap<Cause, Duration>);

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The owner lets us.
    Work,
    /// Not now.
    Pause(Pause),
}

/// Why not now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// The first cause that holds.
    pub reason: Cause,
    /// For people.
    pub message: String,
}

/// Decides, and answers what to remember for the next time.
pub fn decide(signals: &Signals, rules: &Rules, manual: Manual, before: &Seen, now: Now) -> (Verdict, Seen) {
    let mut seen = before.clone();
    // A shorter `resume_after` of a reloaded config counts at once.
    seen.0.retain(|cause, at| lingers(*cause) && now.running.saturating_sub(*at) < rules.resume_after);
    let mut first = None;
    for cause in Cause::ALL {
        if let Some(message) = holds(*cause, signals, rules, manual, before.0.contains_key(cause), now) {
            seen.0.insert(*cause, now.running);
            first.get_or_insert(Pause { reason: *cause, message });
        }
    }
    let over = seen.0.iter().map(|(cause, at)| (*cause, now.running.saturating_sub(*at)));
    let first = first.or_else(|| {
        over.filter(|(cause, _)| counts(*cause, rules)).map(|(cause, ago)| lately(cause, ago, rules)).next()
    });
    (first.map_or(Verdict::Work, Verdict::Pause), seen)
}

/// Whether a cause that ended holds work up for a while: what the owner said and the hours are exact, and input has its
/// own, longer time.
fn lingers(cause: Cause) -> bool {
    !matches!(cause, Cause::Paused | Cause::OutsideWindow | Cause::OwnerActive)
}

/// Whether a cause counts on this machine.
fn counts(cause: Cause, rules: &Rules) -> bool {
    use Cause::{ExcludedProgram, OnBattery, OtherPrograms, OwnerActive};
    rules.when == When::Idle || !matches!(cause, OnBattery | ExcludedProgram | OwnerActive | OtherPrograms)
}

fn lately(reason: Cause, ago: Duration, rules: &Rules) -> Pause {
    let what = match reason {
        Cause::OnBattery => "the machine was on battery",
        Cause::Hot => "the processor was too hot",
        Cause::PowerLimit => "the processor drew too much power",
        Cause::ExcludedProgram => "an excluded program ran",
        _ => "other programs used the processor",
    };
    let left = rules.resume_after.saturating_sub(ago);
    Pause { reason, message: format!("{what} a moment ago; work begins again in {} s", left.as_secs() + 1) }
}

/// Why a cause holds now; `held`: it did lately, so that a limit must be clearly kept.
fn holds(cause: Cause, seen: &Signals, rules: &Rules, manual: Manual, held: bool, now: Now) -> Option<String> {
    if !counts(cause, rules) {
        return None;
    }
    let over = |value: Option<f32>, limit: Option<f32>, lower: f32| {
        value.zip(limit).filter(|(value, limit)| *value > if held { lower } else { *limit })
    };
    match cause {
        Cause::Paused => match manual {
            Manual::No => None,
            Manual::Paused => Some("paused by hand, until `nightshift-agent resume`".into()),
            Manual::Until(end) if now.wall < end => Some(format!("paused by hand until {end:.0}")),
            Manual::Until(_) => None,
        },
        Cause::OutsideWindow => (!rules.hours.open(now.wall)).then(|| match rules.hours.next_change(now.wall) {
            Some(change) => format!("outside the hours you set; work begins {change}"),
            None => "outside the hours you set".into(),
        }),
        Cause::OnBattery => (!rules.on_battery && seen.on_battery == Some(true)).then(|| "on battery".into()),
        Cause::Hot => {
            let lower = rules.temperature.unwrap_or(0.0) - COOLER;
            let hot = over(seen.celsius, rules.temperature, lower)?;
            Some(format!("the processor has {:.0} °C, the limit is {:.0} °C", hot.0, hot.1))
        }
        Cause::PowerLimit => {
            let much = over(seen.watts, rules.power, rules.power.unwrap_or(0.0) * LESS)?;
            Some(format!("the processor draws {:.0} W, the limit is {:.0} W", much.0, much.1))
        }
        Cause::ExcludedProgram => seen.excluded_program.as_ref().map(|name| format!("{name} runs")),
        Cause::OwnerActive => {
            let idle = seen.idle_seconds?;
            let wanted = rules.idle_after.as_secs_f64();
            (idle < wanted)
                .then(|| format!("somebody uses this machine; work begins after {wanted:.0} s without input"))
        }
        Cause::OtherPrograms => {
            let busy =
                over(seen.other_programs_percent, rules.other_programs, rules.other_programs.unwrap_or(0.0) * LESS)?;
            Some(format!("other programs use {:.0} % of the processor, the limit is {:.0} %", busy.0, busy.1))
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
