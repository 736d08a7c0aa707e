//! Whether a secret manager is within reach: a circuit breaker.
//!
//! It opens when a question finds no connection or runs out of time, and closes with the next answer, whatever that says. While it is
//! open no configuration waits for the manager, and one question at a time finds out whether it is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whether a manager is within reach. Closed at first.
pub(super) struct Breaker {
    /// So long after a failure only what is new is asked for.
    rest: Duration,
    seen: Mutex<Seen>,
    /// Had by the question that finds out.
    probe: Arc<Semaphore>,
}

#[derive(Default)]
struct Seen {
    /// When the manager last answered.
    answered: Option<Instant>,
    /// The last failure since then; with one it is open.
    failure: Option<Failure>,
}

struct Failure {
    at: Instant,
    reason: String,
}

impl Breaker {
    pub(super) fn new(rest: Duration) -> Self {
        Self { rest, seen: Mutex::default(), probe: Arc::new(Semaphore::new(1)) }
    }

    /// The manager has answered.
    pub(super) fn answered(&self) {
        *self.seen() = Seen { answered: Some(Instant::now()), failure: None };
    }

    /// A question that was asked then has found no connection, or has run out of time. That says nothing of a manager that has answered
    /// another one since: it may take its time over this one alone.
    pub(super) fn failed(&self, asked: Instant, reason: &str) {
        let mut seen = self.seen();
        if seen.answered.is_none_or(|answered| answered < asked) {
            seen.failure = Some(Failure { at: Instant::now(), reason: reason.to_owned() });
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.seen().failure.is_some()
    }

    /// What the last failure was, while it is open.
    pub(super) fn failure(&self) -> Option<String> {
        self.seen().failure.as_ref().map(|failure| failure.reason.clone())
    }

    /// The same, if that has been since `came`.
    pub(super) fn failure_since(&self, came: Instant) -> Option<String> {
        let seen = self.seen();
        seen.failure.as_ref().filter(|failure| failure.at >= came).map(|failure| failure.reason.clone())
    }

    /// Lets a question through; the one that finds out whether the manager is back holds what it is given until it has an answer or
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
        assert_eq!(breaker.failure().as_deref(), Some("no connection"));
        breaker
    }

    /// Whether a question is let through, and whether it is the one that finds out.
    fn admits(breaker: &Breaker, new: bool) -> Result<bool, String> {
        breaker.admit(new).map(|probe| probe.is_some())
    }

    #[test]
    fn any_answer_closes_it() {
        let breaker = open(HOUR);
        assert_eq!(admits(&breaker, false), Err("no connection".to_owned()));
        breaker.answered();
        assert!(!breaker.is_open());
        assert_eq!(admits(&breaker, false), Ok(false));
    }

    #[test]
    fn a_question_does_not_open_it_when_a_later_one_has_been_answered() {
        let (breaker, asked) = (Breaker::new(HOUR), Instant::now());
        breaker.answered();
        breaker.failed(asked, "no answer");
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_question_at_a_time_finds_out_whether_the_manager_is_back() {
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
