//! A client connection over TCP from its first byte to its last.

use super::activity::{Activity, Signal};
use super::client::{Client, Registered, Registry};
use super::watching::Watch;
use super::wire::Wire;
use super::{Worker, http1, http2};
use crate::config::Listen;
use crate::proxy_protocol;
use crate::request;
use crate::socket::Socket;
use crate::transport::Transport;
use bytes::BytesMut;
use milecastle_plugin_api::{ClientConn, Proxied, Scheme};
use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for a connection's first bytes.
const FIRST_READ: usize = 4096;

/// Serves a connection in a task of its own. What speaks the protocol is boxed: the task keeps room for the larger of its parts
/// as long as it lives.
pub(super) fn spawn(worker: &Rc<Worker>, socket: Socket, peer: SocketAddr, listen: &Rc<Listen>) {
    let serial = worker.next_serial();
    let activity = Activity::new(Instant::now());
    let registered = Registry::add(worker, serial, &activity);
    let (worker, listen) = (worker.clone(), listen.clone());
    drop(tokio::task::spawn_local(async move {
        match open(worker, socket, peer, listen, serial, activity, registered).await {
            Ok(Some(Opened { client, wire, watch, http2: false })) => Box::pin(http1::serve(client, wire, watch)).await,
            Ok(Some(Opened { client, wire, watch, http2: true })) => Box::pin(http2::serve(client, wire, watch)).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%peer, %error, "a client connection could not be opened"),
        }
    }));
}

/// A connection that is ready for HTTP.
struct Opened {
    client: Rc<Client>,
    wire: Rc<Wire>,
    watch: Watch,
    http2: bool,
}

/// `None`: the client said nothing.
async fn open(
    worker: Rc<Worker>,
    socket: Socket,
    peer: SocketAddr,
    listen: Rc<Listen>,
    serial: u64,
    activity: Rc<Activity>,
    registered: Registered,
) -> io::Result<Option<Opened>> {
    let (mut socket, mut peer, mut proxied) = (socket, peer, None);
    if listen.proxy_protocol {
        let naming = Box::pin(named_client(&worker, socket.watched()?, peer));
        (peer, proxied) = activity.unless_evicted(naming).await??;
    }
    // The system is asked only where the listening socket takes connections to several addresses.
    let local = if listen.addr.ip().is_unspecified() { socket.local_addr()? } else { listen.addr };
    let (transport, first, http2, tls) = if listen.tls {
        let stream = socket.into_watched()?;
        // Boxed: a handshake's state is large, and needed for a moment only.
        let accepting = Box::pin(crate::tls::accept(&worker, &listen, stream));
        let accepted = activity.unless_evicted(accepting).await.flatten();
        if accepted.is_err() {
            worker.counters.tls_failures.up();
        }
        let (stream, info) = accepted?;
        let http2 = info.alpn == Some("h2");
        (Transport::Tls(Box::new(stream)), BytesMut::new(), http2, Some(info))
    } else if listen.http2 {
        let Some((first, http2)) = sniff(&mut socket, &activity).await? else { return Ok(None) };
        (Transport::Tcp(socket), first, http2, None)
    } else {
        (Transport::Tcp(socket), BytesMut::new(), false, None)
    };
    worker.counters.handled.up();
    let facts = ClientConn {
        peer,
        local,
        scheme: if listen.tls { Scheme::Https } else { Scheme::Http },
        proxied: proxied.map(Box::new),
        tls,
        opened: activity.opened,
        serial,
        peer_text: peer.ip().to_canonical().to_string().into(),
    };
    let client = Client::new(&worker, facts, activity, listen.alternative.clone());
    let watch = Watch::new(client.activity.clone(), registered);
    Ok(Some(Opened { client, wire: Wire::new(transport, first), watch, http2 }))
}

/// Takes the PROXY header off a connection, and says who counts as the peer: the client that it names, if the proxy is believed.
async fn named_client(
    worker: &Worker,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> io::Result<(SocketAddr, Option<Proxied>)> {
    let config = &worker.node.config;
    let reading = proxy_protocol::read(stream, config.client.proxy_protocol_timeout);
    let header = reading.await.inspect_err(|_| worker.counters.bad_proxy_headers.up())?;
    let believed = config.real_ip.from.contains(peer.ip());
    let proxied = header.addresses.map(|(client, server)| Proxied { client, server });
    Ok((proxied.filter(|_| believed).map_or(peer, |proxied| proxied.client), proxied))
}

/// Reads until it is clear whether the client speaks HTTP/2. `None`: it said nothing, or not enough in time.
async fn sniff(socket: &mut Socket, activity: &Activity) -> io::Result<Option<(BytesMut, bool)>> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let mut waker_left = false;
    loop {
        let read = poll_fn(|cx| {
            if !std::mem::replace(&mut waker_left, true) {
                activity.set_waker(cx);
            }
            match pin!(socket.read_buf(&mut first)).poll(cx) {
                // Too late: a connection that has said nothing is closed without a word.
                Poll::Pending if matches!(activity.signal(), Signal::Over(_)) && !socket.is_readable() => {
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
            return Ok(Some((first, false)));
        }
        if seen == PREFACE.len() {
            return Ok(Some((first, true)));
        }
    }
}

/// Answers a request that was taken in. A panic of the gateway's own code ends this request with 500 and nothing else.
pub(super) async fn answer(
    worker: Rc<Worker>,
    taken: Result<request::Taken, Box<dyn Any + Send>>,
) -> request::Response {
    let served = match taken {
        Ok(taken) => {
            // Pinned where it is made: a future that is handed on is copied each time, and this one is large.
            let mut serving = pin!(request::serve(taken));
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| serving.as_mut().poll(cx))) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            })
            .await
        }
        Err(panic) => Err(panic),
    };
    served.unwrap_or_else(|_| {
        worker.counters.request_panics.up();
        tracing::error!("handling a request panicked; it is answered with 500");
        request::bare_error()
    })
}

/// A connection has ended.
pub(super) fn note_end(client: &Client, ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %client.facts.peer, %error, "a client connection ended");
    }
}
