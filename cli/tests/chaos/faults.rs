//! What is done to a run, and when: drawn from its seed before it begins.
//!
//! in → a seed · out → the schedule · invariant: the same seed, the same schedule, whatever the machine is doing; every seed
//! has each line of the failure contract that faults can show.

use std::fmt;
use std::time::Duration;

/// Small numbers from a seed (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub struct Lots(pub u64);

impl Lots {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Which scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Leader,
    Standby,
}

/// How a way is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing passes, and nobody is told.
    Silent,
    /// Requests pass, answers do not.
    Deaf,
    /// Connections are refused.
    Refused,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9.
    Kill(Who),
    /// SIGSTOP, and SIGCONT at the end.
    Stop(Who),
    /// SIGTERM.
    Term(Who),
    /// Between a scheduler and all of etcd.
    CutEtcd(Who, Cut),
    /// The same way, slow.
    SlowEtcd(Who, u64),
    KillMember(usize),
    StopMember(usize),
    /// The others hear nothing more of it.
    CutMember(usize),
    /// Line 4: all of etcd stops.
    StopAllMembers,
    KillAllMembers,
    KillAgent(usize),
    /// Line 3: an agent works on, unheard, and is back later.
    CutAgent(usize, Cut),
    /// Line 1, at every step of the journal: the next leader ends when it passes a place for the n-th time.
    Failpoint(Place, u64),
    /// What a leader had on its way to etcd arrives when another has the lead and has not begun.
    Usurp,
    /// The standby's clock is off by so many seconds from now on.
    Skew(i64),
    /// Everything of etcd's quota is used, until somebody makes room.
    FillDisk,
    /// Line 2, with a process and a disk.
    KillRealAgent,
    /// Line 5: the process that computes gets a SIGSEGV.
    CrashWorker,
    /// Line 7: bytes, frames, inputs and manifests that are none.
    Malformed,
}

/// Where a leader passes; `scheduler` and `state` have them as `pass!`.
pub type Place = &'static str;

/// All of them; the number: where it is hit early enough, and often enough, to be worth waiting for.
pub const PLACES: [(Place, u64); 8] = [
    ("takeover.before", 1),
    ("append.before", 30),
    ("append.after", 30),
    ("release.before", 30),
    ("publish.before", 100),
    ("grant.after", 1),
    ("resign.before", 1),
    ("resign.after", 1),
];

/// Faults that begin together, and end together after `hold`; then `calm`.
#[derive(Debug, Clone)]
pub struct Step {
    pub faults: Vec<Fault>,
    pub hold: Duration,
    pub calm: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {:?}, then calm for {:?}", self.faults, self.hold, self.calm)
    }
}

/// One of each line of the contract, then what else the seed draws, in an order that it draws.
pub fn schedule(seed: u64, agents: usize, steps: usize) -> Vec<Step> {
    let mut lots = Lots(seed);
    let agent = |lots: &mut Lots| lots.below(agents as u64) as usize;
    let mut faults = vec![
        Fault::Kill(Who::Leader),
        Fault::Stop(Who::Leader),
        Fault::Term(Who::Leader),
        Fault::CutEtcd(Who::Leader, cut(&mut lots)),
        Fault::StopAllMembers,
        Fault::KillMember(lots.below(3) as usize),
        Fault::KillAgent(agent(&mut lots)),
        Fault::CutAgent(agent(&mut lots), cut(&mut lots)),
        failpoint(&mut lots),
        Fault::Usurp,
        skew(&mut lots),
        Fault::FillDisk,
        Fault::CrashWorker,
        Fault::Malformed,
    ];
    while faults.len() < steps {
        let more = any(&mut lots, agents);
        faults.push(more);
    }
    for last in (1..faults.len()).rev() {
        faults.swap(last, lots.below(last as u64 + 1) as usize);
    }
    faults.truncate(steps);
    let step = |fault| {
        let mut faults = vec![fault];
        if lots.below(3) == 0 {
            faults.push(any(&mut lots, agents));
        }
        // Longer than a leader's lease, where another is to lead.
        let least = if matches!(fault, Fault::Stop(_) | Fault::Usurp | Fault::CutEtcd(..)) { 3_300 } else { 300 };
        Step { faults, hold: lots.millis(least, 4_000), calm: lots.millis(100, 2_000) }
    };
    faults.into_iter().map(step).collect()
}

fn cut(lots: &mut Lots) -> Cut {
    [Cut::Silent, Cut::Deaf, Cut::Refused][lots.below(3) as usize]
}

fn failpoint(lots: &mut Lots) -> Fault {
    let (place, most) = PLACES[lots.below(PLACES.len() as u64) as usize];
    Fault::Failpoint(place, 1 + lots.below(most))
}

fn skew(lots: &mut Lots) -> Fault {
    Fault::Skew(lots.below(600) as i64 - 300)
}

fn any(lots: &mut Lots, agents: usize) -> Fault {
    let who = if lots.below(3) == 0 { Who::Standby } else { Who::Leader };
    let (agent, member) = (lots.below(agents as u64) as usize, lots.below(3) as usize);
    match lots.below(17) {
        0 | 1 => Fault::Kill(who),
        2 => Fault::Stop(who),
        3 => Fault::Term(who),
        4 | 5 => Fault::CutEtcd(who, cut(lots)),
        6 => Fault::SlowEtcd(who, 20 + lots.below(400)),
        7 => Fault::KillMember(member),
        8 => Fault::StopMember(member),
        9 => Fault::CutMember(member),
        10 => Fault::KillAllMembers,
        11 => Fault::KillAgent(agent),
        12 | 13 => failpoint(lots),
        14 => skew(lots),
        15 => Fault::KillRealAgent,
        _ => Fault::CutAgent(agent, cut(lots)),
    }
}

#[test]
fn the_same_seed_makes_the_same_schedule() {
    let text = |seed| schedule(seed, 6, 12).iter().map(|step| format!("{step}\n")).collect::<String>();
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}
