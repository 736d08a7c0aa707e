//! gRPC connections over the TLS of this crate: what a server accepts from, and what a node connects with.
//!
//! tonic's own TLS takes PEM and neither a verifier nor a resolver, so connections are made here and handed to it.

mod pauses;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use hyper_util::rt::TokioIo;
use milecastle_places::Places;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::tls::{TrustError, is_of_clock, of_trust, told};
use crate::{CLUSTER_NAME, Fingerprint, NodeCertificate};

/// The pause after the system refused to accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest wait for a connection, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was silent this long is asked for a sign of life …
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// … and given up when none comes.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handshakes of a server are held to.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// Handshakes at a time, at least 1. One more takes the place of the oldest, so that peers who fall silent keep nobody out.
    pub most: usize,
    /// Until then a handshake keeps its place: of many nodes that come at once none is sent away because this side is slow.
    /// Further connections wait in the listener's queue meanwhile.
    pub place: Duration,
    /// A handshake that takes longer is given up.
    pub timeout: Duration,
}

/// Which limit has ended a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// [`HandshakeLimits::timeout`].
    Timeout,
    /// [`HandshakeLimits::most`].
    Place,
}

/// Who is at the other end of a connection. In the extensions of every request that came over one.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it comes from; that of a load balancer, if there is one.
    pub address: SocketAddr,
    /// What its certificate says, verified; `None` if it showed none.
    pub certificate: Option<NodeCertificate>,
}

/// The node that sends a request.
///
/// # Errors
/// `UNAUTHENTICATED` if it showed no certificate of a node.
pub fn node_of<T>(request: &Request<T>) -> Result<&NodeCertificate, Status> {
    request.extensions().get::<Peer>().and_then(|peer| peer.certificate.as_ref()).ok_or_else(|| {
        Status::unauthenticated("this call needs the certificate of a node: join with a group token first")
    })
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct ServerStream {
    io: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for ServerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Connections as their handshakes end, for tonic's `serve_with_incoming_shutdown`. Never ends and never fails; dropping it
/// closes the listener.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<ServerStream>);

impl Stream for Incoming {
    type Item = io::Result<ServerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

/// Accepts connections and shakes hands, many at a time, so that a slow client holds up nobody.
///
/// Runs on the tokio runtime that it is called on; `config` is that of [`server_config`](crate::server_config). `given_up` hears
/// of each handshake that a limit has ended.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: HandshakeLimits,
    given_up: impl Fn(GivenUp) + Send + Sync + 'static,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(accept(listener, TlsAcceptor::from(config), limits, Arc::new(given_up), sender));
    Incoming(receiver)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: HandshakeLimits,
    given_up: Arc<dyn Fn(GivenUp) + Send + Sync>,
    sender: mpsc::Sender<ServerStream>,
) {
    let places = Places::new(limits.most, limits.place);
    // Dropped, they end.
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of gateway nodes");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = places.take() => place,
            () = sender.closed() => return,
        };
        let (acceptor, sender, given_up) = (acceptor.clone(), sender.clone(), given_up.clone());
        handshakes.spawn(async move {
            let shaken = async {
                match timeout(limits.timeout, handshake(acceptor, stream, address)).await {
                    // A closed channel: the server is shutting down, and the connection goes with it.
                    Ok(Ok(stream)) => drop(sender.send(stream).await),
                    // Probes of load balancers connect and go.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        tracing::debug!(%address, %error, "TLS handshake broken off");
                    }
                    Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake failed"),
                    Err(_) => {
                        given_up(GivenUp::Timeout);
                        tracing::info!(%address, "TLS handshake took too long");
                    }
                }
            };
            tokio::select! {
                () = shaken => {}
                () = place.cut() => given_up(GivenUp::Place),
            }
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> io::Result<ServerStream> {
    stream.set_nodelay(true)?;
    pauses::shorten(&stream);
    let io = acceptor.accept(stream).await?;
    let shown = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // One of this CA that names no node is as good as none: the services will say so.
    let certificate = shown.and_then(|certificate| NodeCertificate::of(certificate).ok());
    Ok(ServerStream { io, peer: Peer { address, certificate } })
}

/// Why there is no connection to a DP manager.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{address:?} is not the address of a DP manager: host:port expected, such as dp-manager.example.com:17900")]
    Address {
        /// As given.
        address: String,
    },
    /// Its certificate is of another CA than this node's.
    #[error(
        "the DP manager at {address} is not of the cluster that this node's certificate is of (UnknownIssuer): check the \
         address; if the cluster was set up anew, give this node a group token of it"
    )]
    OtherCluster {
        /// As given.
        address: String,
    },
    /// It shows no certificate authority that the group token names.
    #[error(
        "the DP manager at {address} is not of the cluster that this node's group token is for (it shows no authority with \
         fingerprint {trusted}): check the address, and that the token is whole and unchanged, as it was handed out; else \
         give this node a token of that cluster: milecastle token create GROUP"
    )]
    OtherAuthority {
        /// As given.
        address: String,
        /// The authority that the token names.
        trusted: Fingerprint,
    },
    /// Not reachable, or not to be trusted.
    #[error("cannot connect to the DP manager at {address}: {reason}")]
    Connect {
        /// As given.
        address: String,
        /// The innermost reason.
        reason: String,
        /// All of it.
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether trying again is of no use before an operator has done something about it.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::OtherCluster { .. } | Self::OtherAuthority { .. })
    }

    /// Whether the DP manager's certificate is over or has not begun, by this host's clock.
    pub fn is_of_clock(&self) -> bool {
        match self {
            Self::Connect { source, .. } => of_tls(innermost(source)).is_some_and(is_of_clock),
            Self::Address { .. } | Self::OtherCluster { .. } | Self::OtherAuthority { .. } => false,
        }
    }
}

/// Connects to a DP manager at `host:port`. Whatever the address, the server must prove to be [`CLUSTER_NAME`].
///
/// `config` is that of [`NodeKeys::client_config`](crate::NodeKeys::client_config) or
/// [`join_client_config`](crate::join_client_config). In TLS 1.3 a server refuses a client's certificate only after the
/// client thinks that it is connected: such a refusal shows in the first call.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let bad_address = || ConnectError::Address { address: address.to_owned() };
    let uri: http::Uri = format!("http://{address}").parse().map_err(|_| bad_address())?;
    if uri.port().is_none() || uri.authority().is_none_or(|authority| authority.as_str() != address) {
        return Err(bad_address());
    }
    let origin = http::Uri::builder().scheme("https").authority(CLUSTER_NAME).path_and_query("/").build();
    // With scheme "https" here, tonic would want to do TLS itself; what requests say is the origin's.
    let endpoint = Endpoint::from(uri)
        .origin(origin.expect("a constant name makes a URI"))
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = TlsConnector::from(config);
    let target = address.to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (connector, target) = (connector.clone(), target.clone());
        async move {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            pauses::shorten(&stream);
            let name = ServerName::try_from(CLUSTER_NAME).expect("the cluster's name is a DNS name");
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector(connect).await.map_err(|source| {
        let innermost = innermost(&source);
        let of_tls = of_tls(innermost);
        if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) = of_tls {
            return ConnectError::OtherCluster { address: address.to_owned() };
        }
        if let Some(TrustError::OtherCa(trusted)) = of_tls.and_then(of_trust) {
            return ConnectError::OtherAuthority { address: address.to_owned(), trusted: *trusted };
        }
        let reason = match of_tls {
            // Of whose certificate it speaks is to be said here.
            Some(error @ rustls::Error::InvalidCertificate(_)) => {
                format!("its certificate does not hold: {}", told(error))
            }
            Some(error) => told(error),
            None => innermost.to_string(),
        };
        ConnectError::Connect { address: address.to_owned(), reason, source }
    })
}

fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut innermost = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost
}

/// The error of TLS that one of I/O may hold.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)?.downcast_ref()
}
