//! Battery, temperature and power, as the kernel tells them.
//!
//! in → `/sys` · out → what is known · invariant: a machine without the file answers "unknown"; a battery of a mouse is not
//! the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Kernel names of what measures a processor, of hwmon chips and of thermal zones.
const PROCESSORS: [&str; 10] = [
    "coretemp",
    "k10temp",
    "zenpower",
    "cpu_thermal",
    "cpu-thermal",
    "x86_pkg_temp",
    "soc_thermal",
    "soc-thermal",
    "apple_soc",
    "acpitz",
];

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Whether the machine runs on its battery; `None` without one.
pub fn on_battery(sys: &Path) -> Option<bool> {
    let supplies = folders(&sys.join("class/power_supply"));
    let is = |path: &PathBuf, kind: &str| text(&path.join("type")).is_some_and(|found| found == kind);
    // "Device" is what the kernel calls the scope of a mouse's or a headset's battery.
    let own = |path: &&PathBuf| is(path, "Battery") && text(&path.join("scope")).is_none_or(|scope| scope != "Device");
    let mut batteries = supplies.iter().filter(own).peekable();
    batteries.peek()?;
    let mains = |path: &PathBuf| is(path, "Mains") || is(path, "USB");
    let plugged = supplies.iter().filter(|path| mains(path)).filter_map(|path| text(&path.join("online")));
    let plugged: Vec<String> = plugged.collect();
    if plugged.iter().any(|online| online != "0") {
        return Some(false);
    }
    // Without a word about the mains, what the batteries do tells.
    let discharging = batteries.any(|path| text(&path.join("status")).is_some_and(|status| status == "Discharging"));
    Some(discharging || !plugged.is_empty())
}

/// The hottest part of the processor, in °C.
pub fn celsius(sys: &Path) -> Option<f32> {
    sensors(sys).into_iter().map(|(_, celsius)| celsius).reduce(f32::max)
}

/// Every sensor of the processor: its chip and what it says, in °C.
pub fn sensors(sys: &Path) -> Vec<(String, f32)> {
    let mut found = Vec::new();
    // A sensor that is not wired says nonsense.
    let degrees = |path: &Path| {
        let celsius = text(path)?.parse::<f32>().ok()? / 1000.0;
        (1.0..150.0).contains(&celsius).then_some(celsius)
    };
    let known = |name: &String| PROCESSORS.contains(&name.as_str());
    for chip in folders(&sys.join("class/hwmon")) {
        let Some(name) = text(&chip.join("name")).filter(known) else { continue };
        let inputs = folders(&chip).into_iter().filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("temp") && name.ends_with("_input"))
        });
        found.extend(inputs.filter_map(|path| degrees(&path)).map(|celsius| (name.clone(), celsius)));
    }
    if found.is_empty() {
        for zone in folders(&sys.join("class/thermal")) {
            let kind = text(&zone.join("type"));
            let kind = kind.filter(|kind| known(kind) || kind.starts_with("cpu"));
            found.extend(kind.zip(degrees(&zone.join("temp"))));
        }
    }
    found
}

/// Power of the processor's packages, from the kernel's energy counters.
#[derive(Debug, Default)]
pub struct Power {
    before: Option<(Instant, f64)>,
}

impl Power {
    /// Watts since the last call; `None` at the first one, where there is no counter, or where it may not be read (the
    /// kernel shows it to root alone since 5.10).
    pub fn watts(&mut self, sys: &Path, now: Instant) -> Option<f32> {
        let joules = joules(sys)?;
        let (then, before) = self.before.replace((now, joules))?;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        // A counter that wrapped tells nothing this once.
        (seconds > 0.0 && joules >= before).then(|| ((joules - before) / seconds) as f32)
    }
}

fn joules(sys: &Path) -> Option<f64> {
    let package = |path: &PathBuf| text(&path.join("name")).is_some_and(|name| name.starts_with("package-"));
    let energy = |path: PathBuf| text(&path.join("energy_uj"))?.parse::<f64>().ok();
    let all: Vec<f64> = folders(&sys.join("class/powercap")).into_iter().filter(package).filter_map(energy).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn write(sys: &Path, file: &str, text: &str) {
        let path = sys.join("class").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    #[test]
    fn the_machines_own_battery_counts() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        assert_eq!(on_battery(sys), None);
        write(sys, "power_supply/hidpp_battery_0/type", "Battery");
        write(sys, "power_supply/hidpp_battery_0/scope", "Device");
        write(sys, "power_supply/hidpp_battery_0/status", "Discharging");
        assert_eq!(on_battery(sys), None, "a mouse");
        write(sys, "power_supply/BAT0/type", "Battery");
        write(sys, "power_supply/BAT0/status", "Discharging");
        assert_eq!(on_battery(sys), Some(true));
        write(sys, "power_supply/AC/type", "Mains");
        for (online, battery) in [("1", false), ("0", true)] {
            write(sys, "power_supply/AC/online", online);
            assert_eq!(on_battery(sys), Some(battery));
        }
        write(sys, "power_supply/BAT0/status", "Not charging");
        assert_eq!(on_battery(sys), Some(true), "unplugged, whatever the battery says");
    }

    #[test]
    fn the_hottest_core_counts_and_nonsense_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        assert_eq!(celsius(sys), None);
        write(sys, "thermal/thermal_zone0/type", "cpu-thermal");
        write(sys, "thermal/thermal_zone0/temp", "48500");
        assert_eq!(celsius(sys), Some(48.5));
        write(sys, "hwmon/hwmon0/name", "coretemp");
        write(sys, "hwmon/hwmon0/temp1_input", "61000");
        write(sys, "hwmon/hwmon0/temp2_input", "72000");
        write(sys, "hwmon/hwmon0/temp3_input", "255000");
        write(sys, "hwmon/hwmon0/temp1_max", "100000");
        write(sys, "hwmon/hwmon1/name", "nvme");
        write(sys, "hwmon/hwmon1/temp1_input", "90000");
        assert_eq!(celsius(sys), Some(72.0));
    }

    #[test]
    fn power_is_energy_over_time() {
        let folder = tempfile::tempdir().unwrap();
        let (sys, start) = (folder.path(), Instant::now());
        let mut power = Power::default();
        assert_eq!(power.watts(sys, start), None);
        for (name, energy) in [("intel-rapl:0", "5000000"), ("intel-rapl:1", "1000000")] {
            write(sys, &format!("powercap/{name}/name"), &format!("package-{}", &name[11..]));
            write(sys, &format!("powercap/{name}/energy_uj"), energy);
        }
        write(sys, "powercap/intel-rapl:0:0/name", "core");
        write(sys, "powercap/intel-rapl:0:0/energy_uj", "77");
        assert_eq!(power.watts(sys, start), None, "the first look");
        write(sys, "powercap/intel-rapl:0/energy_uj", "65000000");
        assert_eq!(power.watts(sys, start + Duration::from_secs(2)), Some(30.0));
        write(sys, "powercap/intel-rapl:0/energy_uj", "1");
        assert_eq!(power.watts(sys, start + Duration::from_secs(3)), None, "wrapped");
    }
}
