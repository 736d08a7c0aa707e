//! HTTP/2 with clients (RFC 9113), as far as it is frames and fields; `worker`, `http2/` speaks it. With upstreams `h2_client` does.
//!
//! [`frame`] is what frames look like, [`hpack`] reads blocks of fields, [`encode`] lays answers out.
//!
//! Invariants:
//! - Nothing here waits, and nothing keeps what is read but the table of fields, which has its size.
//! - Whatever is wrong with a request, the block of its fields is read to its end: the next one may name what stands in it.
//!
//! Deliberately absent: server push, priorities, and a table of fields of our own towards clients: an answer is laid out once, so what
//! could be saved is bytes, and they are few.

pub(crate) mod encode;
pub(crate) mod frame;
mod hpack;

pub(crate) use frame::{Code, FrameHead};
pub(crate) use hpack::{BlockFault, Decoder};
