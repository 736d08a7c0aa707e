//! Hashes of all starts of a text out of one pass, and sets of lengths worth probing.
//!
//! A path is looked up under each of its starts that could be a prefix of some pattern. [`Probe`] reads the path once,
//! eight bytes at a step, and keeps the state of the hash at each step, so that the hash of any start costs two more
//! multiplications. [`Lengths`] knows which starts exist at all; as most prefixes end in `/`, it keeps those apart and
//! asks for them only where the path has a `/`.

/// Lengths below this are kept in bit sets; steps and delimiters are recorded as far.
const WINDOW: usize = 128;
const STEPS: usize = WINDOW / 8;

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xA076_1D64_78BD_642F;
const K2: u64 = 0xE703_7ED1_A0B4_28DB;

/// Both halves of the product, folded: every bit of the factors reaches every bit of the result.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The eight bytes of `bytes` at step `step`, zero past the end.
fn word(bytes: &[u8], step: usize) -> u64 {
    let at = step * 8;
    if let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        return u64::from_le_bytes(*chunk);
    }
    let missing = (at + 8 - bytes.len()) * 8;
    match bytes.last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk).checked_shr(missing as u32).unwrap_or(0),
        None => bytes.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)),
    }
}

/// One bit for each byte of `word` that equals `byte`, the lowest for the first.
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
    /// The state before each step.
    states: [u64; STEPS + 1],
    /// Bit `n`: the start of length `n` ends with the delimiter.
    delimited: u128,
}

impl<'t> Probe<'t> {
    pub(super) fn new(bytes: &'t [u8], delimiter: u8, seed: u64) -> Probe<'t> {
        let mut probe = Probe { bytes, states: [0; STEPS + 1], delimited: 0 };
        let mut state = seed;
        probe.states[0] = seed;
        for step in 0..STEPS.min(bytes.len().div_ceil(8)) {
            let word = word(bytes, step);
            state = fold(state ^ word, K0);
            probe.states[step + 1] = state;
            probe.delimited |= u128::from(equal_bytes(word, delimiter)) << (step * 8) << 1;
        }
        probe
    }

    pub(super) fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// The hash of the first `len` bytes under `tag`.
    pub(super) fn hash(&self, len: usize, tag: u64) -> u64 {
        let step = len / 8;
        let state = match self.states.get(step) {
            Some(state) => *state,
            None => (STEPS..step).fold(self.states[STEPS], |state, step| fold(state ^ word(self.bytes, step), K0)),
        };
        let rest = match len % 8 {
            0 => 0,
            rest => word(self.bytes, step) & (u64::MAX >> (64 - rest * 8)),
        };
        fold(fold(state ^ rest, K1 ^ len as u64) ^ tag, K2)
    }
}

/// The hash of a whole text, equal to that of a [`Probe`] of the same length.
pub(super) fn hash(bytes: &[u8], tag: u64, seed: u64) -> u64 {
    let state = (0..bytes.len() / 8).fold(seed, |state, step| fold(state ^ word(bytes, step), K0));
    let rest = if bytes.len() % 8 == 0 { 0 } else { word(bytes, bytes.len() / 8) };
    fold(fold(state ^ rest, K1 ^ bytes.len() as u64) ^ tag, K2)
}

/// The lengths of the keys of a table, counted, those of keys that end with the delimiter apart from the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    delimited: u128,
    others: u128,
    /// Lengths from [`WINDOW`] on, longest first.
    long: Vec<usize>,
    /// How many keys have a length and end with the delimiter or not.
    counts: Vec<((usize, bool), u32)>,
}

impl Lengths {
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
        (self.delimited, self.others) = (0, 0);
        self.long.clear();
        for &((len, delimited), _) in &self.counts {
            match (len, delimited) {
                (0..WINDOW, true) => self.delimited |= 1 << len,
                (0..WINDOW, false) => self.others |= 1 << len,
                _ => self.long.push(len),
            }
        }
        self.long.dedup();
        self.long.reverse();
    }

    /// Whether a key of this length may exist.
    pub(super) fn may_hold(&self, len: usize) -> bool {
        if len < WINDOW { (self.delimited | self.others) >> len & 1 == 1 } else { self.long.contains(&len) }
    }

    /// Lengths at which a start of the text may be a key, longest first.
    pub(super) fn candidates(&self, probe: &Probe<'_>) -> impl Iterator<Item = usize> {
        let len = probe.bytes.len();
        let within = u128::MAX >> (WINDOW - 1 - len.min(WINDOW - 1));
        let mut short = (self.delimited & probe.delimited | self.others & !probe.delimited) & within;
        let long = self.long.iter().copied().filter(move |&long| long <= len);
        long.chain(std::iter::from_fn(move || {
            let top = short.checked_ilog2()?;
            short ^= 1 << top;
            Some(top as usize)
        }))
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
            let probe = Probe::new(&bytes, b'/', seed);
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
            let probe = Probe::new(text.as_bytes(), b'/', 7);
            let found: Vec<usize> = lengths.candidates(&probe).collect();
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
