//! Holds writes back until the connection's future has been polled.
//!
//! The library that speaks HTTP/2 with upstreams flushes its transport after nearly every frame, which costs one system call for
//! each request. Here a flush does nothing: the task that polls the connection flushes once afterwards, and requests that
//! became ready together leave together.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held back before a write goes through.
const HIGH_WATER: usize = 64 * 1024;
/// Room kept between flushes.
const KEPT: usize = 16 * 1024;

struct Held<T> {
    io: T,
    buf: Vec<u8>,
    sent: usize,
    dirty: bool,
}

/// The transport as the connection sees it.
pub(crate) struct Deferred<T>(Rc<RefCell<Held<T>>>);

/// Flushes what [`Deferred`] holds back.
pub(crate) struct Flusher<T>(Rc<RefCell<Held<T>>>);

/// Splits a transport into the side that is written to and the side that flushes.
pub(crate) fn defer<T>(io: T) -> (Deferred<T>, Flusher<T>) {
    let held = Rc::new(RefCell::new(Held { io, buf: Vec::new(), sent: 0, dirty: false }));
    (Deferred(held.clone()), Flusher(held))
}

impl<T: AsyncWrite + Unpin> Held<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buf.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buf[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
            self.dirty = true;
        }
        self.buf.clear();
        self.buf.shrink_to(KEPT);
        self.sent = 0;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buf.len() - self.sent < HIGH_WATER { Poll::Ready(Ok(())) } else { self.poll_send(cx) }
    }
}

impl<T: AsyncWrite + Unpin> Flusher<T> {
    /// Sends all that is held back.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Deferred<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Deferred<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_room(cx))?;
        held.buf.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_room(cx))?;
        let before = held.buf.len();
        bufs.iter().for_each(|buf| held.buf.extend_from_slice(buf));
        Poll::Ready(Ok(held.buf.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.io).poll_shutdown(cx)
    }
}
