//! A client's connection that the runtime watches only once something has to be waited for.
//!
//! Most clients have sent their request by the time their connection is accepted. One that sends no second one is then served
//! whole without ever being watched, which spares two calls of epoll_ctl(2) and the event that it may be written to: a
//! fifteenth of all that such a connection costs.
//!
//! Invariants:
//! - Whoever is told `Pending` is woken: a socket that has to be waited for is watched from then on.
//! - A socket that is not watched moves bytes a few times at most, for the runtime cannot see to it that its task leaves
//!   others their turn.
#![allow(unsafe_code, reason = "the runtime is told of a descriptor that stays open")]

use crate::transport::{Plain, receive, send};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
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

    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// The system's (accept(2)), which may concern this one connection alone.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        self.0.async_io(Interest::READABLE, |socket| accept(socket)).await
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
