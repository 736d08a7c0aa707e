//! The body of a request, while it comes from the client.
//!
//! Over HTTP/1 an unread body stands between an answer and the next request. A request that is answered before its body has
//! come to its end is therefore followed by one of two things: what is left is read and dropped, and the connection goes on;
//! or the answer says `Connection: close`, and what is left is read and dropped until the client has had time to read the
//! answer (`worker::linger`). A connection that is closed on unread bytes is reset, and takes the answer along.

use crate::worker::Client;
use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// How far the body of the present request of an HTTP/1 connection has come. It stays [`Progress::Ended`] over HTTP/2, where
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

/// The body of a request.
pub(crate) struct Upload {
    /// Empty only in the drop.
    body: Option<Incoming>,
    /// Bytes that may still come.
    allowed: u64,
    /// Over HTTP/1: whose connection it has to leave in order.
    client: Option<Rc<Client>>,
}

impl Upload {
    /// A body that is not empty.
    pub(crate) fn new(body: Incoming, client: &Rc<Client>, http1: bool, awaited: bool) -> Self {
        let limits = &client.worker.node.config.client;
        let upload = Self {
            allowed: limits.body_bytes.unwrap_or(u64::MAX),
            client: http1.then(|| client.clone()),
            body: Some(body),
        };
        upload.set(if awaited { Progress::Awaited } else { upload.unread(limits.lingering_bytes) });
        upload
    }

    fn unread(&self, most: u64) -> Progress {
        let length = self.body.as_ref().and_then(|body| body.size_hint().exact());
        if length.is_some_and(|length| length > most) { Progress::Long } else { Progress::Coming }
    }

    fn set(&self, progress: Progress) {
        if let Some(client) = &self.client {
            client.activity.upload.set(progress);
        }
    }

    /// Whether it has been read to its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// It is not going to be read any further.
    pub(crate) fn spoil(&self) {
        self.set(Progress::Spoilt);
    }

    /// The next piece, never empty; `None` at the end. Trailers are left out.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, UploadError>> {
        if let Some(client) = &self.client
            && client.activity.upload.get() == Progress::Awaited
        {
            // Being read, it is sent.
            client.activity.upload.set(self.unread(client.worker.node.config.client.lingering_bytes));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        loop {
            let piece = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => Ok(None),
                Some(Err(_)) => Err(UploadError::Malformed),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => match self.allowed.checked_sub(data.len() as u64) {
                        Some(allowed) => {
                            self.allowed = allowed;
                            Ok(Some(data))
                        }
                        None => Err(UploadError::TooLarge),
                    },
                    _ => continue,
                },
            };
            if piece.is_err() {
                self.set(Progress::Spoilt);
            } else if self.is_ended() || piece == Ok(None) {
                self.set(Progress::Ended);
            }
            return Poll::Ready(piece);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(client), Some(body)) = (self.client.take(), self.body.take()) else { return };
        let going_on = client.activity.upload.get() == Progress::Coming
            && !client.activity.closing.get()
            && !client.worker.is_leaving();
        if going_on {
            drop(tokio::task::spawn_local(discard(client, body)));
        }
    }
}

/// Reads what is left of a body, so that the connection can go on.
async fn discard(client: Rc<Client>, mut body: Incoming) {
    let limits = &client.worker.node.config.client;
    let request = client.activity.begun.get();
    let rest = async {
        let mut left = limits.lingering_bytes;
        loop {
            match tokio::time::timeout(limits.lingering_timeout, body.frame()).await {
                Ok(None) => return Progress::Ended,
                Ok(Some(Ok(frame))) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64) {
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
    // Where the body has ended the next request may already be in work.
    if client.activity.begun.get() == request {
        client.activity.upload.set(reached);
    }
}
