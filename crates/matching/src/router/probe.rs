//! Hashes of all starts of a text out of one pass, and sets of lengths worth probing.
//!
//! A path is looked up under each of its starts that could be a prefix of some pattern. [`Probe`] reads the path once,
//! sixteen bytes at a step, and keeps the state of the hash at each step, so that the hash of any start costs one more
//! multiplication. [`Lengths`] knows which starts exist at all; as most prefixes end in `/`, it keeps those apart and
//! asks for them only where the path has a `/`.

/// Lengths below this are kept in bit sets; states and delimiters are recorded as far.
const WINDOW: usize = 128;
const BLOCK: usize = 16;
const BLOCKS: usize = WINDOW / BLOCK;

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xA076_1D64_78BD_642F;
const K2: u64 = 0xE703_7ED1_A0B4_28DB;

/// Both halves of the product, folded: every bit of the factors reaches every bit of the result.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The state after a block.
#[inline]
fn step(state: u64, block: u128) -> u64 {
    fold(state ^ block as u64, K0 ^ (block >> 64) as u64)
}

/// The hash of a text with `rest` after its last whole block.
#[inline]
fn finish(state: u64, rest: u128, len: usize, tag: u64) -> u64 {
    fold(state ^ rest as u64 ^ tag.wrapping_mul(K2), K1 ^ (rest >> 64) as u64 ^ len as u64)
}

/// The block at byte `at`, zero past the end.
#[inline]
fn block(bytes: &[u8], at: usize) -> u128 {
    match bytes.get(at..).unwrap_or_default() {
        rest if let Some(whole) = rest.first_chunk::<BLOCK>() => u128::from_le_bytes(*whole),
        rest if let Some(low) = rest.first_chunk::<8>() => {
            // The last eight bytes, without those that are in `low` already.
            let high = rest.last_chunk::<8>().map_or(0, |high| u64::from_le_bytes(*high));
            let high = high.checked_shr(8 * (16 - rest.len()) as u32).unwrap_or(0);
            u128::from(u64::from_le_bytes(*low)) | u128::from(high) << 64
        }
        rest if let (Some(low), Some(high)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) => {
            let (low, high) = (u32::from_le_bytes(*low), u32::from_le_bytes(*high));
            u128::from(low) | u128::from(high) << (8 * (rest.len() - 4))
        }
        rest => rest.iter().rev().fold(0, |block, &b| block << 8 | u128::from(b)),
    }
}

/// One bit for each byte of `word` that equals `byte`, the lowest for the first.
#[inline]
fn equal_bytes(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let differing = word ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    // The high bit of each byte that is zero; no carry leaves a byte.
    let zero = !(((differing & LOW) + LOW) | differing | LOW);
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// A text to be looked up under several of its starts.
pub(super) struct Probe<'t> {
    bytes: &'t [u8],
    delimiter: u8,
    /// The state before each block.
    states: [u64; BLOCKS + 1],
}

impl<'t> Probe<'t> {
    /// A probe that has yet to [`read`](Probe::read) its text.
    #[inline]
    pub(super) fn new(bytes: &'t [u8], delimiter: u8, seed: u64) -> Probe<'t> {
        Probe { bytes, delimiter, states: [seed; BLOCKS + 1] }
    }

    /// Reads the text. Apart from [`Probe::new`], because the compiler may move what that returns, and moving states
    /// just written costs more than computing them.
    #[inline]
    pub(super) fn read(&mut self) {
        let mut state = self.states[0];
        for (chunk, next) in self.bytes.chunks_exact(BLOCK).zip(self.states.iter_mut().skip(1)) {
            state = step(state, block(chunk, 0));
            *next = state;
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// The hash of the first `len` bytes under `tag`.
    #[inline]
    pub(super) fn hash(&self, len: usize, tag: u64) -> u64 {
        let blocks = len / BLOCK;
        let state = match self.states.get(blocks) {
            Some(state) => *state,
            None => (BLOCKS..blocks).fold(self.states[BLOCKS], |state, at| step(state, block(self.bytes, at * BLOCK))),
        };
        let mask = (1_u128 << (len % BLOCK * 8)) - 1;
        finish(state, block(self.bytes, blocks * BLOCK) & mask, len, tag)
    }

    /// The lengths at which a start ends with the delimiter.
    #[inline]
    fn delimited(&self) -> LengthSet {
        let mut ends = [0_u64; 2];
        for at in 0..self.bytes.len().min(WINDOW).div_ceil(BLOCK) {
            let block = block(self.bytes, at * BLOCK);
            let low = equal_bytes(block as u64, self.delimiter);
            let high = equal_bytes((block >> 64) as u64, self.delimiter);
            ends[at / 4] |= (low | high << 8) << (at % 4 * BLOCK);
        }
        // From the place of the delimiter to the length up to and with it.
        [ends[0] << 1, ends[1] << 1 | ends[0] >> 63]
    }
}

/// Lengths below [`WINDOW`]: bit `n % 64` of word `n / 64` is for length `n`.
type LengthSet = [u64; 2];

/// The hash of a whole text, equal to that of a [`Probe`] of the same length.
#[inline]
pub(super) fn hash(bytes: &[u8], tag: u64, seed: u64) -> u64 {
    let mut blocks = bytes.chunks_exact(BLOCK);
    let state = blocks.by_ref().fold(seed, |state, chunk| step(state, block(chunk, 0)));
    finish(state, block(blocks.remainder(), 0), bytes.len(), tag)
}

/// The lengths of the keys of a table, counted, those of keys that end with the delimiter apart from the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    delimited: LengthSet,
    others: LengthSet,
    /// Lengths from [`WINDOW`] on, longest first.
    long: Vec<usize>,
    /// How many keys have a length and end with the delimiter or not.
    counts: Vec<((usize, bool), u32)>,
}

impl Lengths {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn add(&mut self, key: &[u8], delimiter: u8) {
        let kind = (key.len(), key.last() == Some(&delimiter));
        match self.counts.binary_search_by_key(&kind, |(kind, _)| *kind) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => {
                self.counts.insert(at, (kind, 1));
                self.index();
            }
        }
    }

    /// Takes away a key that was added.
    pub(super) fn remove(&mut self, key: &[u8], delimiter: u8) {
        let kind = (key.len(), key.last() == Some(&delimiter));
        if let Ok(at) = self.counts.binary_search_by_key(&kind, |(kind, _)| *kind) {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.remove(at);
                self.index();
            }
        }
    }

    fn index(&mut self) {
        (self.delimited, self.others) = ([0; 2], [0; 2]);
        self.long.clear();
        for &((len, delimited), _) in &self.counts {
            match (len, delimited) {
                (0..WINDOW, true) => self.delimited[len / 64] |= 1 << (len % 64),
                (0..WINDOW, false) => self.others[len / 64] |= 1 << (len % 64),
                _ => self.long.push(len),
            }
        }
        self.long.dedup();
        self.long.reverse();
    }

    /// Whether a key of this length may exist.
    #[inline]
    pub(super) fn may_hold(&self, len: usize) -> bool {
        match self.delimited.get(len / 64).zip(self.others.get(len / 64)) {
            Some((delimited, others)) => (delimited | others) >> (len % 64) & 1 == 1,
            None => self.long.contains(&len),
        }
    }

    /// Calls `look_up` with the lengths at which a start of the text may be a key, longest first, until it finds
    /// something.
    #[inline]
    pub(super) fn find<R>(&self, probe: &Probe<'_>, mut look_up: impl FnMut(usize) -> Option<R>) -> Option<R> {
        let len = probe.bytes.len();
        for &long in self.long.iter().filter(|&&long| long <= len) {
            if let Some(found) = look_up(long) {
                return Some(found);
            }
        }
        let delimited = probe.delimited();
        for half in [1, 0] {
            let base = half * 64;
            if len < base {
                continue;
            }
            let within = u64::MAX >> (63 - (len - base).min(63));
            let kinds = self.delimited[half] & delimited[half] | self.others[half] & !delimited[half];
            let mut lengths = kinds & within;
            while lengths != 0 {
                let top = 63 - lengths.leading_zeros() as usize;
                lengths ^= 1 << top;
                if let Some(found) = look_up(base + top) {
                    return Some(found);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn starts_hash_like_whole_texts(bytes in vec(any::<u8>(), 0..300), tag in any::<u64>(), seed in any::<u64>()) {
            let mut probe = Probe::new(&bytes, b'/', seed);
            probe.read();
            for len in 0..=bytes.len() {
                prop_assert_eq!(probe.hash(len, tag), hash(&bytes[..len], tag, seed));
            }
        }

        #[test]
        fn all_keys_that_are_starts_are_candidates(
            keys in vec("[/ab.]{0,12}|[a/]{120,140}", 0..20),
            removed in 0_usize..20,
            text in "[/ab.]{0,20}|[a/]{120,150}",
        ) {
            let mut lengths = Lengths::default();
            keys.iter().for_each(|key| lengths.add(key.as_bytes(), b'/'));
            let (gone, kept) = keys.split_at(removed.min(keys.len()));
            gone.iter().for_each(|key| lengths.remove(key.as_bytes(), b'/'));
            prop_assert_eq!(lengths.is_empty(), kept.is_empty());
            let mut probe = Probe::new(text.as_bytes(), b'/', 7);
            probe.read();
            let mut found: Vec<usize> = Vec::new();
            let none = lengths.find(&probe, |len| {
                found.push(len);
                None::<()>
            });
            prop_assert!(none.is_none());
            prop_assert_eq!(lengths.find(&probe, Some), found.first().copied());
            prop_assert!(found.is_sorted_by(|a, b| a > b), "{:?}", found);
            for len in 0..=text.len() {
                let start = &text[..len];
                let alike = |key: &&String| key.len() == len && key.ends_with('/') == start.ends_with('/');
                let exact = kept.iter().any(|key| alike(&key));
                // Beyond the window the kind of ending is not looked at.
                let near = len >= WINDOW && kept.iter().any(|key| key.len() == len);
                prop_assert!(!exact || found.contains(&len));
                prop_assert!(exact || near || !found.contains(&len));
                prop_assert_eq!(lengths.may_hold(len), kept.iter().any(|key| key.len() == len));
            }
        }
    }

    #[test]
    fn long_lists_of_keys_spread() {
        let mut hashes: Vec<u64> = (0..100_000).map(|n| hash(format!("/api/{n}").as_bytes(), 1, 42) & 0xFFFF).collect();
        hashes.sort_unstable();
        let fullest = hashes.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        assert!(fullest.is_some_and(|fullest| fullest < 14), "{fullest:?}");
    }
}
