//! The algorithms.

use crate::entropy;
use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A random UUID (RFC 9562 §5.4), 36 characters.
pub(super) fn uuid() -> [u8; 36] {
    let mut bytes = entropy::bytes::<16>();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    hyphenated(bytes)
}

/// A time-ordered UUID (RFC 9562 §5.7). Ids of one worker grow: within a millisecond 12 bits count up.
pub(super) fn uuidv7() -> [u8; 36] {
    thread_local!(static LAST: Cell<u64> = const { Cell::new(0) });
    let random = entropy::bytes::<2>();
    // Milliseconds and the 12 bits as one number, which never repeats and never falls.
    let now = since_epoch().as_millis() as u64;
    let fresh = (now << 12) | (u64::from(u16::from_be_bytes([random[0], random[1]])) & 0x7ff);
    let stamp = fresh.max(LAST.get() + 1);
    LAST.set(stamp);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&(stamp >> 12).to_be_bytes()[2..]);
    let count = (stamp & 0xfff) as u16;
    bytes[6..8].copy_from_slice(&(0x7000 | count).to_be_bytes());
    bytes[8..].copy_from_slice(&entropy::bytes::<8>());
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    hyphenated(bytes)
}

fn hyphenated(bytes: [u8; 16]) -> [u8; 36] {
    /// Where each byte's two digits stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; 36];
    for (byte, at) in bytes.into_iter().zip(PLACES) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
    }
    text
}

/// 21 characters of a 64-letter alphabet.
pub(super) fn nanoid() -> [u8; 21] {
    const ALPHABET: &[u8; 64] = b"-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    entropy::bytes::<21>().map(|byte| ALPHABET[usize::from(byte & 63)])
}

/// 27 base-62 characters: seconds since May 2014 in 32 bits, then 128 random bits. Ids sort by second.
pub(super) fn ksuid() -> [u8; 27] {
    const EPOCH: u64 = 1_400_000_000;
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let seconds = since_epoch().as_secs().saturating_sub(EPOCH) as u32;
    let random = entropy::bytes::<16>();
    let mut words = [0_u32; 5];
    words[0] = seconds;
    for (word, chunk) in words[1..].iter_mut().zip(random.chunks_exact(4)) {
        *word = chunk.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte));
    }
    let mut text = [b'0'; 27];
    for digit in text.iter_mut().rev() {
        let mut rest = 0_u64;
        for word in &mut words {
            let value = (rest << 32) | u64::from(*word);
            *word = (value / 62) as u32;
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    text
}

/// `length` characters, each drawn from `set` with equal chance.
pub(super) fn range_id(length: usize, set: &[char]) -> String {
    let count = set.len() as u64;
    // Draws from the incomplete last round would favour the first characters; they are thrown away.
    let limit = (1 << 32) / count * count;
    let mut id = String::with_capacity(length);
    for _ in 0..length {
        let drawn = loop {
            let drawn = u64::from(u32::from_ne_bytes(entropy::bytes()));
            if drawn < limit {
                break drawn;
            }
        };
        id.push(set[(drawn % count) as usize]);
    }
    id
}

fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
