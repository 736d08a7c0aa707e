//! A TCP session from its first byte to its last.

use super::StreamListen;
use super::connect::{connect, upstream_of};
use super::relay::{Ended, Passed, Pipe, Relay};
use super::session::{Session, status};
use crate::config::Listen;
use crate::lasting::Lasting;
use crate::proxy_protocol;
use crate::socket::Socket;
use crate::tls::Profile;
use crate::transport::{FromClient, ToUpstream, Transport};
use crate::worker::{Activity, Nature, Pinned, Registry, Worker};
use bytes::BytesMut;
use milecastle_plugin_api::stream::{Preread, SessionEnd, StreamCx, Transport as Over};
use milecastle_plugin_api::{Proxied, View};
use milecastle_snapshot::{CompiledStreamRoute, CompiledUpstream, UpstreamScheme};
use rustix::fd::{AsFd as _, BorrowedFd};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Server name in the handshake with an upstream if the client has not named one.
const NO_NAME: &str = "apisix_backend";

/// Bytes dropped at once.
const DROPPED: usize = 4 * 1024;

/// Serves a connection in a task of its own.
pub(crate) fn spawn(
    worker: &Rc<Worker>,
    socket: Socket,
    peer: SocketAddr,
    listen: &Rc<Listen>,
    own: &Rc<StreamListen>,
) {
    let serial = worker.next_serial();
    let activity = Activity::new(Instant::now());
    // The limits of a session are its own: to the worker's watch it is busy.
    activity.begin();
    activity.nature.set(Nature::Tcp);
    let registered = Registry::add(worker, serial, &activity);
    let (worker, listen, own) = (worker.clone(), listen.clone(), own.clone());
    drop(tokio::task::spawn_local(async move {
        let _registered = registered;
        let stream = match socket.into_watched() {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%peer, %error, "a TCP session could not be opened"),
        };
        let local = match listen.addr.ip().is_unspecified() {
            true => stream.local_addr().unwrap_or(listen.addr),
            false => listen.addr,
        };
        let mut cx = StreamCx::new(Over::Tcp, peer, local, serial);
        cx.listen = listen.addr;
        let mut session = Session::new(worker.clone(), cx, own.counters.of(worker.index));
        let served = Box::pin(serve(&mut session, stream, &listen, &own, &activity)).await;
        if activity.evicted.get() {
            (session.cx.status, session.cx.end) = (status::NO_ROOM, SessionEnd::Evicted);
            tracing::debug!(%peer, "a TCP session whose client has said nothing makes room");
        } else if let Err(error) = served {
            tracing::debug!(%peer, %error, "a TCP session ended");
        }
    }));
}

/// Serves a connection. What becomes of it stands in the session; the error is for the log.
async fn serve(
    session: &mut Session,
    mut stream: TcpStream,
    listen: &Rc<Listen>,
    own: &StreamListen,
    activity: &Activity,
) -> io::Result<()> {
    let config = &session.worker.clone().node.config;
    if listen.proxy_protocol {
        session.cx.status = status::BAD_CLIENT;
        let reading = pin!(proxy_protocol::read(&mut stream, config.client.proxy_protocol_timeout));
        let read = activity.unless_evicted(reading).await?;
        let header = read.inspect_err(|_| session.worker.counters.bad_proxy_headers.up())?;
        let believed = config.stream.real_ip_from.contains(session.cx.peer.ip());
        session.cx.proxied = header.addresses.map(|(client, server)| Proxied { client, server });
        if let Some(Proxied { client, .. }) = session.cx.proxied.filter(|_| believed) {
            session.cx.client = SocketAddr::new(client.ip().to_canonical(), client.port());
        }
        session.cx.status = 200;
    }
    let mut client = match listen.tls {
        false => Transport::Tcp(Socket::Watched(stream)),
        true => {
            session.cx.status = status::BAD_CLIENT;
            let accepting = Box::pin(crate::tls::accept(&session.worker, listen, stream));
            let accepted = activity.unless_evicted(accepting).await?;
            let (stream, info) = accepted.inspect_err(|_| session.worker.counters.tls_failures.up())?;
            session.cx.tls = Some(info);
            session.cx.status = 200;
            Transport::Tls(Box::new(stream))
        }
    };
    let pinned = session.worker.pin();
    let Some(route) = session.route(&pinned) else { return Ok(()) };
    *activity.route.borrow_mut() = Some(route.info.clone());
    if !preread(session, &mut client, &pinned, activity).await? {
        return Ok(());
    }
    let upstream = match reach(session, &pinned, &route, own).await {
        Ok(upstream) => upstream,
        Err(status) => {
            session.cx.status = status;
            return Ok(());
        }
    };
    let lasting = session.watch(&route);
    drop((pinned, route));
    pass(session, client, upstream, lasting.as_ref(), activity).await
}

/// Runs the phase `preread`. Says whether the session goes on.
async fn preread(
    session: &mut Session,
    client: &mut FromClient,
    pinned: &Rc<Pinned>,
    activity: &Activity,
) -> io::Result<bool> {
    let Some(chain) = session.chain.clone() else { return Ok(true) };
    let view: Rc<dyn View> = pinned.clone();
    let limits = &session.worker.node.config.stream;
    let (most, until) = (limits.preread_bytes, tokio::time::Instant::now() + limits.preread_timeout);
    let mut from = 0;
    loop {
        match chain.run_preread(&mut session.cx, &view, from) {
            Preread::Passed => return Ok(true),
            Preread::Closed { status } => {
                session.cx.status = status;
                return Ok(false);
            }
            Preread::Pause { time, step } => {
                tokio::time::sleep(time).await;
                from = step;
            }
            Preread::More { step } => {
                session.cx.status = status::BAD_CLIENT;
                let first = &mut session.cx.first;
                if first.len() >= most {
                    session.worker.counters.stream_preread_cut.up();
                    return Ok(false);
                }
                first.reserve(most - first.len());
                let reading = tokio::time::timeout_at(until, client.read_buf(first));
                let read = activity.unless_evicted(pin!(reading)).await?;
                let read = read.unwrap_or_else(|_| {
                    session.worker.counters.stream_preread_late.up();
                    Err(io::ErrorKind::TimedOut.into())
                });
                match read? {
                    0 => return Ok(false),
                    read => session.cx.traffic.received += read as u64,
                }
                activity.pass(true);
                session.cx.status = 200;
                from = step;
            }
        }
    }
}

/// A connection to the upstream, and how long it may be silent.
struct Reached {
    connection: ToUpstream,
    idle: Duration,
}

/// Connects the upstream.
///
/// # Errors
/// The status of the session.
async fn reach(
    session: &mut Session,
    pinned: &Rc<Pinned>,
    route: &CompiledStreamRoute,
    own: &StreamListen,
) -> Result<Reached, u16> {
    let upstream = upstream_of(session, pinned, route).await?;
    let tls = match upstream.scheme {
        UpstreamScheme::Tcp | UpstreamScheme::Udp | UpstreamScheme::Http => None,
        UpstreamScheme::Tls => {
            let verify = session.worker.node.config.verify_upstreams;
            Some(Profile::towards(&upstream, &pinned.snapshot, verify).map_err(|_| status::BAD_UPSTREAM)?)
        }
        scheme => {
            let upstream = &*upstream.key;
            tracing::error!(
                upstream,
                scheme = scheme.as_str(),
                "a TCP session needs an upstream of scheme `tcp` or `tls`"
            );
            return Err(status::NO_UPSTREAM);
        }
    };
    let (client, local) = (session.cx.client, session.cx.local);
    let header = own.proxy_protocol_to_upstream.map(|version| proxy_protocol::header(version, client, local));
    let open =
        async |session: &mut Session, addr| open(session, &upstream, addr, tls.as_ref(), header.as_deref()).await;
    let connection = connect(session, &upstream, open).await?;
    Ok(Reached { connection, idle: upstream.timeouts.read.max(upstream.timeouts.send) })
}

/// Opens a connection to a node: TCP, the PROXY header, TLS.
async fn open(
    session: &Session,
    upstream: &CompiledUpstream,
    addr: SocketAddr,
    tls: Option<&Profile>,
    header: Option<&[u8]>,
) -> io::Result<ToUpstream> {
    let connecting = async {
        let mut stream = session.worker.connect(addr).await?;
        stream.set_nodelay(true)?;
        if let Some(header) = header {
            stream.write_all(header).await?;
        }
        let Some(profile) = tls else { return Ok(Transport::Tcp(stream)) };
        let sni = session.cx.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or(NO_NAME);
        let connecting = session.worker.node.upstream_tls.connect_by(stream, sni, profile, upstream.timeouts.connect);
        Ok(Transport::Tls(connecting.await.map_err(io::Error::other)?))
    };
    let connected = tokio::time::timeout(upstream.timeouts.connect, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Passes bytes both ways until the end.
async fn pass(
    session: &mut Session,
    mut client: FromClient,
    reached: Reached,
    lasting: Option<&Lasting>,
    activity: &Activity,
) -> io::Result<()> {
    let Reached { connection: mut upstream, idle } = reached;
    let first = std::mem::take(&mut session.cx.first);
    let read_before = session.cx.traffic.received;
    let worker = session.worker.clone();
    let farewell = worker.node.config.client.lingering_timeout;
    let relay = Relay {
        left: &mut client,
        right: &mut upstream,
        to_right: Pipe::new(first),
        to_left: Pipe::new(BytesMut::new()),
        idle,
        lasting,
        farewell,
    };
    let told = |up: Passed, down: Passed| {
        activity.pass(up.read > 0);
        let traffic = &mut session.cx.traffic;
        (traffic.received, traffic.upstream_sent) = (read_before + up.read, up.written);
        (traffic.upstream_received, traffic.sent) = (down.read, down.written);
        if down.read > 0 {
            session.note_first_byte();
        }
        session.tell_traffic();
    };
    let ended = activity.unless_evicted(pin!(relay.run(&worker.stream_room, told))).await?;
    let (end, error) = match ended {
        Ended::Complete => (SessionEnd::Closed, None),
        Ended::Superseded => {
            let dropping = Box::pin(async { tokio::join!(drop_rest(&mut client), drop_rest(&mut upstream)) });
            // A side that goes on sending for longer is cut.
            tokio::time::timeout(farewell, dropping).await.ok();
            (SessionEnd::Superseded, None)
        }
        Ended::Silent => (SessionEnd::Upstream, Some(io::ErrorKind::TimedOut.into())),
        Ended::Left(error) => (SessionEnd::Client, Some(error)),
        Ended::Right(error) => (SessionEnd::Upstream, Some(error)),
    };
    session.cx.end = end;
    let Some(error) = error else { return Ok(()) };
    if error.kind() != io::ErrorKind::TimedOut {
        reset(client.fd()?);
        reset(upstream.tcp().as_fd());
    }
    Err(error)
}

/// Takes and drops what a side still sends that was told of the end: closing on it would be a reset, which could take along what
/// it was sent.
async fn drop_rest(side: &mut (impl AsyncRead + Unpin)) {
    let mut dropped = Vec::with_capacity(DROPPED);
    while side.read_buf(&mut dropped).await.is_ok_and(|read| read > 0) {
        dropped.clear();
    }
}

/// Makes the coming end of a connection a reset: what was sent must not pass for all there was.
fn reset(socket: BorrowedFd<'_>) {
    if let Err(error) = SockRef::from(&socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is closed without a reset");
    }
}
