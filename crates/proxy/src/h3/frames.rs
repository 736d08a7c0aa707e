//! The frames of a stream, one after the other.

use super::code;
use super::frame;
use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{Connection, ReadError, RecvStream, VarInt};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncReadExt as _;

/// Bytes that are taken off a stream at once.
const PIECE: usize = 16 * 1024;

/// Why a stream is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamFault {
    /// The client has given up on it.
    #[error("the client reset the stream")]
    Reset,
    /// The connection is gone, or was ended for what came on the stream.
    #[error("the connection has ended")]
    Ended,
}

/// A number that comes byte by byte (RFC 9000 §16).
#[derive(Debug, Default)]
struct Number {
    value: u64,
    /// Bytes that are missing; 0 before the first.
    missing: u8,
}

impl Number {
    /// Takes what it needs; the number once it is whole.
    fn feed(&mut self, bytes: &mut Bytes) -> Option<u64> {
        while let Some(&byte) = bytes.first() {
            bytes.advance(1);
            if self.missing == 0 {
                self.value = u64::from(byte & 0x3f);
                self.missing = (1 << (byte >> 6)) - 1;
            } else {
                self.value = (self.value << 8) | u64::from(byte);
                self.missing -= 1;
            }
            if self.missing == 0 {
                return Some(self.value);
            }
        }
        None
    }
}

/// The head of a frame, which comes byte by byte: its type and the length of its payload.
#[derive(Debug, Default)]
pub struct FrameHead {
    number: Number,
    /// The type, once its length comes next.
    kind: Option<u64>,
}

impl FrameHead {
    /// Takes what it needs; type and length once it is whole, and from there on it is that of the next frame.
    pub fn feed(&mut self, bytes: &mut Bytes) -> Option<(u64, u64)> {
        if self.kind.is_none() {
            self.kind = Some(self.number.feed(bytes)?);
        }
        let length = self.number.feed(bytes)?;
        Some((self.kind.take()?, length))
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.kind.is_some() || self.number.missing > 0
    }
}

/// The numbers that these bytes are; `None` if the last is cut short.
pub fn numbers(bytes: Vec<u8>) -> Option<Vec<u64>> {
    let (mut bytes, mut number) = (Bytes::from(bytes), Number::default());
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(number.feed(&mut bytes)?);
    }
    Some(all)
}

/// The frames of a stream.
pub(crate) struct Frames {
    quic: Connection,
    recv: RecvStream,
    room: BytesMut,
    /// Read, but not yet looked at.
    ahead: Bytes,
    head: FrameHead,
    ended: bool,
}

impl Frames {
    pub(crate) fn new(quic: Connection, recv: RecvStream) -> Self {
        let (room, ahead, head) = (BytesMut::new(), Bytes::new(), FrameHead::default());
        Self { quic, recv, room, ahead, head, ended: false }
    }

    /// Ends the connection for what came on the stream.
    pub(crate) fn refuse(&self, code: VarInt, reason: &str) -> StreamFault {
        self.quic.close(code, reason.as_bytes());
        StreamFault::Ended
    }

    /// Tells the client to send no more.
    pub(crate) fn stop(&mut self, code: VarInt) {
        // What has ended cannot be stopped, and need not.
        self.recv.stop(code).ok();
    }

    /// Reads some more; `false` at the end of the stream. To be called once nothing is ahead.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamFault>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        self.room.reserve(PIECE);
        let read = ready!(pin!(self.recv.read_buf(&mut self.room)).poll(cx)).map_err(|error| fault(&error))?;
        self.ended = read == 0;
        self.ahead = self.room.split().freeze();
        Poll::Ready(Ok(!self.ended))
    }

    /// The next number that is no part of a frame; `None` if the stream has ended before it.
    pub(crate) async fn number(&mut self) -> Result<Option<u64>, StreamFault> {
        poll_fn(|cx| {
            loop {
                if let Some(number) = self.head.number.feed(&mut self.ahead) {
                    return Poll::Ready(Ok(Some(number)));
                }
                if !ready!(self.poll_more(cx))? {
                    return Poll::Ready(Ok(None));
                }
            }
        })
        .await
    }

    /// What comes next of a stream that has no frames; `None` at its end.
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamFault>> {
        if self.ahead.is_empty() && !ready!(self.poll_more(cx))? {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(std::mem::take(&mut self.ahead))))
    }

    /// Type and length of the next frame; `None` at the end of the stream.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<(u64, u64)>, StreamFault>> {
        loop {
            if let Some(head) = self.head.feed(&mut self.ahead) {
                return Poll::Ready(Ok(Some(head)));
            }
            if !ready!(self.poll_more(cx))? {
                let end = if self.head.has_begun() { Err(self.cut_short()) } else { Ok(None) };
                return Poll::Ready(end);
            }
        }
    }

    /// The next piece of a payload of which `left` bytes, at least one, are to come.
    pub(crate) fn poll_payload(&mut self, left: &mut u64, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamFault>> {
        while self.ahead.is_empty() {
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(Err(self.cut_short()));
            }
        }
        let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.ahead.len());
        *left -= length as u64;
        Poll::Ready(Ok(self.ahead.split_to(length)))
    }

    /// Drops what is to come of a payload.
    pub(crate) fn poll_skip(&mut self, left: &mut u64, cx: &mut Context<'_>) -> Poll<Result<(), StreamFault>> {
        while *left > 0 {
            ready!(self.poll_payload(left, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Adds what is to come of a payload to `gathered`.
    pub(crate) fn poll_gather(
        &mut self,
        left: &mut u64,
        gathered: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamFault>> {
        while *left > 0 {
            gathered.extend_from_slice(&ready!(self.poll_payload(left, cx))?);
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame that means anything; others are dropped. `None` at the end of the stream.
    pub(crate) async fn next_known(&mut self) -> Result<Option<(u64, u64)>, StreamFault> {
        loop {
            let Some((kind, mut left)) = poll_fn(|cx| self.poll_head(cx)).await? else { return Ok(None) };
            if frame::is_known(kind) {
                return Ok(Some((kind, left)));
            }
            poll_fn(|cx| self.poll_skip(&mut left, cx)).await?;
        }
    }

    /// A whole payload.
    pub(crate) async fn payload(&mut self, mut length: u64) -> Result<Vec<u8>, StreamFault> {
        let mut gathered = Vec::new();
        poll_fn(|cx| self.poll_gather(&mut length, &mut gathered, cx)).await?;
        Ok(gathered)
    }

    fn cut_short(&self) -> StreamFault {
        self.refuse(code::FRAME_ERROR, "a stream ended within a frame")
    }
}

fn fault(error: &io::Error) -> StreamFault {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(ReadError::Reset(_)) => StreamFault::Reset,
        _ => StreamFault::Ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h3::put_number;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_read_however_they_are_cut(number in 0..1_u64 << 62, cut in 0..8_usize) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, VarInt::from_u64(number).unwrap());
            bytes.push(7);
            let mut second = Bytes::from(bytes);
            let mut first = second.split_to(cut.min(second.len() - 1));
            let mut reader = Number::default();
            let read = reader.feed(&mut first).or_else(|| reader.feed(&mut second));
            prop_assert_eq!(read, Some(number));
            prop_assert_eq!([first, second].concat(), [7]);
        }
    }
}
