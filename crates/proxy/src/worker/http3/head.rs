//! The head of a request over HTTP/3.

use crate::config::ClientLimits;
use crate::fields::{Line, Name};
use crate::h3::{self, BlockFault};
use crate::request::Head;
use crate::worker::stream_head::Reading;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};

/// Why a head is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The request is answered with this, without a body if it asks for a head, as far as it could be read.
    Answered { status: StatusCode, to_head: bool },
    /// It is no block of fields: an error of the connection.
    Undecodable,
}

/// Reads a head, and the length of the body that it announces.
///
/// # Errors
/// It breaks a rule of the protocol, or is too large.
pub(super) fn read(block: &[u8], limits: &ClientLimits) -> Result<(Head, Option<u64>), Unreadable> {
    let mut reading = Reading::new(HeaderMap::new(), limits.header_count);
    let decoded = h3::decode(block, limits.header_bytes as u64, |name, value| {
        let name = Name::new(name);
        // The parser would overlook a fragment.
        let line = match name == Name::Path && value.contains(&b'#') {
            true => Line::Malformed(name),
            false => Line::new(name, Bytes::copy_from_slice(value)),
        };
        reading.take(line);
    });
    let to_head = reading.is_head();
    let answered = |status| Unreadable::Answered { status, to_head };
    decoded.map_err(|fault| match fault {
        BlockFault::TooLarge => answered(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        BlockFault::Malformed => Unreadable::Undecodable,
    })?;
    reading.finish(Version::HTTP_3).map_err(|_| answered(StatusCode::BAD_REQUEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::activity::tests::limits;
    use http::{Method, header};

    /// A block of these fields, each a literal.
    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = vec![0, 0];
        for (name, value) in fields {
            assert!(name.len() < 7 + 128 && value.len() < 127);
            match name.len() {
                short @ 0..7 => block.push(0x20 | short as u8),
                long => block.extend([0x27, (long - 7) as u8]),
            }
            block.extend(name.bytes());
            block.push(value.len() as u8);
            block.extend(value.bytes());
        }
        block
    }

    fn read_fields(fields: &[(&str, &str)]) -> Result<(Head, Option<u64>), Unreadable> {
        read(&block(fields), &ClientLimits { header_bytes: 1000, header_count: 3, ..limits() })
    }

    const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x?y")];

    fn with(more: &[(&str, &str)]) -> Result<(Head, Option<u64>), Unreadable> {
        read_fields(&[&GET[..], more].concat())
    }

    #[test]
    fn sound_heads_are_taken() {
        let (head, length) = with(&[("te", "trailers"), ("content-length", "5")]).unwrap();
        assert_eq!((head.method, head.uri.to_string(), length), (Method::GET, "https://a.test/x?y".into(), Some(5)));
        let (head, length) = with(&[("content-length", "5"), ("content-length", "5")]).unwrap();
        assert_eq!((head.headers.get_all(header::CONTENT_LENGTH).iter().count(), length), (1, Some(5)));
        let (head, _) = with(&[("cookie", "a"), ("cookie", "b")]).unwrap();
        assert_eq!(head.headers[header::COOKIE], "a; b");
        let (head, _) = read_fields(&[GET[3], GET[1], GET[0], ("host", "b.test")]).unwrap();
        assert_eq!((head.uri.to_string(), head.seen.hosts), ("/x?y".into(), 1));
        let (head, _) =
            read_fields(&[(":method", "OPTIONS"), (":scheme", "http"), (":authority", "a"), (":path", "*")]).unwrap();
        assert_eq!(head.uri.path(), "*");
        let (head, _) = read_fields(&[(":method", "CONNECT"), (":authority", "a:1")]).unwrap();
        assert_eq!(head.method, Method::CONNECT);
    }

    #[test]
    fn malformed_heads_are_not() {
        let refused = |read: Result<(Head, Option<u64>), Unreadable>| read.unwrap_err();
        let bad = Unreadable::Answered { status: StatusCode::BAD_REQUEST, to_head: false };
        for fields in [
            &[("connection", "close")][..],
            &[("te", "gzip")],
            &[("upgrade", "websocket")],
            &[("transfer-encoding", "chunked")],
            &[("Upper", "x")],
            &[("a b", "x")],
            &[("", "x")],
            &[("x", " y")],
            &[("x", "y\n")],
            &[("content-length", "")],
            &[("content-length", "+1")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "1, 1")],
            &[(":path", "/")],
            &[("x", "y"), (":protocol", "websocket")],
            &[(":protocol", "websocket")],
            &[(":status", "200")],
        ] {
            assert_eq!(refused(with(fields)), bad, "{fields:?}");
        }
        for left_out in [0, 1, 3] {
            let fields: Vec<_> =
                GET.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, pair)| *pair).collect();
            assert_eq!(refused(read_fields(&fields)), bad, "{fields:?}");
        }
        let late = [GET[0], GET[1], GET[2], ("x", "y"), GET[3]];
        assert_eq!(refused(read_fields(&late)), bad);
        for path in ["", "x", "*", "/x#y", "http://b/"] {
            assert_eq!(refused(read_fields(&[GET[0], GET[1], GET[2], (":path", path)])), bad, "{path}");
        }
        for scheme in ["ftp", "", "ht tp"] {
            assert_eq!(refused(read_fields(&[GET[0], (":scheme", scheme), GET[2], GET[3]])), bad, "{scheme}");
        }
        assert_eq!(refused(read_fields(&[GET[0], GET[1], (":authority", ""), GET[3]])), bad);
        assert_eq!(refused(read(b"\x00\x00\x80", &limits())), Unreadable::Undecodable);
    }

    #[test]
    fn heads_have_their_size() {
        let fields = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
        assert_eq!(with(&fields[..3]).unwrap().0.fault, None);
        assert_eq!(with(&fields).unwrap().0.fault, Some(TOO_LARGE));
        let long = "x".repeat(120);
        let fields = [("a", &*long); 8];
        assert_eq!(with(&fields).unwrap_err(), Unreadable::Answered { status: TOO_LARGE, to_head: false });
    }

    #[test]
    fn who_asks_for_a_head_is_known_even_if_it_is_refused() {
        let long = "x".repeat(120);
        for (more, status) in [([("x", &*long); 8], TOO_LARGE), ([("x", " y"); 8], StatusCode::BAD_REQUEST)] {
            for method in ["GET", "HEAD"] {
                let fields = [&[(":method", method)][..], &GET[1..], &more[..]].concat();
                let refused = Unreadable::Answered { status, to_head: method == "HEAD" };
                assert_eq!(read_fields(&fields).unwrap_err(), refused, "{method} {more:?}");
            }
        }
    }
}
