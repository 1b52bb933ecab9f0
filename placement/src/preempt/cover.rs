//! In: tasks that may go, and what must be freed → out: the fewest that free it, and of those that lose least.
//! Invariant: what is chosen frees what is needed; the same arguments give the same choice.

/// Steps the search for the least loss may take on one device.
pub const STEPS: usize = 20_000;

/// What the end of a task frees, and loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    pub memory: u64,
    pub queued_ms: u64,
    pub lost: u64,
}

/// What must be freed, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub memory: u64,
    pub queued_ms: u64,
    pub count: usize,
}

/// Positions among `weights`, rising; none if all together free too little.
pub(super) fn least(weights: &[Weight], need: &Need) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&at| (weights[at].lost, at));
    let mut search = Search::new(weights, need, order);
    let mut spare = STEPS;
    for size in search.fewest()..=weights.len() {
        search.steps = spare;
        search.choose(0, size, *need, 0);
        if let Some((_, mut chosen)) = search.best.take() {
            chosen.sort();
            return Some(chosen);
        }
        if search.steps == 0 {
            return search.greedy();
        }
        spare = search.steps;
    }
    None
}

/// Branch and bound over the tasks in the order of what they lose.
struct Search<'w> {
    weights: &'w [Weight],
    need: &'w Need,
    order: Vec<usize>,
    /// The most one task from here on frees: memory, milliseconds.
    most: Vec<(u64, u64)>,
    chosen: Vec<usize>,
    best: Option<(u64, Vec<usize>)>,
    steps: usize,
}

impl<'w> Search<'w> {
    fn new(weights: &'w [Weight], need: &'w Need, order: Vec<usize>) -> Self {
        let mut most = vec![(0, 0); order.len() + 1];
        for position in (0..order.len()).rev() {
            let (weight, (memory, queued_ms)) = (weights[order[position]], most[position + 1]);
            most[position] = (memory.max(weight.memory), queued_ms.max(weight.queued_ms));
        }
        Self { weights, need, order, most, chosen: Vec::new(), best: None, steps: 0 }
    }

    /// No fewer can be enough: those that free most, of each kind.
    fn fewest(&self) -> usize {
        let count = |of: fn(&Weight) -> u64, need: u64| {
            let mut all: Vec<u64> = self.weights.iter().map(of).collect();
            all.sort_by(|a, b| b.cmp(a));
            let sums = all.iter().scan(0u64, |sum, one| {
                *sum = sum.saturating_add(*one);
                Some(*sum)
            });
            if need == 0 { 0 } else { 1 + sums.take_while(|&sum| sum < need).count() }
        };
        let memory = count(|weight| weight.memory, self.need.memory);
        memory.max(count(|weight| weight.queued_ms, self.need.queued_ms)).max(self.need.count).max(1)
    }

    /// `left` more from `position` on, which must free `need`.
    fn choose(&mut self, position: usize, left: usize, need: Need, lost: u64) {
        if left == 0 {
            let better = self.best.as_ref().is_none_or(|(least, _)| lost < *least);
            if need.memory == 0 && need.queued_ms == 0 && better {
                self.best = Some((lost, self.chosen.clone()));
            }
            return;
        }
        if self.steps == 0 || self.order.len() - position < left {
            return;
        }
        self.steps -= 1;
        let ((memory, queued_ms), many) = (self.most[position], left as u64);
        let hopeless = memory.saturating_mul(many) < need.memory || queued_ms.saturating_mul(many) < need.queued_ms;
        let weight = self.weights[self.order[position]];
        // Those that follow lose no less than this one.
        let at_least = lost.saturating_add(weight.lost.saturating_mul(many));
        if hopeless || self.best.as_ref().is_some_and(|(least, _)| at_least >= *least) {
            return;
        }
        self.chosen.push(self.order[position]);
        let rest = Need {
            memory: need.memory.saturating_sub(weight.memory),
            queued_ms: need.queued_ms.saturating_sub(weight.queued_ms),
            count: need.count,
        };
        self.choose(position + 1, left - 1, rest, lost.saturating_add(weight.lost));
        self.chosen.pop();
        self.choose(position + 1, left, need, lost);
    }

    /// All, less those that are not needed, beginning with what loses most.
    fn greedy(&self) -> Option<Vec<usize>> {
        let frees = |chosen: &[usize]| {
            let sum =
                |of: fn(&Weight) -> u64| chosen.iter().fold(0u64, |sum, &at| sum.saturating_add(of(&self.weights[at])));
            chosen.len() >= self.need.count
                && sum(|weight| weight.memory) >= self.need.memory
                && sum(|weight| weight.queued_ms) >= self.need.queued_ms
        };
        let mut chosen = self.order.clone();
        chosen.sort_by_key(|&at| (self.weights[at].memory, std::cmp::Reverse(self.weights[at].lost), at));
        if !frees(&chosen) {
            return None;
        }
        for at in chosen.clone() {
            let fewer: Vec<usize> = chosen.iter().copied().filter(|&other| other != at).collect();
            if !fewer.is_empty() && frees(&fewer) {
                chosen = fewer;
            }
        }
        chosen.sort();
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Few tasks: no choice has fewer, nor one of as many that loses less.
        #[test]
        fn small_devices_have_the_least(
            weights in prop::collection::vec((1u64..10, 0u64..5, 0u64..100), 1..10),
            memory in 0u64..40, queued_ms in 0u64..10, count in 0usize..4,
        ) {
            let weights: Vec<Weight> =
                weights.into_iter().map(|(memory, queued_ms, lost)| Weight { memory, queued_ms, lost }).collect();
            let need = Need { memory, queued_ms, count };
            let of = |chosen: &[usize]| {
                let sum = |of: fn(&Weight) -> u64| chosen.iter().map(|&at| of(&weights[at])).sum::<u64>();
                let enough = sum(|w| w.memory) >= memory && sum(|w| w.queued_ms) >= queued_ms && chosen.len() >= count;
                enough.then(|| (chosen.len(), sum(|w| w.lost)))
            };
            let all = 0..weights.len();
            let sets = (1u32..1 << weights.len()).map(|set| all.clone().filter(|at| set >> at & 1 == 1).collect());
            let best = sets.filter_map(|set: Vec<usize>| of(&set)).min();
            prop_assert_eq!(least(&weights, &need).and_then(|chosen| of(&chosen)), best);
        }

        /// Many tasks that fill a device: the choice is enough, and nothing of it is needless.
        #[test]
        fn large_devices_have_a_choice_that_is_enough(
            weights in prop::collection::vec((1u64..1_000_000, 0u64..50, 0u64..1_000_000), 30..200), part in 1u64..100,
        ) {
            let weights: Vec<Weight> =
                weights.into_iter().map(|(memory, queued_ms, lost)| Weight { memory, queued_ms, lost }).collect();
            let (memory, queued): (u64, u64) =
                (weights.iter().map(|w| w.memory).sum(), weights.iter().map(|w| w.queued_ms).sum());
            let need = Need { memory: memory * part / 100, queued_ms: queued * part / 120, count: 1 };
            let chosen = least(&weights, &need).expect("all together are enough");
            let frees = |skip: Option<usize>| {
                let kept = || chosen.iter().filter(|at| Some(**at) != skip).map(|&at| weights[at]);
                kept().map(|w| w.memory).sum::<u64>() >= need.memory
                    && kept().map(|w| w.queued_ms).sum::<u64>() >= need.queued_ms
                    && kept().count() >= need.count
            };
            prop_assert!(frees(None));
            prop_assert!(chosen.iter().all(|&at| !frees(Some(at))));
        }
    }
}
