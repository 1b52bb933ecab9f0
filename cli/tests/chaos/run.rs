//! One seed: the world is started, breaks, is mended, and is judged.

use crate::common;
use crate::faults::{Step, schedule};
use crate::judge::{Evidence, Invariant, Verdict, count};
use crate::world::{PATIENCE, QUEUE, UNREADABLE, World};
use serde_json::json;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub machines: usize,
    /// Of each of four batches.
    pub tasks: u64,
    pub steps: usize,
    /// Whether a real agent works too.
    pub real: bool,
    /// A bug that is planted in the schedulers, and what it violates.
    pub planted: Option<&'static Bug>,
}

/// By its name (`planted` in `state` and `scheduler`), and the invariants of which one must show it.
pub type Bug = (&'static str, &'static [Invariant]);

impl Plan {
    /// What `make chaos` runs.
    pub fn whole(seed: u64) -> Self {
        Self { seed, machines: 6, tasks: 510, steps: 16, real: true, planted: None }
    }

    /// What `make test` runs.
    pub fn bounded(seed: u64) -> Self {
        Self { machines: 4, tasks: 150, steps: 4, ..Self::whole(seed) }
    }

    /// A smaller one for schedulers with a bug.
    pub fn planted(seed: u64, bug: &'static Bug) -> Self {
        Self { machines: 4, tasks: 300, steps: 14, real: false, planted: Some(bug), ..Self::whole(seed) }
    }

    fn schedule(&self) -> Vec<Step> {
        schedule(self.seed, self.machines, self.steps)
    }
}

/// What it came to.
pub struct Outcome {
    pub plan: Plan,
    pub verdict: Verdict,
    pub took: Duration,
    logs: String,
    kept: Option<PathBuf>,
}

pub const HEADER: &str = "| seed | faults | batches | leaders | settled | attempts failed | of them lost | told | violations | s |\n|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: usize = self.plan.schedule().iter().map(|step| step.faults.len()).sum();
        let Verdict { violations, batches, leaders, settled, failed_attempts, lost_attempts, told } = &self.verdict;
        write!(
            f,
            "| {} | {faults} | {batches} | {leaders} | {settled} | {failed_attempts} | {lost_attempts} | {told} | {} | {:.0} |",
            self.plan.seed,
            violations.len(),
            self.took.as_secs_f64()
        )
    }
}

impl Outcome {
    /// What is wrong, what was done, and how to see it again.
    pub fn complaint(&self) -> String {
        let mut text = format!("seed {}: {:?}\n", self.plan.seed, count(&self.verdict.violations));
        for violation in self.verdict.violations.iter().take(20) {
            text += &format!("  {violation}\n");
        }
        for step in self.plan.schedule() {
            text += &format!("  {step}\n");
        }
        let again = format!("make chaos SEED={} SEEDS=1", self.plan.seed);
        let kept = self.kept.as_deref().unwrap_or(Path::new("nowhere"));
        text + &format!("the same schedule again: {again}; the journal and the logs: {}\n{}", kept.display(), self.logs)
    }
}

/// Runs one seed.
pub async fn one(plan: Plan) -> Outcome {
    let started = Instant::now();
    let mut world = World::start(plan.machines, plan.planted.map(|bug| bug.0)).await;
    if plan.planted.is_some() {
        world.patience = PATIENCE / 3;
    }
    if plan.real {
        world.start_real().await;
    }
    let items: Vec<String> = common::digits::rows(100).into_iter().map(|(pixels, _)| pixels.to_string()).collect();
    let items: Vec<String> = items.into_iter().cycle().take(plan.tasks as usize).collect();
    for (name, queue) in [("one", "default"), ("two", "default"), ("three", QUEUE), ("four", QUEUE)] {
        world.apply_batch(name, json!({ "parallelism": 28, "queueName": queue }), items.clone()).await;
    }
    if plan.real {
        // Line 7: an input that the model cannot read fails its own job; the machine lives.
        let own = json!({ "nodeSelector": { "kubernetes.io/hostname": "real" } });
        world.apply_batch(UNREADABLE, own, vec!["{\"no\": \"picture\"}".into()]).await;
        let own = json!({ "nodeSelector": { "kubernetes.io/hostname": "real" }, "parallelism": 2 });
        world.apply_batch("real", own, items[..items.len().min(60)].to_vec()).await;
    }
    let begun = Instant::now();
    while world.quote == 0 && begun.elapsed() < PATIENCE {
        world.pause(Duration::from_millis(50)).await;
    }
    // Enough for each task of the two batches once, and for nothing that is reserved for ever.
    let (steps, due) = (plan.schedule(), world.quote * i128::from(plan.tasks) * 2);
    let mut shown = false;
    for (number, step) in steps.iter().enumerate() {
        let share = due / steps.len() as i128;
        let rest = if number + 1 == steps.len() { due - share * (steps.len() as i128 - 1) } else { share };
        if !world.grant(&format!("step-{number}"), rest).await {
            break;
        }
        world.suffer(step).await;
        // A planted bug need not be waited for once it has shown.
        if let Some(bug) = plan.planted {
            let verdict = world.evidence(false).await.judge();
            shown = verdict.violations.iter().any(|violation| bug.1.contains(&violation.invariant));
            if shown {
                break;
            }
        }
    }
    let calm = Instant::now();
    let mut unfinished = world.unfinished().await;
    while !shown && !unfinished.is_empty() && calm.elapsed() < world.patience {
        world.pause(Duration::from_millis(200)).await;
        unfinished = world.unfinished().await;
    }
    let evidence = world.evidence(!shown).await;
    let verdict = evidence.judge();
    let (mut logs, mut kept) = (String::new(), None);
    if !verdict.violations.is_empty() {
        logs = format!("not finished: {unfinished:?}\n{}", world.logs());
        kept = keep(&plan, &evidence, &logs);
    }
    Outcome { plan, verdict, took: started.elapsed(), logs, kept }
}

/// Journal, tellings, schedule and logs, for whoever looks for the cause.
fn keep(plan: &Plan, evidence: &Evidence, logs: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_nightshift")).parent()?.parent()?;
    let folder = target.join("chaos").join(format!(
        "seed-{}{}",
        plan.seed,
        plan.planted.map_or(String::new(), |bug| format!("-{}", bug.0))
    ));
    std::fs::create_dir_all(folder.join("batches")).ok()?;
    for row in &evidence.rows {
        std::fs::write(folder.join(format!("batches/{:016x}", row.sequence)), &row.bytes).ok()?;
    }
    let told: String = evidence.told.iter().map(|told| format!("{told:?}\n")).collect();
    let revisions: String = evidence
        .rows
        .iter()
        .map(|r| format!("{:016x} {} {} {}\n", r.sequence, r.created, r.modified, r.version))
        .collect();
    let steps: String = plan.schedule().iter().map(|step| format!("{step}\n")).collect();
    let jobs: String = evidence.jobs.iter().map(|job| format!("{job:?}\n")).collect();
    for (name, text) in [
        ("jobs.txt", jobs),
        ("told.txt", told),
        ("revisions.txt", revisions),
        ("schedule.txt", steps),
        ("logs.txt", logs.into()),
    ] {
        std::fs::write(folder.join(name), text).ok()?;
    }
    Some(folder)
}
