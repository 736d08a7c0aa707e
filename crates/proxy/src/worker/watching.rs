//! A connection's side of the worker's watch over it.

use super::activity::{Activity, Phase, Signal};
use super::client::{Client, Registered};
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

/// A connection's side of the worker's watch over it.
pub(super) struct Watch {
    activity: Rc<Activity>,
    /// Off the worker's list when the connection ends.
    _registered: Registered,
    waker_left: bool,
    drained: bool,
}

impl Watch {
    pub(super) fn new(activity: Rc<Activity>, registered: Registered) -> Self {
        // What was signalled while the connection was being set up concerned the setting up.
        activity.clear_signal();
        activity.evicted.set(false);
        activity.idle_since.set(Instant::now());
        Self { activity, _registered: registered, waker_left: false, drained: false }
    }

    /// Leaves the task's waker, once.
    pub(super) fn leave_waker(&mut self, cx: &Context<'_>) {
        if !std::mem::replace(&mut self.waker_left, true) {
            self.activity.set_waker(cx);
        }
    }

    /// Whether the client is to be told, now for the first time, that the node is ending. Over HTTP/1 the next answer says so.
    pub(super) fn must_drain(&mut self, client: &Client) -> bool {
        let now = client.worker.is_leaving() && !self.drained;
        self.drained |= now;
        now
    }

    /// The phase whose time is up, after the connection has been polled and has nothing more to do.
    pub(super) fn over(&self) -> Option<Phase> {
        let Signal::Over(phase) = self.activity.signal() else { return None };
        self.activity.clear_signal();
        // Something may have happened between the look and now.
        (phase == self.activity.phase()).then_some(phase)
    }
}
