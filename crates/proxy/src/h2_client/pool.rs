//! The connections of a worker, by address.

use super::Http2Limits;
use super::conn::Conn;
use crate::counters::WorkerCounters;
use crate::failure::Failure;
use crate::h1::{ByKey, Keep, Limits, PoolKey, used_longest_ago};
use crate::transport::ToUpstream;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// All connections of a worker.
pub(crate) struct Pool {
    lanes: Rc<ByKey<Lanes>>,
    shared: Rc<Shared>,
}

/// What all addresses have in common.
struct Shared {
    limits: Http2Limits,
    heads: Limits,
    /// Connections without a request that the worker keeps.
    most_idle: usize,
    idle: Cell<usize>,
    counters: Arc<WorkerCounters>,
}

/// The connections to one address. Those opened first are used first, so that the others come to rest.
pub(crate) struct Lanes {
    conns: RefCell<Vec<Rc<Conn>>>,
    /// Connections that are being opened.
    opening: Cell<usize>,
    /// There may be room now.
    changed: Notify,
    /// When a connection came to rest last.
    used: Cell<Instant>,
    shared: Rc<Shared>,
    /// They are among these.
    all: Weak<ByKey<Self>>,
}

/// A stream's place on a connection.
pub(crate) struct Taken {
    pub(super) conn: Rc<Conn>,
    lanes: Rc<Lanes>,
    keep: Keep,
    /// The connection has had other streams before.
    pub(crate) reused: bool,
}

impl Pool {
    /// A pool that keeps no more than `most_idle` connections without a request. `heads` are the caps on answers' heads.
    pub(crate) fn new(limits: Http2Limits, heads: Limits, most_idle: usize, counters: Arc<WorkerCounters>) -> Self {
        let shared = Shared { limits, heads, most_idle: most_idle.max(1), idle: Cell::new(0), counters };
        Self { lanes: Rc::default(), shared: Rc::new(shared) }
    }

    /// The connections with this key.
    pub(crate) fn lanes(&self, key: PoolKey) -> Rc<Lanes> {
        let new = || {
            let (conns, opening, changed) = <(RefCell<Vec<_>>, Cell<usize>, Notify)>::default();
            let (used, shared, all) = (Cell::new(Instant::now()), self.shared.clone(), Rc::downgrade(&self.lanes));
            Rc::new(Lanes { conns, opening, changed, used, shared, all })
        };
        self.lanes.borrow_mut().entry(key).or_insert_with(new).clone()
    }

    /// Closes what has rested too long, and forgets addresses that nobody uses.
    pub(crate) fn sweep(&self, now: Instant) {
        self.lanes.borrow_mut().retain(|_, lanes| {
            lanes.let_go(|conn| conn.streams.get() == 0 && conn.expires.get() <= now);
            lanes.is_needed()
        });
    }

    /// Lets go of some that have no stream, where they were used longest ago, and says how many: at least one, if there is any. They
    /// close once their tasks hear of it.
    pub(crate) fn close_oldest(&self) -> usize {
        let lanes = self.lanes.borrow();
        let resting = lanes.values().filter(|lanes| lanes.resting().is_some());
        let oldest = used_longest_ago(resting.collect(), self.shared.most_idle, |lanes| lanes.used.get());
        oldest.iter().for_each(|lanes| lanes.let_one_go());
        oldest.len()
    }
}

impl Lanes {
    /// A place for a stream, on a connection that is there or a new one over the transport that `open` opens. Says how long
    /// that took. Waits no longer than `patience`.
    pub(crate) async fn take(
        self: &Rc<Self>,
        keep: Keep,
        patience: Duration,
        open: impl AsyncFn(Duration) -> Result<ToUpstream, Failure>,
    ) -> Result<(Taken, Duration), Failure> {
        let began = Instant::now();
        let mut took = Duration::ZERO;
        loop {
            let changed = self.changed.notified();
            if let Some(taken) = self.find(keep) {
                return Ok((taken, took));
            }
            let left = patience.saturating_sub(began.elapsed());
            // One at a time: who waits may find room on the one that is being opened.
            if self.opening.get() == 0 && self.conns.borrow().len() < self.shared.limits.connections {
                let opening = Opening::new(self);
                let conn = tokio::time::timeout(left, self.open(left, &open)).await;
                let conn = conn.map_err(|_| Failure::ConnectTimeout)??;
                self.note_idle(1);
                self.conns.borrow_mut().push(conn);
                drop(opening);
                took = began.elapsed();
            } else if tokio::time::timeout(left, changed).await.is_err() {
                let opening = self.opening.get() > 0;
                return Err(if opening { Failure::ConnectTimeout } else { Failure::NoStream });
            }
        }
    }

    async fn open(
        self: &Rc<Self>,
        patience: Duration,
        open: impl AsyncFn(Duration) -> Result<ToUpstream, Failure>,
    ) -> Result<Rc<Conn>, Failure> {
        let io = open(patience).await?;
        Conn::start(io, self.shared.limits, self.shared.heads, Rc::downgrade(self)).await
    }

    /// A place on a connection that has room.
    fn find(self: &Rc<Self>, keep: Keep) -> Option<Taken> {
        loop {
            let conn = self.conns.borrow().iter().find(|conn| conn.has_room()).cloned()?;
            if !conn.is_open() {
                self.let_go(|known| Rc::ptr_eq(known, &conn));
                continue;
            }
            let served = conn.served.replace(conn.served.get().saturating_add(1));
            if conn.streams.replace(conn.streams.get() + 1) == 0 {
                self.note_idle(-1);
            }
            if conn.served.get() >= keep.requests {
                self.let_go(|known| Rc::ptr_eq(known, &conn));
            }
            return Some(Taken { conn, lanes: self.clone(), keep, reused: served > 0 });
        }
    }

    /// Opens no further stream on these connections. They close with their last one.
    pub(super) fn let_go(&self, which: impl Fn(&Rc<Conn>) -> bool) {
        let mut gone = Vec::new();
        self.conns.borrow_mut().retain(|conn| {
            let goes = which(conn);
            gone.extend(goes.then(|| conn.clone()));
            !goes
        });
        gone.iter().filter(|conn| conn.streams.get() == 0).for_each(|_| self.note_idle(-1));
    }

    /// The upstream gave no sign of life on a connection.
    pub(super) fn note_silence(&self) {
        self.shared.counters.upstream_http2_silent.up();
    }

    /// The upstream allows another number of streams.
    pub(super) fn note_room(&self) {
        self.changed.notify_waiters();
    }

    /// So many more connections have no stream.
    fn note_idle(&self, more: isize) {
        self.shared.idle.set(self.shared.idle.get().saturating_add_signed(more));
    }

    /// A stream has ended.
    fn put(&self, conn: &Rc<Conn>, keep: Keep) {
        conn.streams.set(conn.streams.get() - 1);
        if conn.streams.get() == 0 && self.conns.borrow().iter().any(|known| Rc::ptr_eq(known, conn)) {
            self.note_idle(1);
            let now = Instant::now();
            self.used.set(now);
            conn.expires.set(now + keep.idle_timeout);
            let idle = self.conns.borrow().iter().filter(|conn| conn.streams.get() == 0).count();
            if idle > keep.size || keep.idle_timeout.is_zero() {
                self.let_go(|known| Rc::ptr_eq(known, conn));
            }
            if self.shared.idle.get() > self.shared.most_idle {
                self.make_room(conn);
            }
        }
        self.changed.notify_waiters();
    }

    /// Lets go of connections of the worker that were used longest ago, or of `conn` where no others rest, and forgets addresses
    /// that nobody uses.
    #[cold]
    fn make_room(&self, conn: &Rc<Conn>) {
        let Some(all) = self.all.upgrade() else { return };
        all.borrow_mut().retain(|_, lanes| lanes.is_needed());
        let all = all.borrow();
        let others = all.values().filter(|lanes| !std::ptr::eq(&***lanes, self) && lanes.resting().is_some());
        let oldest = used_longest_ago(others.collect(), self.shared.most_idle, |lanes| lanes.used.get());
        oldest.iter().for_each(|lanes| lanes.let_one_go());
        if oldest.is_empty() {
            self.let_go(|known| Rc::ptr_eq(known, conn));
        }
        self.shared.counters.idle_connections_cut.add(oldest.len().max(1) as u64);
    }

    /// Lets go of a connection without a stream.
    fn let_one_go(&self) {
        if let Some(resting) = self.resting() {
            self.let_go(|known| Rc::ptr_eq(known, &resting));
        }
    }

    /// A connection without a stream.
    fn resting(&self) -> Option<Rc<Conn>> {
        self.conns.borrow().iter().find(|conn| conn.streams.get() == 0).cloned()
    }

    /// Whether somebody uses them, or there is a connection.
    fn is_needed(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1 || !self.conns.borrow().is_empty()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.lanes.put(&self.conn, self.keep);
    }
}

/// A connection is being opened, or was given up.
struct Opening<'a>(&'a Lanes);

impl<'a> Opening<'a> {
    fn new(lanes: &'a Lanes) -> Self {
        lanes.opening.set(lanes.opening.get() + 1);
        Self(lanes)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
        self.0.changed.notify_waiters();
    }
}
