//! The answer.

use http::{HeaderMap, StatusCode};
use std::rc::Rc;

/// Who made the answer (`docs/spec/plugins/_phases.md` §2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseSource {
    /// A plugin or the gateway itself.
    #[default]
    Apisix,
    /// The gateway, since no head came from the upstream.
    Nginx,
    /// The upstream.
    Upstream,
}

impl ResponseSource {
    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apisix => "apisix",
            Self::Nginx => "nginx",
            Self::Upstream => "upstream",
        }
    }
}

/// The answer's head, and what has been sent of it.
#[derive(Debug, Default)]
pub struct Response {
    /// Status; `header_filter` may change it.
    pub status: StatusCode,
    /// Headers; `header_filter` may change them.
    pub headers: HeaderMap,
    /// Trailers that the client was sent, where somebody shows headers or trailers of answers when all is over.
    pub trailers: Option<Rc<HeaderMap>>,
    /// Who made the answer.
    pub source: ResponseSource,
    /// Bytes of head and body handed to the connection so far; the head is an estimate.
    pub bytes_sent: u64,
    /// Bytes of the body handed to the connection so far.
    pub body_bytes_sent: u64,
    /// The client left before the answer was complete; logged as 499.
    pub client_gone: bool,
}

impl Response {
    /// The status for logs and metrics: 499 if the client left before the head was sent.
    pub fn logged_status(&self) -> u16 {
        if self.client_gone && self.bytes_sent == 0 { 499 } else { self.status.as_u16() }
    }
}
