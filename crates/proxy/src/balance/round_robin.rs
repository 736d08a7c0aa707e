//! Weighted round robin by descending current weight (`docs/spec/upstream-balancing.md` §4.1).

use super::weights::{Member, gcd, in_rotation};

/// Round robin over the nodes of one tier.
#[derive(Debug)]
pub(super) struct RoundRobin {
    members: Vec<Member>,
    gcd: u32,
    max: u32,
    current: u32,
    at: usize,
}

impl RoundRobin {
    /// A scan over `members` that starts at a place decided by `seed`.
    pub(super) fn new(members: Vec<Member>, seed: usize) -> Self {
        let members = in_rotation(members);
        let gcd = members.iter().fold(0, |divisor, member| gcd(divisor, member.weight));
        let max = members.iter().map(|member| member.weight).max().unwrap_or_default();
        let at = seed.checked_rem(members.len()).unwrap_or_default();
        Self { members, gcd, max, current: max, at }
    }

    /// The next place that is `free`.
    pub(super) fn pick(&mut self, free: impl Fn(usize) -> bool) -> Option<usize> {
        let heaviest = self.members.iter().filter(|member| free(member.place)).map(|member| member.weight).max()?;
        // Scans that can find nothing are left out, however far the weights lie apart.
        self.current = self.current.min(heaviest);
        loop {
            let Member { place, weight } = self.members[self.at];
            let eligible = weight >= self.current;
            self.at += 1;
            if self.at == self.members.len() {
                self.at = 0;
                self.current = self.current.checked_sub(self.gcd).filter(|left| *left > 0).unwrap_or(self.max);
            }
            if eligible && free(place) {
                return Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(weights: &[u32], seed: usize) -> RoundRobin {
        let members = (0..).zip(weights).map(|(place, weight)| Member { place, weight: *weight });
        RoundRobin::new(members.collect(), seed)
    }

    fn picks(weights: &[u32], seed: usize, count: usize) -> Vec<usize> {
        let mut scan = scan(weights, seed);
        (0..count).map(|_| scan.pick(|_| true).unwrap()).collect()
    }

    #[test]
    fn the_heaviest_comes_first() {
        assert_eq!(picks(&[1, 2, 4], 0, 7), [2, 2, 1, 2, 0, 1, 2]);
        assert_eq!(picks(&[10, 10], 1, 3), [1, 0, 1]);
    }

    #[test]
    fn zero_is_chosen_only_among_zeros() {
        assert!(picks(&[0, 3, 0], 0, 9).iter().all(|place| *place == 1));
        assert_eq!(picks(&[0, 0], 0, 4), [0, 1, 0, 1]);
        assert_eq!(scan(&[], 3).pick(|_| true), None);
    }

    #[test]
    fn tried_places_are_passed_over() {
        let mut scan = scan(&[u32::MAX, 1], 0);
        assert_eq!(scan.pick(|place| place != 0), Some(1));
        assert_eq!(scan.pick(|_| false), None);
    }

    proptest! {
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0_u32..20, 1..7), seed in 0_usize..50) {
            let effective: Vec<u32> = if weights.iter().all(|w| *w == 0) { vec![1; weights.len()] } else { weights.clone() };
            let divisor = effective.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
            let round = (effective.iter().sum::<u32>() / divisor) as usize;
            // Whatever the start, a whole number of rounds holds every share, and so does every later one.
            let chosen = picks(&weights, seed, 3 * round);
            for window in [&chosen[..round], &chosen[round..2 * round], &chosen[2 * round..]] {
                for (place, weight) in effective.iter().enumerate() {
                    let share = window.iter().filter(|chosen| **chosen == place).count();
                    prop_assert_eq!(share, (weight / divisor) as usize);
                }
            }
        }
    }
}
