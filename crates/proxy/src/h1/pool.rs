//! Idle connections to upstreams, of one worker.
//!
//! The node-wide cap (`upstream_pool.idle_connections`) is shared out evenly among the workers, so that keeping a connection
//! touches nothing that another worker touches.

use super::conn::Conn;
use crate::counters::WorkerCounters;
use crate::tls::TlsTerms;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What connections must have in common to stand for each other (`docs/spec/upstream-balancing.md` §7).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) addr: SocketAddr,
    /// `None` without TLS.
    pub(crate) tls: Option<Arc<TlsTerms>>,
}

/// How long and how often connections are kept, by the upstream that uses them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Idle connections of this worker to one address.
    pub(crate) size: usize,
    pub(crate) idle_timeout: Duration,
    /// Requests on one connection.
    pub(crate) requests: u32,
}

/// All idle connections of a worker.
pub(crate) struct Pool {
    slots: RefCell<HashMap<PoolKey, Rc<Slot>, foldhash::fast::RandomState>>,
    count: Rc<Count>,
}

/// Idle connections of the worker, and how many there may be.
struct Count {
    idle: Cell<usize>,
    most: usize,
    counters: Arc<WorkerCounters>,
}

/// The idle connections with one key. What was used last is used next; what rests longest stands in front.
pub(crate) struct Slot {
    idle: RefCell<VecDeque<Box<Conn>>>,
    count: Rc<Count>,
}

impl Pool {
    /// A pool of no more than `most` idle connections.
    pub(crate) fn new(most: usize, counters: Arc<WorkerCounters>) -> Self {
        let count = Count { idle: Cell::new(0), most: most.max(1), counters };
        Self { slots: RefCell::default(), count: Rc::new(count) }
    }

    /// The place of connections with this key.
    pub(crate) fn slot(&self, key: &PoolKey) -> Rc<Slot> {
        if let Some(slot) = self.slots.borrow().get(key) {
            return slot.clone();
        }
        let slot = Rc::new(Slot { idle: RefCell::default(), count: self.count.clone() });
        self.slots.borrow_mut().insert(key.clone(), slot.clone());
        slot
    }

    /// Closes what has rested too long or was closed by the other side, and forgets places that nobody uses.
    pub(crate) fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_, slot| {
            slot.retain(|conn| conn.expires > now && conn.is_silent());
            Rc::strong_count(slot) > 1 || !slot.idle.borrow().is_empty()
        });
    }
}

impl Slot {
    /// A connection that is still good, the one used last.
    pub(crate) fn take(&self, now: Instant) -> Option<Box<Conn>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut conn) = idle.pop_back() {
            self.count.idle.set(self.count.idle.get() - 1);
            if conn.expires > now && conn.is_silent() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection whose answer has been read to the last byte, unless it has served enough or said too much.
    pub(crate) fn put(&self, mut conn: Box<Conn>, keep: Keep, now: Instant) {
        if conn.heard_something() || conn.requests >= keep.requests || keep.size == 0 {
            return;
        }
        conn.rest();
        conn.expires = now + keep.idle_timeout;
        // At the worker's cap the one idle longest at this address makes room; where there is none, the new one is closed.
        self.idle.borrow_mut().push_back(conn);
        self.count.idle.set(self.count.idle.get() + 1);
        if self.idle.borrow().len() > keep.size {
            self.drop_oldest();
        } else if self.count.idle.get() > self.count.most {
            self.count.counters.idle_connections_cut.up();
            self.drop_oldest();
        }
    }

    fn retain(&self, mut good: impl FnMut(&mut Conn) -> bool) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|conn| good(conn));
        self.count.idle.set(self.count.idle.get() - (before - idle.len()));
    }

    fn drop_oldest(&self) {
        if self.idle.borrow_mut().pop_front().is_some() {
            self.count.idle.set(self.count.idle.get() - 1);
        }
    }
}
