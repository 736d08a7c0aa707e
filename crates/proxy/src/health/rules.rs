//! What observations mean (`docs/spec/resources.md` §4.3, classification).

use super::state::{Report, Thresholds};
use milecastle_model::{ActiveCheck, PassiveCheck};

/// How probes, or requests, are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) thresholds: Thresholds,
    good: Statuses,
    bad: Statuses,
}

impl Rules {
    pub(super) fn of_probes(check: &ActiveCheck) -> Self {
        Self {
            thresholds: Thresholds {
                successes: check.healthy.successes,
                http_failures: check.unhealthy.http_failures,
                tcp_failures: check.unhealthy.tcp_failures,
                timeouts: check.unhealthy.timeouts,
            },
            good: Statuses::of(&check.healthy.http_statuses),
            bad: Statuses::of(&check.unhealthy.http_statuses),
        }
    }

    pub(super) fn of_traffic(check: &PassiveCheck) -> Self {
        Self {
            thresholds: Thresholds {
                successes: check.healthy.successes,
                http_failures: check.unhealthy.http_failures,
                tcp_failures: check.unhealthy.tcp_failures,
                timeouts: check.unhealthy.timeouts,
            },
            good: Statuses::of(&check.healthy.http_statuses),
            bad: Statuses::of(&check.unhealthy.http_statuses),
        }
    }

    /// What a status says; `None`: nothing.
    pub(super) fn judge(&self, status: u16) -> Option<Report> {
        if self.good.has(status) {
            Some(Report::Success)
        } else if self.bad.has(status) {
            Some(Report::HttpFailure)
        } else {
            None
        }
    }
}

/// A set of statuses below 640, one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Statuses([u64; 10]);

impl Statuses {
    fn of(list: &[u16]) -> Self {
        let mut set = Self::default();
        for status in list {
            if let Some(word) = set.0.get_mut(usize::from(status / 64)) {
                *word |= 1 << (status % 64);
            }
        }
        set
    }

    fn has(&self, status: u16) -> bool {
        self.0.get(usize::from(status / 64)).is_some_and(|word| word & (1 << (status % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_what_their_lists_say() {
        let probes = Rules::of_probes(&ActiveCheck::default());
        let traffic = Rules::of_traffic(&PassiveCheck::default());
        let (good, bad) = (Some(Report::Success), Some(Report::HttpFailure));
        #[rustfmt::skip]
        let table = [
            (200, good, good), (201, None, good), (302, good, good), (304, None, good), (404, bad, None), (429, bad, bad),
            (500, bad, bad), (502, bad, None), (503, bad, bad), (505, bad, None), (100, None, None), (499, None, None),
            (599, None, None), (640, None, None), (u16::MAX, None, None),
        ];
        for (status, probe, request) in table {
            assert_eq!((probes.judge(status), traffic.judge(status)), (probe, request), "{status}");
        }
        let both = Statuses::of(&[200, 599]);
        assert!(both.has(200) && both.has(599) && !both.has(263));
    }
}
