//! The request's body on its way to the upstream.

use super::conn::Conn;
use crate::request::Trailers;
use crate::upload::{Upload, UploadError};
use bytes::Bytes;
use http::HeaderMap;
use std::io::{self, Write as _};
use std::task::{Context, Poll, ready};

/// The request's body.
pub(crate) enum Outgoing {
    /// There is none.
    None,
    /// It is known whole, and leaves with the head.
    Whole(Bytes),
    /// It is passed on while it comes.
    Streaming(Box<Pump>),
}

impl Outgoing {
    /// Whether nothing more is to be taken from the client.
    pub(super) fn is_sent(&self) -> bool {
        !matches!(self, Self::Streaming(pump) if !pump.ended)
    }

    /// Whether only the client keeps it from going on, over HTTP/1.1.
    pub(super) fn is_starved(&self) -> bool {
        matches!(self, Self::Streaming(pump) if pump.starved)
    }

    /// Bytes that have been taken from the client while they came.
    pub(crate) fn taken(&self) -> u64 {
        if let Self::Streaming(pump) = self { pump.taken } else { 0 }
    }
}

/// Which side failed.
#[derive(Debug)]
pub(crate) enum PumpError {
    Client(UploadError),
    Upstream(io::Error),
}

/// Passes a body on while it comes.
///
/// An upstream that was told a length takes what is beyond it for the next request, and waits for what is missing. So what is passed
/// on is as long as was said, whatever the client's side makes of its frames, or the request ends, and the connection with it.
pub(crate) struct Pump {
    body: Upload,
    /// What the upstream was told; `None`: it gets `chunked`.
    length: Option<u64>,
    /// Pieces sent first: they were read before the upstream was chosen.
    first: Option<Bytes>,
    /// What was taken from the client, as long as it fits the cap for another try.
    kept: Option<Kept>,
    /// Which trailers may follow the head.
    trailers: Trailers,
    started: bool,
    ended: bool,
    /// All that was taken has been sent, and the client is waited for.
    starved: bool,
    /// Bytes taken from the client.
    taken: u64,
}

/// Pieces kept for another try.
struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    most: usize,
}

impl Pump {
    /// Of a body of this `length`, unless that is not known, as where `first` has been read from it already. `keep` is how many bytes
    /// may be kept for another try.
    pub(crate) fn new(body: Upload, length: Option<u64>, first: Option<Bytes>, keep: usize) -> Self {
        let kept = Some(Kept { pieces: Vec::new(), bytes: 0, most: keep });
        let trailers = Trailers::default();
        let (started, ended, starved) = (false, false, false);
        let mut pump = Self { body, length, first: None, kept, trailers, started, ended, starved, taken: 0 };
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            pump.keep(&first);
            pump.first = Some(first);
        }
        pump
    }

    /// Whether all that was taken from the client has been kept.
    pub(crate) fn replayable(&self) -> bool {
        self.kept.is_some()
    }

    /// Says what stands in the head that is sent, and with it which trailers may follow. Behind a length none may: HTTP/1.1 has no
    /// place for them there, and no upstream gets others over HTTP/2.
    pub(crate) fn note_head(&mut self, fields: &HeaderMap) {
        if self.length.is_none() {
            self.trailers = Trailers::behind(fields);
        }
    }

    /// The client has been waited for too long.
    pub(crate) fn too_slow(&self) -> UploadError {
        self.body.too_slow()
    }

    /// Starts over on another connection. Only if it is [`Self::replayable`].
    pub(crate) fn rewind(&mut self) {
        let pieces = self.kept.as_mut().map(|kept| std::mem::take(&mut kept.pieces)).unwrap_or_default();
        let whole = match pieces.len() {
            0 => None,
            1 => pieces.into_iter().next(),
            _ => Some(pieces.concat().into()),
        };
        if let (Some(kept), Some(whole)) = (&mut self.kept, &whole) {
            kept.pieces.push(whole.clone());
        }
        self.first = whole;
        self.started = false;
    }

    fn keep(&mut self, piece: &Bytes) {
        if let Some(kept) = &mut self.kept {
            kept.bytes += piece.len();
            if kept.bytes > kept.most {
                self.kept = None;
            } else {
                kept.pieces.push(piece.clone());
            }
        }
    }

    /// Sends what there is. Ready once the whole body has been sent.
    pub(super) fn poll(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        if !self.started {
            // The head is laid out and not sent: the first piece leaves together with it.
            self.started = true;
            match self.first.take() {
                Some(first) => self.append(conn, first),
                None if self.ended => self.append_end(conn),
                None => match self.poll_piece(cx) {
                    Poll::Ready(Ok(Some(piece))) => self.append(conn, piece),
                    Poll::Ready(Ok(None)) => self.append_end(conn),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Client(error))),
                    Poll::Pending => {}
                },
            }
        }
        loop {
            self.starved = false;
            ready!(conn.poll_flush(cx)).map_err(PumpError::Upstream)?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            self.starved = true;
            match ready!(self.poll_piece(cx)) {
                Ok(Some(piece)) => {
                    conn.lay_out(Bytes::new(), b"");
                    self.append(conn, piece);
                }
                Ok(None) => {
                    conn.lay_out(Bytes::new(), b"");
                    self.append_end(conn);
                }
                Err(error) => return Poll::Ready(Err(PumpError::Client(error))),
            }
        }
    }

    /// The next piece to send, for a protocol that frames by itself; `None` at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadError>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Ok(Some(first)));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let piece = ready!(self.poll_piece(cx))?;
        self.ended = piece.is_none() || self.body.is_ended();
        Poll::Ready(Ok(piece))
    }

    /// Whether nothing comes after what [`Self::poll_next`] has given, no trailers either.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended && self.first.is_none() && self.trailers().is_none()
    }

    /// The trailers that follow the body, once it has ended.
    pub(crate) fn trailers(&self) -> Option<HeaderMap> {
        self.body.trailers().and_then(|received| self.trailers.sift(received))
    }

    /// The next piece of the client's body.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadError>> {
        let piece = ready!(self.body.poll_piece(cx))?;
        self.taken += piece.as_ref().map_or(0, Bytes::len) as u64;
        let ended = piece.is_none() || self.body.is_ended();
        if self.length.is_some_and(|said| self.taken > said || (ended && self.taken < said)) {
            self.body.spoil();
            return Poll::Ready(Err(UploadError::Malformed));
        }
        if let Some(data) = &piece {
            self.keep(data);
        }
        Poll::Ready(Ok(piece))
    }

    /// Lays a piece out behind what is there. The end goes with it where it is known, unless trailers are to be sent.
    fn append(&mut self, conn: &mut Conn, piece: Bytes) {
        self.ended = self.body.is_ended() && self.trailers().is_none();
        if self.length.is_none() {
            write!(conn.text(), "{:x}\r\n", piece.len()).expect("a vector takes every write");
            conn.out.tail = if self.ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
        }
        conn.out.data = piece;
    }

    fn append_end(&mut self, conn: &mut Conn) {
        self.ended = true;
        if self.length.is_none() {
            conn.lay_out_last_chunk(self.trailers().as_ref());
        }
    }
}
