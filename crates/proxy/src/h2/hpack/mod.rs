//! Reads blocks of fields (HPACK, RFC 7541).
//!
//! What a client puts into the table is parsed once, when it comes, and not for each head that names it.

pub(crate) mod static_table;

use crate::fields::{Cut, Line, Name, OVERHEAD, take_number, take_text};
use bytes::{Bytes, BytesMut};
use static_table::ENTRIES;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// What a client may use of the table unless it is told otherwise, which it is not (RFC 9113 §6.5.2).
const MOST: usize = 4096;

/// The entries of the static table, read.
static KNOWN: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let read = |(name, value): &(&str, &'static str)| {
        Entry::new(Name::new(name.as_bytes()), Bytes::from_static(value.as_bytes()))
    };
    ENTRIES.iter().map(read).collect()
});

/// What stands in a table.
#[derive(Debug, Clone)]
struct Entry {
    line: Line,
    /// RFC 7541 §4.1.
    size: usize,
}

impl Entry {
    fn new(name: Name, value: Bytes) -> Self {
        let size = name.size(&value);
        Self { line: Line::new(name, value), size }
    }
}

/// Why a block is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockFault {
    /// It is none: an error of the connection (RFC 9113 §4.3).
    Malformed,
    /// Whoever takes the fields wants no more of them.
    Stopped,
}

impl From<Cut> for BlockFault {
    fn from(Cut: Cut) -> Self {
        Self::Malformed
    }
}

/// A client's table of fields, and so what its blocks mean.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    /// What the client uses of it.
    most: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, most: MOST }
    }
}

impl Decoder {
    /// Hands over the fields of a block, each with what it counts for. Values that are not kept in the table are put into `room`, and
    /// split off it.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        room: &mut BytesMut,
        mut each: impl FnMut(Line, usize) -> ControlFlow<()>,
    ) -> Result<(), BlockFault> {
        let mut begins = true;
        while let Some(&first) = block.first() {
            let (line, size) = match first {
                0x80.. => {
                    let entry = self.entry(take_number(&mut block, 7)?)?;
                    (entry.line.clone(), entry.size)
                }
                0x40..0x80 => {
                    let name = self.name(&mut block, 6)?;
                    // It may stay for long, and would keep all of the room.
                    let mut value = Vec::new();
                    take_text(&mut block, 7, &mut value)?;
                    let entry = Entry::new(name, value.into());
                    self.insert(entry.clone());
                    (entry.line, entry.size)
                }
                0x20..0x40 => {
                    let most = take_number(&mut block, 5)?;
                    // Only ahead of the fields (RFC 7541 §4.2).
                    self.most = usize::try_from(most).ok().filter(|most| begins && *most <= MOST).ok_or(Cut)?;
                    self.evict(self.most);
                    continue;
                }
                0x00..0x20 => {
                    let name = self.name(&mut block, 4)?;
                    room.clear();
                    take_text(&mut block, 7, room)?;
                    let entry = Entry::new(name, room.split().freeze());
                    (entry.line, entry.size)
                }
            };
            begins = false;
            if each(line, size).is_break() {
                return Err(BlockFault::Stopped);
            }
        }
        Ok(())
    }

    /// Bytes that the table counts for; never more than [`MOST`].
    #[cfg(test)]
    fn size(&self) -> usize {
        self.size
    }

    fn entry(&self, index: u64) -> Result<&Entry, Cut> {
        let index = usize::try_from(index).ok().and_then(|index| index.checked_sub(1)).ok_or(Cut)?;
        let newer = index.checked_sub(ENTRIES.len());
        newer.map_or_else(|| KNOWN.get(index), |index| self.table.get(index)).ok_or(Cut)
    }

    /// The name that a literal begins with, of which `bits` of the first byte are an index.
    fn name(&self, block: &mut &[u8], bits: u32) -> Result<Name, Cut> {
        match take_number(block, bits)? {
            0 => {
                let mut name = Vec::new();
                take_text(block, 7, &mut name)?;
                Ok(Name::new(&name))
            }
            index => Ok(self.entry(index)?.line.name()),
        }
    }

    fn insert(&mut self, entry: Entry) {
        debug_assert!(entry.size >= OVERHEAD, "the number of entries is bounded by that");
        match self.most.checked_sub(entry.size) {
            Some(left) => {
                self.evict(left);
                self.size += entry.size;
                self.table.push_front(entry);
            }
            // One that is too large empties the table, and is no error (RFC 7541 §4.4).
            None => self.evict(0),
        }
    }

    /// Takes the oldest out until the table counts for no more than `most`.
    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn text(line: &Line) -> String {
        match line {
            Line::Method(method) => format!(":method: {method}"),
            Line::Scheme(scheme) => format!(":scheme: {scheme}"),
            Line::Authority(authority) => format!(":authority: {authority}"),
            Line::Path(path) => format!(":path: {path}"),
            Line::Field(name, value) => format!("{name}: {}", value.to_str().unwrap()),
            Line::Unsound(name) | Line::Malformed(name) => format!("{name:?}"),
        }
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, BlockFault> {
        let mut all = Vec::new();
        decoder.decode(block, &mut BytesMut::new(), |line, _| {
            all.push(text(&line));
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    const REQUESTS: [&[&str]; 3] = [
        &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
        &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"],
        &[
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ],
    ];

    /// RFC 7541, appendices C.3 and C.4.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            for ((block, fields), size) in blocks.iter().zip(REQUESTS).zip([57, 110, 164]) {
                assert_eq!(decode(&mut decoder, &bytes(block)).unwrap(), fields);
                assert_eq!(decoder.size(), size);
            }
        }
    }

    #[test]
    fn the_table_has_its_size() {
        let mut decoder = Decoder::default();
        let long = |length: usize| {
            [
                &[0x40, 1, b'x', 127][..],
                &[(length - 127) as u8 | 0x80, ((length - 127) >> 7) as u8],
                &vec![b'y'; length],
            ]
            .concat()
        };
        decode(&mut decoder, &long(4000)).unwrap();
        assert_eq!(decoder.size(), 4033);
        decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
        assert_eq!((decoder.size(), decoder.table.len()), (4067, 2));
        decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
        assert_eq!((decoder.size(), decoder.table.len()), (68, 2));
        decode(&mut decoder, &long(4100)).unwrap();
        assert_eq!((decoder.size(), decoder.table.len()), (0, 0), "what has no room empties it");
        // The client makes it smaller, and larger again.
        decode(&mut decoder, b"\x20\x40\x01a\x01b").unwrap();
        assert_eq!(decoder.size(), 0);
        decode(&mut decoder, b"\x3f\xe1\x1f\x40\x01a\x01b").unwrap();
        assert_eq!(decoder.size(), 34);
        for block in [&b"\x3f\xe2\x1f"[..], b"\x82\x20"] {
            assert_eq!(decode(&mut Decoder::default(), block), Err(BlockFault::Malformed), "{block:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_names_nothing_is_no_block() {
        for block in
            [&b"\x80"[..], b"\xbe", b"\xff", b"\x40", b"\x40\x01a", b"\x40\x01a\x02b", b"\x7e\x00", b"\x0f\x2f\x00"]
        {
            assert_eq!(decode(&mut Decoder::default(), block), Err(BlockFault::Malformed), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _any = decoder.decode(&block, &mut BytesMut::new(), |_, _| ControlFlow::Continue(()));
                prop_assert!(decoder.size() <= MOST);
                prop_assert_eq!(decoder.size(), decoder.table.iter().map(|entry| entry.size).sum::<usize>());
            }
        }
    }
}
