//! The HTTP/2 client, towards upstreams (`docs/spec/upstream-balancing.md` §7, §10).
//!
//! Frames and flow control are h2's. A connection has a task of its own, which moves its bytes; each request talks to its own
//! stream from the task that serves it. [`pool`] knows the connections of each address and which of them has room, [`conn`]
//! opens one and keeps it going, [`exchange`] sends a request and waits for the head of its answer, [`sender`] passes the body
//! on, [`body`] reads the answer's.
//!
//! Invariants:
//! - A connection takes requests only once the upstream's SETTINGS have come: what is no HTTP/2 server, or does not take our
//!   certificate, fails before any request was sent.
//! - No stream is opened beyond what the upstream allows, or on a connection that it is ending.
//! - A request is sent again only if the upstream has said that it did not look at it, or by the rules of retries.
//! - An upstream may send ahead no more than one window for each stream. The window of the connection has room for those of all
//!   its streams, so that a client that does not read holds up nobody else.
//! - A request that ends early takes its stream along, and what it has sent of a body waits in no buffer beyond its cap.
//!
//! Deliberately absent: server push, priorities, `CONNECT`.

mod body;
mod conn;
mod exchange;
mod pool;
mod sender;

pub(crate) use body::{AnswerBody, reason};
pub(crate) use exchange::{Answered, Terms, exchange};
pub(crate) use pool::{Lanes, Pool};

use std::time::Duration;

/// What holds for every connection of the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http2Limits {
    /// Streams of one connection, if the upstream allows as many.
    pub(crate) streams: u32,
    /// Connections of one worker to one address.
    pub(crate) connections: usize,
    /// Bytes that the upstream may send ahead on one stream.
    pub(crate) window: u32,
    /// Bytes of one request's body that may wait to be sent.
    pub(crate) send_buffer: usize,
    /// How often a connection with requests is asked for a sign of life, and how long it has to give one. Zero: never.
    pub(crate) ping: Duration,
}
