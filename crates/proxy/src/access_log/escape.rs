//! Escaping of values in log lines, as nginx does it (ngx_http_log_module, parameter `escape`).

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `"`, `\` and bytes below 32 or above 126 become `\xXX`.
pub(super) fn default(value: &str) -> Cow<'_, str> {
    if value.bytes().all(is_plain) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str("\\x");
            push_hex(&mut out, byte);
        }
    }
    Cow::Owned(out)
}

/// The content of a JSON string: `"`, `\` and control characters escaped.
pub(super) fn json(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len() + 16);
    for char in value.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                out.push_str("\\u00");
                // Below 32, so one byte.
                push_hex(&mut out, char as u8);
            }
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\')
}

fn push_hex(out: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 0xf] {
        out.push(char::from(HEX[usize::from(digit)]));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_escaped_as_nginx_does() {
        #[rustfmt::skip]
        let table = [
            ("plain ~ text", "plain ~ text", "plain ~ text"),
            ("", "", ""),
            ("a\"b\\c", r"a\x22b\x5Cc", r#"a\"b\\c"#),
            ("\n\r\t", r"\x0A\x0D\x09", r"\n\r\t"),
            ("\u{8}\u{c}\u{1b}\0", r"\x08\x0C\x1B\x00", r"\b\f\u001B\u0000"),
            ("\u{7f}", r"\x7F", "\u{7f}"),
            ("é€", r"\xC3\xA9\xE2\x82\xAC", "é€"),
        ];
        for (value, default, json) in table {
            assert_eq!(super::default(value), default, "{value:?}");
            assert_eq!(super::json(value), json, "{value:?}");
        }
    }
}
