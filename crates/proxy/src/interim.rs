//! Interim answers of upstreams on their way to the client (RFC 9110 §15.2): above all 103, with which it learns early what it
//! is going to need (RFC 8297).
//!
//! They pass as they came, without what ends at a hop or speaks of a body, and no plugin sees them. 100 is not among them: the
//! gateway asks no upstream for it, and tells a client that waits for it by itself. Nor is 101, which is no interim answer but the
//! last one. They come to no more bytes than one head may, or the answer is malformed.

use crate::h3;
use crate::worker::{Http2Interims, Wire};
use http::{HeaderMap, StatusCode, header};
use std::rc::Rc;

/// Where the interim answers to a request go.
pub(crate) enum Interims {
    /// Nowhere: HTTP/1.0 knows none.
    Nowhere,
    Http1(Rc<Wire>),
    Http2(Http2Interims),
    Http3(Rc<h3::Interims>),
}

impl Interims {
    /// Whether the client can be told.
    pub(crate) fn reach_the_client(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    /// Tells the client, unless it is not for an upstream to say.
    pub(crate) fn put(&self, status: StatusCode, mut fields: HeaderMap) {
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        // The gateway names itself in the answer; and there is no body whose length could be said (RFC 9110 §8.6).
        fields.remove(header::SERVER);
        fields.remove(header::CONTENT_LENGTH);
        match self {
            Self::Nowhere => {}
            Self::Http1(wire) => wire.put_interim(status, &fields),
            Self::Http2(stream) => stream.put(status, &fields),
            Self::Http3(stream) => stream.put(status, fields),
        }
    }
}
