//! The head of the request to the upstream (`docs/spec/upstream-balancing.md` §8), and how HTTP/1.1 writes it.

use super::intake::uri_options;
use super::live::Live;
use crate::h1::{Outgoing, put, put_number};
use http::{HeaderValue, Method, header};
use milecastle_matching::uri::canonical_target;
use milecastle_plugin_api::Body;
use std::io::Write as _;

/// What the body's framing fields must say.
pub(super) enum Length {
    /// Nothing: there is no body, and nothing was said about its length.
    Unsaid,
    Bytes(u64),
    Chunked,
}

/// Fields that are written from other sources than the received field, or never. A client's connection ends here, and so do
/// the fields that concern it.
pub(super) fn is_own(name: &str) -> bool {
    match name.len() {
        2 => name == "te",
        4 => name == "host",
        6 => name == "expect",
        7 => matches!(name, "upgrade" | "trailer"),
        9 => name == "x-real-ip",
        10 => matches!(name, "connection" | "keep-alive"),
        14 => matches!(name, "content-length" | "http2-settings"),
        15 => name == "x-forwarded-for",
        16 => matches!(name, "proxy-connection" | "x-forwarded-host" | "x-forwarded-port"),
        17 => matches!(name, "transfer-encoding" | "x-forwarded-proto"),
        _ => false,
    }
}

/// Lays the head out at the end of `out`. `upgrade` is what `Upgrade` asks for.
pub(super) fn write_head(out: &mut Vec<u8>, live: &Live, host: &HeaderValue, length: &Length, upgrade: Option<&str>) {
    let cx = &live.cx;
    let headers = &cx.request.headers;
    put(out, &[cx.request.method.as_str().as_bytes(), b" "]);
    write_target(out, live);
    put(out, &[b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\n"]);

    let mut given = Given::default();
    for (name, value) in headers {
        let name = name.as_str();
        if is_own(name) {
            given.note(name, value);
        } else {
            put(out, &[name.as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    match length {
        Length::Unsaid => {}
        Length::Bytes(length) => {
            out.extend_from_slice(b"Content-Length: ");
            put_number(out, *length);
            out.extend_from_slice(b"\r\n");
        }
        Length::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    let client = cx.client_addr();
    put(out, &[b"X-Real-IP: ", client.as_bytes(), b"\r\nX-Forwarded-For: "]);
    if given.has_forwarded_for {
        for value in headers.get_all("x-forwarded-for").iter().filter(|value| !value.is_empty()) {
            put(out, &[value.as_bytes(), b", "]);
        }
    }
    let forwarded = given.forwarded(live);
    put(out, &[client.as_bytes(), b"\r\nX-Forwarded-Proto: ", forwarded.proto]);
    put(out, &[b"\r\nX-Forwarded-Host: ", forwarded.host, b"\r\nX-Forwarded-Port: "]);
    match forwarded.port {
        Port::Said(port) => out.extend_from_slice(port),
        Port::Own(port) => put_number(out, u64::from(port)),
    }
    out.extend_from_slice(b"\r\n");
    if let Some(protocols) = upgrade {
        put(out, &[b"Upgrade: ", protocols.as_bytes(), b"\r\nConnection: Upgrade\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// What was found among the own fields.
#[derive(Default)]
pub(super) struct Given<'a> {
    host: Option<&'a HeaderValue>,
    has_forwarded_for: bool,
    proto: Option<&'a [u8]>,
    forwarded_host: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
}

impl<'a> Given<'a> {
    /// What stands in a forwarding field here was said by a believed peer, or set by a plugin.
    pub(super) fn note(&mut self, name: &str, value: &'a HeaderValue) {
        let text = Some(value.as_bytes()).filter(|text| !text.is_empty());
        match name {
            "host" => self.host = Some(value),
            "x-forwarded-for" => self.has_forwarded_for = true,
            "x-forwarded-proto" => self.proto = text,
            "x-forwarded-host" => self.forwarded_host = text,
            "x-forwarded-port" => self.port = text,
            _ => {}
        }
    }

    /// How the request has reached this gateway, or the one before it.
    pub(super) fn forwarded(&self, live: &'a Live) -> Forwarded<'a> {
        let cx = &live.cx;
        let received = self.host.map(HeaderValue::as_bytes);
        Forwarded {
            proto: self.proto.unwrap_or(cx.client.scheme.as_str().as_bytes()),
            host: self.forwarded_host.or(received).unwrap_or(cx.request.host().as_bytes()),
            port: match self.port.or_else(|| port_of(received.unwrap_or_default())) {
                Some(port) => Port::Said(port),
                None => Port::Own(cx.client.local.port()),
            },
        }
    }
}

/// How the request has reached the gateway.
pub(super) struct Forwarded<'a> {
    pub(super) proto: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) port: Port<'a>,
}

/// The port that the client has asked.
pub(super) enum Port<'a> {
    /// As it stands in a field.
    Said(&'a [u8]),
    /// The listener's.
    Own(u16),
}

/// The target as received if every upstream must read it as we do, else its canonical form.
pub(super) fn write_target(out: &mut Vec<u8>, live: &Live) {
    let request = &live.cx.request;
    if let Some(rewritten) = request.rewritten_target() {
        return put_target(out, rewritten);
    }
    let received = request.received_target();
    if live.ambiguous
        && let Ok(canonical) = canonical_target(received, &uri_options(&live.client.worker.node.config))
    {
        return put_target(out, &canonical);
    }
    put_target(out, received);
}

/// Puts a target. Bytes beyond ASCII are encoded: some servers take them for UTF-8, some for Latin-1, and some refuse them.
fn put_target(out: &mut Vec<u8>, target: &str) {
    if target.is_ascii() {
        return out.extend_from_slice(target.as_bytes());
    }
    for byte in target.bytes() {
        if byte.is_ascii() {
            out.push(byte);
        } else {
            write!(out, "%{byte:02X}").expect("a vector takes every write");
        }
    }
}

fn port_of(host: &[u8]) -> Option<&[u8]> {
    let start = host.iter().rposition(|byte| *byte == b':')? + 1;
    let port = &host[start..];
    (!port.is_empty() && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// How long the body says it is.
pub(super) fn length(live: &Live, outgoing: &Outgoing) -> Length {
    match (outgoing, &live.cx.request.body) {
        (Outgoing::Whole(bytes), _) => Length::Bytes(bytes.len() as u64),
        (Outgoing::Streaming(_), Body::Streaming { length: Some(length) }) => Length::Bytes(*length),
        (Outgoing::Streaming(_), _) => Length::Chunked,
        (Outgoing::None, _) => {
            // Methods that usually carry a body say that there is none (RFC 9110 §8.6).
            let said = || live.cx.request.headers.contains_key(header::CONTENT_LENGTH);
            match live.cx.request.method {
                Method::POST | Method::PUT | Method::PATCH => Length::Bytes(0),
                ref method if method != Method::GET && said() => Length::Bytes(0),
                _ => Length::Unsaid,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_visible_ascii() {
        let put = |target| {
            let mut out = b"GET ".to_vec();
            put_target(&mut out, target);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(put("/a%20b?c=%ff"), "GET /a%20b?c=%ff");
        assert_eq!(put("/é?你"), "GET /%C3%A9?%E4%BD%A0");
    }

    #[test]
    fn ports_of_hosts() {
        assert_eq!(port_of(b"a:81"), Some(&b"81"[..]));
        assert_eq!(port_of(b"a"), None);
        assert_eq!(port_of(b"[::1]"), None);
        assert_eq!(port_of(b"[::1]:8"), Some(&b"8"[..]));
    }
}
