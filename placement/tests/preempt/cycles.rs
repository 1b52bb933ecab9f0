//! Whole runs: tasks come, run, are displaced and come again. Displacement ends, is bounded, and never goes in circles.

use crate::common::Random;
use crate::fixture::{Tenants, node, node_id, request, running, tenant};
use nightshift_placement::preempt::{MIN_RUN, MOST_DISPLACEMENTS, Preemption, RunningTask, TAKES, preempt};
use nightshift_placement::{NodeView, Request, Snapshot};
use nightshift_types::{NodeId, TaskId, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeSet;

struct Task {
    request: Request,
    arrives: u64,
    /// Of work.
    takes: u64,
    displaced: u32,
    /// Where it runs, and since when.
    place: Option<(usize, u64)>,
    done: bool,
}

struct World {
    ids: Vec<NodeId>,
    tasks: Vec<Task>,
    tenants: Tenants,
    /// Who displaced whom, with their priorities.
    displacements: Vec<(TaskId, TaskId)>,
    now: u64,
    /// Whether tasks that run come to their end.
    ends: bool,
}

const GIBI: u64 = 12;
const START: u64 = 1_000_000;
const ARRIVALS: u64 = 200_000;
const SLOTS: u32 = 4;

impl World {
    fn new(seed: u64, count: usize, nodes: usize, ends: bool) -> Self {
        let mut random = Random(seed);
        let task = |n| {
            let queue = random.of(&["a", "b", "c"]);
            let request = request(&format!("t{n}"), queue, random.below(6) as i32, 1 + random.below(10) as u64);
            let (arrives, takes) = (START + random.next() % ARRIVALS, random.next() % 120_000);
            Task { request, arrives, takes, displaced: 0, place: None, done: false }
        };
        let tenants = ["a", "b", "c"].map(|name| (name.to_owned(), tenant(1, 0))).into();
        let ids = (0..nodes).map(|n| node_id(&format!("n{n}"))).collect();
        Self { ids, tasks: (0..count).map(task).collect(), tenants, displacements: Vec::new(), now: START, ends }
    }

    fn running(&self) -> Vec<RunningTask<'_>> {
        self.tasks.iter().filter_map(|task| self.view(task)).collect()
    }

    fn view<'w>(&'w self, task: &'w Task) -> Option<RunningTask<'w>> {
        let ((node, since), spec) = (task.place?, &task.request.spec);
        Some(RunningTask {
            task: task.request.task.clone(),
            memory: spec.memory,
            placed_at: Timestamp(since),
            displaced: task.displaced,
            expected_end: self.ends.then_some(Timestamp(since + task.takes)),
            ..running("x", &spec.queue, spec.priority, &self.ids[node], 0)
        })
    }

    fn snapshot(&self) -> Snapshot {
        let tasks = self.running();
        let nodes: Vec<NodeView> = self.ids.iter().map(|id| node(id, GIBI, SLOTS, &tasks)).collect();
        Snapshot::new(nodes, Timestamp(self.now))
    }

    /// One cycle: what waits is placed, by priority, or displaces others. Whether anything happened.
    fn step(&mut self) -> Result<bool, TestCaseError> {
        let mut happened = false;
        if self.ends {
            let now = self.now;
            for task in
                self.tasks.iter_mut().filter(|task| task.place.is_some_and(|(_, since)| since + task.takes <= now))
            {
                (task.place, task.done, happened) = (None, true, true);
            }
        }
        let mut waiting: Vec<usize> = (0..self.tasks.len()).filter(|&n| self.waits(n)).collect();
        waiting.sort_by_key(|&n| (-self.tasks[n].request.spec.priority, n));
        for number in waiting {
            happened |= self.place(number)?;
        }
        self.now += 7_000;
        Ok(happened)
    }

    fn waits(&self, number: usize) -> bool {
        let task = &self.tasks[number];
        task.arrives <= self.now && task.place.is_none() && !task.done
    }

    fn place(&mut self, number: usize) -> Result<bool, TestCaseError> {
        let snapshot = self.snapshot();
        let request = self.tasks[number].request.clone();
        let fits = |node: &NodeView| node.devices[0].free >= request.spec.memory && node.devices[0].running < SLOTS;
        if let Some(node) = snapshot.nodes.iter().position(fits) {
            self.tasks[number].place = Some((node, self.now));
            let usage = &mut self.tenants.get_mut(&request.spec.queue).unwrap().usage;
            *usage += 1_000;
            return Ok(true);
        }
        let running = self.running();
        let Preemption::Displace(displacement) = preempt(&request, &snapshot, &running, &self.tenants) else {
            return Ok(false);
        };
        let checked = displacement.check_invariants(&request, &snapshot, &running, &self.tenants);
        prop_assert!(checked.is_ok(), "{checked:?}");
        drop(running);
        for id in &displacement.victims {
            let victim = self.tasks.iter_mut().find(|task| &task.request.task == id).unwrap();
            let (_, since) = victim.place.take().unwrap();
            prop_assert!(victim.request.spec.priority < request.spec.priority);
            prop_assert!(self.now - since >= MIN_RUN.0);
            victim.displaced += 1;
            prop_assert!(victim.displaced <= MOST_DISPLACEMENTS);
            self.displacements.push((request.task.clone(), id.clone()));
        }
        let node = self.ids.iter().position(|id| *id == displacement.node).unwrap();
        self.tasks[number].place = Some((node, self.now));
        Ok(true)
    }

    /// Nobody is displaced, however indirectly, by one that it displaced.
    fn no_circle(&self) -> Result<(), TestCaseError> {
        let begins: BTreeSet<&TaskId> = self.displacements.iter().map(|(by, _)| by).collect();
        for start in begins {
            let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
            while let Some(at) = open.pop() {
                for (_, victim) in self.displacements.iter().filter(|(by, _)| by == at) {
                    prop_assert!(victim != start, "{start} was displaced by one that it displaced");
                    if reached.insert(victim) {
                        open.push(victim);
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Tasks that never end: a run comes to rest, after no more displacements than tasks × the bound.
    #[test]
    fn displacement_comes_to_rest(seed: u64, count in 2usize..40, nodes in 1usize..4) {
        let mut world = World::new(seed, count, nodes, false);
        let mut quiet = 0;
        let mut cycles = 0;
        // Rest: as many cycles without anything as the least run has, and one.
        while quiet <= MIN_RUN.0.max(TAKES.0) / 7_000 + 1 {
            let comes = world.now < START + ARRIVALS;
            quiet = if world.step()? || comes { 0 } else { quiet + 1 };
            cycles += 1;
            prop_assert!(cycles <= 30 + (count + 1) * (MOST_DISPLACEMENTS as usize + 1) * 4, "no rest");
            prop_assert!(world.displacements.len() <= count * MOST_DISPLACEMENTS as usize);
        }
        world.no_circle()?;
    }

    /// Tasks that end: each is done at last, however often it was displaced.
    #[test]
    fn every_task_is_done_at_last(seed: u64, count in 2usize..40, nodes in 1usize..4) {
        let mut world = World::new(seed, count, nodes, true);
        let mut cycles = 0;
        while world.tasks.iter().any(|task| !task.done) {
            world.step()?;
            cycles += 1;
            // Each start of a task takes 20 cycles at most, and something always runs.
            prop_assert!(cycles <= 30 + 20 * count * (MOST_DISPLACEMENTS as usize + 1), "not done");
        }
        world.no_circle()?;
    }
}

#[test]
fn displacement_happens_in_these_runs() {
    let total: usize = (0..50)
        .map(|seed| {
            let mut world = World::new(seed, 30, 2, false);
            for _ in 0..60 {
                world.step().unwrap();
            }
            world.displacements.len()
        })
        .sum();
    assert!(total > 50, "{total}");
}
