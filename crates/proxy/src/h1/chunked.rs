//! The `chunked` coding, decoded strictly (RFC 9112 §7.1).
//!
//! What follows a data chunk must be exactly CR LF, a size is one to sixteen hexadecimal digits, a bare LF ends nothing.
//! Leniency here is what request and response smuggling live on.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Longest line of a chunk's size with its extensions.
const MAX_SIZE_LINE: usize = 4096;
/// What the lines of sizes may take beside the data, in bytes, over [`FREE`] for each chunk and [`FREE_PER_BYTE`] for each byte:
/// extensions mean nothing to anybody, and must not carry a body's weight many times over.
const MAX_OVERHEAD: u64 = 16 * 1024;
const FREE: u64 = 16;
const FREE_PER_BYTE: u64 = 2;
/// Bytes of a trailer section.
const MAX_TRAILER_BYTES: usize = 8192;
/// Fields in a trailer section.
const MAX_TRAILERS: usize = 64;

/// What stands wrong in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("a chunk's size is no hexadecimal number, or is too large")]
    Size,
    #[error("the lines of chunk sizes or the trailer section are too long")]
    TooLong,
    #[error("a chunk does not end with CR LF")]
    End,
    #[error("the trailer section is malformed")]
    Trailer,
}

/// What the decoder has found at the front of the buffer.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the body; a chunk may come in several pieces.
    Data(Bytes),
    /// The buffer must grow before anything more is known.
    More,
    /// The body is complete; what follows in the buffer belongs to the next message.
    End(Option<HeaderMap>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// Takes a chunked body apart, without copying.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// What extensions have taken so far of [`MAX_OVERHEAD`].
    overhead: u64,
}

impl Decoder {
    /// Takes the next piece from the front of `buf`.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Piece, ChunkError> {
        loop {
            match self.state {
                State::Size => match size_line(buf)? {
                    None => return Ok(Piece::More),
                    Some((0, line)) => {
                        buf.advance(line);
                        self.state = State::Trailers;
                    }
                    Some((size, line)) => {
                        buf.advance(line);
                        let free = FREE.saturating_add(size.saturating_mul(FREE_PER_BYTE));
                        self.overhead = (self.overhead + line as u64).saturating_sub(free);
                        if self.overhead > MAX_OVERHEAD {
                            return Err(ChunkError::TooLong);
                        }
                        self.state = State::Data(size);
                    }
                },
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Piece::More);
                    }
                    let take = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
                    let rest = left - take as u64;
                    self.state = if rest == 0 { State::DataEnd } else { State::Data(rest) };
                    return Ok(Piece::Data(buf.split_to(take).freeze()));
                }
                State::DataEnd => match buf.as_ref() {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Piece::More),
                    _ => return Err(ChunkError::End),
                },
                State::Trailers => return self.trailers(buf),
                State::Done => return Ok(Piece::End(None)),
            }
        }
    }

    fn trailers(&mut self, buf: &mut BytesMut) -> Result<Piece, ChunkError> {
        match buf.as_ref() {
            [b'\r', b'\n', ..] => {
                buf.advance(2);
                self.state = State::Done;
                return Ok(Piece::End(None));
            }
            [] | [b'\r'] => return Ok(Piece::More),
            _ => {}
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
        let (used, map) = match httparse::parse_headers(buf, &mut fields) {
            Ok(httparse::Status::Complete((used, fields))) => (used, trailer_map(fields)?),
            Ok(httparse::Status::Partial) if buf.len() > MAX_TRAILER_BYTES => return Err(ChunkError::TooLong),
            Ok(httparse::Status::Partial) => return Ok(Piece::More),
            Err(httparse::Error::TooManyHeaders) => return Err(ChunkError::TooLong),
            Err(_) => return Err(ChunkError::Trailer),
        };
        if used > MAX_TRAILER_BYTES {
            return Err(ChunkError::TooLong);
        }
        // httparse takes a bare LF for the end of a line.
        if buf[..used].split(|byte| *byte == b'\n').rev().skip(1).any(|line| line.last() != Some(&b'\r')) {
            return Err(ChunkError::Trailer);
        }
        buf.advance(used);
        self.state = State::Done;
        Ok(Piece::End(Some(map)))
    }
}

/// Size of the next chunk and length of its line; `None` if the line is not complete.
fn size_line(buf: &[u8]) -> Result<Option<(u64, usize)>, ChunkError> {
    let mut size = 0_u64;
    let mut at = 0;
    while let Some(digit) = buf.get(at).and_then(|byte| char::from(*byte).to_digit(16)) {
        if at == 16 {
            return Err(ChunkError::Size);
        }
        size = size << 4 | u64::from(digit);
        at += 1;
    }
    match (buf.get(at), at) {
        (None, _) => return Ok(None),
        (Some(_), 0) => return Err(ChunkError::Size),
        _ => {}
    }
    // The blank space that some servers pad the size with, and extensions, are passed over up to CR LF.
    let mut extended = false;
    for (offset, byte) in buf[at..].iter().enumerate() {
        match byte {
            b'\r' => {
                return match buf.get(at + offset + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((size, at + offset + 2))),
                    Some(_) => Err(ChunkError::Size),
                };
            }
            b'\n' | 0 => return Err(ChunkError::Size),
            _ if at + offset >= MAX_SIZE_LINE => return Err(ChunkError::TooLong),
            b';' => extended = true,
            b' ' | b'\t' => {}
            _ if extended => {}
            _ => return Err(ChunkError::Size),
        }
    }
    Ok(None)
}

/// The trailer fields that may be passed on: those that frame or route a message may not stand in a trailer
/// (RFC 9110 §6.5.1), and are left out.
fn trailer_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, ChunkError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ChunkError::Trailer)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| ChunkError::Trailer)?;
        let barred = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::HOST,
            header::CONNECTION,
            header::TRAILER,
            header::TE,
            header::UPGRADE,
            header::CONTENT_ENCODING,
            header::CONTENT_TYPE,
            header::CONTENT_RANGE,
        ];
        if !barred.contains(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, the number of trailers, and what is left over.
    type Decoded = (Vec<u8>, usize, Vec<u8>);

    /// Feeds the parts one by one; `None` if the body does not end.
    fn decode(parts: &[&[u8]]) -> Result<Option<Decoded>, ChunkError> {
        let mut decoder = Decoder::default();
        let mut buf = BytesMut::new();
        let mut body = Vec::new();
        let mut parts = parts.iter();
        loop {
            match decoder.next(&mut buf)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(trailers) => {
                    let rest: Vec<u8> = buf.iter().copied().chain(parts.flat_map(|p| p.iter().copied())).collect();
                    return Ok(Some((body, trailers.map_or(0, |t| t.len()), rest)));
                }
                Piece::More => match parts.next() {
                    Some(part) => buf.extend_from_slice(part),
                    None => return Ok(None),
                },
            }
        }
    }

    /// The obvious decoder: the whole text at once.
    fn slow(mut text: &[u8]) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = text.windows(2).position(|w| w == b"\r\n")?;
            let line = std::str::from_utf8(&text[..end]).ok()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim_end(), 16).ok()?;
            text = &text[end + 2..];
            if size == 0 {
                return (text == b"\r\n").then_some(body);
            }
            body.extend_from_slice(text.get(..size)?);
            text = text.get(size..)?.strip_prefix(b"\r\n")?;
        }
    }

    #[test]
    fn extensions_are_no_longer_than_allowed_in_all() {
        let chunks = |extension: usize, data: usize, count: usize| {
            let chunk = format!("{data:x};{}\r\n{}\r\n", "x".repeat(extension), "d".repeat(data));
            let text = chunk.repeat(count) + "0\r\n\r\n";
            decode(&[text.as_bytes()]).map(|decoded| decoded.unwrap().0.len())
        };
        assert_eq!(chunks(4000, 1, 4), Ok(4));
        assert_eq!(chunks(4000, 1, 5), Err(ChunkError::TooLong));
        assert_eq!(chunks(100, 1, 1000), Err(ChunkError::TooLong));
        assert_eq!(chunks(10, 1, 10_000), Ok(10_000), "short ones are free");
        assert_eq!(chunks(1000, 1000, 1000), Ok(1_000_000), "so are those of large chunks");
    }

    #[test]
    fn known_bodies() {
        let ok = |text: &[u8]| decode(&[text]).unwrap().unwrap();
        assert_eq!(ok(b"5\r\nhello\r\n0\r\n\r\n"), (b"hello".to_vec(), 0, vec![]));
        assert_eq!(ok(b"A;x=\"y\"\r\n0123456789\r\n000\r\n\r\nNEXT"), (b"0123456789".to_vec(), 0, b"NEXT".to_vec()));
        assert_eq!(ok(b"2 \t;x\r\nab\r\n0  \r\n\r\n").0, b"ab");
        assert_eq!(ok(b"0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n").1, 1);
        for (text, error) in [
            (&b"\r\n"[..], ChunkError::Size),
            (b"g\r\n", ChunkError::Size),
            (b"5\nhello\n", ChunkError::Size),
            (b"5x\r\nhello\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b"5 6\r\nhello\r\n", ChunkError::Size),
            (b"11111111111111111\r\n", ChunkError::Size),
            (b"5\r\nhelloX\n", ChunkError::End),
            (b"5\r\nhello\n0\r\n\r\n", ChunkError::End),
            (b"0\r\nbad name: x\r\n\r\n", ChunkError::Trailer),
            (b"0\r\n\n", ChunkError::Trailer),
            (b"0\r\nX-Sum: 7\n\r\n", ChunkError::Trailer),
            (b"0\r\nX-Sum: 7\r\n\n", ChunkError::Trailer),
        ] {
            assert_eq!(decode(&[text]).unwrap_err(), error, "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(decode(&[b"5\r\nhel"]).unwrap(), None);
        let long = [&b"1;"[..], &[b'a'; MAX_SIZE_LINE + 2]].concat();
        assert_eq!(decode(&[&long]).unwrap_err(), ChunkError::TooLong);
        let long = [&b"0\r\nx: "[..], &[b'a'; 9000]].concat();
        assert_eq!(decode(&[&long]).unwrap_err(), ChunkError::TooLong);
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            if let Some((at, byte)) = damage {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let parts: Vec<&[u8]> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let (whole, split) = (decode(&[&text]), decode(&parts));
            prop_assert_eq!(&whole, &split);
            // A text that the obvious decoder takes whole must give the same body here, and without damage every one does.
            if let (Some(body), Ok(Some((found, 0, rest)))) = (slow(&text), &whole) {
                prop_assert_eq!(&body, found);
                prop_assert!(rest.is_empty());
            }
            if damage.is_none() {
                prop_assert_eq!(whole.unwrap().unwrap().0, chunks.concat());
            }
        }
    }
}
