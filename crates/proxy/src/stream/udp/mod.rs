//! UDP sessions: the datagrams of one client, by its address and the one that it speaks to.
//!
//! The first datagram opens a session, which has a socket of its own towards the upstream; it ends when neither side has said
//! anything for as long as the upstream's timeouts allow. Nothing is kept for a side that takes no more: datagrams may be lost,
//! as protocols over UDP expect. The system hands all datagrams of a client to one worker.

mod session;
mod socket;

use crate::counters::StreamListener;
use crate::worker::Worker;
use session::UdpSession;
use socket::{Arrived, DatagramSocket};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// A listening socket of one worker.
pub(crate) struct UdpDoor {
    pub(crate) addr: SocketAddr,
    pub(crate) socket: std::net::UdpSocket,
    pub(crate) counters: Arc<StreamListener>,
}

/// Client, and the address that it speaks to.
type Pair = (SocketAddr, SocketAddr);

/// What a listener's sessions share.
struct Listener {
    socket: DatagramSocket,
    addr: SocketAddr,
    worker: Rc<Worker>,
    counters: Arc<StreamListener>,
    sessions: RefCell<HashMap<Pair, Rc<UdpSession>>>,
    gone: Notify,
}

/// Serves the datagrams of one listening socket as long as it lives.
pub(crate) struct UdpListener {
    listener: Rc<Listener>,
    task: tokio::task::JoinHandle<()>,
}

impl UdpListener {
    /// Begins to serve. To be called on the worker's runtime.
    pub(crate) fn open(worker: Rc<Worker>, door: UdpDoor) -> io::Result<Self> {
        let UdpDoor { addr, socket, counters } = door;
        let socket = DatagramSocket::new(socket)?;
        let listener =
            Rc::new(Listener { socket, addr, worker, counters, sessions: RefCell::default(), gone: Notify::new() });
        let task = tokio::task::spawn_local(receive(listener.clone()));
        Ok(Self { listener, task })
    }

    /// The address that is listened on.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.addr
    }

    /// Leaves what clients send to another process. What comes from upstreams in open sessions is passed on to their clients until
    /// these have been silent for as long as ever.
    pub(crate) fn leave(&mut self) {
        self.task.abort();
    }

    /// Waits until there is no session left; while the node ends there are no new ones.
    pub(crate) async fn emptied(&self) {
        self.listener.sessions.borrow().values().for_each(|session| session.look_at_the_time());
        while !self.listener.sessions.borrow().is_empty() {
            self.listener.gone.notified().await;
        }
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(listener: Rc<Listener>) {
    loop {
        if let Err(error) = listener.socket.readable().await {
            tracing::error!(%error, addr = %listener.addr, "no more datagrams can be received: restart the node");
            return;
        }
        let worker = listener.worker.clone();
        let outcome = worker.stream_room.with(|room| {
            let arrived = listener.socket.try_recv(room)?;
            listener.deliver(arrived, room.get(..arrived.len).unwrap_or_default());
            io::Result::Ok(())
        });
        if let Some(error) = outcome.err().filter(|error| error.kind() != io::ErrorKind::WouldBlock) {
            tracing::debug!(%error, addr = %listener.addr, "a datagram could not be received");
        }
    }
}

impl Listener {
    /// Gives a datagram to its session, which is opened if there is none.
    fn deliver(self: &Rc<Self>, arrived: Arrived, bytes: &[u8]) {
        let pair = (arrived.peer, arrived.local);
        if let Some(session) = self.sessions.borrow().get(&pair) {
            return session.deliver(bytes, &self.worker);
        }
        let worker = &self.worker;
        if worker.is_leaving() || worker.udp_sessions.get() >= worker.node.config.stream.udp_sessions {
            worker.counters.udp_sessions_refused.up();
            return;
        }
        let session = UdpSession::new(bytes);
        self.sessions.borrow_mut().insert(pair, session.clone());
        drop(tokio::task::spawn_local(session::run(Listed::new(self.clone(), pair), session)));
    }
}

/// Keeps a session in the list until it is dropped.
struct Listed {
    listener: Rc<Listener>,
    pair: Pair,
}

impl Listed {
    fn new(listener: Rc<Listener>, pair: Pair) -> Self {
        let worker = &listener.worker;
        worker.udp_sessions.set(worker.udp_sessions.get() + 1);
        worker.counters.udp_sessions.up();
        Self { listener, pair }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let worker = &self.listener.worker;
        worker.udp_sessions.set(worker.udp_sessions.get() - 1);
        worker.counters.udp_sessions.down();
        self.listener.sessions.borrow_mut().remove(&self.pair);
        self.listener.gone.notify_waiters();
    }
}
