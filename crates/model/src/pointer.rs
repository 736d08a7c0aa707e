//! JSON pointers (RFC 6901), for the paths of faults and references.

use std::fmt::Display;

/// Appends one segment, escaped.
pub(crate) fn push(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// `base` with one more segment, escaped.
pub fn join(base: &str, segment: impl Display) -> String {
    let mut pointer = base.to_owned();
    push(&mut pointer, &segment.to_string());
    pointer
}
