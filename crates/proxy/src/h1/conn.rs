//! One connection to an upstream, and one exchange over it up to the answer's head.

#[cfg(test)]
mod tests;

use super::answer::{Asked, Head, Malformed, take_head};
use super::outbox::Outbox;
use super::outgoing::{Outgoing, PumpError};
use super::read_size::{READ_MIN, ReadSize};
use super::scratch::Scratch;
use super::{Limits, Patience, Waiting};
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::socket::is_quiet;
use crate::transport::{ToUpstream, Transport};
use crate::turns;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;

/// A limit that is armed only when an answer does not come at once.
const LONG: Duration = Duration::from_secs(5);

/// What holds for one exchange.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) asked: Asked<'a>,
    pub(crate) limits: Limits,
    pub(crate) patience: Patience,
    /// Setting it promises another poll within seconds, so that a long limit need not be armed for an answer that comes at
    /// once.
    pub(crate) later: Option<&'a Cell<bool>>,
}

/// One connection to an upstream.
pub(crate) struct Conn {
    io: ToUpstream,
    scratch: Rc<Scratch>,
    /// What was read and is not yet taken.
    pub(super) read: BytesMut,
    /// The buffer is the worker's for large reads.
    read_large: bool,
    read_size: ReadSize,
    pub(super) out: Outbox,
    pub(super) deadline: Deadline,
    /// Requests sent on it.
    pub(super) requests: u32,
    /// When it is too old to be taken from the pool.
    pub(super) expires: Instant,
    /// The worker's turn in which it came to rest.
    rests_since: u64,
}

/// Readies the TCP connection that `connecting` opens.
pub(crate) async fn connect_tcp(
    connecting: impl Future<Output = io::Result<TcpStream>>,
    patience: Duration,
) -> Result<TcpStream, Failure> {
    let connected = tokio::time::timeout(patience, connecting).await;
    let stream = connected.map_err(|_| Failure::ConnectTimeout)?.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    Ok(stream)
}

impl Conn {
    pub(crate) fn new(io: ToUpstream, scratch: Rc<Scratch>, now: Instant, patience: Duration) -> Box<Self> {
        Box::new(Self {
            io,
            scratch,
            read: BytesMut::new(),
            read_large: false,
            read_size: ReadSize::default(),
            out: Outbox::default(),
            deadline: Deadline::new(now + patience),
            requests: 0,
            expires: now,
            rests_since: turns::present(),
        })
    }

    /// Whether it has served a request before.
    pub(crate) fn reused(&self) -> bool {
        self.requests > 1
    }

    /// Whether anything of an answer has arrived.
    pub(crate) fn heard_something(&self) -> bool {
        !self.read.is_empty()
    }

    /// The buffer for the next request's head, empty.
    pub(crate) fn begin(&mut self) -> &mut Vec<u8> {
        self.requests = self.requests.saturating_add(1);
        self.deadline.change_task();
        self.lay_out(Bytes::new(), b"")
    }

    /// Sends the request whose head has been laid out after [`Self::begin`], and waits for the head of the answer.
    ///
    /// A body that is still being sent when the answer comes stays in `outgoing`. `map` gives an empty map, whose room becomes
    /// that of the answer's fields.
    pub(crate) async fn exchange(
        &mut self,
        outgoing: &mut Outgoing,
        mut map: impl FnMut() -> HeaderMap,
        terms: Terms<'_>,
        now: Instant,
    ) -> Result<Head, Failure> {
        let Terms { asked, limits, patience, mut later } = terms;
        if let Outgoing::Whole(body) = outgoing {
            self.out.data = body.clone();
        }
        // Also by TLS, which takes more than it sends.
        let mut is_sent = false;
        let mut send_failure = None;
        let mut waiting = None;
        let mut interim = 0;
        let mut known_now = Some(now);
        poll_fn(|cx| {
            let mut state = Waiting::ForAnswer;
            let mut moved = false;
            if send_failure.is_none() {
                let before = (self.pending(), outgoing.taken());
                match self.poll_request(outgoing, cx) {
                    Poll::Ready(Ok(())) => is_sent = true,
                    Poll::Ready(Err(PumpError::Client(error))) => return Poll::Ready(Err(error.into())),
                    // The answer may have been sent before the upstream closed: a refusal of a large body, say.
                    Poll::Ready(Err(PumpError::Upstream(error))) => send_failure = Some(error),
                    // Not whenever this is polled: the limit itself does so when it is reached.
                    Poll::Pending => {
                        // What TLS has taken is not pending here, and yet may have to be sent.
                        state = if outgoing.is_starved() { Waiting::ForClient } else { Waiting::ToSend };
                        moved = (self.pending(), outgoing.taken()) != before;
                    }
                }
            }
            loop {
                if !self.read.is_empty() {
                    let parsing = &mut *self.scratch.parsing.borrow_mut();
                    match take_head(&mut self.read, parsing, &mut map, asked, limits, &mut interim) {
                        // What is left of the request would pass for bytes of the other protocol, or be lost.
                        Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS && !is_sent => {
                            return Poll::Ready(Err(Failure::Malformed(Malformed::EarlyUpgrade)));
                        }
                        Ok(Some(mut head)) => {
                            head.keep &= send_failure.is_none();
                            return Poll::Ready(Ok(head));
                        }
                        Ok(None) => {}
                        Err(fault) => return Poll::Ready(Err(Failure::Malformed(fault))),
                    }
                }
                match (self.poll_fill(cx, usize::MAX), send_failure.take()) {
                    (Poll::Ready(Ok(0) | Err(_)), Some(error)) => return Poll::Ready(Err(Failure::Send(error))),
                    (Poll::Ready(Ok(0)), None) => return Poll::Ready(Err(Failure::Closed)),
                    (Poll::Ready(Err(error)), None) => return Poll::Ready(Err(Failure::Read(error))),
                    (Poll::Ready(Ok(_)), failed) => {
                        send_failure = failed;
                        moved |= state == Waiting::ForAnswer;
                    }
                    // After a failure to send, what the upstream has said before it closed, or that it has, is about to be
                    // reported.
                    (Poll::Pending, failed) => {
                        send_failure = failed;
                        break;
                    }
                }
            }
            if moved || waiting != Some(state) {
                waiting = Some(state);
                self.deadline.set(known_now.take().unwrap_or_else(Instant::now) + state.limit(&patience));
            }
            if let Some(later) = later.take()
                && state == Waiting::ForAnswer
                && patience.read >= LONG
            {
                later.set(true);
                return Poll::Pending;
            }
            self.deadline.poll(cx).map(|()| Err(state.too_long(outgoing)))
        })
        .await
    }

    /// Sends what is laid out, then what the client still sends. Ready once the request is out.
    fn poll_request(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        if let Outgoing::Streaming(pump) = outgoing {
            return pump.poll(self, cx);
        }
        self.poll_flush(cx).map_err(PumpError::Upstream)
    }

    /// Bytes laid out and not yet sent.
    pub(super) fn pending(&self) -> usize {
        self.out.pending()
    }

    /// The buffer that text is laid out in.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        self.out.text(&self.scratch.text)
    }

    /// Lays out a piece of a body. Only when all before it has been sent.
    pub(super) fn lay_out(&mut self, data: Bytes, tail: &'static [u8]) -> &mut Vec<u8> {
        self.out.lay_out(data, tail, &self.scratch.text)
    }

    /// Lays out the end of a chunked body behind what is there.
    pub(super) fn lay_out_last_chunk(&mut self, trailers: Option<&HeaderMap>) {
        self.out.put_last_chunk(trailers, &self.scratch.text);
    }

    /// Sends what is laid out.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_send(&mut self.io, cx, &self.scratch.text)
    }

    /// Reads once, no more than `most` bytes.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let room = self.read_size.room(most);
        if self.read.capacity() == 0 {
            self.read_large = room > READ_MIN;
            self.read = self.shared_read().take();
        }
        self.read.reserve(room);
        let Poll::Ready(got) = pin!(self.io.read_buf(&mut self.read)).poll(cx) else {
            self.give_back_read();
            return Poll::Pending;
        };
        let got = got?;
        self.read_size.note(got);
        Poll::Ready(Ok(got))
    }

    /// The connection itself, where nothing lies over it.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match &self.io {
            Transport::Tcp(stream) => Some(stream),
            Transport::Tls(_) => None,
        }
    }

    /// Whether an idle connection is still open and silent. Costs a system call only if something has happened to it, or if it
    /// has come to rest in this very turn of the worker: what an upstream sent since is not known to the runtime then, and
    /// would pass for the answer to the next request.
    pub(super) fn is_silent(&mut self) -> bool {
        let known = match &mut self.io {
            Transport::Tcp(stream) => {
                matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // Session tickets may arrive at any time; they are no data.
            Transport::Tls(stream) => {
                let mut byte = [0; 1];
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        };
        known && (self.rests_since != turns::present() || is_quiet(self.io.tcp().as_fd()))
    }

    /// The worker's buffer for reads of the present kind.
    fn shared_read(&self) -> &RefCell<BytesMut> {
        if self.read_large { &self.scratch.large } else { &self.scratch.read }
    }

    /// Gives the read buffer back while nothing is in it. What was taken from it is gone by the next read if the client has
    /// taken it at once, and then that goes to the same memory, which is still warm.
    pub(super) fn give_back_read(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 0 {
            let buffer = std::mem::take(&mut self.read);
            if self.read_large || buffer.capacity() <= 2 * READ_MIN {
                self.shared_read().replace(buffer);
            }
        }
    }

    /// Gives back what it holds, before the connection rests in the pool.
    pub(super) fn rest(&mut self) {
        self.rests_since = turns::present();
        self.give_back_read();
        self.out.data = Bytes::new();
    }

    /// The transport and what was read beyond the answer's head, for a tunnel.
    pub(crate) fn into_parts(self) -> (ToUpstream, Bytes) {
        (self.io, self.read.freeze())
    }
}
