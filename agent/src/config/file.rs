//! The owner's file, `agent.toml`.
//!
//! in → TOML, changes by flags and environment · out → [`Settings`], each value checked · invariant: a default is written here
//! and nowhere else; what a fresh file says is what no file says.

use super::values::{duration, matches, percent};
use crate::owner::hours::Hours;
use crate::owner::rules::{Rules, When};
use nightshift_types::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `nightshift-agent config init` writes.
pub const TEMPLATE: &str = include_str!("agent.toml");

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where agents are listened for.
    pub server: Vec<String>,
    /// Wanted name; empty: the host's.
    pub name: String,
    /// Points an hour.
    pub price_per_hour: String,
    /// Where the machine stands.
    pub region: String,
    /// For jobs to select.
    pub labels: BTreeMap<String, String>,
    /// When.
    pub availability: Availability,
    /// How much.
    pub limits: Limits,
    /// For whom.
    pub accept: Accept,
    /// Whom it tells.
    pub local: Local,
}

/// `[availability]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Availability {
    /// idle or always.
    pub when: When,
    /// Duration.
    pub idle_after: String,
    /// Whether to work without mains.
    pub on_battery: bool,
    /// Percent, or `none`.
    pub other_programs: String,
    /// Duration.
    pub resume_after: String,
    /// Process names.
    pub excluded_programs: Vec<String>,
    /// Degrees Celsius; 0: none.
    pub temperature_limit: f32,
    /// IANA name, or `system`.
    pub time_zone: String,
    /// Windows.
    pub hours: Vec<String>,
    /// Windows.
    pub quiet_hours: Vec<String>,
    /// Duration.
    pub grace: String,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Quantity or percent: with `when = "always"`.
    pub memory_busy: String,
    /// Quantity or percent: with `when = "idle"`.
    pub memory_idle: String,
    /// Quantity.
    pub cache_disk: String,
    /// 0: all cores.
    pub threads: u16,
    /// At once.
    pub attempts: u16,
    /// Watts; 0: none.
    pub power: f32,
    /// Whether to start without a sandbox.
    pub require_sandbox: bool,
}

/// `[accept]`: allow and deny lists of patterns; denied wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accept {
    /// `namespace/name` patterns.
    pub models: Vec<String>,
    /// The same, never.
    pub deny_models: Vec<String>,
    /// Namespaces (tenants) whose models may run.
    pub tenants: Vec<String>,
    /// The same, never.
    pub deny_tenants: Vec<String>,
}

/// `[local]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Local {
    /// Loopback address, or `none`.
    pub page: String,
    /// Loopback address, or `none`.
    pub metrics: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: Vec::new(),
            name: String::new(),
            price_per_hour: "0.05".into(),
            region: String::new(),
            labels: BTreeMap::new(),
            availability: Availability::default(),
            limits: Limits::default(),
            accept: Accept::default(),
            local: Local::default(),
        }
    }
}

impl Default for Availability {
    fn default() -> Self {
        Self {
            when: When::Idle,
            idle_after: "3m".into(),
            on_battery: false,
            other_programs: "25%".into(),
            resume_after: "30s".into(),
            excluded_programs: Vec::new(),
            temperature_limit: 90.0,
            time_zone: "system".into(),
            hours: Vec::new(),
            quiet_hours: Vec::new(),
            grace: "500ms".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_busy: "50%".into(),
            memory_idle: "90%".into(),
            cache_disk: "20Gi".into(),
            threads: 0,
            attempts: 64,
            power: 0.0,
            require_sandbox: false,
        }
    }
}

impl Default for Accept {
    fn default() -> Self {
        let all = || vec!["*".to_string()];
        Self { models: all(), deny_models: Vec::new(), tenants: all(), deny_tenants: Vec::new() }
    }
}

impl Default for Local {
    fn default() -> Self {
        Self { page: "127.0.0.1:0".into(), metrics: "none".into() }
    }
}

/// Part of a device's memory, or an amount of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Percent.
    Percent(u8),
    /// Bytes.
    Most(Bytes),
}

/// `4Gi` or `25%`.
pub fn share(text: &str) -> Result<Share, String> {
    if text.trim().ends_with('%') { percent(text).map(Share::Percent) } else { bytes(text).map(Share::Most) }
}

/// `4Gi`.
pub fn bytes(text: &str) -> Result<Bytes, String> {
    text.parse().map_err(|error| format!("{error}"))
}

impl Settings {
    /// Reads a file; `set` are further `section.key=value`, which win. A file that is not there is an empty one, unless
    /// it was `named`. The error names file, field and remedy.
    pub fn read(path: Option<&Path>, named: bool, set: &[String]) -> Result<Self, String> {
        let shown = path.map_or_else(|| "the config".into(), |path| path.display().to_string());
        let text = match path.map(std::fs::read_to_string) {
            None => String::new(),
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
            Some(Err(error)) => {
                return Err(format!("{shown}: cannot be read: {error}; `nightshift-agent config init` writes one"));
            }
        };
        let mut settings = Self::parse(&text).map_err(|error| format!("{shown}: {error}"))?;
        for change in set {
            settings = settings.with(change).map_err(|error| format!("--set {change:?}: {error}"))?;
        }
        Ok(settings)
    }

    /// Parses the text of a file, and checks what it says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
            });
            let field =
                error.span().and_then(|span| text.lines().nth(line.saturating_sub(1)).filter(|_| !span.is_empty()));
            format!("line {line} ({}): {}", field.unwrap_or_default().trim(), error.message().replace('\n', "; "))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// With one `section.key=value` more; the value is TOML, or a bare word.
    fn with(&self, change: &str) -> Result<Self, String> {
        let (key, value) = change.split_once('=').ok_or("must be KEY=VALUE, such as availability.idle_after=5m")?;
        let (key, value) = (key.trim(), value.trim());
        let quoted = format!("{key} = {}", toml::Value::String(value.into()));
        let line = format!("{key} = {value}");
        let merged = |line: &str| -> Result<Self, String> {
            let change: toml::Table = line.parse().map_err(|error: toml::de::Error| error.message().to_string())?;
            let mut all = toml::Table::try_from(self).map_err(|error| error.to_string())?;
            merge(&mut all, change);
            let settings: Self = all.try_into().map_err(|error: toml::de::Error| error.message().to_string())?;
            settings.check()?;
            Ok(settings)
        };
        merged(&line).or_else(|first| {
            merged(&quoted).map_err(|second| if first.contains("invalid type") { first } else { second })
        })
    }

    /// Says what is wrong: the field, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        self.rules()?;
        let limits = &self.limits;
        field("limits.memory_busy", share(&limits.memory_busy))?;
        field("limits.memory_idle", share(&limits.memory_idle))?;
        field("limits.cache_disk", bytes(&limits.cache_disk))?;
        if limits.threads > 1024 {
            return Err("limits.threads: at most 1024; 0 takes all cores".into());
        }
        if !(1..=256).contains(&limits.attempts) {
            return Err("limits.attempts: must be 1 to 256".into());
        }
        field("local.page", super::loopback("127.0.0.1:7440", &self.local.page))?;
        field("local.metrics", super::loopback("127.0.0.1:9464", &self.local.metrics))?;
        self.offer().map(drop)
    }

    /// Price, region, labels.
    pub fn offer(&self) -> Result<nightshift_types::Offer, String> {
        super::offer(&self.price_per_hour, &self.region, &self.labels, |name| name.to_string())
    }

    /// Memory of each device that may be used.
    pub fn memory(&self) -> Result<Share, String> {
        match self.availability.when {
            When::Idle => field("limits.memory_idle", share(&self.limits.memory_idle)),
            When::Always => field("limits.memory_busy", share(&self.limits.memory_busy)),
        }
    }

    /// What the owner wants looked at.
    pub fn rules(&self) -> Result<Rules, String> {
        let own = &self.availability;
        let other_programs = match own.other_programs.as_str() {
            "none" => None,
            text => Some(f32::from(field("availability.other_programs", percent(text))?)),
        };
        let grace = field("availability.grace", duration(&own.grace))?;
        if grace > Duration::from_secs(60) {
            return Err("availability.grace: at most 60s: the owner waits that long for the memory".into());
        }
        let excluded: Vec<String> = own.excluded_programs.iter().map(|name| name.trim().to_string()).collect();
        if excluded.iter().any(|name| name.is_empty() || name.contains('/')) {
            return Err("availability.excluded_programs: names as `ps -o comm` prints them, without a path".into());
        }
        Ok(Rules {
            when: own.when,
            idle_after: field("availability.idle_after", duration(&own.idle_after))?,
            on_battery: own.on_battery,
            other_programs,
            resume_after: field("availability.resume_after", duration(&own.resume_after))?,
            excluded,
            hours: self.hours()?,
            temperature: limit(
                "availability.temperature_limit",
                own.temperature_limit,
                30.0..=120.0,
                "30 to 120 (°C)",
            )?,
            power: limit("limits.power", self.limits.power, 1.0..=5000.0, "1 to 5000 (watts)")?,
            grace,
        })
    }

    fn hours(&self) -> Result<Hours, String> {
        let own = &self.availability;
        let zone = match own.time_zone.as_str() {
            "system" => jiff::tz::TimeZone::system(),
            name => {
                let remedy = "name one as in \"Europe/Berlin\", or say \"system\"";
                field("availability.time_zone", jiff::tz::TimeZone::get(name).map_err(|e| format!("{e}; {remedy}")))?
            }
        };
        let windows = |name: &str, texts: &[String]| {
            texts.iter().map(|text| field(name, text.parse())).collect::<Result<Vec<_>, String>>()
        };
        let (hours, quiet) =
            (windows("availability.hours", &own.hours)?, windows("availability.quiet_hours", &own.quiet_hours)?);
        Ok(Hours::new(zone, hours, quiet))
    }
}

impl Accept {
    /// Why the owner does not want this model here; `None`: it may run. `model` is `namespace/name`.
    pub fn refuses(&self, model: &str) -> Option<String> {
        let tenant = model.split_once('/').map_or("", |(tenant, _)| tenant);
        let any = |patterns: &[String], text: &str| patterns.iter().any(|pattern| matches(pattern, text));
        let (what, name) = if any(&self.deny_tenants, tenant) || !any(&self.tenants, tenant) {
            ("tenant", tenant)
        } else if any(&self.deny_models, model) || !any(&self.models, model) {
            ("model", model)
        } else {
            return None;
        };
        Some(format!("NotAllowed: the owner of this machine does not run {what} {name:?}"))
    }
}

fn field<T, E: Display>(name: &str, value: Result<T, E>) -> Result<T, String> {
    value.map_err(|error| format!("{name}: {error}"))
}

fn limit(name: &str, value: f32, range: std::ops::RangeInclusive<f32>, words: &str) -> Result<Option<f32>, String> {
    match value {
        0.0 => Ok(None),
        value if range.contains(&value) => Ok(Some(value)),
        value => Err(format!("{name}: {value} must be {words}, or 0 for no limit")),
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// `$XDG_CONFIG_HOME/nightshift/agent.toml` (or `~/.config/…`); on macOS `~/Library/Application Support/nightshift/agent.toml`.
pub fn default_path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(target_os = "macos") {
        absolute("HOME")?.join("Library/Application Support")
    } else {
        absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?
    };
    Some(base.join("nightshift/agent.toml"))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
