//! Our own HTTP/1.1: the client, towards upstreams, and in [`server`] what the other side needs.
//!
//! One task serves a request from end to end: no channel, no second task, no lock. The request's head and a small body leave
//! in one write; the answer's head is parsed in place and its field values are slices of the read buffer; a small body is
//! handed over together with the head, and the connection is back in its worker's pool before the client has the answer.
//!
//! Invariants:
//! - An answer whose framing is ambiguous is refused, never guessed at: differing lengths, length with transfer coding,
//!   any coding but `chunked` (RFC 9112 §6.3).
//! - A connection returns to the pool only if its request was sent whole, its answer was read to the last byte, and nothing
//!   stands behind that byte.
//! - Nothing an upstream sends makes a buffer grow without bound.
//!
//! Deliberately absent: pipelining, HTTP/2, caching.

mod answer;
mod body;
mod chunked;
mod conn;
mod names;
mod outbox;
mod outgoing;
mod pipe;
mod pool;
mod read_size;
mod received;
mod scratch;
pub(crate) mod server;
mod spans;
mod text;

pub use answer::{Asked, Framing, Head, Malformed, Parsing, take_head};
pub(crate) use body::{AnswerBody, Home, Part, PassError, Started, start};
pub use chunked::{ChunkError, Decoder, Piece};
pub(crate) use conn::{Conn, Terms, connect_tcp};
pub(crate) use outbox::Outbox;
pub(crate) use outgoing::{Outgoing, Pump};
pub(crate) use pipe::Pipes;
pub(crate) use pool::{Keep, Pool, PoolKey, Slot};
pub(crate) use received::Received;
pub(crate) use scratch::Scratch;
pub(crate) use text::{put, put_number};

use crate::upload::UploadError;
use http::StatusCode;
use std::io;
use std::time::Duration;

/// Caps on what is taken from a peer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Fields of a head.
    pub head_fields: usize,
}

/// How long the two sides may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Between two writes to the upstream.
    pub(crate) send: Duration,
    /// Between two reads from it.
    pub(crate) read: Duration,
    /// Between two reads of the client's body.
    pub(crate) client: Duration,
}

/// Why no answer's head came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("connecting failed: {0}")]
    Connect(io::Error),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("sending the request failed: {0}")]
    Send(io::Error),
    #[error("sending the request stalled for too long")]
    SendTimeout,
    #[error("the connection was closed before the answer's head was complete")]
    Closed,
    #[error("reading the answer failed: {0}")]
    Read(io::Error),
    #[error("waiting for the answer took too long")]
    ReadTimeout,
    #[error("the answer is malformed: {0}")]
    Malformed(Malformed),
    /// The request's body did not come.
    #[error(transparent)]
    Client(#[from] UploadError),
}

impl Failure {
    /// What the client is answered if no other node is tried (`docs/spec/upstream-balancing.md` §5).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::ConnectTimeout | Self::SendTimeout | Self::ReadTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Client(error) => error.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether nothing of the request can have reached the upstream.
    pub(crate) fn before_sending(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_))
    }

    /// Whether another node may be tried at all.
    pub(crate) fn retryable(&self) -> bool {
        !matches!(self, Self::Malformed(_)) && !self.by_client()
    }

    /// Whether the client, not the upstream, is at fault.
    pub(crate) fn by_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// Whether this is how a kept connection fails that the upstream has closed meanwhile.
    pub(crate) fn looks_stale(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Closed | Self::Read(_))
    }
}
