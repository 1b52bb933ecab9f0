//! In: somewhere to place tasks ([`Ground`]) and tasks in their order → out: what becomes of each.
//! Invariant: of a gang as many start as must start together, or none; whatever was taken for one that did not start is
//! given back before the next task's turn, or kept for it to the plan's end and then given back.

use super::keep::{Keep, Keeper};
use super::refusals::{Refusals, Seen};
use super::{Load, Placed};
use crate::filter::Ask;
use crate::queue::Arbiter;
use crate::score::Weights;
use crate::view::{NodeView, Request};
use crate::why::{Together, WhyNot};
use nightshift_types::{JobId, PicoPoints};
use std::collections::BTreeMap;

/// A device, by positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spot {
    pub node: usize,
    pub device: usize,
}

/// Nodes that tasks are placed on.
pub(crate) trait Ground<'r> {
    /// Rises with every placement.
    fn version(&self) -> u64;
    /// As they are now, in the order of their ids.
    fn nodes(&self) -> impl Iterator<Item = &NodeView>;
    /// The node at a position.
    fn node(&self, at: usize) -> &NodeView;
    /// The best device takes the task; `None` if none fits.
    fn place(&mut self, request: &'r Request, ask: &Ask<'_>, weights: &Weights) -> Option<Taken>;
    /// Makes a device's load another; no new version.
    fn set(&mut self, spot: Spot, load: Load);
    /// What `job` took since `version` was given back, or is kept for it.
    fn rewind(&mut self, version: u64, job: &JobId);
}

/// What became of a request.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    Placed(Taken),
    Refused(WhyNot),
}

/// A task's place, and the device's load without it.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub spot: Spot,
    pub before: Load,
    /// What it takes of the device's own time.
    pub busy_ms: u64,
    pub placed: Placed,
}

/// Which request is tried next.
pub(crate) trait Turns {
    /// A position that was not given before; none: all were.
    fn next(&mut self) -> Option<usize>;
    /// The request at a position was placed.
    fn placed(&mut self, position: usize);
}

/// One after another.
#[derive(Debug, Default)]
pub(crate) struct InOrder {
    next: usize,
    count: usize,
}

impl InOrder {
    /// Of so many.
    pub fn of(count: usize) -> Self {
        Self { next: 0, count }
    }
}

impl Turns for InOrder {
    fn next(&mut self) -> Option<usize> {
        let position = self.next;
        self.next += 1;
        (position < self.count).then_some(position)
    }

    fn placed(&mut self, _: usize) {}
}

impl Turns for Arbiter<'_> {
    fn next(&mut self) -> Option<usize> {
        Arbiter::turn(self)
    }

    fn placed(&mut self, position: usize) {
        Arbiter::placed(self, position);
    }
}

struct Turn<'t, 'r, G> {
    ground: &'t mut G,
    refusals: &'t mut Refusals,
    requests: &'r [Request],
    weights: &'t Weights,
    spent: BTreeMap<&'r JobId, PicoPoints>,
    keeper: Keeper,
    decisions: Vec<Option<Decision>>,
}

/// Decides every request; also what is kept for the overdue, and must be given back by [`lift`] before the next plan.
pub(crate) fn decide<'r, G: Ground<'r>>(
    ground: &mut G,
    refusals: &mut Refusals,
    requests: &'r [Request],
    turns: &mut impl Turns,
    weights: &Weights,
) -> (Vec<Decision>, Vec<Keep>) {
    let mut gangs: BTreeMap<&JobId, Vec<usize>> = BTreeMap::new();
    for (at, request) in requests.iter().enumerate().filter(|(_, request)| request.gang > 1) {
        gangs.entry(&request.task.job).or_default().push(at);
    }
    refusals.begin();
    let (spent, keeper, decisions) = (BTreeMap::new(), Keeper::default(), vec![None; requests.len()]);
    let mut turn = Turn { ground, refusals, requests, weights, spent, keeper, decisions };
    while let Some(at) = turns.next() {
        let Some(request) = requests.get(at).filter(|_| turn.decisions[at].is_none()) else { continue };
        // A gang that is complete leaves those beyond it to their own turns.
        let members = if request.gang > 1 { gangs.remove(&request.task.job) } else { None };
        let decided = match members {
            Some(members) => {
                turn.gang(&members);
                members
            }
            None => {
                turn.single(at);
                vec![at]
            }
        };
        let placed = |at: &usize| matches!(turn.decisions[*at], Some(Decision::Placed(_)));
        decided.into_iter().filter(placed).for_each(|at| turns.placed(at));
    }
    let kept = turn.keeper.into_kept();
    (turn.decisions.into_iter().flatten().collect(), kept)
}

/// Gives back what was kept, the last first.
pub(crate) fn lift<'r>(ground: &mut impl Ground<'r>, kept: &[Keep]) {
    for keep in kept.iter().rev() {
        let spot = keep.spot();
        let load = keep.lifted(Load::of(&ground.node(spot.node).devices[spot.device]));
        ground.set(spot, load);
    }
}

impl<'r, G: Ground<'r>> Turn<'_, 'r, G> {
    fn seen(&self) -> Seen<'_> {
        Seen { version: self.ground.version(), kept: self.keeper.kept() }
    }

    /// A place for one request, or why there is none.
    fn attempt(&mut self, at: usize) -> Result<Taken, Box<WhyNot>> {
        let request = &self.requests[at];
        let ask = Ask::new(request, self.spent.get(&request.task.job).copied().unwrap_or_default());
        if let Some(known) = self.refusals.of(request, &ask, self.seen()) {
            return Err(known.into());
        }
        if let Some(known) = self.refusals.alike(request, &ask) {
            return Err(known.into());
        }
        if let Some(taken) = self.ground.place(request, &ask, self.weights) {
            *self.spent.entry(&request.task.job).or_default() += taken.placed.quote;
            return Ok(taken);
        }
        let mut why = WhyNot::explain(self.ground.nodes(), &ask);
        why.kept = self.keeper.kept().len();
        let seen = Seen { version: self.ground.version(), kept: self.keeper.kept() };
        self.refusals.remember(request, &ask, seen, &why);
        if request.gang <= 1 {
            self.refusals.remember_alike(request, &ask, &why);
        }
        Err(why.into())
    }

    fn single(&mut self, at: usize) {
        let decision = match self.attempt(at) {
            Ok(taken) => Decision::Placed(taken),
            Err(why) => {
                let request = &self.requests[at];
                if request.overdue && self.keeper.may_keep(&why) {
                    self.keep(request, 1);
                }
                Decision::Refused(*why)
            }
        };
        self.decisions[at] = Some(decision);
    }

    /// Keeps what `request` and those like it need and cannot take yet; false where no devices would do.
    fn keep(&mut self, request: &'r Request, count: usize) -> bool {
        let ask = Ask::new(request, self.spent.get(&request.task.job).copied().unwrap_or_default());
        let Some(spots) = self.keeper.soonest(self.ground.nodes(), &ask, count) else { return false };
        for spot in spots {
            let device = &self.ground.node(spot.node).devices[spot.device];
            let (before, slots) = (Load::of(device), device.slots);
            if self.keeper.close(spot, before, request.spec.memory) {
                // Without a slot nothing is placed on it, whatever is free.
                self.ground.set(spot, Load { running: before.running.max(slots), ..before });
            }
        }
        true
    }

    /// All requests of a gang, by position: as many as must start together, or none.
    fn gang(&mut self, members: &[usize]) {
        let requests = self.requests;
        let first = &requests[members[0]];
        let need = members.iter().map(|&at| requests[at].gang as usize).max().unwrap_or(0);
        let all = || members.iter().map(|&at| &requests[at]);
        let overdue = all().any(|request| request.overdue);
        // What is kept for an overdue one must be found anew.
        if !overdue && let Some(why) = self.refusals.of_gang(first, need, all(), self.seen()) {
            return self.refuse(members, &why);
        }
        let (version, spent) = (self.ground.version(), self.spent.get(&first.task.job).copied());
        let (mut taken, mut missed) = (Vec::new(), Vec::new());
        for &at in members {
            match self.attempt(at) {
                Ok(place) => taken.push((at, place)),
                Err(why) => missed.push((at, why)),
            }
            if taken.len() == need {
                break;
            }
        }
        if taken.len() == need {
            for (at, taken) in taken {
                self.decisions[at] = Some(Decision::Placed(taken));
            }
            for (at, why) in missed {
                self.decisions[at] = Some(Decision::Refused(*why));
            }
            return;
        }
        let mut why = missed.pop().map_or_else(WhyNot::none_waits, |(_, why)| *why);
        why.together = Some(Together { fit: taken.len(), need });
        let missing = need - taken.len();
        if !(overdue && members.len() >= need && self.keeper.may_keep(&why) && self.keep_gang(first, &taken, missing)) {
            for (_, Taken { spot, before, .. }) in taken.into_iter().rev() {
                self.ground.set(spot, before);
            }
        }
        self.ground.rewind(version, &first.task.job);
        self.refusals.forget(&first.task.job);
        match spent {
            Some(spent) => self.spent.insert(&first.task.job, spent),
            None => self.spent.remove(&first.task.job),
        };
        if !overdue {
            let seen = Seen { version, kept: self.keeper.kept() };
            self.refusals.remember_gang(first, need, all(), seen, &why);
        }
        self.refuse(members, &why);
    }

    /// Keeps the places that a gang has, and devices for those that miss; false, and nothing is kept, where none would do.
    fn keep_gang(&mut self, first: &'r Request, taken: &[(usize, Taken)], missing: usize) -> bool {
        // Places first: what is closed on top of them is given back before they are.
        for (_, Taken { spot, busy_ms, placed, .. }) in taken {
            let now = Load::of(&self.ground.node(spot.node).devices[spot.device]);
            // Nobody waits for what does not start.
            self.ground.set(*spot, Load { queued_ms: now.queued_ms.saturating_sub(*busy_ms), ..now });
            self.keeper.hold(*spot, placed.memory);
        }
        let kept = self.keep(first, missing);
        if !kept {
            self.keeper.release(taken.len());
        }
        kept
    }

    fn refuse(&mut self, members: &[usize], why: &WhyNot) {
        for &at in members {
            self.decisions[at] = Some(Decision::Refused(why.clone()));
        }
    }
}
