//! What the measuring programs share: times of runs → rows on standard output, one JSON object a line after the word "row".
//! `bench/report.py` turns them into medians, tables and `bench/results/`.
#![allow(dead_code)] // each program uses its part

use std::time::{Duration, Instant};

/// Times that everything is measured, ours and the peer's in turns.
pub const TURNS: usize = 5;

/// The same figure of every turn, and CPU microseconds a unit where known.
#[derive(Default)]
pub struct Runs {
    values: Vec<f64>,
    cpu: Vec<f64>,
}

impl Runs {
    /// A figure of one turn.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The median of the turns so far.
    pub fn median(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// A rate of one turn, with what each cost.
    pub fn rate(&mut self, count: usize, clock: &Clock) {
        let (wall, cpu) = clock.read();
        self.values.push(count as f64 / wall.as_secs_f64());
        self.cpu.extend(cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / count as f64));
    }
}

/// Wall time and CPU time, of this process and of those it started, since the start.
pub struct Clock {
    wall: Instant,
    cpu: Option<Duration>,
}

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self { cpu: cpu(), wall: Instant::now() }
    }

    /// Wall time so far.
    pub fn wall(&self) -> Duration {
        self.wall.elapsed()
    }

    fn read(&self) -> (Duration, Option<Duration>) {
        let wall = self.wall.elapsed();
        (wall, self.cpu.and_then(|then| Some(cpu()?.saturating_sub(then))))
    }
}

/// What ours is held against.
pub enum Peer<'a> {
    /// Nothing.
    None,
    /// Measured here, in turns with ours.
    Measured(&'a str, &'a Runs),
    /// Said elsewhere; the name says where.
    Published(&'a str, f64),
}

/// Prints a row. `goal` is empty, or `ratio` or `value`, `>=` or `<=`, and a number.
pub fn row(name: &str, unit: &str, goal: &str, ours: &Runs, peer: &Peer<'_>) {
    let (who, runs, cpu) = match peer {
        Peer::None => ("", vec![], &[][..]),
        Peer::Measured(name, runs) => (*name, runs.values.clone(), &runs.cpu[..]),
        Peer::Published(name, value) => (*name, vec![*value], &[][..]),
    };
    // Names are plain text, of which Rust's quoting is JSON's.
    println!(
        "row {{\"name\":{name:?},\"unit\":{unit:?},\"goal\":{goal:?},\"runs\":{:?},\"cpu_us\":{:?},\"peer\":{who:?},\"peer_runs\":{runs:?},\"peer_cpu_us\":{cpu:?}}}",
        ours.values, ours.cpu,
    );
}

/// The value below which `share` of the times are, in microseconds.
pub fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    times[(last as f64 * share).ceil() as usize].as_nanos() as f64 / 1e3
}

/// Resident memory of this process in bytes; Linux only.
pub fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? * 1024.0)
}

/// CPU time of this process and of its living children, in steps of 10 ms; Linux only.
fn cpu() -> Option<Duration> {
    let own = ticks("self")?;
    let children = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: u64 = children.flat_map(|pids| pids.split(' ').filter_map(ticks).collect::<Vec<_>>()).sum();
    Some(Duration::from_millis((own + children) * 10))
}

/// User and system time of a process, in ticks, of which Linux shows 100 a second.
fn ticks(pid: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}
