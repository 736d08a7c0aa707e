//! The client's side of a connection.

use super::activity::Activity;
use bytes::Bytes;
use socket2::SockRef;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes dropped at once.
const DROPPED: usize = 16 * 1024;
/// Bytes taken from a TLS connection at once while looking whether the client is still there.
const AHEAD: usize = 1024;

/// The transport.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

struct Wire {
    transport: Transport,
    /// What was read before the HTTP server asked for it.
    first: Bytes,
}

/// The transport as the HTTP server sees it.
pub(crate) struct ClientIo {
    wire: Rc<RefCell<Wire>>,
    activity: Rc<Activity>,
}

/// Tells whether the client is still there while its request is in work.
pub(crate) struct Presence(Rc<RefCell<Wire>>);

impl ClientIo {
    pub(crate) fn new(transport: Transport, first: Bytes, activity: Rc<Activity>) -> Self {
        Self { wire: Rc::new(RefCell::new(Wire { transport, first })), activity }
    }

    pub(crate) fn presence(&self) -> Presence {
        Presence(self.wire.clone())
    }

    /// Puts bytes back that were read and not used.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        let first = &mut self.wire.borrow_mut().first;
        if first.is_empty() {
            *first = bytes;
        } else if !bytes.is_empty() {
            *first = [&bytes[..], &first[..]].concat().into();
        }
    }

    fn note<T>(&self, written: &Poll<T>) {
        self.activity.blocked.set(written.is_pending());
        if written.is_ready() {
            self.activity.written.set(true);
        }
    }
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Whether bytes lie unread in the socket. The system is asked: the runtime knows only what it was told before.
pub(super) fn is_readable(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]).is_ok_and(|bytes| bytes > 0)
}

impl Presence {
    /// Whether something that the client has sent waits to be read.
    pub(super) fn is_readable(&self) -> bool {
        let wire = self.0.borrow();
        !wire.first.is_empty() || is_readable(wire.transport.tcp())
    }

    /// Makes the coming end of the connection a reset: what was sent must not pass for a whole answer.
    pub(super) fn reset(&self) -> io::Result<()> {
        SockRef::from(self.0.borrow().transport.tcp()).set_linger(Some(Duration::ZERO))
    }

    /// Ends sending.
    pub(super) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.borrow_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Takes bytes off the socket and drops them, without a look at what they mean; 0 is the end.
    pub(super) fn poll_drop(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wire = self.0.borrow();
        let stream = wire.transport.tcp();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(&mut [0; DROPPED]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Ready once the client has closed; else the task is woken then. Takes nothing from the client that is not kept.
    ///
    /// hyper could look for itself, but would make room for a read at every request.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = &mut *self.0.borrow_mut();
        if !wire.first.is_empty() {
            return Poll::Pending;
        }
        match &mut wire.transport {
            Transport::Plain(stream) => {
                let mut byte = [0; 1];
                match stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
                    Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
                    Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
                }
            }
            Transport::Tls(stream) => {
                let mut ahead = [0; AHEAD];
                let mut buf = ReadBuf::new(&mut ahead);
                match Pin::new(stream).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                        wire.first = Bytes::copy_from_slice(buf.filled());
                        // The server may be waiting for just this.
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.wire.borrow_mut();
        if !wire.first.is_empty() {
            let take = wire.first.len().min(buf.remaining());
            buf.put_slice(&wire.first.split_to(take));
            self.activity.reading.set(true);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = match &mut wire.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.activity.reading.set(true);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire.borrow_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire.borrow_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.wire.borrow_mut().transport {
            Transport::Plain(_) => return Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.activity.blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire.borrow_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
