//! A client connection from its first byte to its last.

use super::client::{Client, Registered, Registry};
use super::defer::defer;
use super::io::{Activity, ClientIo, Transport};
use super::{Believed, Worker, tunnel};
use crate::config::{ClientLimits, Listen};
use crate::deadline::Deadline;
use crate::request;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use milecastle_plugin_api::{ClientConn, Scheme};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for a connection's first bytes.
const FIRST_READ: usize = 4096;
/// Answer bytes of all streams of an HTTP/2 connection that may wait for the client.
const SEND_BUFFER: usize = 1024 * 1024;
/// A time that no request takes, for a timer that must not fire.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Fields that hyper parses without touching the heap.
const HYPER_FIELDS: usize = 100;
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Runs futures of HTTP/2 streams on the worker.
#[derive(Clone)]
struct OnWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(async move {
            drop(future.await);
        }));
    }
}

/// Serves a connection in a task of its own.
pub(super) fn spawn(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, listen: &Rc<Listen>) {
    let serial = worker.next_serial();
    let registered = Registry::add(worker, serial);
    let (worker, listen) = (worker.clone(), listen.clone());
    drop(tokio::task::spawn_local(async move {
        if let Err(error) = connection(worker, stream, peer, listen, serial, registered).await {
            tracing::debug!(%peer, %error, "a client connection ended");
        }
    }));
}

async fn connection(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    listen: Rc<Listen>,
    serial: u64,
    registered: Registered,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let now = Instant::now();
    let limits = &worker.node.config.client;
    let mut deadline = Deadline::new(now + limits.header_timeout);
    let (transport, first, http2, tls) = if listen.tls {
        // Boxed: a handshake's state is large, and needed for a moment only.
        let accepting =
            Box::pin(tokio::time::timeout(limits.handshake_timeout, crate::tls::accept(&worker, &listen, stream)));
        let accepted = accepting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if accepted.is_err() {
            worker.counters.tls_failures.up();
        }
        let (stream, info) = accepted?;
        let http2 = info.alpn == Some("h2");
        (Transport::Tls(Box::new(stream)), Bytes::new(), http2, Some(info))
    } else if listen.http2 {
        let mut stream = stream;
        let Some((first, http2)) = sniff(&mut stream, &mut deadline).await? else { return Ok(()) };
        (Transport::Plain(stream), first, http2, None)
    } else {
        (Transport::Plain(stream), Bytes::new(), false, None)
    };
    worker.counters.handled.up();
    let activity = Activity::new(now);
    let facts = ClientConn {
        peer,
        local,
        scheme: if listen.tls { Scheme::Https } else { Scheme::Http },
        tls,
        serial,
        peer_text: peer.ip().to_canonical().to_string().into(),
    };
    let client = Rc::new(Client {
        worker: worker.clone(),
        facts: Rc::new(facts),
        activity: activity.clone(),
        believed: believed(&worker, peer.ip().to_canonical()),
        tunnel: None.into(),
        checked_host: None.into(),
    });
    let io = ClientIo::new(transport, first, activity);
    let watch = Watch::new(&client, deadline, registered);
    if http2 { serve_http2(client, io, watch).await } else { serve_http1(client, io, watch).await }
}

fn believed(worker: &Worker, peer: IpAddr) -> Believed {
    let config = &worker.node.config;
    Believed {
        real_ip: config.real_ip.from.contains(peer),
        forwarded: config.trusted.as_ref().is_some_and(|trusted| trusted.contains(peer)),
    }
}

/// Reads until it is clear whether the client speaks HTTP/2. `None`: it said nothing.
async fn sniff(stream: &mut TcpStream, deadline: &mut Deadline) -> io::Result<Option<(Bytes, bool)>> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    loop {
        let read = poll_fn(|cx| match pin!(stream.read_buf(&mut first)).poll(cx) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        });
        if read.await? == 0 {
            return Ok(None);
        }
        let seen = first.len().min(PREFACE.len());
        if first[..seen] != PREFACE[..seen] {
            return Ok(Some((first.freeze(), false)));
        }
        if seen == PREFACE.len() {
            return Ok(Some((first.freeze(), true)));
        }
    }
}

/// Handles one request. A panic of the gateway's own code ends this request with 500 and nothing else.
async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Result<request::Response, Infallible> {
    let worker = client.worker.clone();
    match AssertUnwindSafe(request::serve(client, request)).catch_unwind().await {
        Ok(response) => Ok(response),
        Err(_) => {
            worker.counters.request_panics.up();
            tracing::error!("handling a request panicked; it is answered with 500");
            Ok(request::bare_error())
        }
    }
}

async fn serve_http1(client: Rc<Client>, io: ClientIo, mut watch: Watch) -> io::Result<()> {
    let limits = &client.worker.node.config.client;
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(!limits.keepalive_timeout.is_zero())
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes);
    if limits.header_count != HYPER_FIELDS {
        builder.max_headers(limits.header_count);
    }
    let service = {
        let client = client.clone();
        service_fn(move |request| handle(client.clone(), request))
    };
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let ended = poll_fn(|cx| {
        if watch.must_drain(cx) {
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ended::Done),
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Failed(error)),
            Poll::Pending => watch.poll(cx),
        }
    })
    .await;
    let tunnel = client.tunnel.take();
    match (ended, tunnel) {
        (Ended::Done, Some(tunnel)) => {
            let parts = connection.into_parts();
            let mut io = parts.io.into_inner();
            io.put_back(parts.read_buf);
            tunnel::run(tunnel, io).await
        }
        (Ended::SlowHead, _) => {
            client.worker.counters.slow_heads.up();
            let mut io = connection.into_parts().io.into_inner();
            tokio::time::timeout(Duration::from_secs(1), async {
                io.write_all(TOO_SLOW).await?;
                io.shutdown().await
            })
            .await?
        }
        (Ended::Failed(error), _) => Err(io::Error::other(error)),
        (Ended::Done | Ended::Idle | Ended::Stuck, _) => Ok(()),
    }
}

async fn serve_http2(client: Rc<Client>, io: ClientIo, mut watch: Watch) -> io::Result<()> {
    let limits = &client.worker.node.config.client;
    let mut builder = http2::Builder::new(OnWorker);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    if !limits.ping_timeout.is_zero() {
        builder.keep_alive_interval(limits.ping_timeout).keep_alive_timeout(limits.ping_timeout);
    }
    let (io, flusher) = defer(io);
    let service = service_fn(move |request| handle(client.clone(), request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut done = false;
    let mut closing = false;
    poll_fn(|cx| {
        if watch.must_drain(cx) {
            connection.as_mut().graceful_shutdown();
        }
        if !done {
            match connection.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => done = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Pending => {}
            }
        }
        let flushed = flusher.poll_send(cx)?;
        if done && flushed.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match ready!(watch.poll(cx)) {
            // The client is told, and has as long again to take leave.
            Ended::Idle if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                watch.again(cx);
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    })
    .await
}

/// How a connection ended.
enum Ended {
    Done,
    Failed(hyper::Error),
    /// A request's head came too slowly.
    SlowHead,
    /// No request came for too long.
    Idle,
    /// The client took no byte of an answer for too long.
    Stuck,
}

/// What a connection is doing, and so which limit is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
    Blocked,
}

/// The one timer of a client connection.
struct Watch {
    client: Rc<Client>,
    deadline: Deadline,
    registered: Registered,
    phase: Phase,
    waker_left: bool,
    drained: bool,
}

impl Watch {
    /// `deadline` runs for the first request's head already.
    fn new(client: &Rc<Client>, deadline: Deadline, registered: Registered) -> Self {
        client.worker.counters.reading.up();
        let client = client.clone();
        Self { client, deadline, registered, phase: Phase::Head, waker_left: false, drained: false }
    }

    fn limits(&self) -> &ClientLimits {
        &self.client.worker.node.config.client
    }

    /// Whether the connection is to be told, now for the first time, that it must end after its present requests.
    fn must_drain(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.waker_left {
            self.waker_left = true;
            self.registered.set_waker(cx.waker());
        }
        let now = self.client.worker.draining.get() && !self.drained;
        self.drained |= now;
        now
    }

    /// Called after the connection has been polled and has nothing more to do.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let activity = &self.client.activity;
        let phase = match (activity.blocked.get(), activity.in_flight.get(), activity.reading.get()) {
            (true, ..) => Phase::Blocked,
            (false, 1.., _) => Phase::Busy,
            (false, 0, true) => Phase::Head,
            // A new connection has said nothing yet.
            (false, 0, false) if !activity.served.get() => Phase::Head,
            (false, 0, false) => Phase::Idle,
        };
        if phase != self.phase {
            self.enter(phase);
        } else if phase == Phase::Blocked && activity.written.replace(false) {
            self.deadline.set(Instant::now() + self.limits().send_timeout);
        }
        loop {
            ready!(self.deadline.poll(cx));
            let activity = &self.client.activity;
            return Poll::Ready(match self.phase {
                Phase::Busy => {
                    self.deadline.set(Instant::now() + NEVER);
                    continue;
                }
                Phase::Idle => {
                    // Requests may have come and gone between two looks.
                    let until = activity.idle_since.get() + self.limits().keepalive_timeout;
                    if until > Instant::now() {
                        self.deadline.set(until);
                        continue;
                    }
                    Ended::Idle
                }
                Phase::Head if !activity.reading.get() => Ended::Idle,
                Phase::Head => Ended::SlowHead,
                Phase::Blocked => Ended::Stuck,
            });
        }
    }

    /// Starts the limit of another phase. None runs while a request is in work: the upstream's limits do then.
    fn enter(&mut self, phase: Phase) {
        self.count(phase);
        self.phase = phase;
        let limits = self.limits();
        let at = match phase {
            Phase::Busy => return,
            Phase::Idle => self.client.activity.idle_since.get() + limits.keepalive_timeout,
            Phase::Head => Instant::now() + limits.header_timeout,
            Phase::Blocked => Instant::now() + limits.send_timeout,
        };
        self.deadline.set(at);
    }

    /// Gives an idle connection its time once more.
    fn again(&mut self, cx: &mut Context<'_>) {
        self.deadline.set(Instant::now() + self.limits().keepalive_timeout);
        cx.waker().wake_by_ref();
    }

    /// Keeps the counters of connections by state.
    fn count(&self, to: Phase) {
        let counters = &self.client.worker.counters;
        match self.phase {
            Phase::Idle => counters.waiting.down(),
            Phase::Head => counters.reading.down(),
            Phase::Busy | Phase::Blocked => {}
        }
        match to {
            Phase::Idle => counters.waiting.up(),
            Phase::Head => counters.reading.up(),
            Phase::Busy | Phase::Blocked => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.count(Phase::Busy);
    }
}
