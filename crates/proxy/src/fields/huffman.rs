//! The Huffman code of fields (RFC 7541, appendix B). It is canonical: the lengths of the codes say all.

use bytes::BufMut;

/// The length of each byte's code. What comes behind the last one is EOS, 30 bits that are all set.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
/// The longest code, in bits.
const LONGEST: usize = 30;

/// The bytes whose codes have one length.
#[derive(Clone, Copy)]
struct Row {
    /// The lowest of these codes; the others follow one by one.
    first: u32,
    number: u32,
    /// Where the bytes stand in the list of all.
    place: usize,
}

/// Rows by length, and all bytes in the order of their codes.
const ROWS: ([Row; LONGEST + 1], [u8; 256]) = {
    let mut rows = [Row { first: 0, number: 0, place: 0 }; LONGEST + 1];
    let mut bytes = [0; 256];
    let (mut length, mut code, mut place) = (1, 0, 0);
    while length <= LONGEST {
        code <<= 1;
        rows[length] = Row { first: code, number: 0, place };
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as usize == length {
                bytes[place] = byte as u8;
                place += 1;
                code += 1;
                rows[length].number += 1;
            }
            byte += 1;
        }
        length += 1;
    }
    (rows, bytes)
};

/// The length of the code that begins with such a byte; 0 where it is longer than that.
const SHORT: [u8; 256] = {
    let mut lengths = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut length = 8;
        while length > 0 {
            let row = ROWS.0[length];
            let code = byte as u32 >> (8 - length);
            if code >= row.first && code - row.first < row.number {
                lengths[byte] = length as u8;
            }
            length -= 1;
        }
        byte += 1;
    }
    lengths
};

/// Puts what is encoded at the end of `out`. `None`: it is not of this code, or not padded with up to seven set bits.
pub(super) fn decode(encoded: &[u8], out: &mut impl BufMut) -> Option<()> {
    let (rows, bytes) = &ROWS;
    // The next `bits` of what is encoded, from the highest bit on.
    let (mut window, mut bits) = (0_u64, 0_usize);
    let mut rest = encoded.iter();
    loop {
        while bits <= 56
            && let Some(byte) = rest.next()
        {
            window |= u64::from(*byte) << (56 - bits);
            bits += 8;
        }
        let code = |length: usize| (window >> (64 - length)) as u32;
        // What is below the first of its length would have ended before.
        let ends =
            |length: &usize| code(*length).checked_sub(rows[*length].first).is_some_and(|n| n < rows[*length].number);
        let length = match usize::from(SHORT[code(8) as usize]) {
            0 => (9..=LONGEST).find(ends),
            short => Some(short),
        };
        let Some(length) = length.filter(|length| *length <= bits) else {
            return (bits < 8 && (bits == 0 || code(bits) == (1 << bits) - 1)).then_some(());
        };
        let row = rows[length];
        out.put_u8(bytes[row.place + (code(length) - row.first) as usize]);
        window <<= length;
        bits -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(hex: &str) -> Option<String> {
        let digits = hex.replace(' ', "");
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let encoded: Vec<u8> = digits.as_bytes().chunks(2).map(byte).collect();
        let mut out = Vec::new();
        decode(&encoded, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    /// RFC 7541, appendix C.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        for (encoded, text) in [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            (
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 \
                 b106 3d50 07",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
            ("", ""),
        ] {
            assert_eq!(decoded(encoded).as_deref(), Some(text));
        }
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decoded("1f").as_deref(), Some("a"));
        assert_eq!(decoded("1e"), None, "a zero among the padding");
        assert_eq!(decoded("1fff"), None, "more than seven bits");
        assert_eq!(decoded("ffff ffff"), None, "EOS");
    }
}
