//! Fields as HTTP/3 carries them (QPACK, RFC 9204), without a dynamic table: clients are told that there is room for none, so no
//! block waits for another stream, and a small block cannot stand for a large head.

mod static_table;

use crate::fields::{Cut, OVERHEAD, put_number, put_text, take_number, take_text};
use http::{HeaderMap, StatusCode};
use static_table::{ENTRIES, Found, find};

/// Why a block of fields is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFault {
    /// It has more bytes than it may, by the measure of RFC 9114 §4.2.2.
    TooLarge,
    /// It is none: an error of the connection.
    Malformed,
}

impl From<Cut> for BlockFault {
    fn from(Cut: Cut) -> Self {
        Self::Malformed
    }
}

/// Hands over the fields of a block one by one, names and values as they stand there, up to `most` bytes.
///
/// # Errors
/// Fields that were handed over before mean nothing then.
pub fn decode(block: &[u8], most: u64, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), BlockFault> {
    let mut rest = block;
    let required = take_number(&mut rest, 8)?;
    let _base = take_number(&mut rest, 7)?;
    if required != 0 {
        return Err(BlockFault::Malformed);
    }
    let (mut name, mut value) = (Vec::new(), Vec::new());
    let mut left = most;
    while let Some(&first) = rest.first() {
        let known = match first {
            0b1100_0000.. => {
                let (known, text) = entry(take_number(&mut rest, 6)?)?;
                value.clear();
                value.extend_from_slice(text.as_bytes());
                Some(known)
            }
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
                let (known, _) = entry(take_number(&mut rest, 4)?)?;
                value.clear();
                take_text(&mut rest, 7, &mut value)?;
                Some(known)
            }
            0b0010_0000..=0b0011_1111 => {
                name.clear();
                value.clear();
                take_text(&mut rest, 3, &mut name)?;
                take_text(&mut rest, 7, &mut value)?;
                None
            }
            // All others point into the dynamic table.
            _ => return Err(BlockFault::Malformed),
        };
        let name = known.map_or(&name[..], str::as_bytes);
        let size = (name.len() + value.len() + OVERHEAD) as u64;
        left = left.checked_sub(size).ok_or(BlockFault::TooLarge)?;
        each(name, &value);
    }
    Ok(())
}

/// A field of the static table (RFC 9204, appendix A).
///
/// # Errors
/// There is none of this number.
pub fn entry(index: u64) -> Result<(&'static str, &'static str), BlockFault> {
    let index = usize::try_from(index).map_err(|_| BlockFault::Malformed)?;
    ENTRIES.get(index).copied().ok_or(BlockFault::Malformed)
}

/// Puts a block at the end of `out`: the status, if there is one, and the fields.
pub(crate) fn encode(status: Option<StatusCode>, fields: &HeaderMap, out: &mut Vec<u8>) {
    // Nothing of the dynamic table is needed.
    out.extend_from_slice(&[0, 0]);
    if let Some(status) = status {
        match find(":status", status.as_str().as_bytes()) {
            Some(Found::Field(index)) => put_number(out, 0b1100_0000, 6, index),
            _ => {
                put_number(out, 0b0101_0000, 4, static_table::STATUS);
                put_text(out, 0, 7, status.as_str().as_bytes());
            }
        }
    }
    for (name, value) in fields {
        let (name, value) = (name.as_str(), value.as_bytes());
        match find(name, value) {
            Some(Found::Field(index)) => put_number(out, 0b1100_0000, 6, index),
            Some(Found::Name(index)) => {
                put_number(out, 0b0101_0000, 4, index);
                put_text(out, 0, 7, value);
            }
            None => {
                put_text(out, 0b0010_0000, 3, name.as_bytes());
                put_text(out, 0, 7, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn decoded(block: &[u8], most: u64) -> Result<Vec<(String, String)>, BlockFault> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decode(block, most, |name, value| all.push((text(name), text(value))))?;
        Ok(all)
    }

    #[test]
    fn fields_are_read_in_every_form() {
        // RFC 9204, appendix B.1.
        let literal = b"\x00\x00\x51\x0b/index.html";
        assert_eq!(decoded(literal, 1000).unwrap(), [(":path".into(), "/index.html".into())]);
        let others = b"\x00\x00\xd1\x50\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x23abc\x01d\xff\x00";
        let pairs = [(":method", "GET"), (":authority", "www.example.com"), ("abc", "d"), ("content-type", "")];
        let found = decoded(others, 1000).unwrap();
        for (found, pair) in found.iter().zip(pairs).take(3) {
            assert_eq!((found.0.as_str(), found.1.as_str()), pair);
        }
        assert_eq!(found[3].0, ENTRIES[63].0);
    }

    #[test]
    fn what_needs_the_dynamic_table_or_is_cut_short_is_no_block() {
        for block in [
            &b""[..],
            b"\x00",
            b"\x01\x00",
            b"\x00\x00\x80",
            b"\x00\x00\x40\x00",
            b"\x00\x00\x10",
            b"\x00\x00\x00\x00",
            b"\x00\x00\xff",
            b"\x00\x00\xff\x24",
            b"\x00\x00\x51\x05/in",
            b"\x00\x00\x51\x81\x1e",
            b"\x00\x00\x51\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(decoded(block, 1000), Err(BlockFault::Malformed), "{block:?}");
        }
    }

    #[test]
    fn fields_have_their_size() {
        let block = b"\x00\x00\x23abc\x01d\x23abc\x01d";
        assert_eq!(decoded(block, 72).unwrap().len(), 2);
        assert_eq!(decoded(block, 71), Err(BlockFault::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            status in 100_u16..1000,
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,40}|content-type|vary|server", "[ -~]{0,300}"), 0..20),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &fields {
                map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let mut block = Vec::new();
            encode(StatusCode::from_u16(status).ok(), &map, &mut block);
            let mut found = decoded(&block, u64::MAX).unwrap().into_iter();
            prop_assert_eq!(found.next(), Some((":status".to_owned(), status.to_string())));
            let written = map.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            prop_assert!(found.eq(written));
        }

        #[test]
        fn no_bytes_make_it_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = decoded(&block, 500);
        }
    }
}
