//! Evening out connections over the workers.
//!
//! The system gives a connection to one of a listener's sockets by a hash of its addresses. Of many that is even; of four long ones, as
//! clients of HTTP/2 have them, three often come to one worker, and stay. So a worker hands on what it has accepted to another one that has
//! clearly less, before anything of it is read.
//!
//! Invariants:
//! - No connection is lost: a worker that takes no more gives it back to whoever hands it on, and serves what it was handed before.
//! - Connections on their way to a worker count as its own.

use super::Worker;
use super::entrance::Entrance;
use crate::counters::WorkerCounters;
use crate::socket::Socket;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// A connection that is handed on.
pub(crate) struct Handed {
    socket: Socket,
    peer: SocketAddr,
    /// The address of the listener that it came to.
    listener: SocketAddr,
}

/// A worker, as the others see it.
pub(crate) struct Neighbour {
    counters: Arc<WorkerCounters>,
    /// Connections on their way to it.
    coming: AtomicU64,
    door: mpsc::UnboundedSender<Handed>,
}

impl Neighbour {
    /// The worker that counts by `counters`, and where it finds what it is handed.
    pub(crate) fn new(counters: Arc<WorkerCounters>) -> (Self, mpsc::UnboundedReceiver<Handed>) {
        let (door, handed) = mpsc::unbounded_channel();
        (Self { counters, coming: AtomicU64::new(0), door }, handed)
    }

    /// Connections on their way to it.
    pub(super) fn coming(&self) -> u64 {
        self.coming.load(Ordering::Relaxed)
    }

    /// Connections that it has, or will have in a moment.
    fn load(&self) -> u64 {
        self.counters.active.get() + self.coming()
    }

    /// Hands it a connection, unless it has come to `bound` of them, or takes no more.
    fn hand(&self, connection: Handed, bound: u64) -> Result<(), Handed> {
        let coming = self.coming.fetch_add(1, Ordering::Relaxed);
        let handed = if self.counters.active.get() + coming < bound {
            self.door.send(connection).map_err(|refused| refused.0)
        } else {
            Err(connection)
        };
        handed.inspect_err(|_| self.arrived())
    }

    /// One has come, or does not come after all.
    fn arrived(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Hands an accepted connection to another worker that has fewer, by more than an eighth of its own; gives it back if this one is to serve it.
    ///
    /// Of the others one is looked at, by chance: with two to choose from, they come out nearly as even as if all were looked at (Mitzenmacher,
    /// "The Power of Two Choices in Randomized Load Balancing", 2001).
    pub(super) fn hand_on(
        &self,
        (socket, peer): (Socket, SocketAddr),
        entrance: &Entrance,
    ) -> Option<(Socket, SocketAddr)> {
        let (neighbours, index) = (&self.node.neighbours, self.index);
        let others = neighbours.len() - 1;
        if others == 0 || !self.node.config.balance_connections {
            return Some((socket, peer));
        }
        let chance = usize::try_from(self.random() >> 32).unwrap_or_default();
        let other = &neighbours[(index + 1 + chance % others) % neighbours.len()];
        let own = neighbours[index].load();
        let bound = own - own / 8;
        if other.load() >= bound {
            return Some((socket, peer));
        }
        let handed = other.hand(Handed { socket, peer, listener: entrance.listen.addr }, bound);
        handed.err().map(|Handed { socket, peer, .. }| (socket, peer))
    }

    /// Serves what other workers hand on, until it is dropped.
    pub(super) async fn take_over(
        self: &Rc<Self>,
        handed: &mut mpsc::UnboundedReceiver<Handed>,
        entrances: &[Rc<Entrance>],
    ) -> Infallible {
        loop {
            match handed.recv().await {
                Some(connection) => self.take(connection, entrances),
                None => std::future::pending().await,
            }
        }
    }

    /// Serves what others have handed on so far. From then on they keep what they have.
    pub(super) async fn take_last(
        self: &Rc<Self>,
        mut handed: mpsc::UnboundedReceiver<Handed>,
        entrances: &[Rc<Entrance>],
    ) {
        handed.close();
        while let Some(connection) = handed.recv().await {
            self.take(connection, entrances);
        }
    }

    fn take(self: &Rc<Self>, Handed { socket, peer, listener }: Handed, entrances: &[Rc<Entrance>]) {
        let entrance = entrances.iter().find(|entrance| entrance.listen.addr == listener);
        self.welcome(socket, peer, entrance.expect("each worker has a socket of each listener"));
        self.node.neighbours[self.index].arrived();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_on_its_way_counts_and_whoever_takes_no_more_gives_back() {
        let (neighbour, mut handed) = Neighbour::new(Arc::default());
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let hand = |bound| neighbour.hand(Handed { socket: Socket::Lost, peer: addr, listener: addr }, bound).is_ok();
        assert_eq!([hand(2), hand(2), hand(2)], [true, true, false]);
        handed.close();
        assert!(!hand(9));
        assert_eq!(neighbour.load(), 2, "what was given back is not on its way");
        for _ in 0..2 {
            assert!(handed.recv().await.is_some(), "what was handed before is served");
            neighbour.arrived();
        }
        assert!(handed.recv().await.is_none());
        assert_eq!(neighbour.load(), 0);
    }
}
