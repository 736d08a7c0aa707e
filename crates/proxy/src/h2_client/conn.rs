//! One connection, and the task that moves its bytes.

use super::Http2Limits;
use super::pool::Lanes;
use crate::failure::Failure;
use crate::h1::Limits;
use crate::transport::ToUpstream;
use crate::worker::{Flusher, defer};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// A window cannot be larger (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// A connection, for those who send requests on it.
pub(crate) struct Conn {
    send: SendRequest<Bytes>,
    /// Streams that we allow ourselves.
    most: usize,
    /// Streams in use.
    pub(super) streams: Cell<usize>,
    /// Streams so far.
    pub(super) served: Cell<u32>,
    /// When it is too old to be used again. Only while no stream is in use.
    pub(super) expires: Cell<Instant>,
    /// What the task has seen.
    fate: Rc<Fate>,
}

/// What becomes of a connection, as its task sees it.
#[derive(Default)]
struct Fate {
    /// Streams that the upstream allows: none before its SETTINGS have come.
    allowed: Cell<usize>,
    ended: Cell<bool>,
    /// Why it ended before it was ready.
    error: RefCell<Option<h2::Error>>,
    changed: Notify,
}

impl Conn {
    /// Speaks HTTP/2 on an open transport. Ready once the upstream does as well.
    pub(super) async fn start(
        io: ToUpstream,
        limits: Http2Limits,
        heads: Limits,
        lanes: Weak<Lanes>,
    ) -> Result<Rc<Self>, Failure> {
        let (io, flusher) = defer(io);
        let window = u64::from(limits.window) * u64::from(limits.streams);
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            // Nothing is known of the upstream before its SETTINGS; until then nothing is sent.
            .initial_max_send_streams(0)
            .initial_window_size(limits.window)
            .initial_connection_window_size(u32::try_from(window).unwrap_or(u32::MAX).min(LARGEST_WINDOW))
            .max_header_list_size(u32::try_from(heads.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(limits.send_buffer);
        let (send, mut connection) = builder.handshake(io).await.map_err(Failure::Handshake)?;
        let pings = connection.ping_pong().filter(|_| !limits.ping.is_zero());
        let conn = Rc::new(Self {
            send,
            most: limits.streams as usize,
            streams: Cell::new(0),
            served: Cell::new(0),
            expires: Cell::new(Instant::now()),
            fate: Rc::default(),
        });
        let task = Task {
            conn: Rc::downgrade(&conn),
            fate: conn.fate.clone(),
            lanes,
            flusher,
            life: pings.map(|pings| Life::new(pings, limits.ping)),
        };
        drop(tokio::task::spawn_local(task.run(connection)));
        let fate = conn.fate.clone();
        loop {
            let changed = fate.changed.notified();
            match fate.error.take() {
                Some(error) => return Err(Failure::Handshake(error)),
                None if fate.ended.get() => return Err(Failure::Connect(io::ErrorKind::UnexpectedEof.into())),
                None if fate.allowed.get() > 0 => return Ok(conn),
                None => changed.await,
            }
        }
    }

    /// Whether another stream can be opened now.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.most.min(self.send.current_max_send_streams())
    }

    /// Whether the upstream still takes streams on it.
    pub(super) fn is_open(&self) -> bool {
        let looked_at = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.fate.ended.get() && !matches!(looked_at, Poll::Ready(Err(_)))
    }

    /// Opens a stream; `last`: nothing follows the head.
    pub(super) fn open(
        &self,
        request: Request<()>,
        last: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.send.clone().send_request(request, last)
    }
}

/// What moves a connection's bytes.
struct Task {
    conn: Weak<Conn>,
    fate: Rc<Fate>,
    lanes: Weak<Lanes>,
    flusher: Flusher<ToUpstream>,
    life: Option<Life>,
}

impl Task {
    /// Runs until the connection has ended, which it does when nobody holds it any more.
    async fn run<T>(mut self, connection: Connection<T, Bytes>)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut connection = pin!(connection);
        let mut done = false;
        let ended = poll_fn(|cx| {
            if !done {
                match connection.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => done = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
                self.look();
            }
            match self.flusher.poll_send(cx) {
                Poll::Ready(Ok(())) if done => return Poll::Ready(Ok(())),
                // Reading has more to tell, if the upstream has said why it closed.
                Poll::Ready(Err(_)) if done => return Poll::Ready(Ok(())),
                _ => {}
            }
            let busy = self.conn.upgrade().is_some_and(|conn| conn.streams.get() > 0);
            match &mut self.life {
                Some(life) if busy => {
                    let silent = life.poll(cx);
                    if silent.is_ready()
                        && let Some(lanes) = self.lanes.upgrade()
                    {
                        lanes.note_silence();
                    }
                    silent.map(Ok)
                }
                Some(life) => {
                    life.forget();
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            *self.fate.error.borrow_mut() = Some(error);
        }
        self.fate.ended.set(true);
        self.fate.changed.notify_waiters();
        if let (Some(lanes), Some(conn)) = (self.lanes.upgrade(), self.conn.upgrade()) {
            lanes.let_go(|known| Rc::ptr_eq(known, &conn));
        }
    }

    /// Takes note of how many streams the upstream allows.
    fn look(&self) {
        let Some(conn) = self.conn.upgrade() else { return };
        let allowed = conn.send.current_max_send_streams();
        if self.fate.allowed.replace(allowed) != allowed {
            self.fate.changed.notify_waiters();
            if let Some(lanes) = self.lanes.upgrade() {
                lanes.note_room();
            }
        }
    }
}

/// Asks for signs of life.
struct Life {
    pings: PingPong,
    every: Duration,
    timer: Pin<Box<Sleep>>,
    /// The timer runs.
    armed: bool,
    /// A ping is under way.
    asked: bool,
}

impl Life {
    fn new(pings: PingPong, every: Duration) -> Self {
        Self { pings, every, timer: Box::pin(tokio::time::sleep(every)), armed: false, asked: false }
    }

    /// Nothing is to be watched while there is no request.
    fn forget(&mut self) {
        self.armed = false;
    }

    /// Ready when the upstream has not answered in time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked && self.pings.poll_pong(cx).is_ready() {
            (self.asked, self.armed) = (false, false);
        }
        loop {
            if !self.armed {
                self.armed = true;
                self.timer.as_mut().reset(tokio::time::Instant::now() + self.every);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.asked {
                tracing::debug!("an upstream gives no sign of life on an HTTP/2 connection");
                return Poll::Ready(());
            }
            self.armed = false;
            self.asked = self.pings.send_ping(Ping::opaque()).is_ok() && self.pings.poll_pong(cx).is_pending();
            // It leaves with the next turn of the task.
            cx.waker().wake_by_ref();
        }
    }
}
