//! What nodes count of their traffic, and what can be read from it.

use milecastle_wire::{TIME_BOUNDS_MS, pb};
use serde::{Deserialize, Serialize};

/// Requests that are over, since some moment, of one node or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// By the class of the answer's status, from 1xx to 5xx.
    pub responses: [u64; 5],
    /// Those of the class 5xx that an upstream answered.
    pub upstream_5xx: u64,
    /// How long they took: for each of [`TIME_BOUNDS_MS`] those that are no longer and longer than the bound before, and last those
    /// above all bounds.
    pub times: [u64; TIME_BOUNDS_MS.len() + 1],
}

impl Traffic {
    /// As a node tells; `None` if it is of a version that does not, or tells something else.
    pub(crate) fn told(report: &pb::Report) -> Option<Self> {
        Self::of(&report.responses, report.responses_5xx_upstream, &report.request_times)
    }

    fn of(responses: &[u64], upstream_5xx: u64, times: &[u64]) -> Option<Self> {
        Some(Self { responses: responses.try_into().ok()?, upstream_5xx, times: times.try_into().ok()? })
    }

    /// What came on top of what there was before.
    pub(crate) fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// Both together.
    pub(crate) fn and(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Self, join: fn(u64, u64) -> u64) -> Self {
        let mut joined = *self;
        joined.responses.iter_mut().zip(other.responses).for_each(|(own, other)| *own = join(*own, other));
        joined.times.iter_mut().zip(other.times).for_each(|(own, other)| *own = join(*own, other));
        joined.upstream_5xx = join(joined.upstream_5xx, other.upstream_5xx);
        joined
    }

    /// How many there are.
    pub(crate) fn requests(&self) -> u64 {
        self.responses.iter().sum()
    }

    /// Those of a class, 1 to 5, in percent of all; 0 if there are none.
    pub(crate) fn percent(&self, class: usize) -> f64 {
        match self.requests() {
            0 => 0.0,
            all => 100.0 * self.responses[class - 1] as f64 / all as f64,
        }
    }

    /// The bound, in milliseconds, within which 99 of 100 took; `None` if there are none. The last bound stands for all beyond it.
    pub(crate) fn p99_ms(&self) -> Option<u64> {
        self.percentile_ms(99)
    }

    /// The same for as many of 100 as `percent` says.
    pub(crate) fn percentile_ms(&self, percent: u64) -> Option<u64> {
        let all: u64 = self.times.iter().sum();
        let rank = all - all * (100 - percent) / 100;
        let mut seen = 0;
        let place = self.times.iter().position(|count| {
            seen += count;
            all > 0 && seen >= rank
        })?;
        TIME_BOUNDS_MS.get(place).or(TIME_BOUNDS_MS.last()).copied()
    }
}

/// What a replica writes of a node for all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Since its process started.
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
    /// Client connections.
    #[serde(default)]
    pub(crate) connections: u64,
    /// Addresses of upstreams whose health it watches.
    #[serde(default)]
    pub(crate) upstream_targets: u64,
    /// Those of them that are not healthy.
    #[serde(default)]
    pub(crate) unhealthy_targets: u64,
    /// What it had in force when it had counted that; `None`: a replica wrote it that does not say.
    #[serde(default)]
    pub(crate) revision: Option<u64>,
    /// When it told that, Unix time in seconds; `None` as well.
    #[serde(default)]
    pub(crate) at: Option<u64>,
}

/// What stands in a route's place for all routes that were not told by themselves; no id has parentheses.
pub(crate) const OTHER: &str = "(other)";

/// The same for requests that no route took.
pub(crate) const UNMATCHED: &str = "(unmatched)";

/// The most that a node may count of one thing between two reports: sums have room in 64 bits.
const MOST_COUNTED: u64 = 1 << 40;

/// What the nodes of a group counted of a route in a step, as a replica writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteTold {
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
    /// Addresses of its upstream whose health is watched, by each node on its own.
    #[serde(default)]
    pub(crate) upstream_targets: u64,
    /// Those of them that are not healthy.
    #[serde(default)]
    pub(crate) unhealthy_targets: u64,
}

impl RouteTold {
    /// As a node tells; `None` if it tells something else.
    pub(crate) fn told(counts: &pb::RouteCounts) -> Option<Self> {
        let bounded = |counts: &[u64]| counts.iter().map(|count| (*count).min(MOST_COUNTED)).collect::<Vec<_>>();
        let (responses, times) = (bounded(&counts.responses), bounded(&counts.request_times));
        Some(Self {
            traffic: Traffic::of(&responses, counts.responses_5xx_upstream.min(MOST_COUNTED), &times)?,
            upstream_targets: counts.upstream_targets.min(MOST_COUNTED),
            unhealthy_targets: counts.unhealthy_targets.min(MOST_COUNTED),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_percentiles() {
        let mut traffic = Traffic { responses: [0, 90, 0, 5, 5], ..Traffic::default() };
        (traffic.times[3], traffic.times[6]) = (99, 1);
        assert_eq!((traffic.requests(), traffic.percent(5), traffic.p99_ms()), (100, 5.0, Some(10)));
        assert_eq!((traffic.percentile_ms(50), traffic.percentile_ms(100)), (Some(10), Some(100)));
        (traffic.times[3], traffic.times[15]) = (98, 2);
        assert_eq!(traffic.p99_ms(), Some(60_000));
        assert_eq!((Traffic::default().percent(5), Traffic::default().p99_ms()), (0.0, None));
    }

    #[test]
    fn what_came_since_is_a_difference() {
        let before = Traffic { responses: [0, 3, 0, 0, 1], upstream_5xx: 1, ..Traffic::default() };
        let now = Traffic { responses: [0, 8, 0, 0, 1], upstream_5xx: 1, ..Traffic::default() };
        let came = now.since(&before);
        assert_eq!((came.responses, came.upstream_5xx), ([0, 5, 0, 0, 0], 0));
        assert_eq!(came.and(&before), now);
    }

    #[test]
    fn what_another_version_tells_is_not_made_up() {
        let told = pb::Report { responses: vec![0, 1, 2, 3, 4], request_times: vec![0; 16], ..pb::Report::default() };
        assert_eq!(Traffic::told(&told).map(|traffic| traffic.responses), Some([0, 1, 2, 3, 4]));
        assert_eq!(Traffic::told(&pb::Report { responses: vec![1], ..told }), None);
    }
}
