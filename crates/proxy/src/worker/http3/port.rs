//! The socket of a QUIC endpoint.
//!
//! The system gives a datagram to one of a listener's sockets by the addresses on it alone. A client whose address changes (RFC 9000 §9), or
//! whose datagrams fall to another socket because their number has changed, would come to an endpoint that does not know its connection. So
//! connection ids say whose they are, to this process alone, and an endpoint passes on what is another's.
//!
//! A process that was replaced shares the sockets with its successor, and reads from them no more. Its connections go on over sockets
//! of their own, which the system prefers: bound to the same address, and connected to their clients.

use crate::worker::listen::connected_udp;
use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Bytes of a connection id: random ones, a sign that it is of this process, and the place of its endpoint.
const ID: usize = RANDOM + 3;
const RANDOM: usize = 7;
/// Where the id stands in a datagram: behind the first byte, or behind version and length (RFC 8999 §5).
const SHORT: usize = 1;
const LONG: usize = 6;
/// Datagrams that may wait for an endpoint; further ones are lost, as they are where a socket is full.
const WAITING: usize = 1024;

/// What the endpoints of a listener share.
#[derive(Debug)]
pub(crate) struct Mail {
    key: RandomState,
    boxes: Vec<Mutex<Inbox>>,
}

/// What others have passed on to an endpoint.
#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<(Bytes, RecvMeta)>,
    waker: Option<Waker>,
}

impl Mail {
    /// For so many endpoints.
    pub(crate) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self { key: RandomState::new(), boxes: (0..number).map(|_| Mutex::default()).collect() })
    }

    /// An id of the endpoint at this place.
    fn id(&self, place: u16, random: [u8; RANDOM]) -> [u8; ID] {
        let [sign, high, low] = self.mask(&random);
        let [place_high, place_low] = place.to_be_bytes();
        let mut id = [0; ID];
        id[..RANDOM].copy_from_slice(&random);
        id[RANDOM..].copy_from_slice(&[sign, high ^ place_high, low ^ place_low]);
        id
    }

    /// Nobody else sees which ids are of one endpoint.
    fn mask(&self, random: &[u8]) -> [u8; 3] {
        let [a, b, c, ..] = self.key.hash_one(random).to_be_bytes();
        [a, b, c]
    }

    /// Whose datagram it is, where its id says so: those of a client's first flight are the client's own.
    fn owner(&self, datagram: &[u8]) -> Option<usize> {
        let is_long = datagram.first()? & 0x80 != 0;
        if is_long && datagram.get(LONG - 1).copied()? as usize != ID {
            return None;
        }
        let at = if is_long { LONG } else { SHORT };
        let (random, rest) = datagram.get(at..at + ID)?.split_at(RANDOM);
        let [sign, high, low] = self.mask(random);
        let place = usize::from(u16::from_be_bytes([rest[1] ^ high, rest[2] ^ low]));
        (rest[0] == sign && place < self.boxes.len()).then_some(place)
    }

    fn inbox(&self, place: usize) -> MutexGuard<'_, Inbox> {
        self.boxes[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, place: usize, datagram: &[u8], meta: RecvMeta) {
        let mut inbox = self.inbox(place);
        if inbox.datagrams.len() < WAITING {
            let meta = RecvMeta { len: datagram.len(), stride: datagram.len(), ..meta };
            inbox.datagrams.push_back((Bytes::copy_from_slice(datagram), meta));
            let waker = inbox.waker.take();
            drop(inbox);
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Gives out the ids of one endpoint.
pub(super) struct Ids {
    pub(super) mail: Arc<Mail>,
    pub(super) place: u16,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; RANDOM];
        aws_lc_rs::rand::fill(&mut random).expect("the library always has random bytes");
        ConnectionId::new(&self.mail.id(self.place, random))
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A socket with what the system can do for it.
#[derive(Debug)]
struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self { state: UdpSocketState::new((&socket).into())?, io: UdpSocket::from_std(socket)? })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            if let Ok(read) = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta)) {
                return Poll::Ready(Ok(read));
            }
        }
    }
}

/// The socket of one endpoint.
#[derive(Debug)]
pub(super) struct Port {
    shared: Socket,
    place: usize,
    mail: Arc<Mail>,
    /// Once another process reads from the shared one: a socket for each connection.
    own: Mutex<Option<Vec<Socket>>>,
}

impl Port {
    /// To be called on the worker's runtime.
    pub(super) fn new(socket: std::net::UdpSocket, place: usize, mail: Arc<Mail>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { shared: Socket::new(socket)?, place, mail, own: Mutex::new(None) }))
    }

    fn own(&self) -> MutexGuard<'_, Option<Vec<Socket>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the shared socket to another process. The connections between these addresses, ours first, go on.
    pub(super) fn leave(&self, connections: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) {
        let open = |(local, peer)| {
            let opened = connected_udp(local, peer).and_then(Socket::new);
            opened.inspect_err(
                |error| tracing::warn!(%peer, %error, "a QUIC connection cannot go on in a process that was replaced"),
            )
        };
        let sockets = connections.into_iter().filter_map(|pair| open(pair).ok()).collect();
        *self.own() = Some(sockets);
        // Whoever waits for the shared one looks again.
        let waker = self.mail.inbox(self.place).waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Takes what others have passed on; `None`: there is nothing, and the task is woken once there is.
    fn take_mail(&self, cx: &Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Option<usize> {
        let mut inbox = self.mail.inbox(self.place);
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((datagram, about)) = inbox.datagrams.pop_front() else { break };
            buf[..datagram.len()].copy_from_slice(&datagram);
            *meta = about;
            taken += 1;
        }
        if taken == 0 {
            inbox.waker = Some(cx.waker().clone());
            return None;
        }
        Some(taken)
    }

    /// Passes on what is another endpoint's, of so many reads; what is left stands at the beginning of the buffers.
    fn sort(&self, read: usize, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut kept = 0;
        for at in 0..read {
            let (stride, length) = (meta[at].stride.max(1), meta[at].len);
            let mut end = 0;
            for begin in (0..length).step_by(stride) {
                let datagram = begin..(begin + stride).min(length);
                match self.mail.owner(&bufs[at][datagram.clone()]).filter(|owner| *owner != self.place) {
                    Some(owner) => self.mail.pass_on(owner, &bufs[at][datagram], meta[at]),
                    None => {
                        let moved = datagram.len();
                        bufs[at].copy_within(datagram, end);
                        end += moved;
                    }
                }
            }
            meta[at].len = end;
            if end > 0 {
                bufs.swap(kept, at);
                meta.swap(kept, at);
                kept += 1;
            }
        }
        kept
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { port: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Socket { io, state } = &self.shared;
        io.try_io(Interest::WRITABLE, || state.send(io.into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.take_mail(cx, bufs, meta) {
            return Poll::Ready(Ok(taken));
        }
        if let Some(own) = &*self.own() {
            let mut ready = own.iter().map(|socket| socket.poll_recv(cx, bufs, meta));
            return ready.find(Poll::is_ready).unwrap_or(Poll::Pending);
        }
        loop {
            let read = ready!(self.shared.poll_recv(cx, bufs, meta))?;
            let kept = if self.mail.boxes.len() > 1 { self.sort(read, bufs, meta) } else { read };
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.shared.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.shared.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.shared.state.may_fragment()
    }
}

/// One connection's wait for room in the shared socket.
struct Writable {
    port: Arc<Port>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { port, waiting } = self.get_mut();
        // The socket's own poll would wake the last one alone of all that wait.
        let wait = waiting.get_or_insert_with(|| {
            let port = port.clone();
            Box::pin(async move { port.shared.io.writable().await })
        });
        let room = ready!(wait.as_mut().poll(cx));
        *waiting = None;
        Poll::Ready(room)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_whose_they_are_and_to_nobody_else() {
        let (mail, other) = (Mail::new(3), Mail::new(3));
        let mut mistaken = 0;
        for number in 0..300_u16 {
            let mut ids = Ids { mail: mail.clone(), place: number % 3 };
            let id = ids.generate_cid();
            let short = [&[0x40][..], &id, b"payload"].concat();
            let long = [&[0xc0, 0, 0, 0, 1, ID as u8][..], &id, &[0]].concat();
            for datagram in [short, long] {
                assert_eq!(mail.owner(&datagram), Some(usize::from(number % 3)));
                mistaken += usize::from(other.owner(&datagram).is_some());
            }
        }
        assert!(mistaken < 10, "{mistaken} of 600 are taken for another process's");
        for datagram in [&b""[..], &[0x40], &[0xc0, 0, 0, 0, 1], &[0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8]] {
            assert_eq!(mail.owner(datagram), None);
        }
    }

    #[tokio::test]
    async fn what_is_anothers_is_passed_on_and_the_rest_stays_in_order() {
        let mail = Mail::new(2);
        let port = Port::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), 0, mail.clone()).unwrap();
        let of = |place: u16, text: &[u8; 4]| {
            let id = Ids { mail: mail.clone(), place }.generate_cid();
            [&[0x40][..], &id, text].concat()
        };
        let (first, second, third, last) = (of(0, b"aaaa"), of(1, b"bbbb"), of(0, b"cccc"), of(1, b"dddd"));
        let stride = first.len();
        // As the system hands over what has come in one go, and the last of it alone.
        let mut together = [&first[..], &second, &third[..stride - 2]].concat();
        let mut alone = last.clone();
        let mut meta = [RecvMeta { len: together.len(), stride, ..RecvMeta::default() }; 2];
        (meta[1].len, meta[1].stride) = (alone.len(), alone.len());
        let mut bufs = [IoSliceMut::new(&mut together), IoSliceMut::new(&mut alone)];
        assert_eq!(port.sort(2, &mut bufs, &mut meta), 1);
        assert_eq!(bufs[0][..meta[0].len], [&first[..], &third[..stride - 2]].concat());
        let passed: Vec<Bytes> = mail.inbox(1).datagrams.drain(..).map(|(datagram, _)| datagram).collect();
        assert_eq!(passed, [second, last]);
    }
}
