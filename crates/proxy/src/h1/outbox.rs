//! What one side of a connection is about to send.

use super::text::put;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use std::cell::RefCell;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes of a body that are copied behind a head, so that both leave in one piece: a plain send is cheaper for the system than
/// a gathering one.
const COPIED: usize = 2048;

/// What is to be sent next, in this order: text, data, tail.
///
/// The text's buffer is borrowed from the worker (`spare`) and given back once all has been sent.
#[derive(Default)]
pub(crate) struct Outbox {
    text: Vec<u8>,
    sent: usize,
    pub(super) data: Bytes,
    pub(super) tail: &'static [u8],
}

impl Outbox {
    /// Bytes laid out and not yet sent.
    pub(crate) fn pending(&self) -> usize {
        self.text.len() - self.sent + self.data.len() + self.tail.len()
    }

    /// The buffer that text is laid out in.
    pub(crate) fn text(&mut self, spare: &RefCell<Vec<u8>>) -> &mut Vec<u8> {
        if self.text.capacity() == 0 {
            self.text = spare.take();
        }
        &mut self.text
    }

    /// Empties it, and lays out `data` and `tail`.
    pub(super) fn lay_out(&mut self, data: Bytes, tail: &'static [u8], spare: &RefCell<Vec<u8>>) -> &mut Vec<u8> {
        self.sent = 0;
        self.data = data;
        self.tail = tail;
        let text = self.text(spare);
        text.clear();
        text
    }

    /// Lays out a piece behind the text, and a tail behind that. Only where there is no data yet.
    pub(crate) fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        debug_assert!(self.data.is_empty() && self.tail.is_empty(), "a piece would be lost");
        if data.len() <= COPIED && self.text.capacity() > 0 {
            self.text.extend_from_slice(&data);
            self.text.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
    }

    /// Whether a piece may be put.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// Lays out a chunk that is not empty, and the end of the body behind the last one (RFC 9112 §7.1).
    pub(crate) fn put_chunk(&mut self, data: Bytes, last: bool, spare: &RefCell<Vec<u8>>) {
        write!(self.text(spare), "{:x}\r\n", data.len()).expect("a vector takes every write");
        self.put(data, if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
    }

    /// Lays out the end of a chunked body.
    pub(crate) fn put_last_chunk(&mut self, trailers: Option<&HeaderMap>, spare: &RefCell<Vec<u8>>) {
        let text = self.text(spare);
        text.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            put(text, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
        text.extend_from_slice(b"\r\n");
    }

    /// Sends all of it.
    pub(crate) fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        spare: &RefCell<Vec<u8>>,
    ) -> Poll<io::Result<()>> {
        while self.pending() > 0 {
            let text = &self.text[self.sent..];
            let written = if self.data.is_empty() && self.tail.is_empty() {
                Pin::new(&mut *io).poll_write(cx, text)
            } else {
                let parts = [IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                Pin::new(&mut *io).poll_write_vectored(cx, &parts)
            };
            let mut written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_text = written.min(self.text.len() - self.sent);
            self.sent += of_text;
            written -= of_text;
            let of_data = written.min(self.data.len());
            self.data.advance(of_data);
            written -= of_data;
            self.tail = self.tail.get(written..).unwrap_or_default();
        }
        if self.text.capacity() > 0 {
            self.text.clear();
            self.sent = 0;
            spare.replace(std::mem::take(&mut self.text));
        }
        Pin::new(io).poll_flush(cx)
    }
}
