//! The body of a request over HTTP/2, while it comes.

use super::streams::{State, Streams};
use crate::fields::Line;
use crate::h2::encode::{AnswerHead, Length, put_answer};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::task::{Context, Poll};

/// The stream was reset before the body had come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream was reset")]
pub(crate) struct Reset;

/// The body of a request, for the one who reads it.
pub(crate) struct Body {
    streams: Rc<Streams>,
    key: usize,
    id: u32,
    ended: bool,
    /// Bytes of the piece that was handed out last.
    handed: usize,
    trailers: Option<HeaderMap>,
}

impl Body {
    /// What comes on an open stream.
    pub(super) fn new(streams: Rc<Streams>, key: usize, id: u32) -> Self {
        Self { streams, key, id, ended: false, handed: 0, trailers: None }
    }

    /// Bytes that it has left, where the client has said so.
    pub(crate) fn length(&self) -> Option<u64> {
        let state = &mut *self.streams.state.borrow_mut();
        let incoming = &state.get(self.key, self.id)?.incoming;
        incoming.length.map(|left| left + (incoming.coming + incoming.bytes.len()) as u64)
    }

    /// Whether it has been read to its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The trailers, once.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The next piece, never empty; `None` at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Reset>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let state = &mut *self.streams.state.borrow_mut();
        // Whoever asks for more has passed on what there was.
        state.was_read(self.key, self.id, std::mem::take(&mut self.handed));
        let Some(stream) = state.get(self.key, self.id) else { return Poll::Ready(Err(Reset)) };
        let incoming = &mut stream.incoming;
        let piece = incoming.bytes.split().freeze();
        if incoming.ended {
            self.ended = true;
            self.trailers = incoming.trailers.take();
        } else if piece.is_empty() {
            incoming.reader = Some(cx.waker().clone());
            if std::mem::take(&mut incoming.expects) {
                state.put_continue(self.id);
            }
            return Poll::Pending;
        }
        self.handed = piece.len();
        Poll::Ready(Ok((!piece.is_empty()).then_some(piece)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let state = &mut *self.streams.state.borrow_mut();
        let Some(stream) = state.get(self.key, self.id) else { return };
        stream.incoming.unwanted = true;
        stream.incoming.bytes = BytesMut::new();
    }
}

impl State {
    fn put_continue(&mut self, id: u32) {
        let fields = HeaderMap::new();
        let forget = std::mem::take(&mut self.forget);
        let head = AnswerHead { status: StatusCode::CONTINUE, fields: &fields, received: None, length: Length::Unsaid };
        put_answer(self.out(), id, &head, false, forget);
    }
}

/// The trailers of a request while they are read (RFC 9113 §8.1).
#[derive(Debug, Default)]
pub(super) struct Trailers {
    pub(super) fields: HeaderMap,
    pub(super) malformed: bool,
}

impl Trailers {
    /// Takes a field in, if there are no more than `most`. Pseudo-header fields ahead of all others mean nothing here, and are dropped.
    pub(super) fn take(&mut self, line: Line, most: usize) {
        match line {
            Line::Field(name, value) if self.fields.len() < most => {
                self.fields.append(name, value);
            }
            Line::Method(_) | Line::Scheme(_) | Line::Authority(_) | Line::Path(_) if self.fields.is_empty() => {}
            _ => self.malformed = true,
        }
    }
}
