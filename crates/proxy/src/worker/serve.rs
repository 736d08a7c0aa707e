//! A client connection from its first byte to its last.

use super::activity::{Activity, Phase, Signal};
use super::client::{Client, Registered, Registry};
use super::defer::defer;
use super::io::{ClientIo, Transport, is_readable};
use super::linger::linger;
use super::{Believed, Worker, tunnel};
use crate::config::Listen;
use crate::request;
use crate::upload::Progress;
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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for a connection's first bytes.
const FIRST_READ: usize = 4096;
/// Answer bytes of all streams of an HTTP/2 connection that may wait for the client.
const SEND_BUFFER: usize = 1024 * 1024;
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

/// Serves a connection in tasks of its own: one that finds out what is spoken, and one that speaks it, so that the latter is
/// no larger than it must be.
pub(super) fn spawn(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, listen: &Rc<Listen>) {
    let serial = worker.next_serial();
    let activity = Activity::new(Instant::now());
    let registered = Registry::add(worker, serial, &activity);
    let (worker, listen) = (worker.clone(), listen.clone());
    drop(tokio::task::spawn_local(async move {
        match open(worker, stream, peer, listen, serial, activity, registered).await {
            Ok(Some(Opened { client, io, watch, http2: false })) => {
                drop(tokio::task::spawn_local(serve_http1(client, io, watch)));
            }
            Ok(Some(Opened { client, io, watch, http2: true })) => {
                drop(tokio::task::spawn_local(serve_http2(client, io, watch)));
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%peer, %error, "a client connection could not be opened"),
        }
    }));
}

/// A connection that is ready for HTTP.
struct Opened {
    client: Rc<Client>,
    io: ClientIo,
    watch: Watch,
    http2: bool,
}

/// `None`: the client said nothing.
async fn open(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    listen: Rc<Listen>,
    serial: u64,
    activity: Rc<Activity>,
    registered: Registered,
) -> io::Result<Option<Opened>> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let limits = &worker.node.config.client;
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
        let Some((first, http2)) = sniff(&mut stream, &activity).await? else { return Ok(None) };
        (Transport::Plain(stream), first, http2, None)
    } else {
        (Transport::Plain(stream), Bytes::new(), false, None)
    };
    worker.counters.handled.up();
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
    let watch = Watch::new(client.activity.clone(), registered);
    Ok(Some(Opened { client, io, watch, http2 }))
}

fn believed(worker: &Worker, peer: IpAddr) -> Believed {
    let config = &worker.node.config;
    Believed {
        real_ip: config.real_ip.from.contains(peer),
        forwarded: config.trusted.as_ref().is_some_and(|trusted| trusted.contains(peer)),
    }
}

/// Reads until it is clear whether the client speaks HTTP/2. `None`: it said nothing, or not enough in time.
async fn sniff(stream: &mut TcpStream, activity: &Activity) -> io::Result<Option<(Bytes, bool)>> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let mut waker_left = false;
    loop {
        let read = poll_fn(|cx| {
            if !std::mem::replace(&mut waker_left, true) {
                activity.set_waker(cx);
            }
            match pin!(stream.read_buf(&mut first)).poll(cx) {
                // Too late: a connection that has said nothing is closed without a word.
                Poll::Pending if matches!(activity.signal(), Signal::Over(_)) && !is_readable(stream) => {
                    Poll::Ready(Ok(0))
                }
                other => other,
            }
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
fn handle(
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<request::Response, Infallible>> + use<> {
    let worker = client.worker.clone();
    let taken = catch_unwind(AssertUnwindSafe(|| request::take(client.clone(), request)));
    async move {
        let served = match taken {
            Ok(taken) => AssertUnwindSafe(request::serve(taken)).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        Ok(served.unwrap_or_else(|_| {
            worker.counters.request_panics.up();
            tracing::error!("handling a request panicked; it is answered with 500");
            request::bare_error()
        }))
    }
}

async fn serve_http1(client: Rc<Client>, io: ClientIo, mut watch: Watch) {
    let limits = &client.worker.node.config.client;
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(!limits.keepalive_timeout.is_zero())
        // Whether the client is still there is looked at below.
        .half_close(true)
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes);
    if limits.header_count != HYPER_FIELDS {
        builder.max_headers(limits.header_count);
    }
    let service = {
        let client = client.clone();
        service_fn(move |request| handle(&client, request))
    };
    let presence = io.presence();
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let ended = poll_fn(|cx| {
        watch.leave_waker(cx);
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ended::Done),
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Failed(error)),
            Poll::Pending if client.activity.in_flight.get() > 0 && presence.poll_gone(cx).is_ready() => {
                Poll::Ready(Ended::Gone)
            }
            Poll::Pending => match watch.over() {
                // A request that has arrived and was not yet seen is answered.
                Some(Phase::Idle | Phase::Head) if !client.activity.reading.get() && presence.is_readable() => {
                    Poll::Pending
                }
                Some(phase) => Poll::Ready(Ended::Over(phase)),
                None => Poll::Pending,
            },
        }
    })
    .await;
    let after = match (ended, client.tunnel.take()) {
        (Ended::Done, Some(tunnel)) => {
            let parts = connection.into_parts();
            let mut io = parts.io.into_inner();
            io.put_back(parts.read_buf);
            Box::pin(tunnel::run(tunnel, io)).await
        }
        (Ended::Done, None) => match client.activity.upload.get() {
            Progress::Ended if !client.activity.closing.get() => Ok(()),
            Progress::GivenUp => Ok(()),
            _ => Box::pin(linger(&client, &presence)).await,
        },
        (Ended::Over(Phase::Head), _) if client.activity.reading.get() => {
            client.worker.counters.slow_heads.up();
            let refused = Box::pin(refuse_slow_head(connection.into_parts().io.into_inner())).await;
            refused.and(Box::pin(linger(&client, &presence)).await)
        }
        (Ended::Failed(error), _) => {
            let after = match (error.is_parse() || error.is_parse_too_large(), client.activity.cut.get()) {
                // The server has answered by itself.
                (true, _) => Box::pin(linger(&client, &presence)).await,
                (false, true) => presence.reset(),
                (false, false) => Ok(()),
            };
            after.and(Err(io::Error::other(error)))
        }
        // Over TLS the client is told that nothing was cut off; nobody waits until it can be told.
        (Ended::Over(_), _) => match poll_fn(|cx| Poll::Ready(presence.poll_finish(cx))).await {
            Poll::Ready(finished) => finished,
            Poll::Pending => Ok(()),
        },
        (Ended::Gone, _) => Ok(()),
    };
    note_end(&client, after);
}

async fn refuse_slow_head(mut io: ClientIo) -> io::Result<()> {
    let refusal = async {
        io.write_all(TOO_SLOW).await?;
        io.flush().await
    };
    tokio::time::timeout(Duration::from_secs(1), refusal).await?
}

fn note_end(client: &Client, ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %client.facts.peer, %error, "a client connection ended");
    }
}

async fn serve_http2(client: Rc<Client>, io: ClientIo, mut watch: Watch) {
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
    let presence = io.presence();
    let (io, flusher) = defer(io);
    let service = {
        let client = client.clone();
        service_fn(move |request| handle(&client, request))
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut done = false;
    let mut closing = false;
    let ended = poll_fn(|cx| {
        watch.leave_waker(cx);
        if watch.must_drain(&client) {
            closing = true;
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
        match watch.over() {
            // The client is told, and has as long again to take leave.
            Some(Phase::Idle) if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await;
    let after = match ended {
        // What the client had under way when it was told to leave must not cost it the last answers.
        Ok(()) if closing => Box::pin(linger(&client, &presence)).await,
        other => other,
    };
    note_end(&client, after);
}

/// How a connection ended.
enum Ended {
    Done,
    Failed(hyper::Error),
    /// The client has closed while its request was in work.
    Gone,
    /// The limit of this phase was reached.
    Over(Phase),
}

/// A connection's side of the worker's watch over it.
struct Watch {
    activity: Rc<Activity>,
    /// Off the worker's list when the connection ends.
    _registered: Registered,
    waker_left: bool,
    drained: bool,
}

impl Watch {
    fn new(activity: Rc<Activity>, registered: Registered) -> Self {
        // What was signalled while the connection was being set up concerned the setting up.
        activity.clear_signal();
        activity.idle_since.set(Instant::now());
        Self { activity, _registered: registered, waker_left: false, drained: false }
    }

    /// Leaves the task's waker, once.
    fn leave_waker(&mut self, cx: &Context<'_>) {
        if !std::mem::replace(&mut self.waker_left, true) {
            self.activity.set_waker(cx);
        }
    }

    /// Whether the client is to be told, now for the first time, that the node is ending. Over HTTP/1 the next answer says so.
    fn must_drain(&mut self, client: &Client) -> bool {
        let now = client.worker.is_leaving() && !self.drained;
        self.drained |= now;
        now
    }

    /// The phase whose time is up, after the connection has been polled and has nothing more to do.
    fn over(&self) -> Option<Phase> {
        let Signal::Over(phase) = self.activity.signal() else { return None };
        self.activity.clear_signal();
        // Something may have happened between the look and now.
        (phase == self.activity.phase()).then_some(phase)
    }
}
