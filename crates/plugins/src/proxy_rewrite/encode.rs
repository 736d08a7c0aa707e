//! Percent-encoding of targets.

use std::borrow::Cow;

/// A decoded path as it goes on the wire: blank, `%`, `?`, `#`, control and non-ASCII bytes are encoded.
pub(super) fn path(text: &str) -> Cow<'_, str> {
    encode(text, |byte| matches!(byte, b'%' | b'?') || never(byte))
}

/// A query: it keeps its delimiters and escapes. Only what would break the request line is encoded.
pub(super) fn query(text: &str) -> Cow<'_, str> {
    encode(text, never)
}

/// A raw target: only blanks and control bytes are encoded, since they would break the request line.
pub(super) fn raw(text: &str) -> Cow<'_, str> {
    encode(text, |byte| byte <= b' ' || byte == 0x7f)
}

/// Bytes that can stand in no part of a target.
fn never(byte: u8) -> bool {
    byte <= b' ' || byte == b'#' || byte >= 0x7f
}

fn encode(text: &str, escaped: impl Fn(u8) -> bool) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if !text.bytes().any(&escaped) {
        return Cow::Borrowed(text);
    }
    let mut encoded = Vec::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if escaped(byte) {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
        } else {
            encoded.push(byte);
        }
    }
    // Non-ASCII characters are either encoded byte by byte or kept whole.
    Cow::Owned(String::from_utf8(encoded).expect("characters are kept whole or encoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_encoded_by_their_own_rules() {
        assert_eq!(path("/a b?c%#é\r\n/:@&=+$;,"), "/a%20b%3Fc%25%23%C3%A9%0D%0A/:@&=+$;,");
        assert_eq!(query("a=b c&d=%20?#é\n"), "a=b%20c&d=%20?%23%C3%A9%0A");
        assert_eq!(raw("//a%2Fb?c\r\nX: y\u{7f}é#"), "//a%2Fb?c%0D%0AX:%20y%7Fé#");
    }
}
