//! Numbers and texts within blocks of fields (RFC 7541 §5, RFC 9204 §4.1).

use super::huffman;
use bytes::BufMut;

/// What stands there is no number, or no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

/// A number whose first byte has `bits` of it (RFC 7541 §5.1).
///
/// # Errors
/// It is cut off, or has more than 62 bits (RFC 9204 §4.1.1).
pub(crate) fn take_number(rest: &mut &[u8], bits: u32) -> Result<u64, Cut> {
    let mut next = || {
        let (first, others) = rest.split_first().ok_or(Cut)?;
        *rest = others;
        Ok(*first)
    };
    let all = (1_u64 << bits) - 1;
    let mut number = u64::from(next()?) & all;
    if number < all {
        return Ok(number);
    }
    for shift in (0..56).step_by(7) {
        let byte = next()?;
        number += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Cut)
}

/// Puts a text at the end of `out`, the length of which has `bits` in its first byte, before them the sign of the Huffman code.
///
/// # Errors
/// It is cut off, or not of the code.
pub(crate) fn take_text(rest: &mut &[u8], bits: u32, out: &mut impl BufMut) -> Result<(), Cut> {
    let coded = rest.first().is_some_and(|first| first & (1 << bits) != 0);
    let length = usize::try_from(take_number(rest, bits)?).map_err(|_| Cut)?;
    let (text, others) = rest.split_at_checked(length).ok_or(Cut)?;
    *rest = others;
    if coded {
        huffman::decode(text, out).ok_or(Cut)
    } else {
        out.put_slice(text);
        Ok(())
    }
}

/// Puts a number behind the `sign` in its first byte, which leaves `bits` for it.
pub(crate) fn put_number(out: &mut Vec<u8>, sign: u8, bits: u32, number: usize) {
    let all = (1 << bits) - 1;
    if number < all {
        out.push(sign | number as u8);
        return;
    }
    out.push(sign | all as u8);
    let mut left = number - all;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Puts a text behind the length that its first byte has `bits` of, beside the `sign`. Without Huffman code: it would save
/// bytes and cost time.
pub(crate) fn put_text(out: &mut Vec<u8>, sign: u8, bits: u32, text: &[u8]) {
    put_number(out, sign, bits, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, appendix C.1.
    #[test]
    fn numbers_of_the_standard_are_read_and_written() {
        for (number, bits, bytes) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut out = Vec::new();
            put_number(&mut out, 0, bits, number);
            assert_eq!(out, bytes);
            assert_eq!(take_number(&mut &bytes[..], bits), Ok(number as u64));
        }
        assert_eq!(take_number(&mut &[31, 154][..], 5), Err(Cut));
        assert_eq!(take_number(&mut &[31, 255, 255, 255, 255, 255, 255, 255, 255, 1][..], 5), Err(Cut));
    }
}
