//! Connections of nodes, as the server holds them: each can be cut from outside, and one that showed no certificate does not
//! last.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _};
use milecastle_pki::transport::{Incoming, Peer, ServerStream};
use milecastle_settings::DpLimits;
use milecastle_telemetry::metrics::{Counter, Family};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
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
    /// Ready when the connection must end; `None` once it was.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _guest: Option<Guest>,
}

/// Connections without a certificate, by the order in which they came.
struct Guests {
    limits: DpLimits,
    /// Connections that a limit has ended, by `why`.
    ended: Family<Counter>,
    places: Mutex<BTreeMap<u64, (Instant, Arc<Notify>)>>,
    came: AtomicU64,
}

/// A guest's place. Dropped, it is free.
struct Guest {
    guests: Arc<Guests>,
    number: u64,
}

impl Guests {
    /// A place for a connection that ends when `cut` is notified; `None` if there is none.
    fn admit(self: &Arc<Self>, cut: &Arc<Notify>, now: Instant) -> Option<Guest> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= self.limits.guests as usize {
            let oldest = places.first_entry()?;
            if now.saturating_duration_since(oldest.get().0) < self.limits.guest_place.get() {
                self.ended.with(&["guest_refused"]).inc();
                return None;
            }
            self.ended.with(&["guest_place"]).inc();
            oldest.remove().1.notify_one();
        }
        let number = self.came.fetch_add(1, Ordering::Relaxed);
        places.insert(number, (now, cut.clone()));
        Some(Guest { guests: self.clone(), number })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
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
    let (limits, places) = (limits.clone(), Mutex::default());
    let guests = Arc::new(Guests { limits, ended, places, came: AtomicU64::default() });
    incoming.filter_map(move |accepted| {
        let line = accepted.map(|io| Line::new(io, &guests, halt.clone())).transpose();
        std::future::ready(line)
    })
}

impl Line {
    fn new(io: ServerStream, guests: &Arc<Guests>, mut halt: watch::Receiver<()>) -> Option<Self> {
        let peer = io.connect_info();
        let cut = Arc::new(Notify::new());
        let guest = match peer.certificate {
            Some(_) => None,
            None => Some(guests.admit(&cut, Instant::now())?),
        };
        let (called, is_guest, guests) = (cut.clone(), guest.is_some(), guests.clone());
        let end = Box::pin(async move {
            tokio::select! {
                () = called.notified() => {}
                _ = halt.changed() => {}
                () = sleep(guests.limits.guest_life.get()), if is_guest => guests.ended.with(&["guest_time"]).inc(),
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::dpm::metrics::Metrics;
    use milecastle_telemetry::metrics::Registry;

    #[test]
    fn a_guest_that_lingers_makes_room() {
        let (limits, metrics) = (DpLimits::default(), Registry::default());
        let ended = Metrics::register(&metrics).unwrap().ended;
        let (most, place) = (limits.guests as usize, limits.guest_place.get());
        let (places, came) = (Mutex::default(), AtomicU64::default());
        let (guests, start) = (Arc::new(Guests { limits, ended, places, came }), Instant::now());
        let cuts: Vec<Arc<Notify>> = (0..most).map(|_| Arc::default()).collect();
        let mut seats: Vec<Guest> = cuts.iter().map(|cut| guests.admit(cut, start).expect("there is room")).collect();
        let late = start + place;
        assert!(guests.admit(&Arc::default(), start).is_none(), "all are young");
        let newcomer = guests.admit(&Arc::default(), late);
        assert!(newcomer.is_some());
        let cut = |n: usize| cuts[n].notified().now_or_never().is_some();
        assert!(cut(0) && !cut(1), "the oldest alone is cut");
        // Whoever leaves makes room too.
        seats.truncate(most - 1);
        assert!(guests.admit(&Arc::default(), start).is_some());
    }
}
