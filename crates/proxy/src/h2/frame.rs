//! What frames look like (RFC 9113 §4, §6).

/// What a client says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head (RFC 9113 §4.1).
pub(crate) const HEAD: usize = 9;
/// The longest payload that either side may send (RFC 9113 §4.2): we ask for no more, and use no more.
pub(crate) const LONGEST: usize = 16 * 1024;
/// The largest window (RFC 9113 §6.9.1).
pub(crate) const LARGEST_WINDOW: i64 = (1 << 31) - 1;
/// The window of a connection, and of a stream whose settings say nothing else (RFC 9113 §6.9.2).
pub(crate) const FIRST_WINDOW: i64 = 65_535;

/// Types of frames (RFC 9113 §6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113 §6).
pub(crate) mod flag {
    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 §6.5.2).
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// Bytes of its payload.
    pub(crate) length: usize,
    /// One of [`kind`], or unknown.
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0 is the connection.
    pub(crate) stream: u32,
}

impl FrameHead {
    /// The head that begins `bytes`; `None`: it is not there yet.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        // The highest bit of the stream is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Some(Self { length: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A payload without its padding (RFC 9113 §6.1). `None`: there is more padding than payload.
pub(crate) fn without_padding(payload: &[u8], padded: bool) -> Option<&[u8]> {
    if !padded {
        return Some(payload);
    }
    let (length, payload) = payload.split_first()?;
    payload.get(..payload.len().checked_sub(usize::from(*length))?)
}

/// The pairs that SETTINGS consist of; the length has been checked.
pub(crate) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks()
        .0
        .iter()
        .map(|[a, b, value @ ..]: &[u8; 6]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
}

/// A number of four bytes, as some frames consist of.
pub(crate) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().copied().map(u32::from_be_bytes)
}

/// Puts a frame's head.
pub(crate) fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// Puts a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    put_head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

pub(crate) fn put_window(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

/// Streams up to `last` may have been acted on.
pub(crate) fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    put_head(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let mut out = Vec::new();
        put_head(&mut out, 0x01_02_03, kind::HEADERS, flag::END_HEADERS, 0x8000_0007);
        let head = FrameHead { length: 0x01_02_03, kind: kind::HEADERS, flags: flag::END_HEADERS, stream: 7 };
        assert_eq!(FrameHead::read(&out), Some(head), "the highest bit of a stream is overlooked");
        assert_eq!(FrameHead::read(&out[..8]), None);
    }

    #[test]
    fn padding_is_no_longer_than_its_frame() {
        assert_eq!(without_padding(b"abc", false), Some(&b"abc"[..]));
        assert_eq!(without_padding(b"\x02abc", true), Some(&b"a"[..]));
        assert_eq!(without_padding(b"\x03abc", true), Some(&b""[..]));
        assert_eq!(without_padding(b"\x04abc", true), None);
        assert_eq!(without_padding(b"", true), None);
    }

    #[test]
    fn the_last_word_names_stream_and_reason() {
        let mut out = Vec::new();
        put_goaway(&mut out, 0x0102_0304, Code::ENHANCE_YOUR_CALM);
        assert_eq!(out, [0, 0, 8, 7, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 11]);
    }
}
