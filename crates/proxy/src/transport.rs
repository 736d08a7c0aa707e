//! A TCP connection, with or without TLS over it.
//!
//! Plain reads and writes go to the system directly. The C library makes each of them a point at which a thread may be
//! cancelled, which costs two locked instructions a call; no thread here ever is.
#![allow(unsafe_code, reason = "bytes are received into memory that was not written before")]

use crate::socket::{Socket, is_readable};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection, or TLS over one.
pub(crate) enum Transport<S, T = TcpStream> {
    Tcp(T),
    Tls(Box<S>),
}

/// A TCP connection that bytes are moved over by the calls of this module.
pub(crate) trait Plain {
    /// As [`AsyncRead::poll_read`].
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    /// As [`AsyncWrite::poll_write`].
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// As [`AsyncWrite::poll_write_vectored`].
    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
    /// As [`AsyncWrite::poll_shutdown`].
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A connection that we opened to an upstream.
pub(crate) type ToUpstream = Transport<tokio_rustls::client::TlsStream<TcpStream>>;
/// A connection that a client opened to us.
pub(crate) type FromClient = Transport<tokio_rustls::server::TlsStream<TcpStream>, Socket>;

impl FromClient {
    /// The socket below.
    ///
    /// # Errors
    /// It is closed.
    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Tcp(socket) => socket.fd(),
            Self::Tls(stream) => Ok(stream.get_ref().0.as_fd()),
        }
    }

    /// Whether bytes lie unread in the socket.
    pub(crate) fn is_readable(&self) -> bool {
        self.fd().is_ok_and(is_readable)
    }

    /// The TCP connection below, watched by the runtime.
    ///
    /// # Errors
    /// [`Socket::watched`].
    pub(crate) fn tcp(&mut self) -> io::Result<&TcpStream> {
        match self {
            Self::Tcp(socket) => Ok(socket.watched()?),
            Self::Tls(stream) => Ok(stream.get_ref().0),
        }
    }
}

impl ToUpstream {
    /// The TCP connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl<S: AsyncRead + Unpin, T: Plain + Unpin> AsyncRead for Transport<S, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => stream.poll_receive(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin, T: Plain + Unpin> AsyncWrite for Transport<S, T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => stream.poll_send(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => stream.poll_send_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => stream.poll_end(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Plain for TcpStream {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let size = buf.remaining();
            if let Some(received) = once(self, Interest::READABLE, size, || receive(&*self, buf)) {
                return Poll::Ready(received.map(drop));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            if let Some(sent) = once(self, Interest::WRITABLE, bytes.len(), || send(&*self, bytes)) {
                return Poll::Ready(sent);
            }
        }
    }

    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, pieces)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

/// Receives what there is room for, and says how much that was.
pub(crate) fn receive(socket: impl AsFd, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is written to the room but what is received, which leaves none of it less initialised than before.
    let room = unsafe { buf.unfilled_mut() };
    let bytes = rustix::net::recv(socket, room, RecvFlags::empty())?.1;
    // SAFETY: so many bytes have been written to its beginning by the system.
    unsafe { buf.assume_init(bytes) };
    buf.advance(bytes);
    Ok(bytes)
}

/// Sends what there is room for, and says how much that was.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

/// Makes a call that moves up to `size` bytes. `None`: the socket is not ready after all.
///
/// Where fewer are moved the socket has no more to give or to take, so the runtime is told that it is no longer ready, as it
/// would be after another call that moves nothing.
fn once(
    stream: &TcpStream,
    interest: Interest,
    size: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut moved = 0;
    let tried = stream.try_io(interest, || {
        moved = call()?;
        if moved > 0 && moved < size { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match tried {
        Err(error) if moved == 0 => (error.kind() != io::ErrorKind::WouldBlock).then_some(Err(error)),
        _ => Some(Ok(moved)),
    }
}
