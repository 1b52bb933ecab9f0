//! In: observations, one after another → out: where they lie ([`Window::median`]), whatever a few of them say.
//! Invariant: constant size; the newest counts most, one of sixteen before it half as much.
//!
//! The weighted median: of all estimates of location the one that holds out longest, with up to half of the weight far off
//! (Huber and Ronchetti: "Robust Statistics", 2009, §1.4; weights that fade: Brown: "Smoothing, Forecasting and Prediction
//! of Discrete Time Series", 1963). Between two middle ones it is their mean.

use super::factor::Octaves;

/// Weights of a window's entries, the newest first: 2^(-age/16), in 4,096ths.
const WEIGHTS: [u32; 32] = {
    let mut weights = [0; 32];
    let (mut at, mut weight): (usize, u64) = (0, 4_096 << 16);
    while at < weights.len() {
        weights[at] = (weight >> 16) as u32;
        // 2^(-1/16), in 65,536ths.
        weight = (weight * 62_757) >> 16;
        at += 1;
    }
    weights
};

/// The last `N` observations; at most 32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window<const N: usize> {
    ring: [Octaves; N],
    length: u8,
    /// Where the next one goes.
    next: u8,
}

impl<const N: usize> Default for Window<N> {
    fn default() -> Self {
        Self { ring: [0; N], length: 0, next: 0 }
    }
}

impl<const N: usize> Window<N> {
    /// One more; the oldest goes.
    pub fn push(&mut self, value: Octaves) {
        self.ring[usize::from(self.next)] = value;
        self.next = ((usize::from(self.next) + 1) % N) as u8;
        self.length = self.length.saturating_add(1).min(N as u8);
    }

    /// The older half is forgotten.
    pub fn forget(&mut self) {
        self.length /= 2;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// 0 if there are none.
    pub fn median(&self) -> Octaves {
        let mut pairs: Vec<(Octaves, u32)> = (0..self.len())
            .map(|age| (self.ring[(usize::from(self.next) + 2 * N - 1 - age) % N], WEIGHTS[age]))
            .collect();
        median(&mut pairs).unwrap_or(0)
    }

    /// The median, drawn to 0 as if two observations had said 0: few observations change little.
    pub fn shrunk(&self) -> Octaves {
        shrink(self.median(), self.len())
    }
}

/// `value`, of which `count` observations tell, beside two that tell 0.
pub(super) fn shrink(value: Octaves, count: usize) -> Octaves {
    let count = count.min(1 << 12) as i32;
    (i32::from(value) * count / (count + 2)) as Octaves
}

/// The weighted median of values and weights; the mean of two middle ones.
pub(super) fn median(pairs: &mut [(Octaves, u32)]) -> Option<Octaves> {
    pairs.sort_unstable();
    let whole: u64 = pairs.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut before = 0;
    let mut lower = None;
    for (value, weight) in pairs {
        before += u64::from(*weight);
        if let Some(lower) = lower {
            return Some(((i32::from(lower) + i32::from(*value)).div_euclid(2)) as Octaves);
        }
        match (before * 2).cmp(&whole) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => lower = Some(*value),
            std::cmp::Ordering::Greater => return Some(*value),
        }
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minority_moves_it_no_further_than_to_its_neighbour() {
        let mut window = Window::<32>::default();
        assert_eq!(window.median(), 0);
        for step in 0..40 {
            window.push(if step % 3 == 0 { 30_000 } else { 100 + step % 2 });
        }
        assert!((100..=101).contains(&window.median()) && window.len() == 32);
    }

    #[test]
    fn it_follows_a_lasting_change_within_its_length() {
        let mut window = Window::<32>::default();
        (0..32).for_each(|_| window.push(0));
        let steps = (1..32).find(|_| {
            window.push(500);
            window.median() == 500
        });
        assert!(steps.is_some_and(|steps| (8..16).contains(&steps)), "{steps:?}");
    }

    #[test]
    fn the_newer_half_is_kept() {
        let mut window = Window::<8>::default();
        (0..11).for_each(|value| window.push(value));
        window.forget();
        assert_eq!((window.len(), window.median()), (4, 9));
        (0..3).for_each(|_| window.forget());
        assert_eq!((window.len(), window.median()), (0, 0));
        window.push(5);
        assert_eq!(window.median(), 5);
    }

    #[test]
    fn two_middle_ones_are_averaged_and_few_count_little() {
        assert_eq!(median(&mut [(4, 1), (-2, 1)]), Some(1));
        assert_eq!(median(&mut []), None);
        let mut window = Window::<8>::default();
        window.push(300);
        assert_eq!((window.median(), window.shrunk()), (300, 100));
        (0..20).for_each(|_| window.push(300));
        assert_eq!(window.shrunk(), 240);
    }
}
