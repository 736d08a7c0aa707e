//! The decoder of chunked bodies: fed in arbitrary pieces, fed at once, and an obvious decoder.
//!
//! Input: how many sizes of pieces follow, these sizes (taken in turn), the text.

use bytes::BytesMut;
use milecastle_proxy::fuzzing::{ChunkError, Decoder, Piece};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [count, rest @ ..] = data else { return };
    let Some((sizes, text)) = rest.split_at_checked(usize::from(*count % 16)) else { return };
    let whole = decode([text]);
    assert_eq!(whole, decode(cut(text, sizes)), "pieces do not matter");
    match (slow(text), whole) {
        (Slow::End(body), Ok(Some(found))) => assert_eq!(body, found),
        // What is cut off may be known to be wrong already.
        (Slow::CutOff, Ok(None) | Err(_)) | (Slow::Malformed, Err(_)) => {}
        (slow, whole) => panic!("slow: {slow:?}, decoder: {whole:?}"),
    }
}

/// A complete body.
#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    rest: Vec<u8>,
}

fn cut<'t>(text: &'t [u8], sizes: &[u8]) -> Vec<&'t [u8]> {
    let mut pieces = Vec::new();
    let mut left = text;
    // A piece of no bytes is a read that brought nothing.
    for size in sizes.iter().cycle().take(if sizes.iter().all(|size| *size == 0) { 0 } else { usize::MAX }) {
        if left.is_empty() {
            break;
        }
        let (piece, after) = left.split_at(usize::from(*size).min(left.len()));
        pieces.push(piece);
        left = after;
    }
    pieces.push(left);
    pieces
}

fn decode<'t>(pieces: impl IntoIterator<Item = &'t [u8]>) -> Result<Option<Body>, ChunkError> {
    let mut decoder = Decoder::default();
    let mut buf = BytesMut::new();
    let mut data = Vec::new();
    let mut pieces = pieces.into_iter();
    loop {
        match decoder.next(&mut buf)? {
            Piece::Data(piece) => {
                assert!(!piece.is_empty(), "a piece of data has data");
                data.extend_from_slice(&piece);
            }
            Piece::More => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None => return Ok(None),
            },
            Piece::End(trailers) => {
                let trailers = trailers.unwrap_or_default();
                let fields = trailers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
                let mut trailers: Vec<_> = fields.collect();
                trailers.sort();
                let rest = buf.iter().copied().chain(pieces.flatten().copied()).collect();
                return Ok(Some(Body { data, trailers, rest }));
            }
        }
    }
}

#[derive(Debug)]
enum Slow {
    End(Body),
    CutOff,
    Malformed,
}

/// RFC 9112 §7.1 read aloud, with our limits.
fn slow(mut text: &[u8]) -> Slow {
    let mut data = Vec::new();
    let mut overhead = 0_u64;
    loop {
        let Some(end) = find(text, b"\r\n") else { return Slow::CutOff };
        let line = &text[..end];
        text = &text[end + 2..];
        let extension = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
        let digits = line[..extension].trim_ascii_end();
        let padding = &line[digits.len()..extension];
        if line.len() > 4096
            || line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
            || !padding.iter().all(|byte| matches!(byte, b' ' | b'\t'))
            || !(1..=16).contains(&digits.len())
            || !digits.iter().all(u8::is_ascii_hexdigit)
        {
            return Slow::Malformed;
        }
        let digits = std::str::from_utf8(digits).expect("digits are ASCII");
        let size = u64::from_str_radix(digits, 16).expect("sixteen digits are 64 bits");
        if size == 0 {
            return trailers(data, text);
        }
        overhead = (overhead + line.len() as u64 + 2).saturating_sub(size.saturating_mul(2).saturating_add(16));
        if overhead > 16 * 1024 {
            return Slow::Malformed;
        }
        let Some((chunk, after)) = usize::try_from(size).ok().and_then(|size| text.split_at_checked(size)) else {
            return Slow::CutOff;
        };
        data.extend_from_slice(chunk);
        match after {
            [b'\r', b'\n', after @ ..] => text = after,
            [] | [b'\r'] => return Slow::CutOff,
            _ => return Slow::Malformed,
        }
    }
}

/// Fields that frame or route a message have no place in a trailer.
const BARRED: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "trailer",
    "te",
    "upgrade",
    "content-encoding",
    "content-type",
    "content-range",
];

fn trailers(data: Vec<u8>, text: &[u8]) -> Slow {
    if let Some(rest) = text.strip_prefix(b"\r\n") {
        return Slow::End(Body { data, trailers: Vec::new(), rest: rest.to_vec() });
    }
    let Some(end) = find(text, b"\r\n\r\n") else { return Slow::CutOff };
    let section =
        String::from_utf8(text[..end].iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }).collect());
    let section = section.expect("it is ASCII now");
    let mut fields = Vec::new();
    let mut at = 0;
    for line in section.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { return Slow::Malformed };
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Slow::Malformed;
        }
        let raw = &text[at + name.len() + 1..at + line.len()];
        fields.push((name.to_ascii_lowercase(), raw.trim_ascii().to_vec()));
        at += line.len() + 2;
    }
    if fields.len() > 64 || end + 4 > 8192 {
        return Slow::Malformed;
    }
    fields.retain(|(name, _)| !BARRED.contains(&name.as_str()));
    fields.sort();
    Slow::End(Body { data, trailers: fields, rest: text[end + 4..].to_vec() })
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
