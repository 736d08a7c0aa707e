//! Connections whose first request is in work and which the runtime does not watch yet ([`crate::socket`]).
//!
//! Whether such a client leaves is of no interest as long as its answer takes no longer than a client takes to leave. So they
//! are watched only if it does.

use super::activity::Activity;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a request may be in work, at most, until its client is watched. Most answers are there before.
const PATIENCE: Duration = Duration::from_millis(5);

/// How a connection stands with its worker's newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Introduction {
    /// It is not on the list.
    None,
    /// It is on the list.
    Awaited,
    /// It is to be watched.
    Due,
}

/// The newcomers of a worker.
#[derive(Default)]
pub(super) struct Newcomers {
    awaited: RefCell<Vec<Rc<Activity>>>,
    come: Notify,
}

impl Newcomers {
    /// Whether a connection whose request is in work may go without being watched for now. If so, its task is woken once it may
    /// not, unless the request is over by then.
    pub(super) fn may_wait(&self, activity: &Rc<Activity>) -> bool {
        match activity.introduction.get() {
            Introduction::Due => return false,
            Introduction::Awaited => return true,
            Introduction::None => {}
        }
        activity.introduction.set(Introduction::Awaited);
        let mut awaited = self.awaited.borrow_mut();
        if awaited.is_empty() {
            self.come.notify_one();
        }
        awaited.push(activity.clone());
        true
    }

    /// Wakes, time after time, those whose request lasts.
    pub(super) async fn introduce(&self) {
        loop {
            self.come.notified().await;
            tokio::time::sleep(PATIENCE).await;
            for activity in self.awaited.take() {
                if activity.in_flight.get() > 0 {
                    activity.introduction.set(Introduction::Due);
                    activity.wake();
                } else {
                    activity.introduction.set(Introduction::None);
                }
            }
        }
    }
}
