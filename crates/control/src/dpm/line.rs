//! Connections of nodes, as the server holds them: each can be cut from outside, and one that showed no certificate does not
//! last.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use milecastle_pki::transport::{Incoming, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tonic::transport::server::Connected;

/// Without a certificate one can only join, which takes one short call.
const GUEST_LIFE: Duration = Duration::from_secs(30);

/// Connections without a certificate at a time; more are closed as they come.
const GUESTS: usize = 1024;

/// Who is at the other end of a connection, and a way to end it. In the extensions of every request that came over it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) peer: Peer,
    cut: Arc<Notify>,
}

impl Link {
    /// Ends the connection, whatever is still going on in it.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

/// A connection.
pub(super) struct Line {
    io: ServerStream,
    link: Link,
    /// Ready when the connection must end; `None` once it was.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _guest: Option<OwnedSemaphorePermit>,
}

/// The connections that come in, without those that are too many. All of them end with the sender of `halt`.
pub(super) fn lines(incoming: Incoming, halt: watch::Receiver<()>) -> impl Stream<Item = io::Result<Line>> {
    let guests = Arc::new(Semaphore::new(GUESTS));
    incoming.filter_map(move |accepted| {
        let line = accepted.map(|io| Line::new(io, &guests, halt.clone())).transpose();
        std::future::ready(line)
    })
}

impl Line {
    fn new(io: ServerStream, guests: &Arc<Semaphore>, mut halt: watch::Receiver<()>) -> Option<Self> {
        let peer = io.connect_info();
        let guest = match peer.certificate {
            Some(_) => None,
            None => Some(guests.clone().try_acquire_owned().ok()?),
        };
        let cut = Arc::new(Notify::new());
        let (called, is_guest) = (cut.clone(), guest.is_some());
        let end = Box::pin(async move {
            tokio::select! {
                () = called.notified() => {}
                _ = halt.changed() => {}
                () = sleep(GUEST_LIFE), if is_guest => {}
            }
        });
        Some(Self { io, link: Link { peer, cut }, end: Some(end), _guest: guest })
    }
}

impl Connected for Line {
    type ConnectInfo = Link;

    fn connect_info(&self) -> Link {
        self.link.clone()
    }
}

impl AsyncRead for Line {
    /// HTTP/2 always has a read under way, so this is where the end is noticed.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ended = self.end.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready());
        if ended {
            self.end = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
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
