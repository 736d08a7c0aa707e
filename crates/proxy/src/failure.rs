//! Why an upstream node gave no answer, and what follows from it (`docs/spec/upstream-balancing.md` §5).

use crate::h1::Malformed;
use crate::upload::UploadError;
use http::StatusCode;
use std::io;

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
    #[error("HTTP/2 could not be agreed on: {0}; a node of `scheme` grpc or grpcs must speak it")]
    Handshake(h2::Error),
    #[error(
        "no HTTP/2 connection had room for another request in time: raise limits.upstream_http2_connections, or the number of \
         streams that the upstream allows"
    )]
    NoStream,
    #[error("the request cannot be written as HTTP/2: {0}")]
    Unsendable(http::Error),
    /// The upstream has said that it has not looked at the request, or the request never left (RFC 9113 §8.7).
    #[error("the upstream did not take the request: {0}")]
    Unprocessed(h2::Error),
    #[error("the upstream ended the stream: {0}")]
    Reset(h2::Error),
    #[error("the answer is not HTTP/2: {0}")]
    Protocol(h2::Error),
    /// The request's body did not come.
    #[error(transparent)]
    Client(#[from] UploadError),
}

impl Failure {
    /// What the client is answered if no other node is tried (`docs/spec/upstream-balancing.md` §5).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::ConnectTimeout | Self::NoStream | Self::SendTimeout | Self::ReadTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Client(error) => error.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether nothing of the request can have reached the upstream.
    pub(crate) fn before_sending(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_) | Self::Handshake(_) | Self::NoStream)
    }

    /// Whether the upstream cannot have acted on the request, although something of it may have been sent.
    pub(crate) fn unprocessed(&self) -> bool {
        matches!(self, Self::Unprocessed(_))
    }

    /// Whether another node may be tried at all.
    pub(crate) fn retryable(&self) -> bool {
        !matches!(self, Self::Malformed(_) | Self::Protocol(_) | Self::Unsendable(_)) && !self.by_client()
    }

    /// Whether the client, not the upstream, is at fault.
    pub(crate) fn by_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// Whether the TLS handshake failed. A node may do so for the server name alone, and be well under others: how it refuses one
    /// that it does not know differs from server to server.
    pub(crate) fn in_handshake(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether this is how a kept connection fails that the upstream has closed meanwhile.
    pub(crate) fn looks_stale(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Closed | Self::Read(_))
    }
}
