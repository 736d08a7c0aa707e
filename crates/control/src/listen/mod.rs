//! One listener: accepting, serving, draining.
//!
//! What must stay true:
//! - A request that came on a connection of which nobody had said that it ends is answered, and a listener is closed only when
//!   nothing is left in its queue.
//! - Whoever only holds on to connections keeps nobody out: the one that has waited longest for a request makes room.
//! - A connection without a request holds no more than a head.

mod waiting;

use crate::health::Readiness;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;
use waiting::{Seat, Waiting};

/// Connections served at once. One more takes the place of the one that has waited longest for a request; while all have a
/// request in work, it waits to be accepted.
const CONNECTIONS: usize = 4096;
/// Largest head of a request, in bytes, and what is read ahead of a body. All connections together hold this much at most, and
/// whoever knows the address may fill it: it is what nginx takes of a head too (`large_client_header_buffers`).
const MAX_HEAD_BYTES: usize = 32 << 10;
/// How long a client may take to send the head of a request, an idle connection's next one included.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// Pause after a failed accept, which mostly means that descriptors have run out.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The address of the peer of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What is served, and whether clients should rather go elsewhere.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) router: Router,
    /// While it says so, each answer is the last one on its connection.
    pub(crate) readiness: Readiness,
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
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let stopping = stop.clone();
    let waiting = Arc::<Waiting>::default();
    let start = |stream, peer, permit: Option<OwnedSemaphorePermit>| {
        let seat = waiting.seat();
        let connection = graceful.watch(connection(stream, peer, served.clone(), stopping.clone(), seat.clone()));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection ended early");
                },
                () = seat.cut() => tracing::debug!(%peer, "a connection that waited for long made room for another one"),
            }
            drop(permit);
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if room.available_permits() == 0 {
                    waiting.make_room();
                }
                let permit = tokio::select! {
                    permit = room.clone().acquire_owned() => permit.ok(),
                    _ = stop.wait_for(|stop| *stop) => None,
                };
                start(stream, peer, permit);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    for (stream, peer) in queued(listener) {
        start(stream, peer, None);
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

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    served: Served,
    stopping: watch::Receiver<bool>,
    seat: Arc<Seat>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "small packets may be delayed");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        let busy = seat.busy();
        let (Served { mut router, readiness }, stopping) = (served.clone(), stopping.clone());
        async move {
            let mut answer = router.call(request).await?;
            if readiness.sends_away() || *stopping.borrow() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
}
