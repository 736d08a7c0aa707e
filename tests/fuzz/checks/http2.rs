//! What a client of HTTP/2 sends, behind its preface and SETTINGS.
//!
//! Input: a byte that says where the rest is cut in two, and frames.

use http::Version;
use milecastle_proxy::fuzzing::{Http2Read, read_http2};

const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What a head may come to, and streams that may be open.
const MOST: (usize, usize) = (4096, 4);
/// What a client may send that nobody reads.
const WINDOW: usize = 1 << 20;

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let Some((cut, frames)) = data.split_first() else { return };
    let (first, second) = frames.split_at(usize::from(*cut).min(frames.len()));
    let whole = read_http2(&[BEGIN, frames], MOST.0, MOST.1);
    let pieces = read_http2(&[BEGIN, first, second], MOST.0, MOST.1);
    assert_eq!(shown(&pieces), shown(&whole), "pieces give what the whole gives");
    assert!(whole.bodies.len() <= MOST.1);
    assert!(whole.bodies.iter().map(|(_, body)| body.len()).sum::<usize>() <= WINDOW.min(frames.len()));
    let mut said = &whole.said[..];
    while let Some(([a, b, c, kind, ..], rest)) = said.split_first_chunk::<9>() {
        assert!(matches!(kind, 3 | 4 | 6 | 8), "nothing is said but in answer to what has come");
        said = &rest[u32::from_be_bytes([0, *a, *b, *c]) as usize..];
    }
    assert!(said.is_empty());
    let mut last = 0;
    for (stream, head) in &whole.requests {
        assert!(stream % 2 == 1 && *stream > last, "each stream is newer than the one before");
        last = *stream;
        let Ok(head) = head else { continue };
        assert_eq!(head.version, Version::HTTP_2);
        let path = head.uri.path();
        assert!(path.is_empty() || path == "*" || path.starts_with('/'));
        let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        // Parts of a cookie lose 32 bytes each and gain two.
        assert!(size <= MOST.0);
        for (name, value) in &head.headers {
            assert!(!["connection", "keep-alive", "transfer-encoding", "upgrade"].contains(&name.as_str()));
            let value = value.as_bytes();
            assert!(!value.starts_with(b" ") && !value.ends_with(b" ") && !value.iter().any(|b| b"\r\n\0".contains(b)));
        }
    }
}

/// All that there is to see.
fn shown(read: &Http2Read) -> String {
    format!("{read:?}")
}
