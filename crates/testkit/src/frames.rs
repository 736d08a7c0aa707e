//! HTTP/2 frame by frame (RFC 9113), for requests that no client would send.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use crate::raw::Raw;

/// Types of frames (RFC 9113 §6).
pub mod kind {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flag of SETTINGS and PING.
pub const ACK: u8 = 1;
/// Flag of HEADERS and DATA.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Number of the stream, 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether nothing follows on its stream.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        self.kind == kind::RST_STREAM
            || (matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0)
    }

    /// The error code of RST_STREAM and GOAWAY (RFC 9113 §7).
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    /// The status of HEADERS.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        if self.kind == kind::HEADERS { status(&self.payload) } else { None }
    }
}

/// The bytes of a frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The payload of SETTINGS (RFC 9113 §6.5.1).
#[must_use]
pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    pairs.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect()
}

/// A field as a literal that is not indexed (RFC 7541 §6.2.2), without Huffman coding.
#[must_use]
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        put_length(&mut bytes, text.len());
        bytes.extend(text);
    }
    bytes
}

/// The fields of a request without a body of its own.
#[must_use]
pub fn request(method: &str, path: &str, authority: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn put_length(bytes: &mut Vec<u8>, length: usize) {
    const MOST: usize = 127;
    let Some(mut rest) = length.checked_sub(MOST) else {
        bytes.push(length as u8);
        return;
    };
    bytes.push(MOST as u8);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

/// The status that begins a block of fields, of a peer that has been told to index nothing.
fn status(block: &[u8]) -> Option<u16> {
    /// Statuses of the static table, from index 8 (RFC 7541, appendix A).
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let block = &block[block.iter().position(|byte| byte >> 5 != 1)?..];
    match block {
        [byte @ 0x88..=0x8e, ..] => KNOWN.get(usize::from(byte - 0x88)).copied(),
        // A literal, of which the name is the table's.
        [0x48 | 0x08 | 0x18, length, text @ ..] => {
            let text = text.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { digits(text) }
        }
        _ => None,
    }
}

/// Three digits in Huffman coding (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code * 2 + bits.next()?;
        }
        let digit = if code < 3 { code } else { (code * 2 + bits.next()?).checked_sub(0x19)? + 3 };
        number = number * 10 + digit;
    }
    Some(number)
}

/// A connection of a client that speaks HTTP/2 by prior knowledge.
#[derive(Debug)]
pub struct Frames {
    raw: Raw,
}

impl Frames {
    /// Connects, and says first what a client has to, with these settings. The peer is told to keep no table of fields.
    pub async fn connect(address: SocketAddr, pairs: &[(u16, u32)]) -> Result<Self> {
        let mut frames = Self { raw: Raw::connect(address).await? };
        frames
            .raw
            .send([PREFACE, &frame(kind::SETTINGS, 0, 0, &settings(&[&[(1, 0)], pairs].concat()))].concat())
            .await?;
        Ok(frames)
    }

    /// Sends bytes, of one or more frames.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.raw.send(bytes).await
    }

    /// The next frame; `None` when the peer has closed the connection. What must be acknowledged is.
    pub async fn read(&mut self) -> Result<Option<Frame>> {
        let Some(head) = self.raw.read_exact_or_end(9).await? else { return Ok(None) };
        let head: [u8; 9] = head.try_into().ok().context("nine bytes")?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = self.raw.read_exact_or_end(length).await? else { return Ok(None) };
        if matches!(kind, kind::SETTINGS | kind::PING) && flags & ACK == 0 {
            let answer = if kind == kind::PING { &payload[..] } else { &[] };
            // The peer may have had its last word.
            drop(self.raw.send(frame(kind, ACK, 0, answer)).await);
        }
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
    }

    /// Reads on to the status of the answer on a stream. The error is the frame that ended the stream or the connection before,
    /// `None` for a close without a word.
    pub async fn status(&mut self, stream: u32) -> Result<Result<u16, Option<Frame>>> {
        let mut last_word = None;
        loop {
            match self.read().await? {
                None => return Ok(Err(last_word)),
                Some(frame) if frame.kind == kind::GOAWAY => last_word = Some(frame),
                Some(frame) if frame.stream == stream && frame.kind == kind::RST_STREAM => return Ok(Err(Some(frame))),
                Some(frame) if frame.stream == stream && frame.kind == kind::HEADERS => {
                    return Ok(Ok(frame.status().context("an answer without a status that can be read")?));
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c, 0x76]), Some(400));
        // RFC 7541, appendix C.6: 302 and 307 in Huffman coding.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(b"\x08\x03431"), Some(431));
    }

    #[test]
    fn lengths_of_any_size_are_written() {
        let length = |length| {
            let mut bytes = Vec::new();
            put_length(&mut bytes, length);
            bytes
        };
        assert_eq!(length(10), [10]);
        assert_eq!(length(127), [127, 0]);
        assert_eq!(length(1337 + 96), [127, 0x9a, 0x0a]);
    }
}
