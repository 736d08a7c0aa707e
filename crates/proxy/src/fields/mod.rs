//! Fields as HTTP/2 and HTTP/3 carry them: what HPACK (RFC 7541) and QPACK (RFC 9204) have in common.
//!
//! [`line`] is one field of a head with its meaning, [`primitive`] are the numbers and texts that blocks of fields consist of,
//! and [`huffman`] is the code that texts may be in.

mod huffman;
mod line;
mod primitive;

pub(crate) use line::{Line, Name};
pub(crate) use primitive::{Cut, put_number, put_text, take_number, take_text};

use http::{HeaderName, HeaderValue, header};

/// What a field counts for beside its name and value (RFC 7541 §4.1, RFC 9113 §6.5.2, RFC 9114 §4.2.2).
pub(crate) const OVERHEAD: usize = 32;

/// Fields that are about a connection of HTTP/1.1 (RFC 9113 §8.2.2, RFC 9114 §4.2): neither a head nor trailers may have them.
pub(crate) fn is_of_a_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "te" => !value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        name => is_forbidden(name.as_bytes()),
    }
}

/// Names that no head may have over these protocols, whatever their value.
pub(crate) fn is_forbidden(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

/// Values neither begin nor end with white space (RFC 9113 §8.2.1), and a length is a number.
pub(crate) fn is_sound(name: &HeaderName, value: &HeaderValue) -> bool {
    match value.as_bytes() {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => false,
        [] => *name != header::CONTENT_LENGTH,
        _ => true,
    }
}
