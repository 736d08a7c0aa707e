//! Connections of nodes, as the server holds them: each can be cut from outside, and one that showed no certificate does not
//! last.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use milecastle_pki::transport::{Incoming, Peer, ServerStream};
use milecastle_places::{Place, Places};
use milecastle_settings::DpLimits;
use milecastle_telemetry::metrics::{Counter, Family};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tonic::transport::server::Connected;

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
    /// Ready when the connection must end; `None` once it was. Has the place of one without a certificate.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What connections without a certificate are held to.
struct Guests {
    places: Arc<Places>,
    /// How long one may last.
    life: Duration,
    /// Connections that a limit has ended, by `why`.
    ended: Family<Counter>,
}

impl Guests {
    /// A place for one more, if there is any.
    fn admit(&self) -> Option<Arc<Place>> {
        let place = self.places.try_take();
        if place.is_none() {
            self.ended.with(&["guest_refused"]).inc();
        }
        place
    }

    /// Ready when the guest in this place must end. Whoever has none is no guest.
    async fn over(&self, place: Option<&Place>) {
        let Some(place) = place else { return std::future::pending().await };
        let why = tokio::select! {
            () = place.cut() => "guest_place",
            () = sleep(self.life) => "guest_time",
        };
        self.ended.with(&[why]).inc();
    }
}

/// The connections that come in, without those that are too many; `ended` counts, by `why`, those that a limit ends. All of them
/// end with the sender of `halt`.
pub(super) fn lines(
    incoming: Incoming,
    limits: &DpLimits,
    ended: Family<Counter>,
    halt: watch::Receiver<()>,
) -> impl Stream<Item = io::Result<Line>> + use<> {
    let places = Places::new(limits.guests as usize, limits.guest_place.get());
    let guests = Arc::new(Guests { places, life: limits.guest_life.get(), ended });
    incoming.filter_map(move |accepted| {
        let line = accepted.map(|io| Line::new(io, &guests, halt.clone())).transpose();
        std::future::ready(line)
    })
}

impl Line {
    fn new(io: ServerStream, guests: &Arc<Guests>, mut halt: watch::Receiver<()>) -> Option<Self> {
        let peer = io.connect_info();
        let cut = Arc::new(Notify::new());
        let place = match peer.certificate {
            Some(_) => None,
            None => Some(guests.admit()?),
        };
        let (called, guests) = (cut.clone(), guests.clone());
        let end = Box::pin(async move {
            tokio::select! {
                () = called.notified() => {}
                _ = halt.changed() => {}
                () = guests.over(place.as_deref()) => {}
            }
        });
        Some(Self { io, link: Link { peer, cut }, end: Some(end) })
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
