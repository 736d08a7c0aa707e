//! Which DP manager to try next, how long to wait for it, and how long to pause before.
//!
//! - Whatever fails, the next one of the list is tried at once; a pause comes when all of them have failed, longer at each round.
//! - A node that was connected lately, or has just started with its last good configuration, is quick: it waits for nobody
//!   longer than `quick_limit`. What it misses are updates.
//! - What the control plane asks for is done, within `longest_wait`.
//! - Where somebody has to act first nothing is gained by haste.

use milecastle_settings::ControlPlane;
use std::time::{Duration, Instant};

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The node has a fresh certificate, and wants to come again with it.
    Renewed,
    /// No stream came about.
    NotOpened,
    /// No stream comes about before somebody acts on this host.
    Barred,
    /// A stream ended that had served the node for so long.
    Lost { served: Duration },
    /// The control plane asks for a pause. `left`: a stream had been open.
    Asked { pause: Duration, left: bool },
}

/// What was tried, and how it went.
pub(super) struct Pace {
    settings: ControlPlane,
    turn: usize,
    /// Tries in a row that came to nothing.
    failures: u32,
    /// Since when what is in force has not been kept up to date; `None` if nothing is.
    lost_at: Option<Instant>,
    /// The last try brought a certificate, and no stream since.
    renewed: bool,
}

impl Pace {
    /// A node that was not connected yet. It begins anywhere in the list, so that a cluster's nodes spread.
    pub(super) fn new(settings: ControlPlane, begin: u8) -> Self {
        Self { settings, turn: begin.into(), failures: 0, lost_at: None, renewed: false }
    }

    /// The node serves what it had before it was restarted.
    pub(super) fn goes_on(&mut self, now: Instant) {
        self.lost_at = Some(now);
    }

    /// The DP manager to try now; `None` if there is none at all.
    pub(super) fn endpoint(&self) -> Option<&str> {
        let endpoints = &self.settings.endpoints;
        endpoints.get(self.turn.checked_rem(endpoints.len())?).map(String::as_str)
    }

    /// How long to wait for it.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.quick(self.settings.connect_timeout.get(), now)
    }

    fn quick(&self, wait: Duration, now: Instant) -> Duration {
        let lately = |lost: Instant| now.saturating_duration_since(lost) < self.settings.quick_for.get();
        if self.lost_at.is_some_and(lately) { wait.min(self.settings.quick_limit.get()) } else { wait }
    }

    /// Takes note of how the try ended, turns to the next DP manager, and gives the pause before it. `jitter` is any byte.
    pub(super) fn after(&mut self, outcome: Outcome, now: Instant, jitter: u8) -> Duration {
        match outcome {
            // A second time without a stream in between it is a fault like others, and no reason to hurry.
            Outcome::Renewed if !self.renewed => {
                self.renewed = true;
                return Duration::ZERO;
            }
            Outcome::Renewed | Outcome::NotOpened => {}
            Outcome::Lost { served } => {
                (self.lost_at, self.renewed) = (Some(now), false);
                // One that ends again and again right after its beginning gets pauses too.
                if served >= self.settings.silence.get() {
                    self.failures = 0;
                }
            }
            Outcome::Barred => {
                self.turn = self.turn.wrapping_add(1);
                self.failures = self.failures.saturating_add(1);
                return spread(self.settings.reconnect_max.get(), jitter);
            }
            Outcome::Asked { pause, left } => {
                self.turn = self.turn.wrapping_add(1);
                if left {
                    (self.lost_at, self.renewed) = (Some(now), false);
                }
                return pause.min(self.settings.longest_wait.get());
            }
        }
        self.turn = self.turn.wrapping_add(1);
        self.failures = self.failures.saturating_add(1);
        let endpoints = u32::try_from(self.settings.endpoints.len()).unwrap_or(u32::MAX).max(1);
        if !self.failures.is_multiple_of(endpoints) {
            return Duration::ZERO;
        }
        let (shortest, longest) = (self.settings.reconnect_min.get(), self.settings.reconnect_max.get());
        let rounds = self.failures / endpoints;
        let pause = shortest.saturating_mul(1 << rounds.saturating_sub(1).min(16)).min(longest);
        spread(self.quick(pause, now), jitter)
    }
}

/// Between half of a pause and all of it.
fn spread(pause: Duration, jitter: u8) -> Duration {
    pause.mul_f64(0.5 + f64::from(jitter) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Outcome = Outcome::Lost { served: Duration::from_secs(3600) };

    fn pace(endpoints: &[&str]) -> Pace {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Pace::new(ControlPlane { endpoints, ..ControlPlane::default() }, 0)
    }

    fn ms(duration: Duration) -> u128 {
        duration.as_millis()
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let (mut pace, now) = (pace(&["a"]), Instant::now());
        let pauses: Vec<u128> = (0..9).map(|_| ms(pace.after(Outcome::NotOpened, now, 255))).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
        assert_eq!(ms(pace.after(Outcome::NotOpened, now, 0)), 7500);
        assert_eq!(ms(pace.patience(now)), 5000);
    }

    #[test]
    fn the_next_is_tried_at_once() {
        let (mut pace, now) = (pace(&["a", "b", "c"]), Instant::now());
        assert_eq!(pace.endpoint(), Some("a"));
        let mut tried = |outcome| {
            let pause = pace.after(outcome, now, 255);
            (pace.endpoint().unwrap().to_owned(), ms(pause))
        };
        assert_eq!(tried(LONG), ("b".to_owned(), 0));
        assert_eq!(tried(Outcome::NotOpened), ("c".to_owned(), 0));
        assert_eq!(tried(Outcome::NotOpened), ("a".to_owned(), 200));
        assert_eq!(tried(Outcome::NotOpened), ("b".to_owned(), 0));
    }

    #[test]
    fn a_node_that_was_connected_lately_is_quick() {
        let (mut pace, lost) = (pace(&["a"]), Instant::now());
        assert_eq!(ms(pace.after(LONG, lost, 255)), 200);
        assert_eq!(ms(pace.patience(lost)), 500);
        for _ in 0..9 {
            assert!(ms(pace.after(Outcome::NotOpened, lost, 255)) <= 500);
        }
        let later = lost + Duration::from_secs(60);
        assert_eq!(ms(pace.patience(later)), 5000);
        assert_eq!(ms(pace.after(Outcome::NotOpened, later, 255)), 15_000);
        assert_eq!(ms(pace.after(LONG, later, 255)), 200);
    }

    #[test]
    fn a_node_that_was_restarted_is_quick() {
        let (mut pace, started) = (pace(&["a"]), Instant::now());
        pace.goes_on(started);
        assert_eq!(ms(pace.patience(started)), 500);
        let pauses: Vec<u128> = (0..5).map(|_| ms(pace.after(Outcome::NotOpened, started, 255))).collect();
        assert_eq!(pauses, [200, 400, 500, 500, 500]);
        let later = started + Duration::from_secs(60);
        assert_eq!(ms(pace.patience(later)), 5000);
    }

    #[test]
    fn streams_that_end_at_once_are_failures() {
        let (mut pace, now) = (pace(&["a"]), Instant::now());
        let short = Outcome::Lost { served: Duration::from_secs(1) };
        let pauses: Vec<u128> = (0..4).map(|_| ms(pace.after(short, now, 255))).collect();
        assert_eq!(pauses, [200, 400, 500, 500]);
    }

    #[test]
    fn what_is_asked_for_is_done_within_reason() {
        let (mut pace, now) = (pace(&["a", "b"]), Instant::now());
        let ask = |secs, left| Outcome::Asked { pause: Duration::from_secs(secs), left };
        assert_eq!(pace.after(ask(40, false), now, 0), Duration::from_secs(40));
        assert_eq!((pace.endpoint(), ms(pace.patience(now))), (Some("b"), 5000));
        assert_eq!(pace.after(ask(u64::MAX, true), now, 0), Duration::from_secs(300));
        assert_eq!((pace.endpoint(), ms(pace.patience(now))), (Some("a"), 500));
    }

    #[test]
    fn where_somebody_has_to_act_there_is_no_hurry() {
        let (mut pace, lost) = (pace(&["a", "b"]), Instant::now());
        pace.after(LONG, lost, 255);
        assert_eq!(ms(pace.after(Outcome::Barred, lost, 255)), 15_000);
        assert_eq!(ms(pace.after(Outcome::Barred, lost, 0)), 7500);
    }

    #[test]
    fn a_fresh_certificate_is_used_at_once_but_once() {
        let (mut pace, now) = (pace(&["a"]), Instant::now());
        assert_eq!(pace.after(Outcome::Renewed, now, 255), Duration::ZERO);
        assert_eq!(ms(pace.after(Outcome::Renewed, now, 255)), 200);
        pace.after(LONG, now, 255);
        assert_eq!(pace.after(Outcome::Renewed, now, 255), Duration::ZERO);
    }

    #[test]
    fn without_a_list_there_is_nobody_to_try() {
        assert_eq!(pace(&[]).endpoint(), None);
    }
}
