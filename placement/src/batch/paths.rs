//! In: tasks and devices → out: the tasks on devices where they cost little together.
//! Invariant: each task that was put on a device stays on one; memory, slots and time limits hold after every step.
//!
//! Shortest augmenting paths with prices (Jonker and Volgenant 1987: "A shortest augmenting path algorithm for dense and
//! sparse linear assignment problems"). Tasks come one after another, first what costs much for the
//! memory it takes. Each takes the place that costs all
//! together least: a free one; or that of another task, which moves to where it costs least, and so on. A path's length is
//! what it adds to the total. Prices of places that are taken keep all lengths positive, so that the shortest path is found
//! by looking at a few tasks' rows.
//!
//! Where each device takes one task the result is the optimum but for [`TOLERANCE`]. Memory, several tasks a device and
//! their waits are beyond that proof: there a task displaces one other at a time, the cheapest that leaves it room, and what
//! it costs beside those that stay is counted as it is. How good that is, is measured.
//!
//! Tasks of one job want the same: of those only one is looked at for each path.

use super::instance::{Instance, Task};
use super::seats::{NOWHERE, Seats};

/// A path may be longer than the shortest by this much of an average task's cost.
const TOLERANCE: f64 = 0.1;
/// A task that fits fewer devices comes early.
const FEW: usize = 16;
/// Columns looked at at a time.
const STRIDE: usize = 16;
/// The length of a way to a device that was reached: no other is shorter.
const REACHED: f32 = f32::NEG_INFINITY;

struct Paths<'i> {
    seats: Seats<'i>,
    /// By task: of its place.
    price: Vec<f32>,
    /// By device, as rows are wide: bytes free, or less than any task needs where no seat is; the price of the cheapest
    /// task there; what one task more waits, nanoseconds.
    show: Vec<f32>,
    displace: Vec<f32>,
    queue: Vec<f32>,
    /// By device: the length of the shortest way to it that is known, and the task that takes it; least of each stride.
    length: Vec<f32>,
    via: Vec<u32>,
    least: Vec<f32>,
    /// By device: a way that was made sure of; which task makes room, if any.
    sure: Vec<bool>,
    room: Vec<u32>,
    /// By task: what its ways begin with.
    base: Vec<f32>,
    /// Devices that were reached, and how.
    reached: Vec<(u32, f32)>,
    jobs: Vec<u32>,
    scans: usize,
    most: usize,
}

/// A free place at the end of a path.
#[derive(Clone, Copy)]
struct End {
    device: u32,
    /// Who takes it.
    task: u32,
    length: f32,
}

/// By task its device, or `None` where not all found one; `most` rows are looked at, at most.
pub(super) fn paths(instance: &Instance, most: usize) -> Option<Vec<u32>> {
    // What costs much for little memory first: it must have its place; and what is large finds one only early.
    let by_cost = |instance: &Instance, task: &Task| instance.own_cost(task) / task.need.max(1.0);
    let by_size = |_: &Instance, task: &Task| task.need;
    let mut paths = Paths::new(instance, most);
    if paths.all(&by_cost).is_none() {
        paths = Paths::new(instance, most);
        paths.all(&by_size)?;
    }
    Some(paths.seats.at)
}

impl<'i> Paths<'i> {
    fn new(instance: &'i Instance, most: usize) -> Self {
        let (tasks, width) = (instance.tasks.len(), instance.width);
        let mut paths = Self {
            seats: Seats::empty(instance),
            price: vec![0.0; tasks],
            show: vec![-1.0; width],
            displace: vec![f32::INFINITY; width],
            queue: vec![0.0; width],
            length: vec![f32::INFINITY; width],
            via: vec![NOWHERE; width],
            least: vec![f32::INFINITY; width / STRIDE],
            sure: vec![false; width],
            room: vec![NOWHERE; width],
            base: vec![0.0; tasks],
            reached: Vec::new(),
            jobs: Vec::new(),
            scans: 0,
            most,
        };
        (0..instance.devices.len() as u32).for_each(|device| paths.refresh(device));
        paths
    }

    /// Every task comes: those first that have little choice; then by `weight`, the heaviest first.
    fn all(&mut self, weight: &dyn Fn(&Instance, &Task) -> f32) -> Option<()> {
        let instance = self.seats.instance;
        let mut waiting: Vec<u32> = (0..instance.tasks.len() as u32).collect();
        waiting.sort_by_cached_key(|&task| {
            let fits = instance.costs(task).iter().filter(|cost| **cost < f32::INFINITY).count();
            // None is negative: so their bits are ordered as they are.
            let weight = weight(instance, &instance.tasks[task as usize]).to_bits();
            (std::cmp::Reverse(fits.min(FEW)), weight, std::cmp::Reverse(task))
        });
        let (mut total, mut count, mut forced) = (0.0, 0, 0);
        while let Some(task) = waiting.pop() {
            let tolerance = (total / f64::from(count.max(1)) * TOLERANCE) as f32;
            if let Some(end) = self.search(task, tolerance, true).or_else(|| self.search(task, tolerance, false)) {
                total += f64::from(end.length);
                count += 1;
                self.walk(task, end);
                continue;
            }
            forced += 1;
            if forced * 4 > self.seats.at.len() + 16 {
                return None;
            }
            self.force(task, &mut waiting);
        }
        Some(())
    }

    /// A task takes the device it had: those that are in its way and had another come again.
    fn force(&mut self, task: u32, waiting: &mut Vec<u32>) {
        let instance = self.seats.instance;
        let own = instance.tasks[task as usize].own;
        for other in self.seats.on[own as usize].clone() {
            if instance.tasks[other as usize].own != own {
                self.seats.remove(other);
                waiting.push(other);
            }
        }
        self.seats.put(task, own);
        self.price[task as usize] = f32::INFINITY;
        self.refresh(own);
    }

    /// What the columns say of a device.
    fn refresh(&mut self, device: u32) {
        let at = device as usize;
        let open = self.seats.seats[at] > 0;
        self.show[at] = if open { self.seats.free[at] as f32 } else { -1.0 };
        let tasks = &self.seats.on[at];
        self.displace[at] = tasks.iter().map(|task| self.price[*task as usize]).fold(f32::INFINITY, f32::min);
        self.queue[at] = tasks.iter().map(|task| self.seats.instance.delay(*task, device)).sum();
    }

    /// A path from a task to a free place, the shortest but for `tolerance`; a brief look is at one task of each job.
    fn search(&mut self, task: u32, tolerance: f32, brief: bool) -> Option<End> {
        self.length.fill(f32::INFINITY);
        self.least.fill(f32::INFINITY);
        self.sure.fill(false);
        self.reached.clear();
        self.jobs.clear();
        let mut end = None;
        self.base[task as usize] = 0.0;
        self.scan(task, &mut end);
        while let Some(device) = self.nearest() {
            let length = self.length[device as usize];
            if let Some(End { length: known, .. }) = end
                && known <= length + tolerance
            {
                break;
            }
            let row = self.via[device as usize];
            if !self.sure[device as usize] {
                let (value, room) = self.offer(row, device);
                self.sure[device as usize] = true;
                self.room[device as usize] = room;
                self.lengthen(device, value + self.base[row as usize]);
                continue;
            }
            self.lengthen(device, REACHED);
            let room = self.room[device as usize];
            if room == NOWHERE {
                end = Some(End { device, task: row, length });
                break;
            }
            self.reached.push((device, length));
            let job = self.seats.instance.job(room);
            if (brief && self.jobs.contains(&job)) || self.scans >= self.most {
                continue;
            }
            let Some(own) = self.seats.with(room, device, &[]) else { continue };
            self.base[room as usize] = length - own - self.price[room as usize];
            self.scan(room, &mut end);
        }
        end
    }

    /// Looks at a task's row: devices that are nearer by way of it, and the nearest free place of all so far.
    fn scan(&mut self, task: u32, end: &mut Option<End>) {
        self.scans += 1;
        let instance = self.seats.instance;
        self.jobs.push(instance.job(task));
        let of = &instance.tasks[task as usize];
        let (base, costs) = (self.base[task as usize], instance.costs(task).as_chunks::<STRIDE>().0);
        let (show, displace) = (self.show.as_chunks::<STRIDE>().0, self.displace.as_chunks::<STRIDE>().0);
        let (queue, length) = (self.queue.as_chunks::<STRIDE>().0, self.length.as_chunks_mut::<STRIDE>().0);
        let mut free = (f32::INFINITY, 0);
        for (stride, length) in length.iter_mut().enumerate() {
            let (values, nearer, least_free) =
                weigh(&costs[stride], [&show[stride], &displace[stride], &queue[stride]], length, base, of);
            if least_free < free.0 {
                free = (least_free, stride);
            }
            if !nearer {
                continue;
            }
            for (lane, value) in values.into_iter().enumerate() {
                if value < length[lane] {
                    let at = stride * STRIDE + lane;
                    // What was sure was so by way of another task.
                    (length[lane], self.via[at], self.sure[at]) = (value, task, false);
                }
            }
            self.least[stride] = least_open(length);
        }
        // The nearest free place, made sure of.
        if free.0 < end.map_or(f32::INFINITY, |end| end.length) {
            let lanes = free.1 * STRIDE..(free.1 + 1) * STRIDE;
            let found = lanes.into_iter().find(|&at| self.length[at] == free.0 && self.show[at] >= of.need);
            if let Some(at) = found
                && self.seats.has_room(task, at as u32, &[])
                && let Some(value) = self.seats.with(task, at as u32, &[])
                && end.is_none_or(|end| base + value < end.length)
            {
                *end = Some(End { device: at as u32, task, length: base + value });
                (self.sure[at], self.room[at]) = (true, NOWHERE);
                self.lengthen(at as u32, base + value);
            }
        }
    }

    /// The nearest device that was not reached yet.
    fn nearest(&self) -> Option<u32> {
        let mut best = (f32::INFINITY, 0);
        for (stride, &least) in self.least.iter().enumerate() {
            if least < best.0 {
                best = (least, stride);
            }
        }
        let lanes = best.1 * STRIDE..(best.1 + 1) * STRIDE;
        lanes.into_iter().find(|&at| best.0 < f32::INFINITY && self.length[at] == best.0).map(|at| at as u32)
    }

    fn lengthen(&mut self, device: u32, length: f32) {
        self.length[device as usize] = length;
        let stride = device as usize / STRIDE;
        self.least[stride] = least_open(&self.length.as_chunks::<STRIDE>().0[stride]);
    }

    /// What a task's place on a device costs with its price, and who makes room for it: nobody where there is room.
    fn offer(&self, task: u32, device: u32) -> (f32, u32) {
        let seats = &self.seats;
        if seats.has_room(task, device, &[]) {
            return (seats.with(task, device, &[]).unwrap_or(f32::INFINITY), NOWHERE);
        }
        let mut best = (f32::INFINITY, NOWHERE);
        for &other in &seats.on[device as usize] {
            if seats.instance.are_alike(task, other) || !seats.has_room(task, device, &[other]) {
                continue;
            }
            let value = seats.with(task, device, &[other]).map(|cost| cost + self.price[other as usize]);
            if let Some(value) = value.filter(|value| *value < best.0) {
                best = (value, other);
            }
        }
        best
    }

    /// Moves the tasks of a path, and raises the prices of the places that were nearer than its end.
    fn walk(&mut self, task: u32, end: End) {
        for at in 0..self.reached.len() {
            let (device, length) = self.reached[at];
            if length < end.length {
                self.price[self.room[device as usize] as usize] += end.length - length;
                self.refresh(device);
            }
        }
        let (mut device, mut price, mut mover) = (end.device, 0.0, end.task);
        loop {
            let (from, left) = (self.seats.at[mover as usize], self.price[mover as usize]);
            if from != NOWHERE {
                self.seats.remove(mover);
            }
            self.seats.put(mover, device);
            self.price[mover as usize] = price;
            self.refresh(device);
            if mover == task {
                break;
            }
            (device, price, mover) = (from, left, self.via[from as usize]);
        }
    }
}

/// The least length of a way to a device that was not reached.
fn least_open(length: &[f32; STRIDE]) -> f32 {
    length.iter().fold(f32::INFINITY, |least, &length| if length > REACHED && length < least { length } else { least })
}

/// Lengths of ways to some devices by way of a task; whether one is shorter than what is known; the least of those to a
/// free place.
fn weigh(
    costs: &[f32; STRIDE],
    [show, displace, queue]: [&[f32; STRIDE]; 3],
    length: &[f32; STRIDE],
    base: f32,
    task: &Task,
) -> ([f32; STRIDE], bool, f32) {
    let (mut values, mut free, mut nearer) = ([0.0; STRIDE], [f32::INFINITY; STRIDE], [0u32; STRIDE]);
    for i in 0..STRIDE {
        let room = show[i] >= task.need;
        let beside = queue[i] * task.waiting;
        let value = base + costs[i] + if room { beside } else { displace[i] };
        values[i] = value;
        free[i] = if room { value } else { f32::INFINITY };
        nearer[i] = if value < length[i] { 1 } else { 0 };
    }
    let mut half = STRIDE / 2;
    while half > 0 {
        for i in 0..half {
            free[i] = if free[i] < free[i + half] { free[i] } else { free[i + half] };
            nearer[i] |= nearer[i + half];
        }
        half /= 2;
    }
    (values, nearer[0] != 0, free[0])
}
