//! Exponentially weighted moving average of the response time (`docs/spec/upstream-balancing.md` §4.4).
//!
//! The averages belong to the process: whatever worker a request is on, a slow node is slow. They are kept by `host:port`
//! over all upstreams; a tier holds those of its nodes, so that a pick looks nothing up.

use super::weights::{Member, in_rotation};
use milecastle_snapshot::CompiledNode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time in which what was measured loses its weight to 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// An average that was not updated for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The average of one node. Locked for a few instructions at a time.
#[derive(Debug, Default)]
pub(super) struct Average(Mutex<Option<Measured>>);

/// An average, in seconds, and when it was updated.
#[derive(Debug, Clone, Copy)]
struct Measured {
    value: f64,
    at: Instant,
}

impl Measured {
    /// How much of the average is left now.
    fn remains(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > FORGOTTEN_AFTER
    }
}

impl Average {
    /// The score, in seconds; zero if it is unknown.
    fn score(&self, now: Instant) -> f64 {
        self.known(now).map_or(0.0, |known| known.value * known.remains(now))
    }

    /// Takes the time of one more request in.
    pub(super) fn update(&self, took: Duration, now: Instant) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nothing is known, infinitely long ago is the last update: the average begins with what was measured.
        let known = measured.filter(|known| !known.is_forgotten(now));
        let (before, remains) = known.map_or((0.0, 0.0), |known| (known.value, known.remains(now)));
        let value = before * remains + took.as_secs_f64() * (1.0 - remains);
        *measured = Some(Measured { value, at: now });
    }

    fn known(&self, now: Instant) -> Option<Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filter(|known| !known.is_forgotten(now))
    }
}

/// Host and port.
type NodeKey = (Arc<str>, u16);

/// The averages of all nodes of the process.
#[derive(Debug, Default)]
pub(crate) struct Averages(Mutex<HashMap<NodeKey, Arc<Average>>>);

impl Averages {
    /// The averages of `nodes`, by place. Those that nobody uses and nobody will ask for again are let go.
    pub(super) fn of(&self, nodes: &[CompiledNode], now: Instant) -> Vec<Arc<Average>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, average| Arc::strong_count(average) > 1 || average.known(now).is_some());
        nodes.iter().map(|node| known.entry((node.host.clone(), node.port)).or_default().clone()).collect()
    }
}

/// One tier. Weights do not matter, but that zero takes a node out.
#[derive(Debug)]
pub(super) struct Ewma {
    places: Vec<usize>,
}

impl Ewma {
    pub(super) fn new(members: Vec<Member>) -> Self {
        Self { places: in_rotation(members).iter().map(|member| member.place).collect() }
    }

    /// The faster one of two `free` places that `random` draws; of equals the one drawn first.
    pub(super) fn pick(
        &self,
        averages: &[Arc<Average>],
        random: u64,
        now: Instant,
        free: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let candidates = || self.places.iter().copied().filter(|place| free(*place));
        let count = candidates().count();
        let [high, low] = [random >> 32, random & u64::from(u32::MAX)];
        let first = draw(high, count);
        let one = candidates().nth(first)?;
        if count == 1 {
            return Some(one);
        }
        let second = draw(low, count - 1);
        let other = candidates().nth(if second < first { second } else { second + 1 })?;
        let faster = averages[other].score(now) < averages[one].score(now);
        Some(if faster { other } else { one })
    }
}

/// A number below `count`, from 32 random bits.
fn draw(random: u64, count: usize) -> usize {
    usize::try_from((random * count as u64) >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::nodes;
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn near(average: &Average, now: Instant, expected: f64) {
        let score = average.score(now);
        assert!((score - expected).abs() < 1e-9, "{score}, not {expected}");
    }

    #[test]
    fn averages_follow_the_formula() {
        let (average, start) = (Average::default(), Instant::now());
        near(&average, start, 0.0);
        average.update(2 * SECOND, start);
        near(&average, start, 2.0);
        near(&average, start + 10 * SECOND, 2.0 * (-1.0_f64).exp());
        average.update(4 * SECOND, start + 5 * SECOND);
        let value = 2.0 * (-0.5_f64).exp() + 4.0 * (1.0 - (-0.5_f64).exp());
        near(&average, start + 5 * SECOND, value);
        near(&average, start + 65 * SECOND, value * (-6.0_f64).exp());
        near(&average, start + 66 * SECOND, 0.0);
        average.update(SECOND, start + 66 * SECOND);
        near(&average, start + 66 * SECOND, 1.0);
    }

    #[test]
    fn averages_belong_to_addresses() {
        let (averages, now) = (Averages::default(), Instant::now());
        let first = averages.of(&nodes(&[("a:1", 1, 0), ("b:1", 1, 0)]), now);
        let again = averages.of(&nodes(&[("b:1", 5, 2)]), now);
        assert!(Arc::ptr_eq(&first[1], &again[0]));
        again[0].update(SECOND, now);
        drop((first, again));
        assert_eq!(averages.of(&[], now + 60 * SECOND).len(), 0);
        assert_eq!(averages.0.lock().unwrap().len(), 1, "b may come back");
        averages.of(&[], now + 61 * SECOND);
        assert_eq!(averages.0.lock().unwrap().len(), 0);
    }

    fn tier(count: usize) -> (Ewma, Vec<Arc<Average>>) {
        let members = (0..count).map(|place| Member { place, weight: 1 }).collect();
        (Ewma::new(members), (0..count).map(|_| Arc::default()).collect())
    }

    #[test]
    fn the_faster_of_two_is_chosen() {
        let (tier, averages) = tier(2);
        let now = Instant::now();
        assert_eq!(tier.pick(&averages, 0, now, |_| true), Some(0), "equals: the first drawn");
        assert_eq!(tier.pick(&averages, u64::MAX, now, |_| true), Some(1), "equals: the first drawn");
        averages[0].update(SECOND, now);
        for random in [0, u64::MAX, 1 << 63] {
            assert_eq!(tier.pick(&averages, random, now, |_| true), Some(1));
        }
        assert_eq!(tier.pick(&averages, 0, now, |place| place == 0), Some(0));
        assert_eq!(tier.pick(&averages, 0, now, |_| false), None);
    }

    #[test]
    fn weight_zero_is_out_of_rotation() {
        let member = |place, weight| Member { place, weight };
        assert_eq!(Ewma::new(vec![member(0, 0), member(1, 7), member(2, 1)]).places, [1, 2]);
        assert_eq!(Ewma::new(vec![member(0, 0), member(1, 0)]).places, [0, 1]);
    }

    proptest! {
        #[test]
        fn the_slowest_of_many_is_never_chosen(count in 2_usize..8, random: u64, slow in 0_usize..8) {
            let (tier, averages) = tier(count);
            let (slow, now) = (slow % count, Instant::now());
            averages[slow].update(SECOND, now);
            // The two are distinct, so the slow one always has a better beside it.
            prop_assert_ne!(tier.pick(&averages, random, now, |_| true), Some(slow));
        }
    }
}
