//! The body of a request on its way into its stream.

use crate::h1::{Outgoing, PumpError};
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::io;
use std::task::{Context, Poll, ready};

/// The sending half of a stream.
pub(super) struct Sender {
    stream: SendStream<Bytes>,
    /// What was taken from the client and not yet sent.
    piece: Bytes,
    /// Nothing follows it.
    last: bool,
    /// The end has been sent.
    ended: bool,
    /// Bytes sent.
    sent: u64,
}

impl Sender {
    /// For a stream whose head has been sent. `ended`: that was all.
    pub(super) fn new(stream: SendStream<Bytes>, outgoing: &Outgoing, ended: bool) -> Self {
        let (piece, last) = match outgoing {
            Outgoing::Whole(bytes) => (bytes.clone(), true),
            Outgoing::None => (Bytes::new(), true),
            Outgoing::Streaming(_) => (Bytes::new(), false),
        };
        Self { stream, piece, last, ended, sent: 0 }
    }

    /// Whether something waits for the upstream to take it.
    pub(super) fn is_blocked(&self) -> bool {
        !self.piece.is_empty()
    }

    /// Bytes sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Ends the stream before its time.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Sends what there is. Ready once the end has been sent.
    pub(super) fn poll(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            while !self.piece.is_empty() {
                let room = ready!(self.poll_room(cx)).map_err(PumpError::Upstream)?;
                let part = self.piece.split_to(room.min(self.piece.len()));
                self.ended = self.last && self.piece.is_empty();
                self.sent += part.len() as u64;
                self.stream.send_data(part, self.ended).map_err(lost)?;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let Outgoing::Streaming(pump) = outgoing else { return Poll::Ready(self.end(None)) };
            match ready!(pump.poll_next(cx)).map_err(PumpError::Client)? {
                Some(piece) => (self.piece, self.last) = (piece, pump.is_ended()),
                None => return Poll::Ready(self.end(pump.trailers())),
            }
        }
    }

    /// How much the upstream takes now. Never nothing.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.stream.reserve_capacity(self.piece.len());
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), PumpError> {
        self.ended = true;
        let sent = match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        sent.map_err(lost)
    }
}

fn lost(error: h2::Error) -> PumpError {
    PumpError::Upstream(io::Error::other(error))
}
