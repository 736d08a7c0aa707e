//! Connections that last - WebSockets and other tunnels, long answers, TCP and UDP sessions - and what they were opened under.
//!
//! Whatever lasts goes on when the configuration changes: that is the default, and costs nothing. Where the policy says
//! otherwise (plugin `long-connections`, `long_connections` of the node's file), what lasts is [watched](Lasting) from its
//! beginning: at each change its worker looks whether its [`Ground`] still holds, and tells it to end when it has not held for as
//! long as the policy allows. How it then ends is up to the code that passes its bytes: each protocol has its own way to close.
//!
//! Invariants:
//! - What the policy keeps is not on any list, and no ordinary request looks at more than one field.
//! - The policy is the one in force at the beginning; the ground is looked at by the configuration in force.
//! - What was gone and has come back before the time was up ends nothing.

mod ground;

pub(crate) use ground::Ground;

use crate::counters::Counter;
use crate::worker::Worker;
use milecastle_plugin_api::WhenSuperseded;
use milecastle_snapshot::Snapshot;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What of a worker is watched.
#[derive(Default)]
pub(crate) struct Watched {
    open: RefCell<HashMap<u64, Rc<Entry>, foldhash::fast::RandomState>>,
    last: Cell<u64>,
    /// An end has been set that may come before those that were known.
    sooner: Notify,
}

struct Entry {
    ground: Ground,
    kind: Kind,
    /// How long it goes on once its ground does not hold.
    grace: Duration,
    /// It does not end before.
    not_before: Instant,
    ends: Cell<Option<Instant>>,
    over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What lasts, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WebSocket,
    /// Of another protocol, after an `Upgrade`.
    Tunnel,
    Answer,
    Session,
}

/// The watch over something that lasts. It ends with this.
pub(crate) struct Lasting {
    worker: Rc<Worker>,
    serial: u64,
    entry: Rc<Entry>,
}

impl Lasting {
    /// Watches something from now on, which is not ended before `not_before`; `None` if its policy keeps it.
    pub(crate) fn watch(
        worker: &Rc<Worker>,
        kind: Kind,
        policy: WhenSuperseded,
        not_before: Instant,
        ground: impl FnOnce() -> Option<Ground>,
    ) -> Option<Self> {
        let WhenSuperseded::EndAfter(grace) = policy else { return None };
        let entry = Rc::new(Entry {
            ground: ground()?,
            kind,
            grace,
            not_before,
            ends: Cell::new(None),
            over: Cell::new(false),
            waker: RefCell::new(None),
        });
        let watched = &worker.lasting;
        let serial = watched.last.get() + 1;
        watched.last.set(serial);
        watched.open.borrow_mut().insert(serial, entry.clone());
        // The configuration may have changed since it was matched.
        if entry.review(worker, &worker.pin().snapshot, Instant::now()) {
            watched.sooner.notify_one();
        }
        Some(Self { worker: worker.clone(), serial, entry })
    }

    /// Ready once it is to end; else the task is woken then. Only one task may ask.
    pub(crate) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.entry.over.get() {
            return Poll::Ready(());
        }
        let mut waker = self.entry.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits until it is to end.
    pub(crate) async fn over(&self) {
        poll_fn(|cx| self.poll_over(cx)).await;
    }

    /// As [`Self::over`], for what may not be watched: then for ever.
    pub(crate) async fn over_if_watched(lasting: Option<&Self>) {
        match lasting {
            Some(lasting) => lasting.over().await,
            None => std::future::pending().await,
        }
    }

    /// Whether it is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.entry.over.get()
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.worker.lasting.open.borrow_mut().remove(&self.serial);
    }
}

impl Entry {
    /// Looks whether the ground holds, and sets the end accordingly. Says whether an end is newly set.
    fn review(&self, worker: &Worker, snapshot: &Snapshot, now: Instant) -> bool {
        if self.over.get() {
            return false;
        }
        let holds = self.ground.holds(snapshot, &worker.node.discovery);
        match self.ends.get() {
            Some(_) if holds => self.ends.set(None),
            None if !holds => {
                self.ends.set(Some((now + self.grace).max(self.not_before)));
                return true;
            }
            _ => {}
        }
        false
    }

    fn tell(&self) {
        self.over.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Watched {
    /// Looks at everything by the configuration in force.
    pub(crate) fn review(&self, worker: &Worker) {
        let (now, pinned) = (Instant::now(), worker.pin());
        let superseded =
            self.open.borrow().values().filter(|entry| entry.review(worker, &pinned.snapshot, now)).count();
        if superseded > 0 {
            tracing::info!(
                connections = superseded,
                "connections that last were opened under what the configuration holds no longer: they end when their policy says"
            );
        }
        self.end_due(worker, now);
    }

    /// Tells those to end whose time is up.
    pub(crate) fn end_due(&self, worker: &Worker, now: Instant) {
        for entry in self.open.borrow().values() {
            if !entry.over.get() && entry.ends.get().is_some_and(|ends| ends <= now) {
                worker.superseded(entry.kind).up();
                entry.tell();
            }
        }
    }

    /// Waits until the time of one is up.
    pub(crate) async fn due(&self) {
        loop {
            let next = {
                let open = self.open.borrow();
                open.values().filter(|entry| !entry.over.get()).filter_map(|entry| entry.ends.get()).min()
            };
            let time = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time => return,
                () = self.sooner.notified() => {}
            }
        }
    }
}

impl Worker {
    /// Counts those of a kind that were ended.
    fn superseded(&self, kind: Kind) -> &Counter {
        match kind {
            Kind::WebSocket => &self.counters.superseded_websockets,
            Kind::Tunnel => &self.counters.superseded_tunnels,
            Kind::Answer => &self.counters.superseded_answers,
            Kind::Session => &self.counters.superseded_sessions,
        }
    }
}
