//! In: tasks that come to devices and leave them → out: who is where, what is free, and what a task more would cost.
//! Invariant: what devices hold is never more than they have.

use super::instance::Instance;

/// On no device.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Tasks on devices.
#[derive(Clone)]
pub(super) struct Seats<'i> {
    pub instance: &'i Instance,
    /// By task.
    pub at: Vec<u32>,
    /// By device, in the order of the requests.
    pub on: Vec<Vec<u32>>,
    pub free: Vec<u64>,
    pub seats: Vec<u32>,
}

impl<'i> Seats<'i> {
    /// No task on any.
    pub fn empty(instance: &'i Instance) -> Self {
        Self {
            instance,
            at: vec![NOWHERE; instance.tasks.len()],
            on: vec![Vec::new(); instance.devices.len()],
            free: instance.devices.iter().map(|device| device.free).collect(),
            seats: instance.devices.iter().map(|device| device.seats).collect(),
        }
    }

    pub fn put(&mut self, task: u32, device: u32) {
        let at = device as usize;
        let position = self.on[at].partition_point(|other| *other < task);
        self.on[at].insert(position, task);
        self.free[at] = self.free[at].saturating_sub(self.instance.tasks[task as usize].memory);
        self.seats[at] = self.seats[at].saturating_sub(1);
        self.at[task as usize] = device;
    }

    pub fn remove(&mut self, task: u32) {
        let at = self.at[task as usize] as usize;
        self.on[at].retain(|other| *other != task);
        self.free[at] += self.instance.tasks[task as usize].memory;
        self.seats[at] += 1;
        self.at[task as usize] = NOWHERE;
    }

    /// Whether a task has room on a device that those in `gone` have left.
    pub fn has_room(&self, task: u32, device: u32, gone: &[u32]) -> bool {
        let left: u64 = gone.iter().map(|other| self.instance.tasks[*other as usize].memory).sum();
        self.seats[device as usize] as usize + gone.len() > 0
            && self.free[device as usize] + left >= self.instance.tasks[task as usize].memory
    }

    /// What a task costs on a device beside those there, but for those in `gone`: its own cost, its wait for those before
    /// it, and the wait of those behind; `None` where one of them would be late.
    pub fn with(&self, task: u32, device: u32, gone: &[u32]) -> Option<f32> {
        let instance = self.instance;
        let own = instance.costs(task)[device as usize];
        if own == f32::INFINITY {
            return None;
        }
        let others = &self.on[device as usize];
        if others.len() <= gone.len() {
            return Some(own);
        }
        let (delay, waiting) = (instance.delay(task, device), instance.tasks[task as usize].waiting);
        let (mut ahead, mut behind, mut passed) = (0.0, 0.0, false);
        for &other in others.iter().filter(|other| **other != task && !gone.contains(other)) {
            if other > task && !passed {
                passed = true;
                if ahead > instance.slack(task, device) {
                    return None;
                }
                behind = waiting * ahead;
                ahead += delay;
            }
            if passed {
                if ahead > instance.slack(other, device) {
                    return None;
                }
                behind += instance.tasks[other as usize].waiting * delay;
            }
            ahead += instance.delay(other, device);
        }
        if !passed {
            if ahead > instance.slack(task, device) {
                return None;
            }
            behind = waiting * ahead;
        }
        Some(own + behind)
    }
}
