//! An HTTP/2 upstream that works frame by frame, for what no server does on its own.

use crate::support::Scripted;
use std::io::{Read, Write};
use std::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `:status: 200` of the static table (RFC 7541, appendix A).
pub(crate) const OK: &[u8] = &[0x88];
/// `a: b`, a literal that is not indexed.
pub(crate) const FIELD: &[u8] = &[0, 1, b'a', 1, b'b'];

/// Codes of RFC 9113 §7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// One connection, whose preface has been read.
pub(crate) struct Frames<'a> {
    stream: &'a mut TcpStream,
    /// Whether PING is answered.
    pub(crate) alive: bool,
}

/// An upstream that hands every connection, and its number from 0, to a script, after it has sent `settings` (pairs of RFC 9113
/// §6.5.1).
pub(crate) fn upstream(
    settings: &'static [(u16, u32)],
    serve: impl Fn(&mut Frames<'_>, usize) + Send + Sync + 'static,
) -> Scripted {
    Scripted::new(move |stream, number| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Frames { stream, alive: true };
        let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frames.send(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<_>>());
        serve(&mut frames, number);
    })
}

/// An upstream that answers every request with 200 and nothing else.
pub(crate) fn obliging() -> Scripted {
    upstream(&[], |frames, _| {
        while let Some(stream) = frames.request() {
            frames.answer(stream);
        }
    })
}

impl Frames<'_> {
    /// Sends a frame. Nobody need be there any more.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        drop(self.stream.write_all(&frame));
    }

    /// The next frame, if the connection has not ended. What must be answered is.
    fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        match kind {
            SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 && self.alive => self.send(PING, ACK, 0, &payload),
            _ => {}
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame that is about a request; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if !matches!(frame.kind, SETTINGS | PING | WINDOW_UPDATE | GOAWAY) {
                return Some(frame);
            }
        }
    }

    /// Waits for so many signs of life to be asked for.
    pub(crate) fn pings(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let Some(frame) = self.read() else { return };
            left -= usize::from(frame.kind == PING && frame.flags & ACK == 0);
        }
    }

    /// The stream of the next request whose end has come; `None` when there is no more.
    pub(crate) fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if matches!(frame.kind, HEADERS | DATA) && frame.ends_stream() {
                return Some(frame.stream);
            }
        }
    }

    /// Answers with 200 and nothing else.
    pub(crate) fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, OK);
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    /// Says that nothing beyond the stream `last` was looked at.
    pub(crate) fn go_away(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    }
}
