//! The host that a request names.
//!
//! A missing or repeated Host is refused (RFC 9112 §3.2), and so is one that servers could read in several ways.

use super::head::Head;
use http::{HeaderValue, Uri, Version, header};
use milecastle_plugin_api::fields;
use std::cell::RefCell;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::str::FromStr as _;

/// Longest Host header that is remembered, in bytes: one is for each connection.
const LONGEST: usize = 64;

/// The Host header that a client has sent last, and the host in it. The requests of a connection nearly always name one host.
#[derive(Default)]
pub(crate) struct LastHost(RefCell<Option<Named>>);

/// A Host header as it was written, and the host in it.
type Named = (Box<[u8]>, Rc<str>);

impl LastHost {
    /// The host without port in lower case; the head has a Host header afterwards if it named a host in another way. `None`: 400.
    pub(super) fn of(&self, head: &mut Head) -> Option<Rc<str>> {
        let (hosts, version) = (head.seen.hosts, head.version);
        if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
            return None;
        }
        if head.uri.authority().is_some() {
            stand_for_host(head)?;
        } else if hosts == 0 {
            return (version == Version::HTTP_10).then(Rc::default);
        }
        let written = fields::get(&head.headers, &header::HOST)?;
        if let Some((last, host)) = &*self.0.borrow()
            && **last == *written.as_bytes()
        {
            return Some(host.clone());
        }
        let name = host_name(written)?;
        let host: Rc<str> = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
        if written.len() <= LONGEST {
            *self.0.borrow_mut() = Some((written.as_bytes().into(), host.clone()));
        }
        Some(host)
    }
}

/// Puts the target's authority in place of the Host header (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
fn stand_for_host(head: &mut Head) -> Option<()> {
    let in_streams = head.version >= Version::HTTP_2;
    let authority = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    if let Some(host) = head.headers.get(header::HOST) {
        let same = || host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
        let good = if in_streams { same() } else { host_name(host).is_some() };
        good.then_some(())?;
    }
    if !matches!(head.uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    head.headers.insert(header::HOST, authority);
    if head.uri.path_and_query().is_some_and(|target| target.as_str().starts_with('?')) {
        // An empty path is sent as `/` (RFC 9110 §4.2.3).
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.path_and_query = Some(format!("/{}", parts.path_and_query?.as_str()).parse().ok()?);
        head.uri = Uri::from_parts(parts).ok()?;
    }
    Some(())
}

fn host_name(value: &HeaderValue) -> Option<&str> {
    without_port(value.to_str().ok()?)
}

/// The host of a Host header's value; `None` if it is none.
///
/// Taken are names as they stand in the DNS, with `_`, and addresses. What else RFC 3986 allows, percent-encoding above all, is
/// read by servers in several ways.
pub(super) fn without_port(text: &str) -> Option<&str> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            Ipv6Addr::from_str(rest.get(..end)?).ok()?;
            (text.get(..end + 2)?, text.get(end + 2..)?)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let good = name.bytes().all(usual) && (!name.is_empty() || port.is_empty());
            good.then_some((name, port))?
        }
    };
    let good_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && u16::from_str(port).is_ok();
    (matches!(port, "" | ":") || port.strip_prefix(':').is_some_and(good_port)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Seen;
    use http::{HeaderMap, Method};

    #[test]
    fn a_host_is_that_of_its_own_request() {
        let last = LastHost::default();
        let long = format!("{}.test", "A".repeat(LONGEST));
        let host = |written: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(written).unwrap())]);
            let (method, uri, version) = (Method::GET, Uri::from_static("/"), Version::HTTP_11);
            let seen = Seen::of(&headers);
            last.of(&mut Head { method, uri, version, headers, seen, fault: None })
        };
        for (written, named) in [
            ("A.test:80", Some("a.test")),
            ("A.test:80", Some("a.test")),
            ("a.test:80", Some("a.test")),
            ("a.test.", Some("a.test")),
            ("a.test:x", None),
            ("a.test.", Some("a.test")),
            (&long, Some(&*long.to_ascii_lowercase())),
            ("a.test.", Some("a.test")),
            ("", Some("")),
        ] {
            assert_eq!(host(written).as_deref(), named, "{written}");
        }
    }

    #[test]
    fn hosts_lose_their_port() {
        for (text, name) in [
            ("example.com", Some("example.com")),
            ("example.com:8080", Some("example.com")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("example.com:", Some("example.com")),
            ("", Some("")),
            ("a-b.c_d.:65535", Some("a-b.c_d.")),
            (":80", None),
            (":", None),
            ("a:65536", None),
            ("a:+1", None),
            ("a:b", None),
            ("[::1]:x", None),
            ("[a]", None),
            ("[::1%25eth0]", None),
            ("a%2eb", None),
            ("a;b", None),
            ("*.a", None),
            ("[::1", None),
            ("[::1]x", None),
            ("a/b", None),
            ("user@host", None),
            ("a b", None),
        ] {
            assert_eq!(without_port(text), name, "{text}");
        }
    }
}
