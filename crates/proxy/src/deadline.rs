//! A timer that is armed once and moved lazily.
//!
//! A connection's idle limits move with every read and write. Moving a timer of the runtime each time would cost more than
//! the work it guards, so only the wanted moment is stored; the runtime's timer is moved when it fires too early, or when the
//! wanted moment comes before it. Its waker is registered once for each task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::Sleep;

/// A moment to wait for, cheap to move later.
pub(crate) struct Deadline {
    at: Instant,
    /// When the runtime's timer fires, kept here so that moving the deadline need not look at the timer.
    armed: Instant,
    sleep: Pin<Box<Sleep>>,
    /// The task that polls it has left its waker.
    registered: bool,
}

impl Deadline {
    /// A deadline at `at`. Must be made on a runtime.
    pub(crate) fn new(at: Instant) -> Self {
        Self { at, armed: at, sleep: Box::pin(tokio::time::sleep_until(at.into())), registered: false }
    }

    /// Moves it. To be followed by a [`Self::poll`].
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.armed {
            self.arm();
        }
    }

    fn arm(&mut self) {
        self.armed = self.at;
        self.sleep.as_mut().reset(self.at.into());
    }

    /// From now on another task polls it.
    pub(crate) fn change_task(&mut self) {
        self.registered = false;
    }

    /// Ready once the moment has come; else the task is woken then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.registered = true;
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.armed >= self.at {
                return Poll::Ready(());
            }
            self.arm();
        }
    }
}
