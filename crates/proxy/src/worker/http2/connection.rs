//! A client connection that speaks HTTP/2, from its first frame to its last.
//!
//! Its task reads and sends; each request has a task of its own, which lays its answer out.

use super::body::Body;
use super::receive::{ALIVE, Arrived, HEARD, Receiver, Room};
use super::request::{self, Open};
use super::streams::Streams;
use crate::h2::Code;
use crate::h2::frame::{self, FIRST_WINDOW, LARGEST_WINDOW, kind, setting};
use crate::interim::Interims;
use crate::request as requests;
use crate::upload::Upload;
use crate::worker::client::Client;
use crate::worker::http1::expects_continue;
use crate::worker::watching::Watch;
use crate::worker::wire::ClientIo;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

/// Bytes that are read at once.
const READ: usize = 32 * 1024;
/// Room for values of heads below which new one is made.
const ROOM: usize = 4 * 1024;
/// How often one connection reads before others have their turn.
const READS: usize = 4;
/// The highest number of a stream (RFC 9113 §5.1.1).
const LAST_STREAM: u32 = u32::MAX >> 1;

/// How far the end of the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Not,
    /// The client is told that the end is near; what it has sent before it hears that is answered.
    Announced,
    /// What the client opens from now on is refused.
    Said,
    /// Nothing more is read, and no answer goes on.
    Broken,
}

pub(super) struct Connection {
    client: Rc<Client>,
    streams: Rc<Streams>,
    receiver: Receiver,
    io: ClientIo,
    leave: Leave,
    /// Something was written that the layer below may not have sent.
    dirty: bool,
    /// The client has ended sending.
    ended: bool,
}

impl Connection {
    /// Says first what a server has to (RFC 9113 §3.4).
    pub(super) fn new(client: &Rc<Client>, streams: Rc<Streams>, io: ClientIo) -> Self {
        let limits = &client.worker.node.config.client;
        let receiver = Receiver::new(streams.clone(), limits.into());
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.streams),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(limits.header_bytes).unwrap_or(u32::MAX)),
        ];
        {
            let state = &mut *streams.state.borrow_mut();
            let out = state.out();
            frame::put_head(out, 6 * settings.len(), kind::SETTINGS, 0, 0);
            for (name, value) in settings {
                out.extend_from_slice(&name.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            // Only streams hold a client back (`uploads`).
            frame::put_window(out, 0, (LARGEST_WINDOW - FIRST_WINDOW) as u32);
        }
        Self { client: client.clone(), streams, receiver, io, leave: Leave::Not, dirty: false, ended: false }
    }

    /// Whether the client has been told of the end.
    pub(super) fn is_leaving(&self) -> bool {
        self.leave != Leave::Not
    }

    /// Serves until the connection is at its end, and all has been sent; then ready.
    pub(super) fn poll(&mut self, watch: &mut Watch, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.begin_turn(cx);
        if watch.must_drain(&self.client) {
            self.take_leave();
        }
        self.pulse()?;
        for read in 0.. {
            if read == READS {
                cx.waker().wake_by_ref();
                break;
            }
            match self.poll_read(cx)? {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(code)) => self.break_off(code),
                Poll::Pending => break,
            }
            self.begin_requests();
            if self.ended {
                return Poll::Ready(Ok(()));
            }
        }
        self.go_on_leaving();
        let sent = self.poll_send(cx)?;
        let mut state = self.streams.state.borrow_mut();
        state.woken = false;
        let over = match self.leave {
            Leave::Not | Leave::Announced => false,
            Leave::Said => state.open.is_empty(),
            Leave::Broken => true,
        };
        if over && sent.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// What is laid out from here on until it is sent need wake nobody.
    fn begin_turn(&self, cx: &Context<'_>) {
        let state = &mut *self.streams.state.borrow_mut();
        state.woken = true;
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
    }

    /// Reads what has come. The inner error: the connection ends for this reason.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<(), Code>>> {
        // Whoever sends has to take answers too.
        let has_much_left = {
            let state = self.streams.state.borrow();
            state.out.len() >= 2 * state.room
        };
        if self.leave == Leave::Broken || (has_much_left && self.poll_send(cx)?.is_pending()) {
            return Poll::Pending;
        }
        let worker = &self.client.worker;
        let mut buffer = worker.scratch.frames.borrow_mut();
        buffer.resize(READ, 0);
        let kept = self.receiver.rest.len();
        buffer[..kept].copy_from_slice(&self.receiver.rest);
        let mut room = ReadBuf::new(&mut buffer);
        room.set_filled(kept);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
        if room.filled().len() == kept {
            self.ended = true;
            return Poll::Ready(Ok(Ok(())));
        }
        self.streams.pulse.heard.set(true);
        let values = &mut *worker.scratch.heads.borrow_mut();
        values.clear();
        if values.capacity() < ROOM {
            values.reserve(READ);
        }
        let read = self.receiver.read(room.filled(), &mut Room { values, spare: &worker.spare });
        // Frames that carry nothing of a request begin none.
        self.client.activity.reading.set(self.streams.is_within_head());
        Poll::Ready(Ok(read))
    }

    /// Begins the requests that have come whole, unless they were given up meanwhile.
    fn begin_requests(&mut self) {
        self.receiver.given_up = 0;
        for arrived in std::mem::take(&mut self.receiver.arrived) {
            self.begin(arrived);
        }
        let activity = &self.client.activity;
        if self.leave != Leave::Broken && self.streams.cancels_too_much(activity.cancelled.get(), activity.begun.get())
        {
            self.break_off(Code::ENHANCE_YOUR_CALM);
        }
    }

    fn begin(&self, Arrived { key, id, head, to_head }: Arrived) {
        let has_body = {
            let state = &mut *self.streams.state.borrow_mut();
            let Some(stream) = state.get(key, id) else { return };
            stream.begun = true;
            let incoming = &mut stream.incoming;
            let expects = head.as_ref().is_ok_and(|head| head.seen.expect && expects_continue(&head.headers));
            incoming.expects = expects && !incoming.ended && incoming.bytes.is_empty();
            !incoming.ended || !incoming.bytes.is_empty()
        };
        let (client, worker) = (&self.client, self.client.worker.clone());
        let open = Open { streams: self.streams.clone(), key, id };
        let taken = catch_unwind(AssertUnwindSafe(|| match head {
            Ok(head) => {
                let most = worker.node.config.client.body_bytes;
                let body = has_body.then(|| Upload::http2(Body::new(self.streams.clone(), key, id), most));
                let interims = Interims::Http2(super::Interims::new(self.streams.clone(), key, id));
                requests::take(client.clone(), head, body, interims)
            }
            Err(status) => requests::take_unread(client.clone(), status),
        }));
        // Boxed: the runtime moves a task about until it runs, and once more when it has ended.
        let task = tokio::task::spawn_local(Box::pin(request::serve(open, worker, taken, to_head)));
        if let Some(stream) = self.streams.state.borrow_mut().get(key, id) {
            stream.task = Some(task.abort_handle());
        }
    }

    /// Asks for a sign of life. The error: none was given in time.
    fn pulse(&self) -> io::Result<()> {
        let pulse = &self.streams.pulse;
        if pulse.due.take() {
            frame::put(self.streams.state.borrow_mut().out(), kind::PING, 0, 0, &ALIVE);
        }
        if pulse.silent.get() {
            self.client.worker.counters.http2_silent.up();
            Err(io::Error::new(io::ErrorKind::TimedOut, "a ping was not answered"))
        } else {
            Ok(())
        }
    }

    /// Tells the client that the end is near (RFC 9113 §6.8). What it answers says that it has heard.
    pub(super) fn take_leave(&mut self) {
        if self.leave == Leave::Not {
            self.leave = Leave::Announced;
            let state = &mut *self.streams.state.borrow_mut();
            frame::put_goaway(state.out(), LAST_STREAM, Code::NO_ERROR);
            frame::put(state.out(), kind::PING, 0, 0, &HEARD);
        }
    }

    fn go_on_leaving(&mut self) {
        if self.leave == Leave::Announced && self.receiver.heard {
            self.leave = Leave::Said;
            let state = &mut *self.streams.state.borrow_mut();
            let last = state.last;
            self.receiver.most = Some(last);
            frame::put_goaway(state.out(), last, Code::NO_ERROR);
        }
    }

    /// Ends the connection for what the client did. Requests in work end with it.
    fn break_off(&mut self, code: Code) {
        tracing::debug!(peer = %self.client.facts.peer, ?code, "an HTTP/2 connection is ended");
        self.leave = Leave::Broken;
        self.receiver.arrived.clear();
        self.streams.end();
        let state = &mut *self.streams.state.borrow_mut();
        // What was said once does not grow (RFC 9113 §6.8).
        let last = self.receiver.most.unwrap_or(state.last);
        frame::put_goaway(state.out(), last, code);
    }

    /// Sends what is laid out.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.streams.state.borrow_mut();
        let mut sent = 0;
        let result = loop {
            if sent == state.out.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.io).poll_write(cx, &state.out[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(some)) => sent += some,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if sent > 0 {
            self.dirty = true;
            if sent == state.out.len() {
                state.give_back();
            } else {
                state.out.drain(..sent);
            }
            state.made_room();
        }
        ready!(result)?;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.streams.end();
        self.streams.state.borrow_mut().give_back();
    }
}
