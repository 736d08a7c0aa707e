//! The client's side of a connection: its transport, and what its timers need to know.

use super::activity::Activity;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The transport.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The transport as the HTTP server sees it.
pub(crate) struct ClientIo {
    transport: Transport,
    /// What was read before the server took over.
    first: Bytes,
    activity: Rc<Activity>,
}

fn note<T>(activity: &Activity, written: &Poll<T>) {
    activity.blocked.set(written.is_pending());
    if written.is_ready() {
        activity.written.set(true);
    }
}

impl ClientIo {
    pub(crate) fn new(transport: Transport, first: Bytes, activity: Rc<Activity>) -> Self {
        Self { transport, first, activity }
    }

    /// Puts bytes back that were read and not used.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else if !bytes.is_empty() {
            self.first = [&bytes[..], &self.first[..]].concat().into();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let take = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first.split_to(take));
            this.activity.reading.set(true);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            this.activity.reading.set(true);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        note(&this.activity, &written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        note(&this.activity, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.transport {
            Transport::Plain(_) => return Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.activity.blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
