//! What a client sends on a connection: heads and bodies, one after the other.
//!
//! A head is read into a buffer that all connections of the worker share, and split off it; what lies behind it there is the
//! connection's own. A head that comes in pieces is gathered in a buffer of its own, so that a slow client holds no more than
//! it has sent.

use super::head::{BadHead, Length, RequestHead, take_head};
use crate::h1::chunked::{ChunkError, Decoder, Piece};
use crate::h1::read_size::{READ_MIN, ReadSize};
use crate::h1::{Limits, Scratch};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Size of the buffer that heads are read into, in bytes: the heads of some hundred requests.
const SHARED: usize = 32 * 1024;
/// Room for the next piece of a head that comes in pieces.
const PIECE: usize = 1024;
/// What a client waits for that has said `Expect: 100-continue` (RFC 9110 §10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why there is no further request.
#[derive(Debug)]
pub(crate) enum HeadError {
    Bad(BadHead),
    Io(io::Error),
}

/// Why the rest of a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is left of a body.
#[derive(Debug)]
enum Left {
    Bytes(u64),
    Chunked(Decoder),
}

/// The receiving side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// What was read and is not yet taken.
    read: BytesMut,
    /// How much of it is known not to end a head.
    searched: usize,
    body: Option<Left>,
    /// What came behind the present body.
    trailers: Option<Box<HeaderMap>>,
    /// What has to be sent before the body is read.
    before_body: &'static [u8],
    /// Interim answers of the upstream that have not been sent.
    interim: Vec<u8>,
    /// Some have been written that the transport may still hold.
    flush_due: bool,
    read_size: ReadSize,
}

impl Inbound {
    /// `first` has been read already.
    pub(crate) fn new(first: BytesMut) -> Self {
        Self { read: first, ..Self::default() }
    }

    /// Whether bytes have come that nobody has taken.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.read.is_empty()
    }

    /// Takes bytes that were read, no more than `most`, whatever they mean.
    pub(crate) fn take_ahead(&mut self, most: usize) -> BytesMut {
        let taken = self.read.split_to(most.min(self.read.len()));
        self.tidy();
        taken
    }

    /// Keeps bytes that were read elsewhere.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
    }

    /// The head of the next request; `None` if the client has closed. Only once the body before it has ended.
    ///
    /// `map` gives an empty map, whose room becomes that of the fields.
    pub(crate) fn poll_head(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        scratch: &Scratch,
        map: &impl Fn() -> HeaderMap,
        limits: Limits,
    ) -> Poll<Result<Option<RequestHead>, HeadError>> {
        debug_assert!(self.body.is_none(), "a head would be looked for in a body");
        let parsing = &mut *scratch.requests.borrow_mut();
        loop {
            if self.may_hold_head(limits) {
                if let Some(head) = take_head(&mut self.read, parsing, map, limits).map_err(HeadError::Bad)? {
                    self.tidy();
                    self.begin(head.length);
                    return Poll::Ready(Ok(Some(head)));
                }
                self.searched = self.read.len();
            }
            if self.is_ahead() {
                self.read.reserve(PIECE);
                if ready!(pin!(io.read_buf(&mut self.read)).poll(cx)).map_err(HeadError::Io)? == 0 {
                    return Poll::Ready(Ok(None));
                }
                continue;
            }
            let mut shared = scratch.heads.take();
            if shared.capacity() == 0 {
                shared = BytesMut::with_capacity(SHARED);
            }
            shared.reserve(READ_MIN);
            let got = pin!(io.read_buf(&mut shared)).poll(cx);
            let taken = match &got {
                Poll::Ready(Ok(1..)) => take_head(&mut shared, parsing, map, limits),
                _ => Ok(None),
            };
            if matches!(taken, Ok(Some(_))) {
                if !shared.is_empty() {
                    self.read = shared.split();
                }
            } else {
                self.read.extend_from_slice(&shared);
                self.searched = self.read.len();
                shared.clear();
            }
            scratch.heads.replace(shared);
            if ready!(got).map_err(HeadError::Io)? == 0 {
                return Poll::Ready(Ok(None));
            }
            if let Some(head) = taken.map_err(HeadError::Bad)? {
                self.begin(head.length);
                return Poll::Ready(Ok(Some(head)));
            }
        }
    }

    /// Whether parsing what has come would bring anything new: a head that comes byte by byte is not parsed for each of them.
    fn may_hold_head(&self, limits: Limits) -> bool {
        let from = self.searched.saturating_sub(3);
        self.read.len() > self.searched
            && (self.searched == 0
                || self.read.len() >= limits.head_bytes
                || self.read[from..].windows(4).any(|end| end == b"\r\n\r\n"))
    }

    /// A head has been taken, and a body of this length follows.
    fn begin(&mut self, length: Length) {
        self.searched = 0;
        self.trailers = None;
        self.body = match length {
            Length::Bytes(0) => None,
            Length::Bytes(length) => Some(Left::Bytes(length)),
            Length::Chunked => Some(Left::Chunked(Decoder::default())),
        };
        self.before_body = b"";
    }

    /// The client sends the body only once it has read that it should.
    pub(crate) fn is_awaited(&mut self) {
        // One that has begun to send does not wait.
        self.before_body = if self.read.is_empty() { CONTINUE } else { b"" };
    }

    /// An interim answer of the upstream is to be sent. A 100 that has begun comes to its end before it.
    pub(crate) fn put_interim(&mut self, lay_out: impl FnOnce(&mut Vec<u8>)) {
        if self.before_body.len() < CONTINUE.len() {
            self.interim.extend_from_slice(std::mem::take(&mut self.before_body));
        }
        lay_out(&mut self.interim);
    }

    /// Sends interim answers of the upstream.
    pub(crate) fn poll_interim(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.interim))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => drop(self.interim.drain(..sent)),
            }
            self.flush_due = true;
        }
        if self.flush_due {
            self.interim = Vec::new();
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flush_due = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Puts what has to be sent before the head of the final answer: interim ones of the upstream, and the rest of a 100 that has
    /// begun. One that has not is no longer sent, for it would stand in the middle of the answer.
    pub(crate) fn put_rest(&mut self, text: &mut Vec<u8>) {
        text.extend_from_slice(&std::mem::take(&mut self.interim));
        // What is written before it is flushed with the answer.
        self.flush_due = false;
        let rest = std::mem::take(&mut self.before_body);
        if rest.len() < CONTINUE.len() {
            text.extend_from_slice(rest);
        }
    }

    /// Whether the present request's body has been read to its end.
    pub(crate) fn body_ended(&self) -> bool {
        self.body.is_none()
    }

    /// Bytes that are left of the body, where the head has said so.
    pub(crate) fn body_left(&self) -> Option<u64> {
        match self.body {
            None => Some(0),
            Some(Left::Bytes(left)) => Some(left),
            Some(Left::Chunked(_)) => None,
        }
    }

    /// The trailers of the present body, once it has ended.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// The next piece of the body, never empty; `None` at its end.
    pub(crate) fn poll_body(
        &mut self,
        io: &mut (impl AsyncRead + AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        // An interim answer that has begun comes to its end before the 100.
        if !self.before_body.is_empty()
            && let Err(error) = ready!(self.poll_interim(io, cx))
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        while !self.before_body.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, self.before_body)) {
                Ok(0) => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::WriteZero).into()))),
                Ok(sent) => self.before_body.advance(sent),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
        loop {
            let mut most = usize::MAX;
            match &mut self.body {
                None => return Poll::Ready(None),
                Some(Left::Bytes(left)) => {
                    if !self.read.is_empty() {
                        let take = usize::try_from(*left).map_or(self.read.len(), |left| left.min(self.read.len()));
                        let data = self.read.split_to(take).freeze();
                        *left -= take as u64;
                        if *left == 0 {
                            self.end_body();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                    most = usize::try_from(*left).unwrap_or(usize::MAX);
                }
                Some(Left::Chunked(decoder)) => match decoder.next(&mut self.read) {
                    Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                    Ok(Piece::More) => {}
                    Ok(Piece::End(trailers)) => {
                        self.trailers = trailers.map(Box::new);
                        self.end_body();
                        return Poll::Ready(None);
                    }
                    Err(fault) => return Poll::Ready(Some(Err(fault.into()))),
                },
            }
            self.read.reserve(self.read_size.room(most));
            match ready!(pin!(io.read_buf(&mut self.read)).poll(cx)) {
                Ok(0) => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
                Ok(got) => self.read_size.note(got),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn end_body(&mut self) {
        self.body = None;
        self.tidy();
    }

    /// A connection that waits holds no buffer.
    fn tidy(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }
}
