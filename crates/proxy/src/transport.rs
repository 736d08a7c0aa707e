//! A TCP connection, with or without TLS over it.
//!
//! Plain reads and writes go to the system directly. The C library makes each of them a point at which a thread may be
//! cancelled, which costs two locked instructions a call; no thread here ever is.
#![allow(unsafe_code, reason = "bytes are received into memory that was not written before")]

use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection, or TLS over one.
pub(crate) enum Transport<S> {
    Tcp(TcpStream),
    Tls(Box<S>),
}

/// A connection that we opened to an upstream.
pub(crate) type ToUpstream = Transport<tokio_rustls::client::TlsStream<TcpStream>>;
/// A connection that a client opened to us.
pub(crate) type FromClient = Transport<tokio_rustls::server::TlsStream<TcpStream>>;

impl FromClient {
    /// The TCP connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
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

impl<S: AsyncRead + Unpin> AsyncRead for Transport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => poll_receive(stream, cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => poll_send(stream, cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
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
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn poll_receive(stream: &TcpStream, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // SAFETY: nothing is written to the room but what is received, which leaves none of it less initialised than before.
        let room = unsafe { buf.unfilled_mut() };
        let size = room.len();
        let received =
            once(stream, Interest::READABLE, size, || Ok(rustix::net::recv(stream, &mut *room, RecvFlags::empty())?.1));
        if let Some(received) = received {
            let bytes = received?;
            // SAFETY: so many bytes have been written to its beginning by the system.
            unsafe { buf.assume_init(bytes) };
            buf.advance(bytes);
            return Poll::Ready(Ok(()));
        }
    }
}

fn poll_send(stream: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let sent = once(stream, Interest::WRITABLE, bytes.len(), || {
            Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
        });
        if let Some(sent) = sent {
            return Poll::Ready(sent);
        }
    }
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
