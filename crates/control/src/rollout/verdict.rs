//! Whether canaries do worse than they should: by the answers that they gave, compared with their own before and with those of the
//! other nodes meanwhile.
//!
//! What must stay true: what is as bad elsewhere, or was as bad before, is not the revision's doing.

use crate::traffic::Traffic;

use super::policy::Policy;

/// What is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The canaries, each since it has first told with the candidate in force.
    pub(crate) canaries: Traffic,
    /// The other nodes since the last of them did.
    pub(crate) others: Traffic,
    /// The canaries in the minutes before they were chosen.
    pub(crate) before: Traffic,
}

impl Compared {
    /// Whether the canaries have had enough requests to be judged by them.
    pub(crate) fn is_enough(&self, policy: &Policy) -> bool {
        self.canaries.requests() >= policy.min_requests.max(1)
    }

    /// Why the revision is bad, if it is.
    pub(crate) fn verdict(&self, policy: &Policy) -> Option<String> {
        if !self.is_enough(policy) {
            return None;
        }
        self.rise(policy, 5, policy.max_5xx_rise)
            .or_else(|| self.rise(policy, 4, policy.max_4xx_rise))
            .or_else(|| self.slower(policy))
    }

    /// Whether the revision would be bad if the requests failed that wait for an answer at the canaries, more than when these were chosen.
    pub(crate) fn is_in_doubt(&self, policy: &Policy) -> bool {
        let [canaries, others, before] =
            [self.canaries, self.others, self.before].map(|traffic| traffic.if_waiting_fail());
        let failed = Self { canaries, others, before };
        self.canaries.waiting > 0 && failed.is_enough(policy) && failed.rise(policy, 5, policy.max_5xx_rise).is_some()
    }

    /// The same if all that is over had been answered well: whether what waits would be bad by itself.
    pub(crate) fn hangs(&self, policy: &Policy) -> bool {
        let canaries = Traffic { responses: [0, self.canaries.requests(), 0, 0, 0], ..self.canaries };
        Self { canaries, ..*self }.is_in_doubt(policy)
    }

    /// With what the canaries can be compared.
    fn measures(&self, policy: &Policy) -> impl Iterator<Item = (&'static str, &Traffic)> {
        let all = [("before", &self.before), ("at the other nodes", &self.others)];
        let least = policy.min_requests.max(1);
        all.into_iter().filter(move |(_, traffic)| traffic.requests() >= least)
    }

    fn rise(&self, policy: &Policy, class: usize, most: f64) -> Option<String> {
        let here = self.canaries.percent(class);
        // Where there is nothing to compare with, nothing of it is usual.
        let usual = self.measures(policy).map(|(_, traffic)| traffic.percent(class)).fold(0.0, f64::max);
        (here > usual + most).then(|| {
            let requests = self.canaries.requests();
            let compared = self.told(policy, |traffic| format!("{:.1} %", traffic.percent(class)));
            format!("{here:.1} % of {requests} requests to the canaries were answered with {class}xx{compared}; at most {most} points more are allowed")
        })
    }

    fn slower(&self, policy: &Policy) -> Option<String> {
        let here = self.canaries.p99_ms()?;
        let usual = self.measures(policy).filter_map(|(_, traffic)| traffic.p99_ms()).max()?;
        let least = usual.saturating_add(u64::try_from(policy.min_p99_rise.get().as_millis()).unwrap_or(u64::MAX));
        let slow = here as f64 > usual as f64 * policy.max_p99_factor && here > least;
        slow.then(|| {
            let compared = self.told(policy, |traffic| format!("{} ms", traffic.p99_ms().unwrap_or_default()));
            let (requests, factor) = (self.canaries.requests(), policy.max_p99_factor);
            format!("99 of 100 of {requests} requests to the canaries took up to {here} ms{compared}; at most {factor} times as long is allowed")
        })
    }

    fn told(&self, policy: &Policy, figure: impl Fn(&Traffic) -> String) -> String {
        let told: Vec<_> =
            self.measures(policy).map(|(whose, traffic)| format!("{} {whose}", figure(traffic))).collect();
        if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of 2xx, 4xx and 5xx, all of them within the bound of this place.
    fn traffic(good: u64, client: u64, server: u64, place: usize) -> Traffic {
        let mut traffic = Traffic { responses: [0, good, 0, client, server], ..Traffic::default() };
        traffic.times[place] = good + client + server;
        traffic
    }

    fn check(canaries: Traffic, others: Traffic, before: Traffic, expected: Option<&str>) {
        let verdict = Compared { canaries, others, before }.verdict(&Policy::default());
        match expected {
            None => assert_eq!(verdict, None),
            Some(word) => assert!(verdict.as_ref().is_some_and(|text| text.contains(word)), "{verdict:?}"),
        }
    }

    #[test]
    fn what_is_worse_than_before_and_elsewhere_is_bad() {
        let (none, good) = (Traffic::default(), traffic(1000, 0, 0, 2));
        check(traffic(97, 0, 3, 2), good, good, Some("5xx"));
        check(traffic(98, 0, 2, 2), good, good, None);
        // As bad elsewhere, or before: an upstream is down for all.
        check(traffic(50, 0, 50, 2), traffic(50, 0, 50, 2), good, None);
        check(traffic(50, 0, 50, 2), good, traffic(50, 0, 50, 2), None);
        // Nothing to compare with.
        check(traffic(97, 0, 3, 2), none, none, Some("5xx"));
        check(traffic(70, 30, 0, 2), good, good, Some("4xx"));
        check(traffic(80, 20, 0, 2), good, good, None);
        // Too few to say anything.
        check(traffic(0, 0, 49, 2), good, good, None);
        check(traffic(0, 0, 50, 2), good, traffic(0, 0, 49, 2), Some("5xx"));
    }

    #[test]
    fn what_waits_for_an_answer_leaves_in_doubt_what_would_be_bad_if_it_failed() {
        let waits = |good: u64, waiting: u64| Traffic { waiting, ..traffic(good, 0, 0, 2) };
        let check = |canaries, others, before, expected: bool| {
            let compared = Compared { canaries, others, before };
            assert_eq!(compared.verdict(&Policy::default()), None);
            assert_eq!(compared.is_in_doubt(&Policy::default()), expected, "{compared:?}");
        };
        let (none, good) = (Traffic::default(), waits(1000, 0));
        check(waits(0, 50), good, good, true);
        check(waits(97, 3), good, good, true);
        check(waits(98, 2), good, good, false);
        check(waits(100, 0), good, good, false);
        // So it is elsewhere, or was so before.
        check(waits(50, 50), waits(50, 50), good, false);
        check(waits(50, 50), good, waits(50, 50), false);
        // Nothing to compare with; too few to say anything.
        check(waits(0, 50), none, none, true);
        check(waits(0, 49), good, good, false);
    }

    #[test]
    fn what_is_much_slower_is_bad() {
        let (none, quick, slow) = (Traffic::default(), traffic(1000, 0, 0, 5), traffic(100, 0, 0, 7));
        check(slow, quick, quick, Some("took up to 200 ms"));
        check(slow, slow, quick, None);
        check(slow, none, quick, Some("took up to 200 ms"));
        check(slow, none, none, None);
        // Five times as long, which is still not long.
        check(traffic(100, 0, 0, 3), traffic(100, 0, 0, 1), none, None);
    }
}
