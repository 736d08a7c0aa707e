//! Whether a secret manager is within reach: a circuit breaker.
//!
//! What it judges is whether a secret could be had, whatever that takes: a server of tokens that answers says nothing of the one that has
//! the secrets. It opens when there is no connection, or when two secrets have run out of time: one that hangs alone is no fault of the
//! manager. What counts as one is a [`place`](super::reference::place): with AWS, whose references do not tell what secret they are of,
//! each reference. It closes with the next answer, whatever that says. While it is open no configuration waits for the manager, and one
//! fetch at a time finds out whether it is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whether a manager is within reach. Closed at first.
pub(super) struct Breaker {
    /// So long after a failure only what is new is asked for.
    rest: Duration,
    seen: Mutex<Seen>,
    /// Had by the fetch that finds out.
    probe: Arc<Semaphore>,
}

/// A manager has come out of reach, or within reach again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Why it cannot be asked.
    Lost(String),
    Back,
}

#[derive(Default)]
struct Seen {
    /// When the manager last answered.
    answered: Option<Instant>,
    /// What ran out of time first since then.
    late: Option<String>,
    /// The last failure since then; with one it is open.
    failure: Option<Failure>,
    /// How often it has opened and closed, and how often it had at the last look ([`Breaker::turn`]).
    turns: u64,
    told: u64,
}

struct Failure {
    at: Instant,
    reason: String,
}

impl Seen {
    /// Whether nothing has been answered since then.
    fn is_silent_since(&self, asked: Instant) -> bool {
        self.answered.is_none_or(|answered| answered < asked)
    }

    fn fail(&mut self, reason: &str) {
        let failure = Failure { at: Instant::now(), reason: reason.to_owned() };
        if self.failure.replace(failure).is_none() {
            self.turns += 1;
        }
    }
}

impl Breaker {
    pub(super) fn new(rest: Duration) -> Self {
        Self { rest, seen: Mutex::default(), probe: Arc::new(Semaphore::new(1)) }
    }

    /// A fetch has had its answer.
    pub(super) fn answered(&self) {
        let mut seen = self.seen();
        (seen.answered, seen.late) = (Some(Instant::now()), None);
        if seen.failure.take().is_some() {
            seen.turns += 1;
        }
    }

    /// A fetch that began then has found no connection. That says nothing of a manager that has answered another one since.
    pub(super) fn failed(&self, asked: Instant, reason: &str) {
        let mut seen = self.seen();
        if seen.is_silent_since(asked) {
            seen.fail(reason);
        }
    }

    /// A fetch of this place, which began then, has run out of time. The same holds; and the manager may take its time over this secret
    /// alone.
    pub(super) fn late(&self, asked: Instant, place: &str, reason: &str) {
        let mut seen = self.seen();
        if !seen.is_silent_since(asked) {
            return;
        }
        let alone = *seen.late.get_or_insert_with(|| place.to_owned()) == *place;
        if !alone || seen.failure.is_some() {
            seen.fail(reason);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.seen().failure.is_some()
    }

    /// What has become of it since the last look; `None` if nothing has. One that has closed and opened meanwhile is lost anew: what
    /// was asked for in between may be waited for.
    pub(super) fn turn(&self) -> Option<Turn> {
        let mut seen = self.seen();
        let turns = seen.turns;
        let before = std::mem::replace(&mut seen.told, turns);
        let present = || seen.failure.as_ref().map_or(Turn::Back, |failure| Turn::Lost(failure.reason.clone()));
        (before != turns).then(present)
    }

    /// What the last failure was, if that has been since `came` and it is open.
    pub(super) fn failure_since(&self, came: Instant) -> Option<String> {
        let seen = self.seen();
        seen.failure.as_ref().filter(|failure| failure.at >= came).map(|failure| failure.reason.clone())
    }

    /// Lets a fetch through; the one that finds out whether the manager is back holds what it is given until it has an answer or
    /// none. `new`: it asks for something that has never been asked for.
    ///
    /// # Errors
    /// Nobody is to be asked now. Says what the last failure was.
    pub(super) fn admit(&self, new: bool) -> Result<Option<OwnedSemaphorePermit>, String> {
        let seen = self.seen();
        let Some(failure) = &seen.failure else { return Ok(None) };
        let has_rested = new || failure.at.elapsed() >= self.rest;
        let probe = has_rested.then(|| self.probe.clone().try_acquire_owned().ok()).flatten();
        probe.map(Some).ok_or_else(|| failure.reason.clone())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(rest: Duration) -> Breaker {
        let breaker = Breaker::new(rest);
        breaker.failed(Instant::now(), "no connection");
        assert_eq!(breaker.turn(), Some(lost("no connection")));
        breaker
    }

    fn lost(reason: &str) -> Turn {
        Turn::Lost(reason.to_owned())
    }

    /// A fetch of a place has run out of time.
    fn late(breaker: &Breaker, place: &str) {
        breaker.late(Instant::now(), place, "no answer");
    }

    /// Whether a fetch is let through, and whether it is the one that finds out.
    fn admits(breaker: &Breaker, new: bool) -> Result<bool, String> {
        breaker.admit(new).map(|probe| probe.is_some())
    }

    #[test]
    fn any_answer_closes_it() {
        let breaker = open(HOUR);
        assert_eq!(admits(&breaker, false), Err("no connection".to_owned()));
        breaker.answered();
        assert!(!breaker.is_open());
        assert_eq!((breaker.turn(), breaker.turn()), (Some(Turn::Back), None));
        assert_eq!(admits(&breaker, false), Ok(false));
    }

    #[test]
    fn one_that_closes_and_opens_between_two_looks_is_lost_anew() {
        let breaker = open(HOUR);
        breaker.failed(Instant::now(), "none again");
        assert_eq!(breaker.turn(), None, "it is the same");
        breaker.answered();
        breaker.failed(Instant::now(), "another");
        assert_eq!((breaker.turn(), breaker.turn()), (Some(lost("another")), None));
    }

    #[test]
    fn one_secret_that_hangs_alone_does_not_open_it() {
        let breaker = Breaker::new(HOUR);
        late(&breaker, "a");
        late(&breaker, "a");
        breaker.answered();
        late(&breaker, "b");
        assert_eq!(breaker.turn(), None);
        late(&breaker, "a");
        assert_eq!(breaker.turn(), Some(lost("no answer")));
    }

    #[test]
    fn a_fetch_does_not_open_it_when_a_later_one_has_been_answered() {
        let (breaker, asked) = (Breaker::new(HOUR), Instant::now());
        breaker.answered();
        breaker.failed(asked, "no connection");
        ["a", "b"].iter().for_each(|place| breaker.late(asked, place, "no answer"));
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_fetch_at_a_time_finds_out_whether_the_manager_is_back() {
        for (breaker, new) in [(open(HOUR), true), (open(Duration::ZERO), false)] {
            let probe = breaker.admit(new).unwrap();
            assert!(probe.is_some());
            assert_eq!(admits(&breaker, new), Err("no connection".to_owned()), "one is under way");
            drop(probe);
            assert_eq!(admits(&breaker, new), Ok(true));
        }
    }

    #[test]
    fn a_failure_counts_for_what_has_come_before_it() {
        let came = Instant::now();
        let breaker = open(HOUR);
        assert_eq!(breaker.failure_since(came).as_deref(), Some("no connection"));
        assert_eq!(breaker.failure_since(Instant::now() + HOUR), None);
    }
}
