//! A client's connection that the runtime watches only once something has to be waited for.
//!
//! The system keeps connections to itself until their clients have sent something, so that a request is there when its
//! connection is accepted. If it is the only one, it is answered without the connection ever being watched: one wake-up instead
//! of two, two calls of epoll_ctl(2) less, and no event which says that the connection may be written to. That is a quarter of
//! all that a connection with one request costs.
//!
//! Invariants:
//! - A task that gets `Pending` is woken: a socket that has to be waited for is watched from then on.
//! - A socket that is not watched moves bytes a few times at most, for the runtime cannot see to it that its task leaves
//!   others their turn.
#![allow(unsafe_code, reason = "a descriptor that stays open is made known to the runtime and to the system")]

use crate::transport::{Plain, receive, send};
use rustix::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

/// How often bytes are moved over a socket that is not watched. A request and its answer take two calls.
const CALLS: u8 = 4;

/// A client's connection.
pub(crate) enum Socket {
    /// Not watched, and good for so many calls.
    Bare(std::net::TcpStream, u8),
    Watched(TcpStream),
    /// It could not be watched, and is closed.
    Lost,
}

/// A listening socket and the connections that wait in its queue.
pub(crate) struct Listener(AsyncFd<TcpListener>);

impl Listener {
    /// Of a socket that does not block, on the present runtime.
    ///
    /// # Errors
    /// The system cannot watch any more.
    pub(crate) fn new(socket: TcpListener) -> io::Result<Self> {
        // SAFETY: a `TcpListener` owns its descriptor, which is the same until it is dropped, and nothing here replaces it.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?))
    }

    /// Has the system keep connections to itself until their clients have sent something, but only for about so long (tcp(7),
    /// `TCP_DEFER_ACCEPT`); zero: not at all.
    ///
    /// # Errors
    /// The system does not know how to.
    pub(crate) fn defer(&self, patience: Duration) -> io::Result<()> {
        let seconds = patience.as_secs() + u64::from(patience.subsec_nanos() > 0);
        let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
        let size = libc::socklen_t::try_from(size_of_val(&seconds)).expect("the size of an integer");
        let socket = self.0.get_ref().as_raw_fd();
        // SAFETY: the descriptor is open as long as the listener is borrowed, and the system only reads `size` bytes of
        // `seconds`.
        let set = unsafe {
            libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, (&raw const seconds).cast(), size)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// The system's (accept(2)), which may concern this one connection alone.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        self.0.async_io(Interest::READABLE, accept).await
    }

    /// The same, but not to be waited for. The system itself is asked: the runtime knows only what it was told before.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. Else as [`Listener::accept`].
    pub(crate) fn accept_now(&self) -> io::Result<(Socket, SocketAddr)> {
        accept(self.0.get_ref())
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpListener {
        self.0.get_ref()
    }
}

fn accept(listener: &TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.ok_or(io::ErrorKind::InvalidData)?.try_into()?;
    Ok((Socket::Bare(socket.into(), CALLS), peer))
}

/// Whether bytes lie unread in a socket. The system is asked: the runtime knows only what it was told before.
pub(crate) fn is_readable(socket: BorrowedFd<'_>) -> bool {
    SockRef::from(&socket).peek(&mut [MaybeUninit::uninit(); 1]).is_ok_and(|bytes| bytes > 0)
}

/// Whether a socket is open and nothing lies unread in it, as the system knows it.
pub(crate) fn is_quiet(socket: BorrowedFd<'_>) -> bool {
    let peeked = SockRef::from(&socket).peek(&mut [MaybeUninit::uninit(); 1]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Socket {
    pub(crate) fn is_watched(&self) -> bool {
        matches!(self, Self::Watched(_))
    }

    /// Has the runtime watch it from now on.
    ///
    /// # Errors
    /// The system cannot watch any more; the connection is closed.
    pub(crate) fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if matches!(self, Self::Bare(..))
            && let Self::Bare(bare, _) = std::mem::replace(self, Self::Lost)
        {
            *self = Self::Watched(TcpStream::from_std(bare)?);
        }
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Bare(..) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The same, as a connection of the runtime's.
    ///
    /// # Errors
    /// As [`Socket::watched`].
    pub(crate) fn into_watched(mut self) -> io::Result<TcpStream> {
        self.watched()?;
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Bare(..) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The socket itself.
    ///
    /// # Errors
    /// It is closed.
    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Bare(bare, _) => Ok(bare.as_fd()),
            Self::Watched(stream) => Ok(stream.as_fd()),
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The address that the client has connected to.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.fd()?).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether bytes lie unread in it.
    pub(crate) fn is_readable(&self) -> bool {
        self.fd().is_ok_and(is_readable)
    }

    /// Makes a call while the socket is not watched. `None`: it is by now, and the runtime says when the call can be made.
    fn at_once<T>(&mut self, call: impl FnOnce(&mut std::net::TcpStream) -> io::Result<T>) -> Option<io::Result<T>> {
        let Self::Bare(bare, calls @ 1..) = self else { return None };
        *calls -= 1;
        match call(bare) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            made => Some(made),
        }
    }
}

impl Plain for Socket {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.at_once(|bare| receive(&*bare, buf)) {
            Some(received) => Poll::Ready(received.map(drop)),
            None => self.watched()?.poll_receive(cx, buf),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.at_once(|bare| send(&*bare, bytes)) {
            Some(sent) => Poll::Ready(sent),
            None => self.watched()?.poll_send(cx, bytes),
        }
    }

    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.at_once(|bare| bare.write_vectored(pieces)) {
            Some(sent) => Poll::Ready(sent),
            None => self.watched()?.poll_send_vectored(cx, pieces),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Bare(bare, _) => Poll::Ready(bare.shutdown(Shutdown::Write)),
            _ => self.watched()?.poll_end(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_receive(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Waker;

    fn listener(patience: Duration) -> (Listener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = Listener::new(socket).unwrap();
        listener.defer(patience).unwrap();
        (listener, addr)
    }

    fn client(addr: SocketAddr) -> std::net::TcpStream {
        std::net::TcpStream::connect(addr).unwrap()
    }

    fn is_empty(listener: &Listener) -> bool {
        matches!(listener.accept_now(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_connection_is_kept_back_until_its_client_speaks_and_watched_once_it_says_no_more() {
        let (listener, addr) = listener(Duration::from_secs(60));
        let mut silent = client(addr);
        assert!(is_empty(&listener));
        silent.write_all(b"now").unwrap();
        let (mut socket, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, silent.local_addr().unwrap());
        let mut room = [0; 8];
        let mut buf = ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(socket.poll_receive(&mut cx, &mut buf).is_ready());
        assert_eq!(buf.filled(), b"now");
        assert!(!socket.is_watched(), "what it had sent was there");
        buf.clear();
        assert!(socket.poll_receive(&mut cx, &mut buf).is_pending());
        assert!(socket.is_watched(), "nobody would be woken");
        silent.write_all(b"then").unwrap();
        poll_fn(|cx| socket.poll_receive(cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled(), b"then");
    }

    #[tokio::test]
    async fn who_stays_silent_is_let_in_in_the_end() {
        let (deferring, addr) = listener(Duration::from_secs(1));
        let _silent = client(addr);
        assert!(is_empty(&deferring));
        deferring.accept().await.unwrap();
        let (at_once, addr) = listener(Duration::ZERO);
        let _silent = client(addr);
        at_once.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_never_stops_sending_is_watched_soon() {
        let (listener, addr) = listener(Duration::ZERO);
        let mut client = client(addr);
        client.write_all(&[1; 64]).unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        for call in 0..64 {
            let mut byte = [0; 1];
            poll_fn(|cx| socket.poll_receive(cx, &mut ReadBuf::new(&mut byte))).await.unwrap();
            assert_eq!(socket.is_watched(), call >= usize::from(CALLS), "after call {call}");
        }
    }
}
