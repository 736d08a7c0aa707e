//! The frames that an HTTP/2 client sends, as they pass: the library tells nobody of those that carry nothing of a request,
//! and does as it is told however many come.
//!
//! Only heads of frames are read, nine bytes each. What the library refuses by itself is not looked for here.

use super::http2_streams::Streams;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before the first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const GOAWAY: u8 = 7;
/// The flag of the frame with which a request's head ends (RFC 9113 §6.2).
const END_HEADERS: u8 = 4;

/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// What is said to a client that has done too much of what costs it nothing. Streams up to `last` may have been acted on.
pub(super) fn calm_down(last: u32) -> [u8; HEAD + 8] {
    let mut frame = [0; HEAD + 8];
    frame[2] = 8;
    frame[3] = GOAWAY;
    frame[HEAD..HEAD + 4].copy_from_slice(&last.to_be_bytes());
    frame[HEAD + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame
}

/// Finds the frames in the bytes of a client.
#[derive(Debug)]
struct Heads {
    /// Bytes that belong to no head.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the present head that have come.
    got: usize,
    /// Where in the head of a request the present frame stands.
    request: InRequest,
}

/// A frame's place in the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InRequest {
    Outside,
    /// Others follow it.
    Within,
    Last,
}

impl Heads {
    fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], got: 0, request: InRequest::Outside }
    }

    /// Whether the head of a request has begun and not ended.
    fn is_within_request(&self) -> bool {
        match self.request {
            InRequest::Outside => false,
            InRequest::Within => true,
            InRequest::Last => self.skip > 0,
        }
    }

    /// Goes through the next bytes, and hands over each head that is complete: type, length, stream.
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, usize, u32)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEAD - self.got);
            if taken == 0 {
                return;
            }
            self.head[self.got..self.got + taken].copy_from_slice(&bytes[..taken]);
            self.got += taken;
            bytes = &bytes[taken..];
            if self.got == HEAD {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.got = 0;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.request = match kind {
                    HEADERS | CONTINUATION if flags & END_HEADERS == 0 => InRequest::Within,
                    HEADERS | CONTINUATION => InRequest::Last,
                    _ => InRequest::Outside,
                };
                // The highest bit is reserved.
                each(kind, self.skip, u32::from_be_bytes(stream) & (u32::MAX >> 1));
            }
        }
    }
}

/// The client's connection, whose frames are counted; reading fails once there are too many that carry nothing.
pub(super) struct Counted<T> {
    io: T,
    heads: Heads,
    streams: Rc<Streams>,
}

impl<T> Counted<T> {
    pub(super) fn new(io: T, streams: Rc<Streams>) -> Self {
        Self { io, heads: Heads::new(), streams }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let mut control = 0;
        this.heads.read(&buf.filled()[before..], |kind, length, stream| match kind {
            DATA | HEADERS | CONTINUATION if length > 0 => {
                if kind == HEADERS {
                    this.streams.seen(stream);
                }
            }
            _ => control += 1,
        });
        this.streams.set_within_head(this.heads.is_within_request());
        if control > 0 && !this.streams.take_control_frames(control) {
            return Poll::Ready(Err(io::Error::other("too many frames that carry nothing of a request")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 5, 1, 4, 0x80, 0, 0, 3]);
        bytes.extend(b"12345");
        bytes.extend([0, 1, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend([0; 256]);
        bytes.extend([0, 0, 0, 7, 0, 0, 0, 0, 0]);
        for size in [1, 2, 8, 9, 10, 23, 24, 25, 1000] {
            let (mut heads, mut found) = (Heads::new(), Vec::new());
            bytes
                .chunks(size)
                .for_each(|piece| heads.read(piece, |kind, length, stream| found.push((kind, length, stream))));
            assert_eq!(found, [(4, 0, 0), (1, 5, 3), (0, 256, 3), (7, 0, 0)], "in pieces of {size}");
        }
    }

    #[test]
    fn the_head_of_a_request_goes_from_its_first_frame_to_the_last_byte_of_its_last() {
        let mut heads = Heads::new();
        let mut within = |bytes: &[u8]| {
            heads.read(bytes, |_, _, _| {});
            heads.is_within_request()
        };
        assert!(!within(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(within(&[0, 0, 2, HEADERS, 0, 0, 0, 0, 1, 7, 7]));
        assert!(within(&[0, 0, 2, CONTINUATION, END_HEADERS, 0, 0, 0, 1, 7]));
        assert!(!within(&[7]));
        assert!(within(&[0, 0, 1, HEADERS, END_HEADERS, 0, 0, 0, 3]));
        assert!(!within(&[7, 0, 0, 0, 4, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn the_last_word_names_stream_and_reason() {
        assert_eq!(calm_down(0x0102_0304), [0, 0, 8, 7, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 11]);
    }
}
