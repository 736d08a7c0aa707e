//! The small HTTP servers beside the traffic: status, control API, Prometheus page.
//!
//! They run on the side runtime, apart from the workers, and answer from memory. A request's body is never read.
//!
//! What must stay true: connections that are merely held open keep no probe out. Above the limit a new one takes the place of the
//! one that has been silent for longest, but none is cut before it could be answered: a flood waits in the listener's queue.

use crate::handover::{Address, Gate, Inherited, Listening, Transport};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use milecastle_pki::ListenerTls;
use milecastle_places::Places;
use milecastle_settings::Gateway;
use milecastle_telemetry::metrics::{Counter, Family, MetricError, Options, Registry};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// An answer of a side server.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What clients of one side server are held to.
#[derive(Clone)]
pub(crate) struct SideLimits {
    /// Connections at once.
    connections: usize,
    /// Until then a connection of which something was heard, if only that it came, keeps its place.
    place: Duration,
    /// Largest head of a request.
    header_bytes: usize,
    /// How long the head of a request, or the handshake before it, may take, and how long a connection may idle.
    header_timeout: Duration,
    /// Connections that one of these has ended, by `why`.
    ended: Family<Counter>,
}

impl SideLimits {
    /// Those that the settings name; what they end is counted by `registry`.
    ///
    /// # Errors
    /// The metric's name is taken by one of another kind.
    pub(crate) fn new(settings: &Gateway, registry: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            connections: settings.limits.side_connections as usize,
            place: settings.timeouts.side_place.get(),
            header_bytes: settings.limits.side_header_bytes.as_len(),
            header_timeout: settings.timeouts.side_header.get(),
            ended: register_metrics(registry)?,
        })
    }
}

/// Registers what side servers count.
///
/// # Errors
/// The metric's name is taken by one of another kind.
pub(crate) fn register_metrics(registry: &Registry) -> Result<Family<Counter>, MetricError> {
    let help = "Connections of listeners beside the traffic that a limit has ended";
    let ended = registry.counter("side_connections_ended_total", help, &["why"], Options::default())?;
    for why in ["place", "head_size", "head_time", "handshake_time"] {
        // Shown from the start, as 0.
        ended.with(&[why]);
    }
    Ok(ended)
}

/// An address that is listened on and not served yet.
pub(crate) struct SideListener {
    addr: SocketAddr,
    /// One, unless they were opened by another process.
    sockets: Vec<TcpListener>,
    gate: Gate,
    limits: SideLimits,
    /// Without it, plain HTTP.
    tls: Option<ListenerTls>,
}

impl SideListener {
    /// Binds the address.
    ///
    /// # Errors
    /// The system refuses it.
    #[cfg(test)]
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let limits = SideLimits::new(&Gateway::default(), &Registry::default()).map_err(io::Error::other)?;
        Ok(Self::open("", addr, &mut Inherited::default(), &Gate::open(), &limits, None)?.0)
    }

    /// Claims the sockets of the listener that `key` sets to this address, or opens one. Nobody is let in before the gate
    /// opens. Gives as well what a process needs that takes the listener over.
    ///
    /// # Errors
    /// The system refuses the address.
    pub(crate) fn open(
        key: &str,
        addr: SocketAddr,
        inherited: &mut Inherited,
        gate: &Gate,
        limits: &SideLimits,
        tls: Option<ListenerTls>,
    ) -> io::Result<(Self, Listening)> {
        let sockets = match inherited.claim(Transport::Tcp, key, addr) {
            Some(claimed) => claimed.sockets.into_iter().map(std::net::TcpListener::from).collect(),
            None => vec![std::net::TcpListener::bind(addr)?],
        };
        let bound = sockets.first().ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
        let address = Address { transport: Transport::Tcp, key: key.to_owned(), configured: addr, bound };
        let listening = Listening::of(address, &sockets)?;
        let into_runtime = |socket: std::net::TcpListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let sockets = sockets.into_iter().map(into_runtime).collect::<io::Result<_>>()?;
        Ok((Self { addr: bound, sockets, gate: gate.clone(), limits: limits.clone(), tls }, listening))
    }
}

/// A server on its address; it ends when this is dropped.
pub(crate) struct SideServer {
    addr: SocketAddr,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    /// Another process answers on the address: each connection ends with its next answer.
    leaving: Arc<AtomicBool>,
}

impl SideServer {
    /// Serves on the runtime that this is called on.
    pub(crate) fn start<F, A>(listener: SideListener, answer: F) -> Self
    where
        F: Fn(&Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let SideListener { addr, sockets, gate, limits, tls } = listener;
        let (answer, leaving) = (Arc::new(answer), Arc::<AtomicBool>::default());
        let places = Places::new(limits.connections, limits.place);
        let accept = |socket| {
            let served = serve(socket, answer.clone(), limits.clone(), tls.clone(), places.clone(), leaving.clone());
            let mut gate = gate.clone();
            tokio::spawn(async move {
                gate.passed().await;
                served.await;
            })
        };
        Self { addr, accepting: sockets.into_iter().map(accept).collect(), leaving }
    }

    /// Leaves the address to another process that listens on the same sockets. Connections end with their next answer.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// The address it listens on.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for SideServer {
    fn drop(&mut self) {
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn serve<F, A>(
    listener: TcpListener,
    answer: Arc<F>,
    limits: SideLimits,
    tls: Option<ListenerTls>,
    places: Arc<Places>,
    leaving: Arc<AtomicBool>,
) where
    F: Fn(&Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back when connections end.
                tracing::warn!(%error, "side listener cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = places.take().await;
        let (answer, limits, tls, leaving) = (answer.clone(), limits.clone(), tls.clone(), leaving.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let busy = place.busy();
                let (answer, leaving) = (answer(&request), leaving.clone());
                async move {
                    let mut answer = answer.await;
                    drop(busy);
                    if leaving.load(Ordering::Acquire) {
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
            builder.max_buf_size(limits.header_bytes);
            let spoken = async {
                match tls {
                    None => why(builder.serve_connection(TokioIo::new(stream), service).await),
                    // In a box, so that connections without TLS do not carry what only a handshake needs.
                    Some(tls) => {
                        let encrypted = async {
                            match timeout(limits.header_timeout, tls.acceptor().accept(stream)).await {
                                Ok(Ok(stream)) => why(builder.serve_connection(TokioIo::new(stream), service).await),
                                Ok(Err(_)) => None,
                                Err(_) => Some("handshake_time"),
                            }
                        };
                        Box::pin(encrypted).await
                    }
                }
            };
            tokio::select! {
                // First: what has come before the place was another one's is answered.
                biased;
                why = spoken => if let Some(why) = why {
                    limits.ended.with(&[why]).inc();
                },
                () = place.cut() => limits.ended.with(&["place"]).inc(),
            }
        });
    }
}

/// Which limit has ended a connection, if one has. What else goes wrong is the client's affair: it left, or it does not speak HTTP.
fn why(ended: Result<(), hyper::Error>) -> Option<&'static str> {
    match ended {
        Err(error) if error.is_parse_too_large() => Some("head_size"),
        Err(error) if error.is_timeout() => Some("head_time"),
        _ => None,
    }
}

/// An answer with a body and its type.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", value.to_string())
}

/// 404 with the default page.
pub(crate) fn not_found() -> Answer {
    stock(StatusCode::NOT_FOUND)
}

/// An answer with the default page of its status.
pub(crate) fn stock(status: StatusCode) -> Answer {
    let (status, headers, body) = milecastle_plugin_api::Reply::status(status).into_parts();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_settings::{Size, Time};
    use milecastle_testkit::{Call, eventually};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn whoever_only_holds_on_keeps_no_probe_out() {
        let ok = |_: &Request<Incoming>| std::future::ready(stock(StatusCode::OK));
        let server = SideServer::start(SideListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(), ok);
        let mut used = TcpStream::connect(server.local_addr()).await.unwrap();
        let mut ask = async || {
            used.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
            used.read_exact(&mut [0; 15]).await
        };
        let mut held = Vec::new();
        for n in 0..3 * Gateway::default().limits.side_connections {
            let mut half = TcpStream::connect(server.local_addr()).await.unwrap();
            half.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
            held.push(half);
            if n % 64 == 0 {
                ask().await.expect("one that is used stays");
            }
        }
        assert_eq!(Call::get("/").to(server.local_addr()).await.unwrap().status, 200);
        eventually("the first ones were closed", async || {
            held[0].read(&mut [0; 1]).await.map_or(true, |read| read == 0)
        })
        .await;
    }

    #[tokio::test]
    async fn a_large_head_is_refused_and_a_slow_one_cut_and_both_are_counted() {
        let (mut settings, registry) = (Gateway::default(), Registry::default());
        settings.limits.side_header_bytes = Size::kib(8);
        settings.timeouts.side_header = Time::millis(100);
        let limits = SideLimits::new(&settings, &registry).unwrap();
        let addr = "127.0.0.1:0".parse().unwrap();
        let opened = SideListener::open("", addr, &mut Inherited::default(), &Gate::open(), &limits, None);
        let ok = |_: &Request<Incoming>| std::future::ready(stock(StatusCode::OK));
        let server = SideServer::start(opened.unwrap().0, ok);
        let counted = async |why: &str| {
            eventually(why, async || limits.ended.with(&[why]).get() == 1).await;
        };
        let large = Call::get("/").header("X-Large", &"x".repeat(9 << 10)).to(server.local_addr()).await.unwrap();
        assert_eq!(large.status, 431);
        counted("head_size").await;
        let mut slow = TcpStream::connect(server.local_addr()).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
        slow.read_to_end(&mut Vec::new()).await.unwrap();
        counted("head_time").await;
    }
}
