//! The body of a request, while it comes from the client.
//!
//! Over HTTP/1 an unread body stands between an answer and the next request. A request that is answered before its body has
//! come to its end is therefore followed by one of two things: what is left is read and dropped, and the connection goes on;
//! or the answer says `Connection: close`, and what is left is read and dropped until the client has had time to read the
//! answer (`worker::linger`). A connection that is closed on unread bytes is reset, and takes the answer along.

use crate::counters::WorkerCounters;
use crate::h3;
use crate::worker::{Client, Http2Body, Wire};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// How far the body of the present request of an HTTP/1 connection has come. It stays [`Progress::Ended`] where
/// streams end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is none, or it was read to its end.
    Ended,
    /// Some of it has not been read.
    Coming,
    /// Some of it has not been read, and it is too long to be read for nothing.
    Long,
    /// The client sends it only if it is told to go on (`Expect: 100-continue`), which reading it does.
    Awaited,
    /// It cannot be read to its end.
    Spoilt,
    /// It was read and dropped for as long as that is done.
    GivenUp,
}

/// Why a body cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client's body ended too early or was malformed")]
    Malformed,
    #[error("the client's body is larger than allowed")]
    TooLarge,
    #[error("the client's body stalled for too long")]
    TooSlow,
}

impl UploadError {
    /// What the client is answered.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// The body of a request, for the one who reads it.
pub(crate) struct Upload {
    source: Source,
    counters: Arc<WorkerCounters>,
    /// Bytes that may still come.
    allowed: u64,
    /// What came behind the data.
    trailers: Option<Box<HeaderMap>>,
}

enum Source {
    /// The rest of it stays with the connection, which it must leave in order.
    Http1(Rc<Wire>, Rc<Client>),
    /// A stream ends by itself.
    Http2(Http2Body),
    Http3(Box<h3::Body>),
}

impl Upload {
    /// A body that is not empty and comes next on the connection. `awaited`: the client sends it only when told to go on.
    pub(crate) fn http1(wire: Rc<Wire>, client: Rc<Client>, awaited: bool) -> Self {
        let limits = &client.worker.node.config.client;
        if awaited {
            wire.inbound().is_awaited();
        }
        wire.body_has_reader.set(true);
        let progress = if awaited { Progress::Awaited } else { unread(&wire, limits.lingering_bytes) };
        client.activity.upload.set(progress);
        let (allowed, counters) = (limits.body_bytes, client.worker.counters.clone());
        Self::new(Source::Http1(wire, client), counters, allowed)
    }

    /// A body that is not empty, comes in a stream, and may have no more than so many bytes.
    pub(crate) fn http2(body: Http2Body, most: Option<u64>) -> Self {
        let counters = body.counters().clone();
        Self::new(Source::Http2(body), counters, most)
    }

    /// The same over HTTP/3.
    pub(crate) fn http3(body: h3::Body, most: Option<u64>, counters: Arc<WorkerCounters>) -> Self {
        Self::new(Source::Http3(Box::new(body)), counters, most)
    }

    fn new(source: Source, counters: Arc<WorkerCounters>, most: Option<u64>) -> Self {
        Self { source, counters, allowed: most.unwrap_or(u64::MAX), trailers: None }
    }

    /// Bytes that it has left, where the client has said so.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Http1(wire, _) => wire.inbound().body_left(),
            Source::Http2(body) => body.length(),
            Source::Http3(body) => body.length(),
        }
    }

    fn set(&self, progress: Progress) {
        if let Source::Http1(_, client) = &self.source {
            client.activity.upload.set(progress);
        }
    }

    /// Whether it has been read to its end.
    pub(crate) fn is_ended(&self) -> bool {
        match &self.source {
            Source::Http1(wire, _) => wire.inbound().body_ended(),
            Source::Http2(body) => body.is_ended(),
            Source::Http3(body) => body.is_ended(),
        }
    }

    /// It is not going to be read any further.
    pub(crate) fn spoil(&self) {
        self.set(Progress::Spoilt);
    }

    /// It has been waited for too long, and is not read any further.
    pub(crate) fn too_slow(&self) -> UploadError {
        self.counters.slow_bodies.up();
        self.spoil();
        UploadError::TooSlow
    }

    /// The trailers as they came, once the body has ended.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// The next piece, never empty; `None` at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadError>> {
        let piece = match &mut self.source {
            Source::Http1(wire, client) => {
                if client.activity.upload.get() == Progress::Awaited {
                    // Being read, it is sent.
                    client.activity.upload.set(unread(wire, client.worker.node.config.client.lingering_bytes));
                }
                let piece = ready!(wire.poll_body(cx)).transpose().map_err(|_| UploadError::Malformed);
                if let Some(found) = wire.inbound().take_trailers() {
                    self.trailers = Some(found);
                }
                piece
            }
            Source::Http2(body) => {
                let piece = ready!(body.poll_piece(cx)).map_err(|_| UploadError::Malformed);
                self.trailers = body.take_trailers().map(Box::new).or(self.trailers.take());
                piece
            }
            Source::Http3(body) => {
                let piece = ready!(body.poll_piece(cx)).map_err(|_| UploadError::Malformed);
                if let Some(found) = body.take_trailers().filter(|_| body.is_ended()) {
                    self.trailers = Some(Box::new(found));
                }
                piece
            }
        };
        let piece = piece.and_then(|piece| {
            let length = piece.as_ref().map_or(0, Bytes::len) as u64;
            self.allowed = self.allowed.checked_sub(length).ok_or_else(|| {
                self.counters.large_bodies.up();
                UploadError::TooLarge
            })?;
            Ok(piece)
        });
        if piece.is_err() {
            self.set(Progress::Spoilt);
        } else if self.is_ended() || piece == Ok(None) {
            self.set(Progress::Ended);
        }
        Poll::Ready(piece)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Source::Http1(wire, _) = &self.source {
            wire.body_has_reader.set(false);
        }
    }
}

fn unread(wire: &Wire, most: u64) -> Progress {
    if wire.inbound().body_left().is_some_and(|length| length > most) { Progress::Long } else { Progress::Coming }
}

/// Reads and drops what nobody wants of a body, so that the connection can go on. Says how far it came.
pub(crate) async fn discard(client: Rc<Client>, wire: Rc<Wire>) -> Progress {
    let limits = &client.worker.node.config.client;
    let rest = async {
        let mut left = limits.lingering_bytes;
        loop {
            match tokio::time::timeout(limits.lingering_timeout, poll_fn(|cx| wire.poll_body(cx))).await {
                Ok(None) => {
                    // A connection that waits holds none.
                    drop(wire.inbound().take_trailers());
                    return Progress::Ended;
                }
                Ok(Some(Ok(data))) => match left.checked_sub(data.len() as u64) {
                    Some(less) => left = less,
                    None => return Progress::GivenUp,
                },
                Ok(Some(Err(_))) => return Progress::Spoilt,
                Err(_) => return Progress::GivenUp,
            }
        }
    };
    let reached = tokio::time::timeout(limits.lingering_time, rest).await.unwrap_or(Progress::GivenUp);
    if reached == Progress::GivenUp {
        client.worker.counters.lingering_cut.up();
    }
    client.activity.upload.set(reached);
    reached
}
