//! The body of a request over HTTP/2, while it comes.

use super::streams::{State, Streams};
use crate::counters::WorkerCounters;
use crate::fields::Line;
use crate::h2::encode::{AnswerHead, Length, put_answer};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::sync::Arc;
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

    /// What its worker counts.
    pub(crate) fn counters(&self) -> &Arc<WorkerCounters> {
        &self.streams.counters
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
        // Whoever asks for more has passed on what there was, or keeps it within a limit of its own: `retry_body`, `matched_body`, or what
        // a plugin asks for.
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
    /// Takes a field in, if there are no more than `most`. Among trailers a pseudo-header field is malformed, wherever it stands.
    pub(super) fn take(&mut self, line: Line, most: usize) {
        match line {
            Line::Field(name, value) if self.fields.len() < most => {
                self.fields.append(name, value);
            }
            _ => self.malformed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::TERMS;
    use super::*;
    use crate::failure::Failure;
    use crate::h1::{Asked, Conn, Limits, Outgoing, Patience, Pump, Terms};
    use crate::transport::Transport;
    use crate::upload::{Upload, UploadError};
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";

    async fn read(upstream: &mut TcpStream, got: &mut Vec<u8>, most: usize) {
        while got.len() < most && upstream.read_buf(got).await.unwrap() > 0 {}
    }

    /// What an upstream got that was told of five bytes, and whether the request was given up, where the body is these two pieces.
    async fn sent(first: &'static [u8], last: &'static [u8]) -> (Vec<u8>, bool) {
        let now = Instant::now();
        let streams = Streams::new(TERMS, Default::default(), Rc::default(), now);
        let key = streams.state.borrow_mut().begin(1, None, false, now);
        let put = |piece: &[u8], ended| {
            let state = &mut *streams.state.borrow_mut();
            let incoming = &mut state.get(key, 1).unwrap().incoming;
            incoming.bytes.extend_from_slice(piece);
            incoming.ended = ended;
            if let Some(reader) = incoming.reader.take() {
                reader.wake();
            }
        };
        put(first, false);
        let upload = Upload::http2(Body::new(streams.clone(), key, 1), None);
        let mut outgoing = Outgoing::Streaming(Box::new(Pump::new(upload, Some(5), None, 0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        let minute = Duration::from_secs(60);
        let terms = Terms {
            asked: Asked { head: false, upgrade: None, as_received: None, interim: None },
            limits: Limits { head_bytes: 4096, head_fields: 100 },
            patience: Patience { send: minute, read: minute, client: minute },
            later: None,
        };
        let exchanged = async {
            let mut conn = Conn::new(Transport::Tcp(stream), Rc::default(), now, minute);
            conn.begin().extend_from_slice(HEAD);
            conn.exchange(&mut outgoing, HeaderMap::new, terms, now).await
        };
        let read = async {
            let mut got = Vec::new();
            read(&mut upstream, &mut got, HEAD.len() + first.len()).await;
            put(last, true);
            read(&mut upstream, &mut got, HEAD.len() + 5).await;
            if got.len() >= HEAD.len() + 5 {
                upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
            read(&mut upstream, &mut got, usize::MAX).await;
            got
        };
        let (answer, got) = tokio::join!(exchanged, read);
        (got, matches!(answer, Err(Failure::Client(UploadError::Malformed))))
    }

    #[tokio::test]
    async fn an_upstream_gets_as_much_as_it_was_told_or_no_more_of_it() {
        assert_eq!(sent(b"hel", b"lo").await, ([HEAD, b"hello"].concat(), false));
        assert_eq!(sent(b"hel", b"lo!").await, ([HEAD, b"hel"].concat(), true));
        assert_eq!(sent(b"hel", b"l").await, ([HEAD, b"hel"].concat(), true));
        assert_eq!(sent(b"hello!", b"").await, (Vec::new(), true));
        assert_eq!(sent(b"hello", b"").await, ([HEAD, b"hello"].concat(), false));
    }
}
