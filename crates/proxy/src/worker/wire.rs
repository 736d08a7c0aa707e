//! A client's connection, as those see it who take part in serving it: the protocol, the request's body, and the watch over
//! whether the client is still there. All run in the connection's one task.

use super::activity::Activity;
use crate::h1::server::{Announced, BodyError, Framing, HeadError, Inbound, RequestHead, write_head};
use crate::h1::{Limits, Outbox, Scratch};
use crate::transport::{FromClient, Transport};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use milecastle_plugin_api::LocalFuture;
use socket2::SockRef;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Bytes dropped at once.
const DROPPED: usize = 16 * 1024;
/// Bytes taken from a TLS connection at once while looking whether the client is still there.
const AHEAD: usize = 1024;

/// A client's connection.
pub(crate) struct Wire {
    transport: RefCell<FromClient>,
    inbound: RefCell<Inbound>,
    /// Waits for the connection to break, once a client has ended sending that may still read.
    breaking: RefCell<Option<LocalFuture<'static, ()>>>,
    /// Somebody may still read the present request's body (HTTP/1).
    pub(crate) body_has_reader: Cell<bool>,
}

impl Wire {
    /// `first` has been read already.
    pub(super) fn new(transport: FromClient, first: BytesMut) -> Rc<Self> {
        Rc::new(Self {
            transport: RefCell::new(transport),
            inbound: RefCell::new(Inbound::new(first)),
            breaking: RefCell::default(),
            body_has_reader: Cell::new(false),
        })
    }

    /// What the HTTP/1 client sends.
    pub(crate) fn inbound(&self) -> std::cell::RefMut<'_, Inbound> {
        self.inbound.borrow_mut()
    }

    /// The head of the next HTTP/1 request ([`Inbound::poll_head`]).
    pub(super) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        scratch: &Scratch,
        map: &impl Fn() -> HeaderMap,
        limits: Limits,
    ) -> Poll<Result<Option<RequestHead>, HeadError>> {
        self.inbound().poll_head(&mut *self.transport.borrow_mut(), cx, scratch, map, limits)
    }

    /// The next piece of the HTTP/1 request's body ([`Inbound::poll_body`]).
    pub(crate) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.inbound().poll_body(&mut *self.transport.borrow_mut(), cx)
    }

    /// An interim answer is to be sent, as soon as the connection's task comes to it.
    pub(crate) fn put_interim(&self, status: StatusCode, fields: &HeaderMap) {
        self.inbound()
            .put_interim(|text| write_head(text, status, false, fields.into(), Framing::None, Announced::Nothing));
    }

    /// Sends interim answers ([`Inbound::poll_interim`]).
    pub(super) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inbound().poll_interim(&mut *self.transport.borrow_mut(), cx)
    }

    /// Sends all that is laid out.
    pub(super) fn poll_send(&self, out: &mut Outbox, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<io::Result<()>> {
        out.poll_send(&mut *self.transport.borrow_mut(), cx, &scratch.text)
    }

    /// Does something with the connection itself; `None` if TLS lies over it, or it is lost.
    pub(super) fn with_plain<T>(&self, act: impl FnOnce(&TcpStream) -> T) -> Option<T> {
        match &mut *self.transport.borrow_mut() {
            Transport::Tcp(socket) => socket.watched().ok().map(|stream| act(stream)),
            Transport::Tls(_) => None,
        }
    }

    /// Whether the runtime says when something happens to the connection.
    pub(super) fn is_watched(&self) -> bool {
        match &*self.transport.borrow() {
            Transport::Tcp(socket) => socket.is_watched(),
            Transport::Tls(_) => true,
        }
    }

    /// Whether something that the client has sent waits to be read.
    pub(super) fn is_readable(&self) -> bool {
        self.inbound().is_ahead() || self.transport.borrow().is_readable()
    }

    /// Makes the coming end of the connection a reset: what was sent must not pass for a whole answer.
    pub(super) fn reset(&self) -> io::Result<()> {
        SockRef::from(&self.transport.borrow().fd()?).set_linger(Some(Duration::ZERO))
    }

    /// Whether the end has to be said in the connection, and not only by closing it.
    pub(super) fn is_tls(&self) -> bool {
        matches!(*self.transport.borrow(), Transport::Tls(_))
    }

    /// Ends sending.
    pub(super) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport.borrow_mut()).poll_shutdown(cx)
    }

    /// Takes bytes off the socket and drops them, without a look at what they mean; 0 is the end.
    pub(super) fn poll_drop(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut transport = self.transport.borrow_mut();
        let stream = transport.tcp()?;
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
    /// `half_close`: one that has ended sending may still read, and has gone only with a reset.
    pub(crate) fn poll_gone(&self, half_close: bool, cx: &mut Context<'_>) -> Poll<()> {
        let mut inbound = self.inbound();
        if inbound.is_ahead() {
            return Poll::Pending;
        }
        let seen = match &mut *self.transport.borrow_mut() {
            Transport::Tcp(socket) => {
                let Ok(stream) = socket.watched() else { return Poll::Ready(()) };
                ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut [0; 1])))
            }
            Transport::Tls(stream) => {
                let mut ahead = [0; AHEAD];
                let mut buf = ReadBuf::new(&mut ahead);
                let read = ready!(Pin::new(stream).poll_read(cx, &mut buf));
                if !buf.filled().is_empty() {
                    inbound.keep(buf.filled());
                    // The reading side may be waiting for this.
                    cx.waker().wake_by_ref();
                }
                read.map(|()| buf.filled().len())
            }
        };
        match seen {
            Ok(0) if half_close => self.poll_broken(cx),
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Ready once a connection is broken whose client has ended sending; else the task is woken then. Nobody would see it by
    /// reading: that says again and again that there is no more.
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut breaking = self.breaking.borrow_mut();
        let wait = || -> LocalFuture<'static, ()> {
            let socket = self.transport.borrow().fd().and_then(|fd| fd.try_clone_to_owned());
            Box::pin(async move {
                if let Ok(socket) = socket.and_then(|socket| TcpStream::from_std(socket.into())) {
                    // What is not watched counts as broken.
                    socket.ready(Interest::ERROR).await.ok();
                }
            })
        };
        breaking.get_or_insert_with(wait).as_mut().poll(cx)
    }
}

/// The connection as a stream of bytes, for HTTP/2 and for tunnels.
pub(crate) struct ClientIo {
    wire: Rc<Wire>,
    activity: Rc<Activity>,
}

impl ClientIo {
    pub(super) fn new(wire: Rc<Wire>, activity: Rc<Activity>) -> Self {
        Self { wire, activity }
    }

    fn transport(&self) -> std::cell::RefMut<'_, FromClient> {
        self.wire.transport.borrow_mut()
    }

    fn note<T>(&self, written: &Poll<T>) {
        self.activity.blocked.set(written.is_pending());
        if written.is_ready() {
            self.activity.written.set(true);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut inbound = self.wire.inbound();
        let read = if inbound.is_ahead() {
            buf.put_slice(&inbound.take_ahead(buf.remaining()));
            Poll::Ready(Ok(()))
        } else {
            Pin::new(&mut *self.transport()).poll_read(cx, buf)
        };
        if buf.filled().len() > before {
            self.activity.reading.set(true);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.transport()).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.transport()).poll_write_vectored(cx, bufs);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut transport = self.transport();
        if matches!(*transport, Transport::Tcp(_)) {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut *transport).poll_flush(cx);
        self.activity.blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport()).poll_shutdown(cx)
    }
}
