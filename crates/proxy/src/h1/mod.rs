//! Our own HTTP/1.1: the client, towards upstreams, and in [`server`] what the other side needs.
//!
//! One task serves a request from end to end: no channel, no second task, no lock. The request's head and a small body leave
//! in one write; the answer's head is parsed in place and its field values are slices of the read buffer; a small body is
//! handed over together with the head, and the connection is back in its worker's pool before the client has the answer.
//!
//! Invariants:
//! - An answer whose framing is ambiguous is refused, never guessed at: differing lengths, length with transfer coding,
//!   any coding but `chunked` (RFC 9112 §6.3).
//! - A body is sent as long as its head says, or the connection ends within it.
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
mod waiting;

pub use answer::{Asked, Framing, Head, Malformed, Parsing, take_head};
pub(crate) use body::{AnswerBody, Home, Part, PassError, Started, start};
pub use chunked::{ChunkError, Decoder, Piece};
pub(crate) use conn::{Conn, Terms, connect_tcp};
pub(crate) use outbox::Outbox;
pub(crate) use outgoing::{Outgoing, Pump, PumpError};
pub(crate) use pipe::Pipes;
pub(crate) use pool::{ByKey, Keep, Pool, PoolKey, Slot, used_longest_ago};
pub(crate) use received::Received;
pub(crate) use scratch::Scratch;
pub(crate) use text::{put, put_number};
pub(crate) use waiting::Waiting;

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
