//! Accepting connections of TCP, as many as there is room for.

use super::client::ROOM_EVERY;
use super::{Worker, files, serve};
use crate::config::Listen;
use crate::socket::{Listener, Socket};
use crate::stream::{self, StreamListen};
use milecastle_telemetry::Paced;
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long accepting pauses when it has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepting has failed, at any listener of the process: for want of files or memory, and for another reason.
static NO_FILES: Paced = Paced::new(Duration::from_secs(10));
static FAILED: Paced = Paced::new(Duration::from_secs(10));

/// A listening socket and what is spoken on it.
pub(crate) struct Door {
    pub(crate) listen: Listen,
    pub(crate) socket: TcpListener,
    /// Present if sessions of the TCP proxy come in.
    pub(crate) stream: Option<StreamListen>,
}

/// A listening socket on a worker's runtime.
pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) listen: Rc<Listen>,
    stream: Option<Rc<StreamListen>>,
    /// A connection that was let in, and for which there is no room yet.
    held: Cell<Option<(Socket, SocketAddr)>>,
}

impl Entrance {
    pub(super) fn open(door: Door) -> io::Result<Self> {
        let Door { listen, socket, stream } = door;
        let listener = Listener::new(socket)?;
        Ok(Self { listener, listen: Rc::new(listen), stream: stream.map(Rc::new), held: Cell::default() })
    }

    /// How long the system may keep connections back whose clients are silent. Never those of sessions, in which the upstream may
    /// be the first to speak.
    pub(super) fn defer(&self, patience: Duration) {
        let patience = if self.stream.is_none() { patience } else { Duration::ZERO };
        if let Err(error) = self.listener.defer(patience) {
            let key = self.listen.key;
            tracing::debug!(%error, key, "silent connections are accepted at once: the system does not keep them back");
        }
    }

    /// The next connection in the listener's queue. Where the system has nothing left for one, idle connections to upstreams and those
    /// of the worker that wait for their clients have to make room.
    pub(super) async fn accept_one(&self, worker: &Worker) -> (Socket, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    let remedy = files::remedy(&error);
                    self.tell(&error, remedy);
                    if remedy.is_some() && worker.free_files() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Tells that accepting has failed, and what helps where the system had nothing left.
    fn tell(&self, error: &io::Error, remedy: Option<&'static str>) {
        let (key, now) = (self.listen.key, Instant::now());
        if let Some(remedy) = remedy {
            if let Some(times) = NO_FILES.happened(1, now) {
                tracing::error!(%error, key, times, "connections cannot be accepted; {remedy}");
            }
        } else if let Some(times) = FAILED.happened(1, now) {
            tracing::error!(
                %error,
                key,
                times,
                "connections cannot be accepted; see whether a rule of the firewall or of the system's security forbids them, \
                 and whether the network is up"
            );
        }
    }
}

impl Worker {
    /// Takes connections of a listener until it is aborted.
    pub(super) async fn accept(self: Rc<Self>, entrance: Rc<Entrance>) {
        loop {
            let Some(kept) = self.hand_on(entrance.accept_one(&self).await, &entrance) else { continue };
            entrance.held.set(Some(kept));
            self.room().await;
            self.welcome_held(&entrance);
        }
    }

    /// Waits until there is room for one more connection. Those that wait for their clients have to make it; the others that come
    /// meanwhile are in the socket's queue.
    async fn room(&self) {
        let most = self.node.config.connections as usize;
        let open = || self.clients.len() + self.node.neighbours[self.index].coming() as usize;
        if open() < most {
            return;
        }
        self.counters.connections_held.up();
        while open() >= most {
            self.make_room(Instant::now());
            tokio::select! {
                () = self.clients.shrunk() => {}
                () = tokio::time::sleep(ROOM_EVERY) => {}
            }
        }
    }

    /// Has connections end that only wait, if some have for long enough. Says how many were told for the first time.
    pub(super) fn make_room(&self, now: Instant) -> u64 {
        let evicted = self.clients.make_room(now, self.node.config.client.connection_place);
        self.counters.connections_evicted.add(evicted);
        evicted
    }

    pub(super) fn welcome_held(self: &Rc<Self>, entrance: &Entrance) {
        if let Some((socket, peer)) = entrance.held.take() {
            self.welcome(socket, peer, entrance);
        }
    }

    pub(super) fn welcome(self: &Rc<Self>, socket: Socket, peer: SocketAddr, entrance: &Entrance) {
        self.counters.accepted.up();
        match &entrance.stream {
            None => serve::spawn(self, socket, peer, &entrance.listen),
            Some(own) => stream::spawn(self, socket, peer, &entrance.listen, own),
        }
    }
}

/// Errors that concern one connection, which the peer has given up.
pub(super) fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
