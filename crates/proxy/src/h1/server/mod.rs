//! Our own HTTP/1.1 server, towards clients: what is read from them, and how answers are laid out for them.
//!
//! Invariants:
//! - A head has one reading, or it is refused: lines end with CR LF, no line is folded, no name is followed by blanks; a body
//!   has one length (RFC 9112 §2.2, §5, §6.3).
//! - The length of what is sent is what its framing says; an answer that cannot be completed is cut so that the client sees it.
//! - Nothing that a client sends makes a buffer grow without bound, and a connection that waits for a request holds none.

mod head;
mod inbound;
mod reply;
#[cfg(test)]
mod tests;

pub use head::{BadHead, Length, Parsing, RequestHead, take_head};
pub(crate) use inbound::{BodyError, HeadError, Inbound};
pub(crate) use reply::{Announced, Fields, Framing, date, with_date, write_head};
