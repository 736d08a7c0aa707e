//! The PROXY protocol: what a proxy in front says of its client, in versions 1 and 2, and what we say to those behind
//! (HAProxy, `doc/proxy-protocol.txt`).
//!
//! Invariants:
//! - Where the protocol is expected a connection without a well-formed header is closed: what follows might otherwise be
//!   read as a header of another client's making.
//! - Nothing behind the header is taken off the socket.
//! - A header is bounded in length and in time. Whether it is believed is for the caller to say.

mod parse;
mod read;
mod write;

pub use parse::{Header, MOST, Malformed, parse};
pub(crate) use read::read;
pub(crate) use write::header;
