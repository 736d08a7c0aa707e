//! One listener: accepting, TLS where there is a certificate, serving, draining.
//!
//! What must stay true:
//! - A request that came on a connection of which nobody had said that it ends is answered, and a listener is closed only when
//!   nothing is left in its queue.
//! - Whoever only holds on to connections keeps nobody out: the one that has waited longest for a request makes room.
//! - A connection without a request holds no more than a head.

use crate::health::Readiness;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown, Watcher};
use milecastle_pki::ListenerTls;
use milecastle_places::{Busy, Place, Places};
use milecastle_settings::HttpLimits;
use milecastle_telemetry::metrics::{Counter, Family, MetricError, Options, Registry};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tower::Service;

/// Pause after a failed accept, which mostly means that descriptors have run out.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The address of the peer of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Whether a request came over TLS that ends here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encrypted(pub(crate) bool);

impl Encrypted {
    /// Whether the browser's connection is encrypted: this one, or that to a proxy which says so. Whoever says so falsely keeps only
    /// himself from sending cookies.
    pub(crate) fn told(self, headers: &HeaderMap) -> bool {
        self.0 || headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
    }
}

/// The connection of a request, for an answer that lasts.
#[derive(Clone)]
pub(crate) struct Line {
    place: Arc<Place>,
    hang_up: Arc<Notify>,
}

impl Line {
    /// Counts the connection as busy, which makes no room for others, until that is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.place.busy()
    }

    /// Cuts the connection: its client takes nothing of what it is sent.
    pub(crate) fn hang_up(&self) {
        self.hang_up.notify_one();
    }
}

/// Counts connections that a limit has ended, by `why`: see [`HttpLimits`]. One for all listeners of a process.
#[derive(Clone)]
pub(crate) struct Ended(Family<Counter>);

impl Ended {
    /// Registers it.
    ///
    /// # Errors
    /// A metric of the same name is another one.
    pub(crate) fn register(metrics: &Registry) -> Result<Self, MetricError> {
        let help = "Connections that a limit has ended.";
        metrics.counter("http_connections_ended_total", help, &["why"], Options::default()).map(Self)
    }

    fn count(&self, why: &str) {
        self.0.with(&[why]).inc();
    }
}

/// What is served, and whether clients should rather go elsewhere.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) router: Router,
    /// While it says so, each answer is the last one on its connection.
    pub(crate) readiness: Readiness,
    pub(crate) limits: HttpLimits,
    pub(crate) ended: Ended,
    /// Without it, plain HTTP.
    pub(crate) tls: Option<ListenerTls>,
}

/// How long a listener's connections live once it is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// They may still bring what is on its way: hyper closes one of which it has read nothing, whatever waits in its socket.
    pub(crate) last_call: Duration,
    /// Then requests under way may take so long to end.
    pub(crate) drain: Duration,
}

/// Serves until `stop` turns true, then lets connections end.
pub(crate) async fn serve(listener: TcpListener, served: Served, mut stop: watch::Receiver<bool>, ending: Ending) {
    let graceful = GracefulShutdown::new();
    let places = Places::new(served.limits.connections as usize, Duration::ZERO);
    let stopping = stop.clone();
    let start = |stream, peer, place: Arc<Place>| {
        let line = Line { place: place.clone(), hang_up: Arc::default() };
        let connection = connection(stream, peer, served.clone(), stopping.clone(), line.clone(), graceful.watcher());
        let count = served.ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    if let Some(why) = error.why() {
                        count.count(why);
                    }
                    tracing::debug!(%peer, %error, "a connection ended early");
                },
                () = place.cut() => {
                    count.count("place");
                    tracing::debug!(%peer, "a connection that waited for long made room for another one");
                }
                () = line.hang_up.notified() => {
                    count.count("unread");
                    tracing::debug!(%peer, "a client that took nothing of a stream of events was cut off");
                }
            }
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = tokio::select! {
                    place = places.take() => place,
                    _ = stop.wait_for(|stop| *stop) => places.take_beyond(),
                };
                start(stream, peer, place);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    for (stream, peer) in queued(listener) {
        start(stream, peer, places.take_beyond());
    }
    tokio::time::sleep(ending.last_call).await;
    if tokio::time::timeout(ending.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the drain time ended");
    }
}

/// Closes a listener, and gives the connections that wait in its queue: they would be reset, with what their clients sent.
fn queued(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut queued = Vec::new();
    let emptied = listener.into_std().and_then(|listener| {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true)?;
                    queued.push((TcpStream::from_std(stream)?, peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
    if let Err(error) = emptied {
        tracing::warn!(%error, "a connection could not be accepted before its listener was closed");
    }
    queued
}

/// Why a connection ended before it was over.
#[derive(Debug, thiserror::Error)]
enum Early {
    /// What was said over HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// No TLS came about.
    #[error("no TLS came about: {0}")]
    Handshake(io::Error),
    /// The client took too long for it.
    #[error("no TLS came about in time")]
    SlowHandshake(#[from] tokio::time::error::Elapsed),
}

impl Early {
    /// As [`Ended`] counts it, if a limit was the reason.
    fn why(&self) -> Option<&'static str> {
        match self {
            Self::Http(error) if error.is_parse_too_large() => Some("head_size"),
            Self::Http(error) if error.is_timeout() => Some("head_time"),
            Self::Http(_) | Self::Handshake(_) => None,
            Self::SlowHandshake(_) => Some("handshake_time"),
        }
    }
}

/// Speaks with a client until the connection ends.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    served: Served,
    stopping: watch::Receiver<bool>,
    line: Line,
    watcher: Watcher,
) -> Result<(), Early> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "small packets may be delayed");
    }
    match served.tls.clone() {
        None => watcher.watch(http(stream, peer, false, served, stopping, line)).await?,
        Some(tls) => {
            let handshake = tls.acceptor().accept(stream);
            let stream = timeout(served.limits.header_timeout.get(), handshake).await?.map_err(Early::Handshake)?;
            watcher.watch(http(stream, peer, true, served, stopping, line)).await?;
        }
    }
    Ok(())
}

fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    encrypted: bool,
    served: Served,
    stopping: watch::Receiver<bool>,
    line: Line,
) -> impl GracefulConnection<Error = hyper::Error> {
    let HttpLimits { header_bytes, header_timeout, .. } = served.limits;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        request.extensions_mut().insert(Encrypted(encrypted));
        request.extensions_mut().insert(line.clone());
        let busy = line.busy();
        let (Served { mut router, readiness, .. }, stopping) = (served.clone(), stopping.clone());
        async move {
            let mut answer = router.call(request).await?;
            strict(answer.headers_mut(), encrypted);
            if readiness.sends_away() || *stopping.borrow() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout.get())
        .max_buf_size(header_bytes.as_len())
        .serve_connection(TokioIo::new(stream), service)
}

/// A year, in which browsers come back over TLS alone.
const TRANSPORT: &str = "max-age=31536000";

/// Tells browsers of every answer that does not say otherwise: it is what its media type says, is no page in another one, loads and
/// runs nothing, is kept nowhere, and tells no other site where one came from.
fn strict(headers: &mut HeaderMap, encrypted: bool) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if encrypted {
        let transport = HeaderValue::from_static(TRANSPORT);
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(transport);
    }
}
