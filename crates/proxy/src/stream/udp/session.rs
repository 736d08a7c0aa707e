//! One UDP session.

use super::super::connect::{connect, upstream_of};
use super::super::session::{Session, status};
use super::Listed;
use crate::deadline::Deadline;
use crate::lasting::Lasting;
use crate::worker::{Pinned, Worker};
use milecastle_plugin_api::View;
use milecastle_plugin_api::stream::{Preread, SessionEnd, StreamCx, Transport};
use milecastle_snapshot::UpstreamScheme;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// What the listener sees of a session.
pub(super) struct UdpSession {
    /// Datagrams that came before there was an upstream, the first one apart.
    pending: RefCell<Vec<Box<[u8]>>>,
    first: Cell<Option<Box<[u8]>>>,
    upstream: OnceCell<UdpSocket>,
    received: Cell<u64>,
    upstream_sent: Cell<u64>,
    /// When a datagram has passed last.
    moved: Cell<Instant>,
    /// The upstream has refused a datagram.
    refused: Cell<bool>,
    woken: Notify,
}

impl UdpSession {
    /// A session that this datagram begins.
    pub(super) fn new(first: &[u8]) -> Rc<Self> {
        Rc::new(Self {
            pending: RefCell::default(),
            first: Cell::new(Some(first.into())),
            upstream: OnceCell::new(),
            received: Cell::new(first.len() as u64),
            upstream_sent: Cell::new(0),
            moved: Cell::new(Instant::now()),
            refused: Cell::new(false),
            woken: Notify::new(),
        })
    }

    /// Takes a further datagram of the client.
    pub(super) fn deliver(&self, bytes: &[u8], worker: &Worker) {
        self.received.set(self.received.get() + bytes.len() as u64);
        match self.upstream.get() {
            Some(upstream) => self.send(upstream, bytes, worker),
            None if self.pending.borrow().len() < worker.node.config.stream.udp_pending => {
                self.pending.borrow_mut().push(bytes.into());
            }
            None => worker.counters.udp_datagrams_dropped.up(),
        }
    }

    /// The session is to look again when it ends.
    pub(super) fn look_at_the_time(&self) {
        self.woken.notify_one();
    }

    fn send(&self, upstream: &UdpSocket, bytes: &[u8], worker: &Worker) {
        self.moved.set(Instant::now());
        match upstream.try_send(bytes) {
            Ok(sent) => self.upstream_sent.set(self.upstream_sent.get() + sent as u64),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused.set(true);
                self.woken.notify_one();
            }
            Err(_) => worker.counters.udp_datagrams_dropped.up(),
        }
    }
}

/// Serves a session until its end.
pub(super) async fn run(listed: Listed, shared: Rc<UdpSession>) {
    let (listener, (peer, local)) = (listed.listener.clone(), listed.pair);
    let worker = listener.worker.clone();
    let mut cx = StreamCx::new(Transport::Udp, peer, local, worker.next_serial());
    cx.listen = listener.addr;
    let mut session = Session::new(worker.clone(), cx, listener.counters.of(worker.index));
    session.cx.traffic.received = shared.received.get();
    let first = shared.first.take().unwrap_or_default();
    session.cx.first.extend_from_slice(&first);
    let (idle, lasting) = match open(&mut session, &shared).await {
        Ok(opened) => opened,
        Err(status) => {
            session.cx.status = status;
            return;
        }
    };
    let Some(upstream) = shared.upstream.get() else { return };
    shared.send(upstream, &first, &worker);
    for bytes in shared.pending.take() {
        shared.send(upstream, &bytes, &worker);
    }
    tokio::select! {
        () = pass(&mut session, &listed, &shared, upstream, idle) => {}
        () = Lasting::over_if_watched(lasting.as_ref()) => {
            settle(&mut session, &shared);
            session.cx.end = SessionEnd::Superseded;
        }
    }
}

/// Finds the route and opens the socket towards the upstream; says how long the session may be silent, and whether its policy may
/// end it.
///
/// # Errors
/// The status of the session.
async fn open(session: &mut Session, shared: &UdpSession) -> Result<(Duration, Option<Lasting>), u16> {
    let pinned = session.worker.pin();
    let Some(route) = session.route(&pinned) else { return Err(session.cx.status) };
    preread(session, &pinned).await?;
    let upstream = upstream_of(session, &pinned, &route).await?;
    if !matches!(upstream.scheme, UpstreamScheme::Udp | UpstreamScheme::Tcp | UpstreamScheme::Http) {
        let (upstream, scheme) = (&*upstream.key, upstream.scheme.as_str());
        tracing::error!(upstream, scheme, "a UDP session needs an upstream of scheme `udp`");
        return Err(status::NO_UPSTREAM);
    }
    let socket = connect(session, &upstream, async |_: &mut Session, addr| socket_to(addr).await).await?;
    shared.upstream.set(socket).map_err(|_| status::INTERNAL)?;
    Ok((upstream.timeouts.read.max(upstream.timeouts.send), session.watch(&route)))
}

/// A socket that speaks to this address alone.
async fn socket_to(addr: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(addr).await?;
    // The runtime has to hear of it before anything can be sent without waiting.
    socket.writable().await?;
    Ok(socket)
}

/// Runs the phase `preread` over the first datagram.
///
/// # Errors
/// The status of a session that does not go on.
async fn preread(session: &mut Session, pinned: &Rc<Pinned>) -> Result<(), u16> {
    let Some(chain) = session.chain.clone() else { return Ok(()) };
    let view: Rc<dyn View> = pinned.clone();
    let mut from = 0;
    loop {
        match chain.run_preread(&mut session.cx, &view, from) {
            Preread::Passed => return Ok(()),
            Preread::Closed { status } => return Err(status),
            // A datagram is whole.
            Preread::More { .. } => return Err(status::BAD_CLIENT),
            Preread::Pause { time, step } => {
                tokio::time::sleep(time).await;
                from = step;
            }
        }
    }
}

/// Passes the upstream's datagrams to the client until nobody has said anything for too long.
async fn pass(session: &mut Session, listed: &Listed, shared: &UdpSession, upstream: &UdpSocket, idle: Duration) {
    let (listener, (peer, local)) = (&listed.listener, listed.pair);
    let worker = session.worker.clone();
    let mut deadline = Deadline::new(shared.moved.get() + idle);
    let mut failure = None;
    while failure.is_none() && !shared.refused.get() {
        let came = poll_fn(|cx| {
            if let Poll::Ready(ready) = upstream.poll_recv_ready(cx) {
                return Poll::Ready(Some(ready));
            }
            deadline.poll(cx).map(|()| None)
        });
        let came = tokio::select! {
            came = came => came,
            () = shared.woken.notified() => None,
        };
        let limit = worker.last_call().unwrap_or(idle).min(idle);
        let received = match came {
            None => {
                let until = shared.moved.get() + limit;
                if until <= Instant::now() {
                    break;
                }
                deadline.set(until);
                continue;
            }
            Some(Err(error)) => Err(error),
            Some(Ok(())) => worker.stream_room.with(|room| {
                let len = upstream.try_recv(room)?;
                if listener.socket.try_send(room.get(..len).unwrap_or_default(), peer, local).is_err() {
                    worker.counters.udp_datagrams_dropped.up();
                } else {
                    session.cx.traffic.sent += len as u64;
                }
                Ok(len)
            }),
        };
        match received {
            Ok(len) => {
                session.cx.traffic.upstream_received += len as u64;
                session.note_first_byte();
                shared.moved.set(Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => failure = Some(error),
        }
        settle(session, shared);
    }
    settle(session, shared);
    if shared.refused.get() || failure.is_some() {
        session.cx.end = SessionEnd::Upstream;
        // For UDP the refusal of the first datagrams is what a failing connection is for TCP.
        if session.cx.traffic.upstream_received == 0 {
            session.cx.status = status::BAD_UPSTREAM;
            if let Some(attempt) = session.cx.upstream.last_mut() {
                (attempt.answered, attempt.status) = (false, status::BAD_UPSTREAM);
            }
        }
    }
}

/// Takes over what the listener has counted.
fn settle(session: &mut Session, shared: &UdpSession) {
    session.cx.traffic.received = shared.received.get();
    session.cx.traffic.upstream_sent = shared.upstream_sent.get();
    session.tell_traffic();
}
