//! A client connection that speaks HTTP/3.

use super::{Line, control, stream};
use crate::config::Listen;
use crate::h3::{Room, code};
use crate::worker::Worker;
use crate::worker::activity::{Activity, Phase};
use crate::worker::allowance::{Allowance, Cancels};
use crate::worker::client::{Client, Registered};
use crate::worker::watching::Watch;
use milecastle_plugin_api::{ClientConn, Scheme, TlsInfo};
use quinn::{Connecting, Connection, ConnectionError, RecvStream, SendStream, VarInt};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Frames beside the requests that go with each of them: a client may say how urgent it is (RFC 9218 §7.2).
const FRAMES_A_REQUEST: u64 = 4;

/// The last stream that a client could open (RFC 9114 §5.2).
const LAST_STREAM: u64 = (1 << 62) - 4;

/// A connection before its handshake.
pub(super) struct Opening {
    pub(super) worker: Rc<Worker>,
    pub(super) listen: Rc<Listen>,
    pub(super) line: Rc<Line>,
    pub(super) serial: u64,
    pub(super) activity: Rc<Activity>,
    pub(super) registered: Registered,
}

impl Opening {
    /// Serves the connection to its end.
    pub(super) async fn serve(self, connecting: Connecting) {
        let (worker, peer) = (self.worker.clone(), self.line.peer);
        match Box::pin(self.shake_hands(connecting)).await {
            Ok((connection, watch)) => Box::pin(serve(connection, watch)).await,
            Err(error) => {
                worker.counters.tls_failures.up();
                tracing::debug!(%peer, %error, "a QUIC connection could not be opened");
            }
        }
    }

    async fn shake_hands(self, connecting: Connecting) -> io::Result<(Rc<Http3>, Watch)> {
        let Self { worker, listen, line, serial, activity, registered } = self;
        let limits = &worker.node.config.client;
        let counted = Counted::up(&worker);
        let quic = activity.unless_evicted(pin!(tokio::time::timeout(limits.handshake_timeout, connecting))).await;
        drop(counted);
        let quic = quic?.map_err(|_| {
            worker.counters.tls_late.up();
            io::ErrorKind::TimedOut
        })??;
        let (quic, peer) = (line.quic.get_or_init(|| quic).clone(), line.peer);
        let tls = quic.handshake_data().and_then(|told| told.downcast::<TlsInfo>().ok());
        let tls = tls.ok_or_else(|| io::Error::other("a handshake has ended without saying how"))?;
        worker.counters.handled.up();
        let ip = quic.local_ip().filter(|_| listen.addr.ip().is_unspecified()).unwrap_or(listen.addr.ip());
        let facts = ClientConn {
            peer,
            local: SocketAddr::new(ip, listen.addr.port()),
            scheme: Scheme::Https,
            proxied: None,
            tls: Some(*tls),
            opened: activity.opened,
            serial,
            peer_text: peer.ip().to_canonical().to_string().into(),
        };
        let client = Client::new(&worker, facts, activity, None);
        let watch = Watch::new(client.activity.clone(), registered);
        Ok((Rc::new(Http3::new(client, quic)), watch))
    }
}

/// A handshake under way, among those of its worker.
struct Counted<'w>(&'w Worker);

impl<'w> Counted<'w> {
    fn up(worker: &'w Worker) -> Self {
        worker.quic_handshakes.set(worker.quic_handshakes.get() + 1);
        Self(worker)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.quic_handshakes.set(self.0.quic_handshakes.get() - 1);
    }
}

/// What the streams of a connection share.
pub(super) struct Http3 {
    pub(super) client: Rc<Client>,
    pub(super) quic: Connection,
    /// A bit for each kind of stream beside the requests that the client has opened.
    side_streams: Cell<u8>,
    /// The first stream that is not taken any more, once that was said, and whoever says it.
    goaway: Cell<Option<VarInt>>,
    pub(super) goaway_said: Notify,
    /// The first stream that has not come yet.
    next: Cell<VarInt>,
    /// Streams of requests that are open, until the client has the whole of its answer.
    open: Cell<usize>,
    /// Streams that the client has given up before there was a request.
    wasted: Cell<u64>,
    cancels: Cancels,
    control_frames: Allowance,
    /// What the bodies of its requests may hold.
    pub(super) room: Rc<Room>,
}

/// Why the worker's watch has something to say.
enum Told {
    /// The node is ending.
    Drain,
    /// The time of a phase is up.
    Over(Phase),
}

impl Http3 {
    fn new(client: Rc<Client>, quic: Connection) -> Self {
        let (config, now) = (&client.worker.node.config.http3, Instant::now());
        let control_frames = Allowance::new(config.control_frames, u64::MAX, now);
        let cancels = Cancels::new(config.cancels, now);
        let room = Room::new(config.connection_window, config.stream_window);
        Self {
            client,
            quic,
            side_streams: Cell::new(0),
            goaway: Cell::new(None),
            goaway_said: Notify::new(),
            next: Cell::new(VarInt::from_u32(0)),
            open: Cell::new(0),
            wasted: Cell::new(0),
            cancels,
            control_frames,
            room,
        }
    }

    /// Whether the client has opened no stream of this kind, one of the first eight, before.
    pub(super) fn first_of(&self, kind: u64) -> bool {
        let (before, bit) = (self.side_streams.get(), 1 << kind);
        self.side_streams.set(before | bit);
        before & bit == 0
    }

    /// What the client is to be told of the end, if anything.
    pub(super) fn goaway(&self) -> Option<VarInt> {
        self.goaway.get()
    }

    fn say_goaway(&self, first_refused: VarInt) {
        self.goaway.set(Some(first_refused));
        self.goaway_said.notify_one();
    }

    /// A stream has ended before there was a request on it.
    pub(super) fn waste(&self) {
        self.wasted.set(self.wasted.get() + 1);
    }

    /// Counts a frame that carries nothing of a request, and ends the connection if there are too many.
    pub(super) fn take_control_frame(&self) {
        if !self.control_frames.take(1, Instant::now) && self.quic.close_reason().is_none() {
            self.client.worker.counters.http3_control_frames_cut.up();
            self.quic.close(code::EXCESSIVE_LOAD, b"too many frames that carry nothing of a request");
        }
    }

    /// Whether the client cancels more than it may.
    fn cancels_too_much(&self) -> bool {
        let (activity, wasted) = (&self.client.activity, self.wasted.get());
        self.cancels.are_too_many(activity.cancelled.get() + wasted, activity.begun.get() + wasted)
    }

    /// Takes a stream in, or turns it away. The task of the request ends with the set.
    fn welcome(self: &Rc<Self>, mut send: SendStream, mut recv: RecvStream, tasks: &mut JoinSet<()>) {
        let id = VarInt::from(send.id());
        if self.goaway.get().is_some_and(|first_refused| id >= first_refused) {
            // It may be sent again elsewhere (RFC 9114 §4.1.1, §5.2).
            recv.stop(code::REQUEST_REJECTED).ok();
            send.reset(code::REQUEST_REJECTED).ok();
            return;
        }
        // Streams of one kind are four numbers apart (RFC 9000 §2.1).
        self.next.set(VarInt::try_from(id.into_inner() + 4).unwrap_or(VarInt::MAX));
        self.control_frames.earn(FRAMES_A_REQUEST);
        tasks.spawn_local(stream::serve(Open::new(self.clone()), send, recv));
    }
}

/// A stream of a request that is open.
pub(super) struct Open(pub(super) Rc<Http3>);

impl Open {
    fn new(connection: Rc<Http3>) -> Self {
        connection.open.set(connection.open.get() + 1);
        Self(connection)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Serves the connection to its end. Requests in work end with it.
async fn serve(connection: Rc<Http3>, mut watch: Watch) {
    let (client, quic) = (&connection.client, &connection.quic);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(control::send(connection.clone()));
    let mut closing = false;
    loop {
        let told = poll_fn(|cx| {
            watch.leave_waker(cx);
            if watch.must_drain(client) {
                return Poll::Ready(Told::Drain);
            }
            watch.over().map_or(Poll::Pending, |phase| Poll::Ready(Told::Over(phase)))
        });
        tokio::select! {
            told = told => match told {
                // What the client has sent before it hears this is answered.
                Told::Drain => connection.say_goaway(VarInt::from_u64(LAST_STREAM).expect("it is below 2^62")),
                // A head is coming, or an answer on its way: streams have limits of their own.
                Told::Over(_) if connection.open.get() > 0 => {}
                // What comes now can be sent again elsewhere, and the client has as long again to take leave.
                Told::Over(Phase::Idle) if !closing => {
                    closing = true;
                    connection.say_goaway(connection.next.get());
                }
                Told::Over(_) => {
                    quic.close(code::NO_ERROR, b"");
                    break;
                }
            },
            accepted = quic.accept_bi() => match accepted {
                Ok((send, recv)) => connection.welcome(send, recv, &mut tasks),
                Err(error) => {
                    note_end(client, &error);
                    break;
                }
            },
            accepted = quic.accept_uni() => match accepted {
                Ok(recv) => drop(tasks.spawn_local(control::receive(connection.clone(), recv))),
                Err(error) => {
                    note_end(client, &error);
                    break;
                }
            },
            Some(ended) = tasks.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    client.worker.counters.request_panics.up();
                    tracing::error!("serving an HTTP/3 stream panicked");
                }
            }
        }
        if connection.cancels_too_much() {
            client.worker.counters.http3_cancels_cut.up();
            quic.close(code::EXCESSIVE_LOAD, b"too many requests are cancelled");
            break;
        }
    }
}

fn note_end(client: &Client, error: &ConnectionError) {
    if matches!(error, ConnectionError::TimedOut) {
        client.worker.counters.http3_silent.up();
    }
    tracing::debug!(peer = %client.facts.peer, %error, "an HTTP/3 connection ended");
}
