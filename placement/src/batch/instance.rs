//! In: tasks that have a place, and devices without them → out: what each costs on each, and what it takes there.
//! Invariant: every task fits the device it has, where all others are as they were.

use super::Member;
use crate::index::{Like, Place, Side};
use crate::latency::LEAST_SERVICE_NANOS;
use crate::plan::decide::Spot;
use crate::pool::Pool;
use crate::score::{Weights, asks};
use nightshift_types::{Bytes, JobSpec, Objective};
use std::collections::HashMap;

const NANOS_A_MS: f32 = 1e6;
/// No row of slack.
const NONE: u32 = u32::MAX;

/// Tasks, in the order of the requests, and devices.
pub(super) struct Instance {
    pub tasks: Vec<Task>,
    pub devices: Vec<Device>,
    /// Of a row; rows are padded with what does not fit.
    pub width: usize,
    costs: Vec<f32>,
    slack: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    row: u32,
    slack: u32,
    pub memory: u64,
    /// The same, as [`Device::show`] is held against it.
    pub need: f32,
    /// What a nanosecond of waiting costs.
    pub waiting: f32,
    reference: f32,
    /// Its job, as a number.
    job: u32,
    /// The device it has.
    pub own: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    pub free: u64,
    pub seats: u32,
    slots: f32,
    slowness: f32,
}

/// What makes tasks cost the same everywhere, beside their job.
type Alike<'r> = (*const JobSpec, Bytes, crate::estimate::ModelEstimate);

impl Instance {
    /// `None` where a member does not fit what it has: floats cannot tell.
    pub fn new(pool: &Pool, members: &[Member<'_>], spots: &[Spot], weights: &Weights) -> Option<Self> {
        let index = &pool.index;
        let places: Vec<Place> = spots.iter().map(|spot| super::place_of(pool, *spot)).collect::<Option<_>>()?;
        let rooms = places.iter().map(|place| index.room(*place).unwrap_or((0, 0, 1)));
        let mut side = Side::new(index, places.clone());
        let devices: Vec<Device> = rooms
            .zip(side.slowness())
            .map(|((free, seats, slots), slowness)| Device { free, seats, slots: slots as f32, slowness })
            .collect();
        let width = side.width();
        let (costs, slack) = (Vec::with_capacity(width * members.len()), Vec::new());
        let mut made = Self { tasks: Vec::with_capacity(members.len()), devices, width, costs, slack };
        let mut known: HashMap<Alike<'_>, (u32, u32, Like)> = HashMap::new();
        let mut jobs: HashMap<*const JobSpec, u32> = HashMap::new();
        let mut spare = vec![0.0; width];
        for member in members {
            let ask = member.ask();
            let own = spots.binary_search(&member.spot).ok()?;
            let alike = (std::ptr::from_ref(ask.spec), ask.input, ask.estimate);
            let (row, slack, like) = match known.get(&alike) {
                Some(row) if ask.budget.is_none() && ask.avoid.is_empty() && made.fits(row.0, own) => *row,
                _ => {
                    let start = made.costs.len();
                    made.costs.resize(start + width, f32::INFINITY);
                    let costs = &mut made.costs[start..];
                    let like = side.weigh(index, &ask, weights, own, (&mut *costs, &mut spare))?;
                    if like.fixed {
                        costs[own] = 0.0;
                    } else if ask.spec.objective == Objective::Fastest {
                        costs.iter_mut().for_each(|cost| *cost *= worth(weights));
                    }
                    let slack = made.keep_slack(&like, &mut spare);
                    let row = ((start / width) as u32, slack, like);
                    if like.shared && ask.budget.is_none() {
                        known.insert(alike, row);
                    }
                    row
                }
            };
            let factor = if ask.spec.objective == Objective::Fastest { worth(weights) } else { 1.0 };
            let memory = ask.spec.memory.0;
            let more = jobs.len() as u32;
            let job = *jobs.entry(std::ptr::from_ref(ask.spec)).or_insert(more);
            made.tasks.push(Task {
                row,
                slack,
                memory,
                need: memory as f32,
                waiting: like.by_time * factor,
                reference: like.reference,
                job,
                own: own as u32,
            });
        }
        Some(made)
    }

    fn fits(&self, row: u32, device: usize) -> bool {
        self.costs[row as usize * self.width + device] < f32::INFINITY
    }

    fn keep_slack(&mut self, like: &Like, slack: &mut [f32]) -> u32 {
        if !like.limited {
            return NONE;
        }
        if like.fixed {
            slack.fill(0.0);
        }
        // A little less than floats say, so that the limit is kept.
        self.slack.extend(slack.iter().map(|slack| slack * 0.9999 - 1e5));
        (self.slack.len() / self.width - 1) as u32
    }

    /// What a task costs on each device, alone.
    pub fn costs(&self, task: u32) -> &[f32] {
        let start = self.tasks[task as usize].row as usize * self.width;
        &self.costs[start..start + self.width]
    }

    /// What a task costs on the device it has.
    pub fn own_cost(&self, task: &Task) -> f32 {
        self.costs[task.row as usize * self.width + task.own as usize]
    }

    /// Nanoseconds that a task may wait on a device for others of the plan.
    pub fn slack(&self, task: u32, device: u32) -> f32 {
        match self.tasks[task as usize].slack {
            NONE => f32::INFINITY,
            row => self.slack[row as usize * self.width + device as usize],
        }
    }

    /// How long those behind a task on a device wait for it, nanoseconds.
    pub fn delay(&self, task: u32, device: u32) -> f32 {
        let at = &self.devices[device as usize];
        let nanos = (self.tasks[task as usize].reference * at.slowness).max(LEAST_SERVICE_NANOS as f32);
        let whole = (nanos / NANOS_A_MS) as i64 as f32;
        let millis = if whole * NANOS_A_MS < nanos { whole + 1.0 } else { whole };
        millis * NANOS_A_MS / at.slots
    }

    /// Which job a task is of, as a number.
    pub fn job(&self, task: u32) -> u32 {
        self.tasks[task as usize].job
    }

    /// Tasks of one class cost and take the same everywhere.
    pub fn are_alike(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.tasks[a as usize], &self.tasks[b as usize]);
        (a.row, a.memory) == (b.row, b.memory)
    }
}

/// What a nanosecond is worth to a task that is to be fast.
fn worth(weights: &Weights) -> f32 {
    asks(weights.waiting_per_hour).max(1) as f32
}
