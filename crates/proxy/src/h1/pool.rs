//! Idle connections to upstreams, of one worker.
//!
//! The node-wide cap (`upstream_pool.idle_connections`) is shared out evenly among the workers, so that keeping a connection
//! touches nothing that another worker touches. At the cap room is made where connections were used longest ago: names that
//! clients choose do not keep those of others out.

use super::conn::Conn;
use crate::counters::WorkerCounters;
use crate::tls::TlsTerms;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
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

/// What is kept with each key.
pub(crate) type ByKey<T> = RefCell<HashMap<PoolKey, Rc<T>, foldhash::fast::RandomState>>;

/// All idle connections of a worker.
pub(crate) struct Pool {
    slots: Rc<ByKey<Slot>>,
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
    /// When one came to rest last.
    used: Cell<Instant>,
    count: Rc<Count>,
    /// It is one of these.
    slots: Weak<ByKey<Self>>,
}

impl Pool {
    /// A pool of no more than `most` idle connections.
    pub(crate) fn new(most: usize, counters: Arc<WorkerCounters>) -> Self {
        let count = Count { idle: Cell::new(0), most: most.max(1), counters };
        Self { slots: Rc::default(), count: Rc::new(count) }
    }

    /// The place of connections with this key.
    pub(crate) fn slot(&self, key: &PoolKey) -> Rc<Slot> {
        if let Some(slot) = self.slots.borrow().get(key) {
            return slot.clone();
        }
        let slot = Rc::new(Slot {
            idle: RefCell::default(),
            used: Cell::new(Instant::now()),
            count: self.count.clone(),
            slots: Rc::downgrade(&self.slots),
        });
        self.slots.borrow_mut().insert(key.clone(), slot.clone());
        slot
    }

    /// Closes what has rested too long or was closed by the other side, and forgets places that nobody uses.
    pub(crate) fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_, slot| {
            slot.retain(|conn| conn.expires > now && conn.is_silent());
            slot.is_needed()
        });
    }

    /// Closes some of those that rest, where they were used longest ago, and says how many: at least one, if there is any.
    pub(crate) fn close_oldest(&self) -> usize {
        let slots = self.slots.borrow();
        let resting = slots.values().filter(|slot| !slot.idle.borrow().is_empty());
        let oldest = used_longest_ago(resting.collect(), self.count.most, |slot| slot.used.get());
        oldest.iter().for_each(|slot| slot.drop_oldest());
        oldest.len()
    }
}

/// Those that make room together in a pool of `most`, when it is full or no file is left: the ones used longest ago. To find them
/// all are looked at, a cost that the requests until the next time share.
pub(crate) fn used_longest_ago<T>(mut all: Vec<T>, most: usize, used: impl FnMut(&T) -> Instant) -> Vec<T> {
    let share = (most / 16).clamp(1, 64);
    if all.len() > share {
        all.select_nth_unstable_by_key(share, used);
        all.truncate(share);
    }
    all
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
        self.used.set(now);
        self.idle.borrow_mut().push_back(conn);
        self.count.idle.set(self.count.idle.get() + 1);
        if self.idle.borrow().len() > keep.size {
            self.drop_oldest();
        }
        if self.count.idle.get() > self.count.most {
            self.make_room();
        }
    }

    /// Closes connections of the worker that were used longest ago, and forgets places that nobody uses.
    #[cold]
    fn make_room(&self) {
        let Some(slots) = self.slots.upgrade() else { return };
        slots.borrow_mut().retain(|_, slot| slot.is_needed());
        let slots = slots.borrow();
        let others = slots.values().filter(|slot| !std::ptr::eq(&***slot, self) && !slot.idle.borrow().is_empty());
        let oldest = used_longest_ago(others.collect(), self.count.most, |slot| slot.used.get());
        oldest.iter().for_each(|slot| slot.drop_oldest());
        if oldest.is_empty() {
            self.drop_oldest();
        }
        self.count.counters.idle_connections_cut.add(oldest.len().max(1) as u64);
    }

    /// Whether somebody uses it, or something rests in it.
    fn is_needed(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1 || !self.idle.borrow().is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_rests_is_closed_where_its_files_are_needed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (pool, now, minute) = (Pool::new(8, Arc::default()), Instant::now(), Duration::from_secs(60));
        let other_addr = SocketAddr::from(([127, 0, 0, 2], 1));
        let slots = [addr, other_addr].map(|addr| pool.slot(&PoolKey { addr, tls: None }));
        let mut others = Vec::new();
        for (slot, used) in slots.iter().zip([now + minute, now]) {
            let stream = TcpStream::connect(addr).await.unwrap();
            others.push(listener.accept().await.unwrap().0);
            let conn = Conn::new(Transport::Tcp(stream), Rc::default(), now, minute);
            slot.put(conn, Keep { size: 8, idle_timeout: minute, requests: 8 }, used);
        }
        // The one used longest ago first.
        for other in others.iter_mut().rev() {
            assert_eq!(pool.close_oldest(), 1);
            assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
        }
        assert!(slots.iter().all(|slot| slot.take(now).is_none()));
        assert_eq!(pool.close_oldest(), 0);
    }
}
