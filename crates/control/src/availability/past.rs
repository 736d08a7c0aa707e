//! The history of what was looked at, and what share of it was up.

use std::collections::VecDeque;
use std::time::Duration;

use milecastle_store::{Span, Watched};

/// Outages of a subject that are shown: the last ones.
const MOST_OUTAGES: usize = 20;

/// Looks that may be missing before nothing is known.
const MISSED: u32 = 3;

/// Between two looks that are further apart nothing is known.
pub(crate) fn gap(look: Duration) -> Duration {
    look * MISSED
}

/// A time in which a subject was down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Unix time in seconds: the last look before it, and the last one in it.
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) detail: String,
}

/// What is known of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) subject: Watched,
    /// Whether it was up at the last look, and how it was.
    pub(crate) is_up: bool,
    pub(crate) detail: String,
    /// That look, Unix time in seconds.
    pub(crate) seen_at: u64,
    /// Seconds of which it is known, and those of them in which it was up.
    pub(crate) known: u64,
    pub(crate) up: u64,
    /// How often it went down, and the last times, oldest first.
    pub(crate) outages_total: u64,
    pub(crate) outages: VecDeque<Outage>,
}

/// Adds spans, which come by subject and beginning, to the histories from `from` (Unix seconds) on. What lies between two spans of a
/// subject counts as the later one, unless that is more than `gap`.
pub(crate) fn histories(histories: &mut Vec<History>, spans: Vec<Span>, from: u64, gap: Duration) {
    for Span { observation, began_at, seen_at } in spans {
        let known = histories.last_mut().filter(|known| known.subject == observation.subject);
        let joins = known.as_ref().is_some_and(|known| began_at.saturating_sub(known.seen_at) <= gap.as_secs());
        let history = match known {
            Some(known) => known,
            None => {
                histories.push(History {
                    subject: observation.subject,
                    is_up: true,
                    detail: String::new(),
                    seen_at: began_at,
                    known: 0,
                    up: 0,
                    outages_total: 0,
                    outages: VecDeque::new(),
                });
                histories.last_mut().expect("one was pushed")
            }
        };
        let begin = if joins { history.seen_at } else { began_at }.max(from);
        let seconds = seen_at.saturating_sub(begin);
        history.known += seconds;
        if observation.is_up {
            history.up += seconds;
        } else {
            match history.outages.back_mut().filter(|_| joins && !history.is_up) {
                // Down in another way.
                Some(outage) => (outage.until, outage.detail) = (seen_at, observation.detail.clone()),
                None => {
                    history.outages_total += 1;
                    history.outages.push_back(Outage {
                        from: begin,
                        until: seen_at,
                        detail: observation.detail.clone(),
                    });
                }
            }
            if history.outages.len() > MOST_OUTAGES {
                history.outages.pop_front();
            }
        }
        (history.is_up, history.detail, history.seen_at) = (observation.is_up, observation.detail, seen_at);
    }
}

impl History {
    /// The share of the time of which it is known in which it was up, in percent, to the thousandth; `None`: nothing is known.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.known > 0).then(|| (self.up as f64 * 100_000.0 / self.known as f64).floor() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_store::Observation;

    fn span(name: &str, detail: &str, began_at: u64, seen_at: u64) -> Span {
        let subject = Watched { kind: "k".to_owned(), group: String::new(), name: name.to_owned() };
        let observation = Observation { subject, is_up: detail == "up", detail: detail.to_owned() };
        Span { observation, began_at, seen_at }
    }

    fn of(from: u64, spans: &[Span]) -> Vec<History> {
        let mut found = Vec::new();
        // As from two pages.
        let (first, second) = spans.split_at(spans.len() / 2);
        histories(&mut found, first.to_vec(), from, Duration::from_secs(30));
        histories(&mut found, second.to_vec(), from, Duration::from_secs(30));
        found
    }

    #[test]
    fn a_share_is_one_of_what_is_known() {
        let spans =
            [span("a", "up", 0, 100), span("a", "lost", 110, 140), span("a", "up", 150, 200), span("b", "up", 50, 50)];
        let [a, b] = &of(0, &spans)[..] else { panic!("two subjects") };
        assert_eq!((a.known, a.up, a.percent(), a.is_up), (200, 160, Some(80.0), true));
        assert_eq!(a.outages, [Outage { from: 100, until: 140, detail: "lost".to_owned() }]);
        assert_eq!((b.known, b.percent(), &*b.detail), (0, None, "up"));
        // What was before is left out.
        let [a, _] = &of(120, &spans)[..] else { panic!("two subjects") };
        assert_eq!((a.known, a.up), (80, 60));
    }

    #[test]
    fn what_nobody_looked_at_is_unknown() {
        let [a] = &of(0, &[span("a", "up", 0, 100), span("a", "up", 131, 231)])[..] else { panic!("one subject") };
        assert_eq!((a.known, a.up), (200, 200));
    }

    #[test]
    fn an_outage_lasts_for_as_long_as_it_is_down() {
        let spans = [span("a", "status 500", 0, 10), span("a", "no answer", 20, 40), span("a", "up", 50, 60)];
        let [a] = &of(0, &spans)[..] else { panic!("one subject") };
        assert_eq!(
            (a.outages_total, a.outages.len(), a.outages[0].until, &*a.outages[0].detail),
            (1, 1, 40, "no answer")
        );
    }

    #[test]
    fn the_last_outages_are_shown() {
        let flaps: Vec<Span> = (0..100).map(|n| span("a", if n % 2 == 0 { "up" } else { "lost" }, n, n)).collect();
        let [a] = &of(0, &flaps)[..] else { panic!("one subject") };
        assert_eq!((a.outages_total, a.outages.len(), a.outages[0].from), (50, MOST_OUTAGES, 60));
    }
}
