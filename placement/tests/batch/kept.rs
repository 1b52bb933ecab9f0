//! What waited too long gets its device in the end, whatever else comes.

use crate::common::{Random, plain_spec};
use crate::world::{GIB, Shape, check, node, request};
use nightshift_placement::{DeviceView, Placed, Plan, Pool, Request, Snapshot, Weights, plan};
use nightshift_types::{Bytes, Digest, InputRef, JobId, Milliseconds, Timestamp};
use std::sync::Arc;

/// Nodes of the machine that reference times are told for: a task takes its reference time.
fn nodes(devices: &[DeviceView]) -> Snapshot {
    let mut random = Random(2);
    let one = |(number, device): (usize, &DeviceView)| {
        let mut view = node(&mut random, Shape::OneEach, number);
        view.measured.gigaflops = 100;
        view.devices = vec![DeviceView { name: "dev0".into(), ..device.clone() }];
        view
    };
    Snapshot::new(devices.iter().enumerate().map(one).collect(), Timestamp(0))
}

/// Of 16 GiB and 4 slots: so many tasks on it hold so much, and have so much to do.
fn device(running: u32, held: u64, queued_ms: u64) -> DeviceView {
    let total = Bytes(16 * GIB);
    DeviceView { total, free: Bytes(total.0 - held * GIB), slots: 4, running, queued_ms, ..DeviceView::default() }
}

fn tasks(name: &str, count: u32, gibi: u64, ms: u64) -> Vec<Request> {
    let input = InputRef { digest: Digest([1; 32]), size: Bytes(0) };
    let mut spec = plain_spec();
    (spec.memory, spec.reference, spec.inputs) = (Bytes(gibi * GIB), Milliseconds(ms), vec![input; count as usize]);
    let (name, spec) = (JobId::new(name).unwrap(), Arc::new(spec));
    (0..count).map(|index| request(&name, index, &spec)).collect()
}

fn overdue(tasks: Vec<Request>) -> Vec<Request> {
    tasks.into_iter().map(|task| Request { overdue: true, ..task }).collect()
}

fn both(pool: &Snapshot, tasks: &[Request]) -> Plan {
    let (weights, mut indexed) = (Weights::default(), Pool::default());
    let expected = plan(pool, tasks, &weights);
    for _ in 0..2 {
        assert_eq!(indexed.plan(pool.clone(), tasks, &weights), expected);
        indexed.check_invariants().unwrap();
    }
    // What was kept is given back: without the overdue, the index is as it was.
    let rest: Vec<Request> = tasks.iter().filter(|task| !task.overdue).cloned().collect();
    assert_eq!(indexed.plan(pool.clone(), &rest, &weights), plan(pool, &rest, &weights));
    check(pool, tasks, &expected);
    expected
}

fn on(plan: &Plan, node: usize) -> usize {
    plan.placements.iter().filter(|placed| placed.node.as_str() == format!("n{node:05}")).count()
}

#[test]
fn the_device_that_is_able_soonest_is_kept() {
    // The second will be done first; the third can never take it, having 8 GiB.
    let mut small = device(0, 0, 0);
    (small.total, small.free) = (Bytes(8 * GIB), Bytes(8 * GIB));
    let pool = nodes(&[device(2, 4, 9_000), device(1, 6, 4_000), small]);
    let others = tasks("small", 9, 1, 500);
    let waits = [overdue(tasks("large", 1, 14, 1_000)), others.clone()].concat();
    let found = both(&pool, &waits);
    assert_eq!([on(&found, 0), on(&found, 1), on(&found, 2)], [2, 0, 4], "others fill all but the kept one");
    let (_, last) = found.refused.last().unwrap();
    assert_eq!(last.kept, 1);
    assert!(last.message().ends_with("1 device is kept for a task that waited too long"), "{}", last.message());
    // One that did not wait too long keeps nothing.
    let patient = [tasks("large", 1, 14, 1_000), others].concat();
    assert_eq!(on(&both(&pool, &patient), 1), 3);
}

#[test]
fn nothing_is_kept_for_what_could_never_run() {
    let pool = nodes(&[device(2, 4, 9_000), device(1, 6, 4_000)]);
    let waits = [overdue(tasks("huge", 1, 20, 1_000)), tasks("small", 5, 1, 500)].concat();
    let found = both(&pool, &waits);
    assert_eq!((found.placements.len(), found.refused.len()), (5, 1));
}

/// Nine large ones that wait too long: eight keep something at most, and a device is kept for as many as it will take.
#[test]
fn few_things_are_kept() {
    let pool = nodes(&vec![device(1, 10, 5_000); 12]);
    let mut waits: Vec<Request> =
        (0..12).flat_map(|job| overdue(tasks(&format!("large-{job}"), 1, 9, 1_000))).collect();
    waits.extend(tasks("small", 40, 1, 500));
    let found = both(&pool, &waits);
    assert_eq!((0..12).filter(|node| on(&found, *node) == 0).count(), 8);
    // Two of 8 GiB share a device.
    let mut waits: Vec<Request> = (0..12).flat_map(|job| overdue(tasks(&format!("half-{job}"), 1, 8, 1_000))).collect();
    waits.extend(tasks("small", 40, 1, 500));
    assert_eq!((0..12).filter(|node| on(&both(&pool, &waits), *node) == 0).count(), 4);
}

#[test]
fn a_gang_that_waited_too_long_keeps_what_it_has_and_what_it_misses() {
    let pool = nodes(&[device(0, 0, 0), device(3, 6, 8_000), device(3, 6, 3_000), device(4, 4, 1_000)]);
    let gang: Vec<Request> = tasks("gang", 3, 12, 1_000).into_iter().map(|task| Request { gang: 3, ..task }).collect();
    let others = tasks("small", 12, 2, 500);
    let found = both(&pool, &[overdue(gang.clone()), others.clone()].concat());
    // One has its place on the first; the third and the fourth are kept for the others, being done soonest.
    assert_eq!([0, 1, 2, 3].map(|node| on(&found, node)), [2, 1, 0, 0]);
    let found = both(&pool, &[gang, others].concat());
    assert_eq!([0, 1, 2, 3].map(|node| on(&found, node)), [4, 1, 1, 0]);
}

/// A small pool through time: tasks run side by side, each as long as it was predicted.
struct World {
    pool: Snapshot,
    /// Node, milliseconds left, bytes.
    running: Vec<(usize, u64, u64)>,
    indexed: Pool,
}

impl World {
    fn start(&mut self, placed: &Placed, ms: u64) {
        let node = self.pool.nodes.iter().position(|node| node.id == placed.node).unwrap();
        self.running.push((node, ms, placed.memory.0));
    }

    fn pass(&mut self, ms: u64) {
        self.running.iter_mut().for_each(|(_, left, _)| *left = left.saturating_sub(ms));
        self.running.retain(|(_, left, _)| *left > 0);
        for (at, node) in self.pool.nodes.iter_mut().enumerate() {
            let here = || self.running.iter().filter(|(node, ..)| *node == at);
            let device = &mut node.devices[0];
            device.free = Bytes(device.total.0 - here().map(|(.., bytes)| bytes).sum::<u64>());
            device.running = here().count() as u32;
            device.queued_ms = here().map(|(_, left, _)| left).sum();
        }
    }

    /// One cycle: the large one first, then as many small ones as ever; whether the large one started.
    fn cycle(&mut self, random: &mut Random, large: &[Request], overdue: bool) -> bool {
        let mut waits: Vec<Request> = large.iter().map(|task| Request { overdue, ..task.clone() }).collect();
        let lengths: Vec<u64> = (0..48).map(|_| 200 + random.next() % 1_800).collect();
        for (number, ms) in lengths.iter().enumerate() {
            waits.extend(tasks(&format!("small-{number}"), 1, 1 + random.next() % 2, *ms));
        }
        let found = self.indexed.plan(self.pool.clone(), &waits, &Weights::default());
        self.indexed.check_invariants().unwrap();
        let mut begun = 0;
        for placed in &found.placements {
            match placed.task.job.as_str().strip_prefix("small-") {
                Some(number) => self.start(placed, lengths[number.parse::<usize>().unwrap()]),
                None => begun += 1,
            }
        }
        assert!(begun == 0 || begun == large.len());
        begun > 0
    }
}

/// Small tasks come without end. A large task, or a gang, that waited too long starts within `slots × w`, where w is the
/// predicted wait of the device (of a gang: of the last of them) that was able soonest when it became overdue, and one
/// cycle more. One that never becomes overdue does not start in ten times that: so it is not by chance.
#[test]
fn small_tasks_without_end_starve_nobody_beyond_the_bound() {
    const CYCLE: u64 = 50;
    for (seed, count) in [(61, 1usize), (62, 1), (63, 3), (64, 2), (65, 1), (66, 3)] {
        let (mut random, slots) = (Random(seed), 8);
        let gang = if count > 1 { count as u32 } else { 0 };
        let large: Vec<Request> =
            tasks("large", count as u32, 15, 1_000).into_iter().map(|task| Request { gang, ..task }).collect();
        let wide = DeviceView { slots: slots as u32, ..device(0, 0, 0) };
        let mut world = World { pool: nodes(&vec![wide; 5]), running: Vec::new(), indexed: Pool::default() };
        // Fill it, then let the large one wait with the others.
        world.cycle(&mut random, &[], false);
        for cycle in 0..400 {
            world.pass(CYCLE);
            assert!(!world.cycle(&mut random, &large, false), "seed {seed}: it fits by chance in cycle {cycle}");
        }
        world.pass(CYCLE);
        let mut waits: Vec<u64> = world.pool.nodes.iter().map(|node| node.devices[0].queued_ms).collect();
        waits.sort_unstable();
        // slots × (queued ÷ slots).
        let within = waits[count - 1].div_ceil(CYCLE) + 1;
        assert!(within * 10 < 400 * slots, "the bound says something");
        let begun = (0..=within).find(|_| {
            let begun = world.cycle(&mut random, &large, true);
            world.pass(CYCLE);
            begun
        });
        assert!(begun.is_some(), "seed {seed}: it did not start within {within} cycles");
    }
}
