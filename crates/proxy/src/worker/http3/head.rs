//! The head of a request over HTTP/3: what makes it malformed (RFC 9114 §4.1.2, §4.2, §4.3.1).

use crate::config::ClientLimits;
use crate::h3::{self, BlockFault, is_of_a_connection};
use crate::request::{Head, Seen};
use crate::worker::http2_head::{is_sound, join_cookies};
use bytes::Bytes;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

/// Why a head is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The request is answered with this.
    Answered(StatusCode),
    /// It is no block of fields: an error of the connection.
    Undecodable,
}

/// What stands in front of the fields.
#[derive(Debug, Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
}

/// A head while its fields come in.
struct Reading {
    pseudo: Pseudo,
    fields: HeaderMap,
    most_fields: usize,
    /// Fields beyond that.
    surplus: bool,
    length: Option<u64>,
    malformed: bool,
}

/// Reads a head, and the length of the body that it announces.
///
/// # Errors
/// It breaks a rule of the protocol, or is too large.
pub(super) fn read(block: &[u8], limits: &ClientLimits) -> Result<(Head, Option<u64>), Unreadable> {
    let mut reading = Reading {
        pseudo: Pseudo::default(),
        fields: HeaderMap::new(),
        most_fields: limits.header_count,
        surplus: false,
        length: None,
        malformed: false,
    };
    h3::decode(block, limits.header_bytes as u64, |name, value| {
        reading.malformed |= reading.take(name, value).is_none();
    })
    .map_err(|fault| match fault {
        BlockFault::TooLarge => Unreadable::Answered(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        BlockFault::Malformed => Unreadable::Undecodable,
    })?;
    reading.finish().ok_or(Unreadable::Answered(StatusCode::BAD_REQUEST))
}

impl Reading {
    /// Takes a field in. `None`: it makes the head malformed.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() == Some(&b':') {
            // They come first.
            return if self.fields.is_empty() { self.pseudo.take(name, value) } else { None };
        }
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        if !is_sound(&name, &value) || is_of_a_connection(&name, &value) {
            return None;
        }
        if name == header::CONTENT_LENGTH {
            let length = length(&value)?;
            if let Some(known) = self.length {
                // The same once more is one (RFC 9110 §8.6), as over the other protocols.
                return (length == known).then_some(());
            }
            self.length = Some(length);
        }
        if self.fields.len() < self.most_fields {
            self.fields.append(name, value);
        } else {
            self.surplus = true;
        }
        Some(())
    }

    fn finish(mut self) -> Option<(Head, Option<u64>)> {
        if self.malformed {
            return None;
        }
        let (method, uri) = self.pseudo.finish()?;
        join_cookies(&mut self.fields);
        let seen = Seen::of(&self.fields);
        let fault = self.surplus.then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let head = Head { method, uri, version: Version::HTTP_3, headers: self.fields, seen, fault };
        Some((head, self.length))
    }
}

impl Pseudo {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let bytes = || Bytes::copy_from_slice(value);
        let again = match name {
            b":method" => self.method.replace(Method::from_bytes(value).ok()?).is_some(),
            b":scheme" => self.scheme.replace(Scheme::try_from(value).ok()?).is_some(),
            b":authority" => self.authority.replace(Authority::from_maybe_shared(bytes()).ok()?).is_some(),
            // The parser would overlook a fragment.
            b":path" if value.is_empty() || value.contains(&b'#') => return None,
            b":path" => self.path.replace(PathAndQuery::from_maybe_shared(bytes()).ok()?).is_some(),
            _ => return None,
        };
        (!again).then_some(())
    }

    /// Method and target, if all is there that has to be.
    fn finish(self) -> Option<(Method, Uri)> {
        let Self { method, scheme, authority, path } = self;
        let method = method?;
        let mut parts = Parts::default();
        if method == Method::CONNECT {
            if scheme.is_some() || path.is_some() {
                return None;
            }
            parts.authority = Some(authority?);
        } else {
            let (scheme, path) = (scheme?, path?);
            let target = path.as_str();
            let known = scheme == Scheme::HTTP || scheme == Scheme::HTTPS;
            if !known || !(target.starts_with('/') || (target == "*" && method == Method::OPTIONS)) {
                return None;
            }
            // Without an authority the field `Host` has to say it.
            parts.scheme = authority.is_some().then_some(scheme);
            parts.authority = authority;
            parts.path_and_query = Some(path);
        }
        Some((method, Uri::from_parts(parts).ok()?))
    }
}

/// A length is digits alone.
fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::activity::tests::limits;

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
        let bad = Unreadable::Answered(StatusCode::BAD_REQUEST);
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
        let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let fields = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
        assert_eq!(with(&fields[..3]).unwrap().0.fault, None);
        assert_eq!(with(&fields).unwrap().0.fault, Some(too_large));
        let long = "x".repeat(120);
        let fields = [("a", &*long); 8];
        assert_eq!(with(&fields).unwrap_err(), Unreadable::Answered(too_large));
    }
}
