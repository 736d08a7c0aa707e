//! A stream of HTTP/3: its frames, and what stands in heads and settings, against obvious readers.
//!
//! Input: a byte that says where the stream is cut in two, and the stream.

use bytes::Bytes;
use milecastle_proxy::fuzzing::{BlockFault, FrameHead, decode_fields, http3_numbers, static_field};

const HEADERS: u64 = 1;
const SETTINGS: u64 = 4;
/// What a head may come to (RFC 9114 §4.2.2).
const MOST: u64 = 4096;
const OVERHEAD: u64 = 32;

/// Types and payloads of frames, and whether the stream ends within one.
type Frames = (Vec<(u64, Vec<u8>)>, bool);

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let (first, second) = stream.split_at(usize::from(*cut).min(stream.len()));
    let whole = obvious_frames(stream);
    assert_eq!(frames(&[stream]), whole);
    assert_eq!(frames(&[first, second]), whole, "pieces give what the whole gives");
    for (kind, payload) in whole.0 {
        match kind {
            HEADERS => try_block(&payload),
            SETTINGS => assert_eq!(http3_numbers(payload.clone()), obvious_numbers(&payload)),
            _ => {}
        }
    }
}

fn frames(pieces: &[&[u8]]) -> Frames {
    let (mut head, mut open, mut found) = (FrameHead::default(), None, Vec::new());
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            let Some((kind, left, mut payload)) = open.take() else {
                let Some((kind, length)) = head.feed(&mut piece) else { break };
                open = Some((kind, length, Vec::new()));
                continue;
            };
            let taken = piece.split_to(piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            payload.extend_from_slice(&taken);
            match left - taken.len() as u64 {
                0 => found.push((kind, payload)),
                left => {
                    open = Some((kind, left, payload));
                    break;
                }
            }
        }
    }
    (found, head.has_begun() || open.is_some())
}

fn obvious_frames(mut stream: &[u8]) -> Frames {
    let mut found = Vec::new();
    while !stream.is_empty() {
        let frame = number(stream).and_then(|(kind, rest)| {
            let (length, rest) = number(rest)?;
            let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((kind, payload, rest))
        });
        let Some((kind, payload, rest)) = frame else { return (found, true) };
        found.push((kind, payload.to_vec()));
        stream = rest;
    }
    (found, false)
}

fn obvious_numbers(mut bytes: &[u8]) -> Option<Vec<u64>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (number, rest) = number(bytes)?;
        found.push(number);
        bytes = rest;
    }
    Some(found)
}

/// The first number (RFC 9000 §16), and what is behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_at_checked(1 << (bytes.first()? >> 6))?;
    let all = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Some((all & ((1 << (8 * number.len() - 2)) - 1), rest))
}

/// Name and value as they were read.
type Field = (Vec<u8>, Vec<u8>);

/// A text of a block: as it stands there, or so many bytes of Huffman code.
enum Text<'b> {
    Plain(&'b [u8]),
    Coded(usize),
}

impl Text<'_> {
    /// Codes have 5 to 30 bits; less than eight more fill the last byte.
    fn fits(&self, read: &[u8]) -> bool {
        match self {
            Self::Plain(text) => *text == read,
            Self::Coded(bytes) => (5 * read.len()..30 * read.len() + 8).contains(&(8 * bytes)),
        }
    }
}

fn try_block(block: &[u8]) {
    let mut read: Vec<Field> = Vec::new();
    let outcome = decode_fields(block, MOST, |name, value| read.push((name.to_vec(), value.to_vec())));
    let size: u64 = read.iter().map(|(name, value)| (name.len() + value.len()) as u64 + OVERHEAD).sum();
    assert!(size <= MOST, "no more is handed over than there may be");
    let (expected, whole) = obvious_block(block);
    let fit = |((name, value), (read_name, read_value)): (&(Text<'_>, Text<'_>), &Field)| {
        name.fits(read_name) && value.fits(read_value)
    };
    assert!(read.len() <= expected.len() && expected.iter().zip(&read).all(fit));
    let coded = expected.iter().any(|(name, value)| matches!(name, Text::Coded(_)) || matches!(value, Text::Coded(_)));
    match outcome {
        Ok(()) => assert!(whole && read.len() == expected.len(), "what is cut short is no block"),
        Err(BlockFault::Malformed) => assert!(!whole || coded, "only Huffman code can be wrong in a whole block"),
        Err(BlockFault::TooLarge) => {}
    }
}

/// The fields of a block until one is malformed, and whether that is all of it.
fn obvious_block(block: &[u8]) -> (Vec<(Text<'_>, Text<'_>)>, bool) {
    let mut found = Vec::new();
    let start = prefixed(block, 8).filter(|(required, _)| *required == 0).and_then(|(_, rest)| prefixed(rest, 7));
    let Some((_, mut rest)) = start else { return (found, false) };
    while !rest.is_empty() {
        let Some((name, value, behind)) = field(rest) else { return (found, false) };
        found.push((name, value));
        rest = behind;
    }
    (found, true)
}

fn field(block: &[u8]) -> Option<(Text<'_>, Text<'_>, &[u8])> {
    let first = *block.first()?;
    if first & 0xc0 == 0xc0 {
        let (index, rest) = prefixed(block, 6)?;
        let (name, value) = static_field(index).ok()?;
        return Some((Text::Plain(name.as_bytes()), Text::Plain(value.as_bytes()), rest));
    }
    let (name, rest) = if first & 0xd0 == 0x50 {
        let (index, rest) = prefixed(block, 4)?;
        (Text::Plain(static_field(index).ok()?.0.as_bytes()), rest)
    } else if first & 0xe0 == 0x20 {
        text(block, 3)?
    } else {
        return None;
    };
    let (value, rest) = text(rest, 7)?;
    Some((name, value, rest))
}

fn text(block: &[u8], bits: u32) -> Option<(Text<'_>, &[u8])> {
    let coded = block.first()? & (1 << bits) != 0;
    let (length, rest) = prefixed(block, bits)?;
    let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((if coded { Text::Coded(text.len()) } else { Text::Plain(text) }, rest))
}

/// A number whose first byte has `bits` of it (RFC 7541 §5.1), of eight further bytes at most.
fn prefixed(block: &[u8], bits: u32) -> Option<(u64, &[u8])> {
    let most = (1_u64 << bits) - 1;
    let (first, rest) = block.split_first()?;
    let first = u64::from(*first) & most;
    if first < most {
        return Some((first, rest));
    }
    let last = rest.iter().take(8).position(|byte| byte & 0x80 == 0)?;
    let (digits, rest) = rest.split_at(last + 1);
    Some((digits.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f)) + most, rest))
}
