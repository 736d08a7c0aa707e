//! The body of an answer, read from its connection.

use super::chunked::{ChunkError, Decoder, Piece};
use super::conn::Conn;
use super::outgoing::{Outgoing, Pump, PumpError};
use super::pipe::{Pipe, Pipes};
use super::pool::{Keep, Slot};
use super::{Framing, Head};
use bytes::Bytes;
use http::HeaderMap;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What is left to read.
enum Left {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
}

/// A piece of the body.
pub(crate) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The pool's place for a connection.
pub(crate) struct Home {
    pub(crate) slot: Rc<Slot>,
    pub(crate) keep: Keep,
}

/// The body of an answer that is still being read.
pub(crate) struct AnswerBody {
    /// Gone once the body has ended.
    conn: Option<Box<Conn>>,
    left: Left,
    /// Parts that were read together with the head, last first.
    ahead: Vec<Part>,
    /// Where the connection goes afterwards, if it may be kept.
    home: Option<Home>,
    /// A request body that is still being sent.
    pump: Option<Box<Pump>>,
    /// What passes through it has been read and not yet been sent.
    pipe: Option<Pipe>,
    read_timeout: Duration,
    waiting: bool,
}

/// Why a body does not pass any further.
#[derive(Debug)]
pub(crate) enum PassError {
    Upstream(io::Error),
    Client(io::Error),
}

/// What has to be left of a body for a pipe to be worth its calls.
const WORTH_A_PIPE: u64 = 64 * 1024;

/// The body of an answer whose head has just been read.
pub(crate) enum Started {
    /// It is here whole, and the connection has been dealt with.
    Whole(Bytes),
    /// It is yet to be read.
    Flowing(Box<AnswerBody>),
}

/// Starts on the body that follows `head`.
pub(crate) fn start(
    mut conn: Box<Conn>,
    head: &Head,
    outgoing: Outgoing,
    home: Home,
    read_timeout: Duration,
    now: Instant,
) -> Result<Started, ChunkError> {
    let sent = conn.pending() == 0 && outgoing.is_sent();
    let home = (head.keep && sent).then_some(home);
    let mut ahead = Vec::new();
    let left = match head.framing {
        Framing::None => {
            release(conn, home, now);
            return Ok(Started::Whole(Bytes::new()));
        }
        Framing::Length(length) if length <= conn.read.len() as u64 => {
            let length = usize::try_from(length).expect("no longer than a buffer");
            let whole = conn.read.split_to(length).freeze();
            release(conn, home, now);
            return Ok(Started::Whole(whole));
        }
        Framing::Length(length) => Left::Length(length),
        Framing::UntilClose => Left::UntilClose,
        Framing::Chunked => {
            let mut decoder = Decoder::default();
            // A body in one chunk that has already arrived is handed over like one with a length.
            while let piece @ (Piece::Data(_) | Piece::End(_)) = decoder.next(&mut conn.read)? {
                match (piece, ahead.as_mut_slice()) {
                    (Piece::End(None), []) => {
                        release(conn, home, now);
                        return Ok(Started::Whole(Bytes::new()));
                    }
                    (Piece::End(None), [Part::Data(only)]) => {
                        let only = std::mem::take(only);
                        release(conn, home, now);
                        return Ok(Started::Whole(only));
                    }
                    (Piece::Data(data), _) => ahead.push(Part::Data(data)),
                    (Piece::End(trailers), _) => {
                        ahead.extend(trailers.map(Part::Trailers));
                        break;
                    }
                    (Piece::More, _) => break,
                }
            }
            ahead.reverse();
            Left::Chunked(decoder)
        }
    };
    let pump = match outgoing {
        Outgoing::Streaming(pump) if !sent => Some(pump),
        _ => None,
    };
    Ok(Started::Flowing(Box::new(AnswerBody {
        conn: Some(conn),
        left,
        ahead,
        home,
        pump,
        pipe: None,
        read_timeout,
        waiting: false,
    })))
}

/// Keeps the connection for the next request, or closes it.
fn release(conn: Box<Conn>, home: Option<Home>, now: Instant) {
    if let Some(Home { slot, keep }) = home {
        slot.put(conn, keep, now);
    }
}

impl AnswerBody {
    /// Bytes that are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.left {
            Left::Length(left) => Some(*left),
            Left::Chunked(_) | Left::UntilClose => None,
        }
    }

    /// Whether the last byte has been handed out.
    pub(crate) fn ended(&self) -> bool {
        self.conn.is_none() && self.ahead.is_empty() && self.pipe.is_none()
    }

    /// Whether what comes next can pass to a plain connection without being copied.
    pub(crate) fn may_pass(&self) -> bool {
        self.pipe.is_some() || self.passing().is_some()
    }

    /// Whether something has passed into a pipe that the client has yet to take.
    pub(crate) fn is_in_pipe(&self) -> bool {
        self.pipe.is_some()
    }

    /// The connection and what is left, where nothing but bytes of the body is to be expected there.
    fn passing(&self) -> Option<(&TcpStream, u64)> {
        match (&self.conn, &self.left) {
            (Some(conn), Left::Length(left))
                if *left >= WORTH_A_PIPE && self.pump.is_none() && !conn.heard_something() =>
            {
                Some((conn.plain()?, *left))
            }
            _ => None,
        }
    }

    /// Passes some of the body on to `to`, and says how much. `None`: it goes on with [`Self::poll_part`].
    pub(crate) fn poll_pass(
        &mut self,
        to: &TcpStream,
        pipes: &Pipes,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<usize, PassError>>> {
        loop {
            if let Some(mut pipe) = self.pipe.take() {
                let drained = pipe.poll_drain(to, cx);
                if pipe.held() > 0 {
                    self.pipe = Some(pipe);
                } else {
                    pipes.put(pipe);
                }
                return drained.map(|drained| Some(drained.map_err(PassError::Client)));
            }
            let Some((from, left)) = self.passing() else { return Poll::Ready(None) };
            let Some(mut pipe) = pipes.take() else { return Poll::Ready(None) };
            match pipe.poll_fill(from, left, cx) {
                Poll::Ready(Ok(filled @ 1..)) => {
                    self.pipe = Some(pipe);
                    self.took(filled);
                }
                other => {
                    pipes.put(pipe);
                    let error = match ready!(self.poll_arrival(other.is_ready(), cx)) {
                        Ok(()) => match other {
                            Poll::Ready(Err(error)) => error,
                            _ => io::ErrorKind::UnexpectedEof.into(),
                        },
                        Err(late) => late,
                    };
                    return Poll::Ready(Some(Err(PassError::Upstream(self.fail(error)))));
                }
            }
        }
    }

    /// So much of a body of known length has been read.
    fn took(&mut self, bytes: usize) {
        self.waiting = false;
        if let Left::Length(left) = &mut self.left {
            *left -= bytes as u64;
            if *left == 0 {
                self.end();
            }
        }
    }

    /// The next part of the body.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Part>>> {
        if let Some(part) = self.ahead.pop() {
            return Poll::Ready(Some(Ok(part)));
        }
        self.send_on(cx);
        loop {
            let Some(conn) = &mut self.conn else { return Poll::Ready(None) };
            let mut most = usize::MAX;
            match &mut self.left {
                Left::Length(0) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Left::Length(left) => {
                    if !conn.read.is_empty() {
                        let take = usize::try_from(*left).map_or(conn.read.len(), |left| left.min(conn.read.len()));
                        let data = conn.read.split_to(take).freeze();
                        *left -= take as u64;
                        if *left == 0 {
                            self.end();
                        } else {
                            conn.give_back_read();
                        }
                        return Poll::Ready(Some(Ok(Part::Data(data))));
                    }
                    most = usize::try_from(*left).unwrap_or(usize::MAX);
                }
                Left::Chunked(decoder) => match decoder.next(&mut conn.read) {
                    Ok(Piece::Data(data)) => {
                        conn.give_back_read();
                        return Poll::Ready(Some(Ok(Part::Data(data))));
                    }
                    Ok(Piece::End(trailers)) => {
                        self.end();
                        return Poll::Ready(trailers.map(|trailers| Ok(Part::Trailers(trailers))));
                    }
                    Ok(Piece::More) => {}
                    Err(fault) => return Poll::Ready(Some(Err(self.fail(io::Error::other(fault))))),
                },
                Left::UntilClose if !conn.read.is_empty() => {
                    let data = conn.read.split().freeze();
                    conn.give_back_read();
                    return Poll::Ready(Some(Ok(Part::Data(data))));
                }
                Left::UntilClose => {}
            }
            match ready!(self.poll_fill(cx, most)) {
                Ok(0) if matches!(self.left, Left::UntilClose) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(self.fail(io::ErrorKind::UnexpectedEof.into())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let conn = self.conn.as_mut().expect("asked only while the body lasts");
        let filled = conn.poll_fill(cx, most);
        match ready!(self.poll_arrival(filled.is_ready(), cx)) {
            Ok(()) => filled,
            Err(late) => Poll::Ready(Err(late)),
        }
    }

    /// Ready once something has arrived, or should have.
    fn poll_arrival(&mut self, arrived: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let conn = self.conn.as_mut().expect("asked only while the body lasts");
        if arrived {
            self.waiting = false;
            return Poll::Ready(Ok(()));
        }
        if !self.waiting {
            self.waiting = true;
            conn.deadline.set(Instant::now() + self.read_timeout);
        }
        conn.deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Goes on sending the request, if that has not ended. What fails there shows in the answer.
    fn send_on(&mut self, cx: &mut Context<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let sent = match &mut self.pump {
            Some(pump) => pump.poll(conn, cx),
            None if conn.pending() > 0 => conn.poll_flush(cx).map_err(PumpError::Upstream),
            None => return,
        };
        if let Poll::Ready(done) = sent {
            self.pump = None;
            if done.is_err() {
                conn.lay_out(Bytes::new(), b"");
            }
        }
    }

    /// The last byte has been read.
    fn end(&mut self) {
        if let Some(conn) = self.conn.take()
            && let Some(home) = self.home.take()
        {
            home.slot.put(conn, home.keep, Instant::now());
        }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.conn = None;
        error
    }
}
