//! HTTP/3 with clients (RFC 9114), as far as it is frames and fields; `worker`, `http3/` speaks it.
//!
//! QUIC is the library's. HTTP/3 is code of our own: what a client may have waiting in memory, and what is malformed, is
//! decided here and nowhere else. [`frames`] reads a stream, [`body`] the body of a request, [`qpack`] blocks of fields;
//! [`room`] is what the bodies of a connection may hold.
//!
//! Invariants:
//! - The payload of a frame is not gathered before it is known to be allowed so long; what is dropped is dropped as it comes.
//! - A stream that ends within a frame, or has frames out of their order, ends the connection (RFC 9114 §4.1, §7.1).
//!
//! Deliberately absent: server push, CONNECT, datagrams, and a dynamic table of fields.

mod body;
mod frames;
mod interims;
mod qpack;
mod room;

pub(crate) use body::Body;
pub use frames::{FrameHead, numbers};
pub(crate) use frames::{Frames, StreamFault};
pub(crate) use interims::Interims;
pub(crate) use qpack::encode;
pub use qpack::{BlockFault, decode, entry};
pub(crate) use room::Room;

use quinn::VarInt;

/// Errors of HTTP/3 (RFC 9114 §8.1) and QPACK (RFC 9204 §6).
pub(crate) mod code {
    use quinn::VarInt;

    pub(crate) const NO_ERROR: VarInt = VarInt::from_u32(0x100);
    pub(crate) const INTERNAL_ERROR: VarInt = VarInt::from_u32(0x102);
    pub(crate) const STREAM_CREATION_ERROR: VarInt = VarInt::from_u32(0x103);
    pub(crate) const CLOSED_CRITICAL_STREAM: VarInt = VarInt::from_u32(0x104);
    pub(crate) const FRAME_UNEXPECTED: VarInt = VarInt::from_u32(0x105);
    pub(crate) const FRAME_ERROR: VarInt = VarInt::from_u32(0x106);
    pub(crate) const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(0x107);
    pub(crate) const SETTINGS_ERROR: VarInt = VarInt::from_u32(0x109);
    pub(crate) const MISSING_SETTINGS: VarInt = VarInt::from_u32(0x10a);
    pub(crate) const REQUEST_REJECTED: VarInt = VarInt::from_u32(0x10b);
    pub(crate) const REQUEST_CANCELLED: VarInt = VarInt::from_u32(0x10c);
    pub(crate) const REQUEST_INCOMPLETE: VarInt = VarInt::from_u32(0x10d);
    pub(crate) const DECOMPRESSION_FAILED: VarInt = VarInt::from_u32(0x200);
    pub(crate) const ENCODER_STREAM_ERROR: VarInt = VarInt::from_u32(0x201);
}

/// Types of frames (RFC 9114 §7.2).
pub(crate) mod frame {
    pub(crate) const DATA: u64 = 0x0;
    pub(crate) const HEADERS: u64 = 0x1;
    pub(crate) const CANCEL_PUSH: u64 = 0x3;
    pub(crate) const SETTINGS: u64 = 0x4;
    pub(crate) const GOAWAY: u64 = 0x7;
    pub(crate) const MAX_PUSH_ID: u64 = 0xd;

    /// Whether frames of the type mean something, or are forbidden for what they meant in HTTP/2; all others are overlooked.
    pub(crate) fn is_known(kind: u64) -> bool {
        matches!(kind, 0x0..=0x9 | MAX_PUSH_ID)
    }
}

/// Puts a number at the end of `out` (RFC 9000 §16).
pub(crate) fn put_number(out: &mut Vec<u8>, number: VarInt) {
    let number = number.into_inner();
    match number {
        0..0x40 => out.push(number as u8),
        0x40..0x4000 => out.extend_from_slice(&(number as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(number as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(number | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// The head of a frame whose payload has `length` bytes.
pub(crate) fn frame_head(kind: u64, length: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(9);
    // The types that are sent have one byte.
    head.push(kind as u8);
    put_number(&mut head, VarInt::try_from(length as u64).expect("what is in memory has a length below 2^62"));
    head
}
