//! HTTP/3 with clients: [`mod@connection`] is one of them from its handshake to its end, [`mod@stream`] one request, [`head`] what a request's head
//! has to be, [`control`] the streams beside the requests.
//!
//! Each worker has a QUIC endpoint of its own on a socket of its own, as it has for TCP; [`port`] sees to it that a connection's datagrams come
//! to the worker that has it.
//!
//! Invariants:
//! - A request takes the way of all others (`request`): what differs between protocols ends here.
//! - An answer that is cut short ends in a reset of its stream; the end of the stream says that it is whole.
//! - A body that nobody reads holds up no other stream: the connection's window has room for as much as all of its bodies can hold, but
//!   for what they do not count (`h3/room.rs`).
//! - A client that has not proved its address costs a bounded amount of memory, and gets no more than three times what it has sent.

mod connection;
mod control;
mod head;
mod port;
mod stream;

pub(crate) use port::Mail;

use super::{Registry, Worker};
use crate::config::Listen;
use crate::h3::code;
use crate::tls::QuicTls;
use crate::worker::activity::{Activity, Nature};
use connection::Opening;
use port::{Ids, Port};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The version that is spoken (RFC 9000 §15); the others that the library knows are drafts.
const QUIC_1: u32 = 1;
/// Streams beside the requests that a client may have open: three of them mean something, others are for practice (RFC 9114 §6.2.3).
const SIDE_STREAMS: u32 = 16;
/// Handshakes that may wait for the worker, which takes them at its next turn, and what each may bring along.
const WAITING: (usize, u64) = (1024, 16 * 1024);

/// A socket for QUIC, and the TLS listener that it belongs to.
pub(crate) struct QuicDoor {
    pub(crate) listen: Listen,
    pub(crate) socket: std::net::UdpSocket,
    /// Its place among the sockets of the listener, and what it shares with them.
    pub(crate) place: usize,
    pub(crate) mail: Arc<Mail>,
}

/// The same on a worker's runtime.
pub(super) struct QuicEntrance {
    endpoint: Endpoint,
    port: Arc<Port>,
    pub(super) listen: Rc<Listen>,
    /// The open connections, by their numbers.
    lines: RefCell<HashMap<u64, Rc<Line>>>,
}

/// Between which addresses a connection is.
struct Line {
    peer: SocketAddr,
    local: Option<IpAddr>,
    /// Once its handshake is over.
    quic: OnceCell<Connection>,
}

impl QuicEntrance {
    /// Opens an endpoint. To be called on the worker's runtime.
    pub(super) fn open(worker: &Rc<Worker>, door: QuicDoor) -> io::Result<Rc<Self>> {
        let http3 = &worker.node.config.http3;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(http3.streams.into())
            .max_concurrent_uni_streams(SIDE_STREAMS.into())
            .stream_receive_window(VarInt::try_from(http3.stream_window).map_err(io::Error::other)?)
            // Shared out to bodies: `h3::Room`.
            .receive_window(VarInt::try_from(http3.connection_window).map_err(io::Error::other)?)
            .send_window(http3.send_buffer)
            .max_idle_timeout(Some(IdleTimeout::try_from(http3.silence).map_err(io::Error::other)?))
            // Who lives acknowledges them, however long an answer takes.
            .keep_alive_interval(Some(http3.silence / 3))
            .datagram_receive_buffer_size(None);
        let mut server = ServerConfig::with_crypto(QuicTls::new(worker.node.clone())?);
        server
            .transport_config(Arc::new(transport))
            .max_incoming(WAITING.0)
            .incoming_buffer_size(WAITING.1)
            .incoming_buffer_size_total(WAITING.0 as u64 * WAITING.1);
        let mut config = EndpointConfig::default();
        config.supported_versions(vec![QUIC_1]);
        let QuicDoor { listen, socket, place, mail } = door;
        let port = Port::new(socket, place, mail.clone())?;
        let place = u16::try_from(place).map_err(io::Error::other)?;
        config.cid_generator(move || Box::new(Ids { mail: mail.clone(), place }));
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), port.clone(), runtime)?;
        Ok(Rc::new(Self { endpoint, port, listen: Rc::new(listen), lines: RefCell::default() }))
    }

    /// Takes clients in for as long as it is asked to.
    pub(super) async fn accept(self: Rc<Self>, worker: Rc<Worker>) {
        while let Some(incoming) = self.endpoint.accept().await {
            self.welcome(&worker, incoming);
        }
    }

    /// Leaves the socket to another process. What is open goes on.
    pub(super) fn leave(&self) {
        let lines = self.lines.borrow();
        self.port.leave(lines.values().filter_map(|line| line.addresses(self.listen.addr)));
    }

    /// Ends all connections at once, and gives the last word to each of them some time to go out.
    pub(super) async fn end(&self, patience: Duration) {
        self.endpoint.close(code::NO_ERROR, b"the gateway is ending");
        tokio::time::timeout(patience, self.endpoint.wait_idle()).await.ok();
    }

    fn welcome(self: &Rc<Self>, worker: &Rc<Worker>, incoming: Incoming) {
        let (counters, config) = (&worker.counters, &worker.node.config);
        if worker.is_leaving() {
            // It may try again at once: where the port is now another process's, it meets that one, else it takes TCP.
            return incoming.refuse();
        }
        let full = worker.clients.len() >= config.connections as usize;
        // Where it is full as well: a datagram with a forged sender costs no client its place.
        if !incoming.remote_address_validated() && (full || worker.quic_handshakes.get() >= config.http3.handshakes) {
            counters.http3_retries.up();
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            return;
        }
        if full {
            // Nobody waits in a queue of datagrams. Refused, the client takes TCP; the next one may find the room.
            counters.http3_refused.up();
            worker.make_room(Instant::now());
            return incoming.refuse();
        }
        let (peer, local) = (incoming.remote_address(), incoming.local_ip());
        match incoming.accept() {
            Ok(connecting) => {
                counters.accepted.up();
                let activity = Activity::new(Instant::now());
                activity.nature.set(Nature::Http3);
                let serial = worker.next_serial();
                let registered = Registry::add(worker, serial, &activity);
                let line = Rc::new(Line { peer, local, quic: OnceCell::new() });
                self.lines.borrow_mut().insert(serial, line.clone());
                let opening =
                    Opening { worker: worker.clone(), listen: self.listen.clone(), line, serial, activity, registered };
                let entrance = self.clone();
                drop(tokio::task::spawn_local(async move {
                    opening.serve(connecting).await;
                    entrance.lines.borrow_mut().remove(&serial);
                }));
            }
            Err(error) => tracing::debug!(%peer, %error, "a QUIC connection could not be opened"),
        }
    }
}

impl Line {
    /// Our address and the client's, on a listener that is bound to `bound`.
    fn addresses(&self, bound: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        let (peer, local) = match self.quic.get() {
            Some(quic) => (quic.remote_address(), quic.local_ip()),
            None => (self.peer, self.local),
        };
        let own = if bound.ip().is_unspecified() { local? } else { bound.ip() };
        Some((SocketAddr::new(own, bound.port()), peer))
    }
}
