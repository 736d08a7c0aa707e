//! Fields of an answer that nobody looks at on their way to the client.

use super::spans::{Span, join};
use super::text::put;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// Fields as they came, in the buffer that they were read into: no map of them is made, only to be written out again.
#[derive(Debug)]
pub struct Received {
    text: Bytes,
    lines: Vec<Span>,
    dated: bool,
    /// Further ones, written before them; none of these names came.
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
}

/// What fields are gathered in. The room serves again.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    pub(super) lines: Vec<Span>,
    pub(super) dated: bool,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Gathering {
    pub(super) fn add(&mut self, line: Span) {
        join(&mut self.lines, line);
    }

    /// The fields that have been added.
    pub(super) fn finish(&mut self, text: Bytes) -> Received {
        let Self { lines, dated, set } = std::mem::take(self);
        Received { text, lines, dated, set }
    }

    /// Takes the room back once the fields have been written.
    pub(super) fn give_back(&mut self, received: Received) {
        (self.lines, self.set) = (received.lines, received.set);
        self.clear();
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.set.clear();
        self.dated = false;
    }
}

impl Received {
    /// Whether `Date` is among them.
    pub(crate) fn is_dated(&self) -> bool {
        self.dated
    }

    /// What they take on the wire, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let set = self.set.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        self.lines.iter().map(|line| line.range().len()).chain(set).sum::<usize>() as u64
    }

    /// Hands over name and value of each, those that came as they were sent.
    pub(crate) fn each(&self, mut take: impl FnMut(&[u8], &[u8])) {
        self.set.iter().for_each(|(name, value)| take(name.as_str().as_bytes(), value.as_bytes()));
        for line in &self.lines {
            let mut text = &self.text[line.range()];
            // Each is one as everyone writes it (`Field::line`).
            while let Some(colon) = text.iter().position(|byte| *byte == b':')
                && let Some(value) = text[colon..].strip_prefix(b": ")
                && let Some(end) = value.iter().position(|byte| *byte == b'\r')
            {
                take(&text[..colon], &value[..end]);
                text = value[end..].strip_prefix(b"\r\n").unwrap_or_default();
            }
        }
    }

    /// Puts them at the end of `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.set {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
        for line in &self.lines {
            out.extend_from_slice(&self.text[line.range()]);
        }
    }
}
