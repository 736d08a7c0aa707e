//! A request's head: checked, brought into its one form, and made the context of the request.
//!
//! What is malformed by the rules of the protocol does not come here. Refused here is what could be read in two ways: a missing
//! or repeated Host (RFC 9112 §3.2), a body whose length is said in two ways, and paths without a normal form. Refused as well
//! are CONNECT, which would make a tunnel out of a gateway, and TRACE.

use super::forward::is_own;
use super::head::{Head, Seen, is_reserved};
use super::live::{Held, Live};
use super::{Refusal, Taken, refuse};
use crate::config::{GatewayConfig, RealIp};
use crate::interim::Interims;
use crate::upload::{Progress, Upload};
use crate::worker::{Client, Pinned};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use milecastle_matching::uri::{UriOptions, canonical_path};
use milecastle_plugin_api::{Body, RequestCx, Scheme, View as _, Way};
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::str::FromStr as _;
use std::time::Instant;

/// Headers that say how the request reached an earlier proxy, and the variables that keep what the client sent.
const FORWARDED: [(&str, &str); 4] = [
    ("x-forwarded-proto", "original_x_forwarded_proto"),
    ("x-forwarded-host", "original_x_forwarded_host"),
    ("x-forwarded-port", "original_x_forwarded_port"),
    ("forwarded", "original_forwarded"),
];

/// Makes the request's context. The error is the answer to a request that goes no further.
pub(super) fn take(client: Rc<Client>, mut head: Head, body: Option<Upload>, interims: Interims) -> Taken {
    let began = Instant::now();
    let worker = client.worker.clone();
    let config = &worker.node.config;
    worker.counters.requests.up();
    worker.counters.in_flight.up();
    client.activity.begin();
    let pinned = worker.pin();
    let seen = head.seen;
    let host = client.last_host.of(&mut head);
    let path = path(&head, config);
    let mut accepted = check_method(&head.method);
    let host = host.unwrap_or_else(|| {
        accepted = Err(refuse(StatusCode::BAD_REQUEST));
        Rc::default()
    });
    let path = path.unwrap_or_else(|| {
        accepted = Err(refuse(StatusCode::BAD_REQUEST));
        Path::default()
    });
    if path.ambiguous && config.path.reject_ambiguous {
        accepted = Err(refuse(StatusCode::BAD_REQUEST));
    }
    if let Some(status) = head.fault {
        accepted = Err(refuse(status));
    }
    let upgrade = if seen.upgrade { asked_protocols(&head) } else { Vec::new() };
    let head_bytes = seen.bytes + (head.method.as_str().len() + head.uri.path().len() + 14) as u64;
    let mut request =
        milecastle_plugin_api::Request::new(head.method, head.uri, head.version, head.headers, path.normal, host);
    request.head_bytes = head_bytes;
    match &body {
        Some(body) => request.body = Body::Streaming { length: body.length() },
        None => client.activity.upload.set(Progress::Ended),
    }
    // In its room from the start: it is large, and would be copied there.
    let mut live = Held::new(
        worker.clone(),
        Live {
            cx: RequestCx::new(request, client.facts.clone(), pinned.clone(), worker.spare.take_lists(), began),
            client,
            pinned,
            body,
            interims,
            match_path: path.matching,
            ambiguous: path.ambiguous,
            upgrade,
            plugins: false,
            lease: None,
            attempt_began: began,
            upstream_bytes: 0,
            answered: false,
            complete: false,
            broken: false,
        },
    );
    let Live { cx, client, pinned, .. } = &mut *live;
    cx.number = client.activity.begun.get();
    if pinned.node().tracing {
        cx.way = Way::noted();
    }
    sift(cx, client, seen, config);
    if accepted.is_ok() && client.facts.scheme == Scheme::Https && !mutual_tls_holds(client, pinned, cx) {
        accepted = Err(refuse(StatusCode::BAD_REQUEST));
    }
    if let (Some(most), Body::Streaming { length: Some(length) }) = (config.client.body_bytes, &cx.request.body)
        && *length > most
        && accepted.is_ok()
    {
        worker.counters.large_bodies.up();
        accepted = Err(refuse(StatusCode::PAYLOAD_TOO_LARGE));
    }
    live.plugins = accepted.is_ok();
    (live, accepted)
}

/// Takes from the fields what the peer is believed, and takes off those that it may not send.
fn sift(cx: &mut RequestCx, client: &Client, seen: Seen, config: &GatewayConfig) {
    if client.believed.real_ip {
        real_ip(cx, &config.real_ip);
    }
    if seen.reserved {
        strip_reserved(&mut cx.request.headers);
    }
    if seen.connection {
        strip_named_by_connection(&mut cx.request.headers);
    }
    if seen.forwarded && !client.believed.forwarded {
        set_aside_forwarded(cx);
    }
    if seen.forwarded_for && !client.believed.forwarded && config.trusted.is_some() {
        set_aside(cx, "x-forwarded-for", "original_x_forwarded_for");
    }
}

/// No route can ask for these: one opens a tunnel, and the other sends the client's secrets back.
fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::CONNECT => Err(refuse(StatusCode::BAD_REQUEST)),
        Method::TRACE => Err(refuse(StatusCode::METHOD_NOT_ALLOWED)),
        _ => Ok(()),
    }
}

/// The lines of `Upgrade`, if the request asks with them for other protocols: in HTTP/1.1, and with a word to this connection
/// (RFC 9110 §7.8). What plugins do to the fields changes nothing of it.
fn asked_protocols(head: &Head) -> Vec<HeaderValue> {
    if head.version == Version::HTTP_11 && lists(&head.headers, header::CONNECTION, b"upgrade") {
        head.headers.get_all(header::UPGRADE).iter().cloned().collect()
    } else {
        Vec::new()
    }
}

/// Whether a field that is a list has this word, in any case.
pub(super) fn lists(headers: &HeaderMap, name: HeaderName, word: &[u8]) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    words.any(|listed| listed.eq_ignore_ascii_case(word))
}

/// The path in its forms.
#[derive(Default)]
struct Path {
    normal: Option<Box<str>>,
    matching: Option<Box<str>>,
    ambiguous: bool,
}

pub(super) fn uri_options(config: &GatewayConfig) -> UriOptions {
    UriOptions {
        match_encoded_slash: config.path.match_encoded_slash,
        delete_tail_slash: config.path.delete_tail_slash,
        servlet: config.path.like_servlet,
    }
}

/// `None`: 400.
fn path(head: &Head, config: &GatewayConfig) -> Option<Path> {
    let target = head.uri.path_and_query()?.as_str();
    let canonical = canonical_path(target, &uri_options(config)).ok()?;
    let ambiguous = !canonical.ambiguity.is_none();
    Some(match (canonical.path, canonical.decoded) {
        (Cow::Borrowed(path), None) if path.len() == head.uri.path().len() => Path { ambiguous, ..Path::default() },
        (path, None) => Path { normal: Some(path.into()), matching: None, ambiguous },
        (path, Some(decoded)) => Path { normal: Some(decoded.into()), matching: Some(path.into()), ambiguous },
    })
}

/// Puts the address that a believed proxy names in place of the proxy's own (`docs/spec/routing.md` §9).
///
/// The header is one list over all its lines. What the proxy adds comes last, be it in a line of its own; the lines before it
/// are what the client says.
fn real_ip(cx: &mut RequestCx, rules: &RealIp) {
    let lines = cx.request.headers.get_all(&rules.header).iter().rev();
    let words = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    let mut addresses = words.map(|word| address(word.trim()));
    let mut found = None;
    while let Some(Some((ip, port))) = addresses.next() {
        found = Some((ip, port));
        if !rules.recursive || !rules.from.contains(ip) {
            break;
        }
    }
    if let Some((ip, port)) = found {
        cx.client_ip = ip;
        cx.client_port = port;
    }
}

/// An address, with or without port; the port is 0 if there is none.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    match IpAddr::from_str(text.trim_matches(['[', ']'])) {
        Ok(ip) => Some((ip.to_canonical(), 0)),
        Err(_) => std::net::SocketAddr::from_str(text).ok().map(|addr| (addr.ip().to_canonical(), addr.port())),
    }
}

fn strip_reserved(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Takes off the fields that `Connection` names beside its own words (RFC 9110 §7.6.1). Before any plugin runs: a client may not
/// take away what a plugin will set.
fn strip_named_by_connection(headers: &mut HeaderMap) {
    let ordinary = |word: &[u8]| {
        word.is_empty()
            || word.eq_ignore_ascii_case(b"keep-alive")
            || word.eq_ignore_ascii_case(b"close")
            || word.eq_ignore_ascii_case(b"upgrade")
    };
    let words = || {
        let values = headers.get_all(header::CONNECTION).into_iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    };
    if words().all(ordinary) {
        return;
    }
    // Nor what identifies its request to the upstream.
    let kept = |name: &HeaderName| is_own(name.as_str()) || matches!(name.as_str(), "authorization" | "cookie");
    let named: Vec<HeaderName> =
        words().filter_map(|word| HeaderName::from_bytes(word).ok()).filter(|name| !kept(name)).collect();
    for name in named {
        headers.remove(name);
    }
}

/// Takes off what a peer that is not believed says about earlier proxies; variables keep it.
fn set_aside_forwarded(cx: &mut RequestCx) {
    for (name, variable) in FORWARDED {
        set_aside(cx, name, variable);
    }
}

fn set_aside(cx: &mut RequestCx, name: &'static str, variable: &'static str) {
    if let Some(value) = cx.request.headers.remove(name) {
        cx.set_var(variable, value);
    }
}

/// Whether what the ssl objects ask of clients holds for this request (`docs/spec/tls.md` §6.3, §6.4).
fn mutual_tls_holds(client: &Client, pinned: &Pinned, cx: &RequestCx) -> bool {
    let host = cx.request.host();
    let known = client.checked_host.borrow();
    if known.as_ref().is_some_and(|(generation, known)| *generation == pinned.generation() && **known == *host) {
        return true;
    }
    drop(known);
    let Some(tls) = &client.facts.tls else { return true };
    let sni = tls.sni.as_deref().unwrap_or_default();
    let auth_of = |name: &str| pinned.snapshot.certificate(name).and_then(|ssl| ssl.client.as_ref());
    let (of_host, of_sni) = (auth_of(host), auth_of(sni));
    if of_host.is_some() && sni != host {
        tracing::warn!("client certificate verified with SNI {sni}, but the host is {host}");
        return false;
    }
    if let Some(auth) = of_sni
        && !auth.skip_uri.is_empty()
        && &*tls.client_verify != "SUCCESS"
        && !auth.skip_uri.iter().any(|pattern| pattern.is_match(cx.request.path()))
    {
        match &*tls.client_verify {
            "NONE" => tracing::warn!(sni, "client certificate was not present"),
            result => tracing::warn!(sni, "client certificate verification is not passed: {result}"),
        }
        return false;
    }
    if of_host.is_none() && of_sni.is_none() {
        *client.checked_host.borrow_mut() = Some((pinned.generation(), host.into()));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_takes_away_only_what_it_may() {
        let left = |value: &'static str| {
            let mut headers = HeaderMap::new();
            for name in ["x-private", "x-other", "authorization", "cookie", "host", "x-real-ip", "content-length"] {
                headers.insert(name, HeaderValue::from_static("1"));
            }
            let all = headers.len();
            headers.insert(header::CONNECTION, HeaderValue::from_static(value));
            strip_named_by_connection(&mut headers);
            (headers.contains_key("x-private"), all + 1 - headers.len())
        };
        assert_eq!(left("keep-alive, Upgrade"), (true, 0));
        assert_eq!(left("close, X-Private"), (false, 1));
        assert_eq!(left("x-other ,,X-PRIVATE,=,a b"), (false, 2));
        assert_eq!(left("Authorization, cookie, Host, X-Real-IP, Content-Length"), (true, 0));
    }

    #[test]
    fn addresses_are_read_with_and_without_port() {
        let read = |text| address(text).map(|(ip, port)| (ip.to_string(), port));
        assert_eq!(read("10.0.0.1"), Some(("10.0.0.1".into(), 0)));
        assert_eq!(read("10.0.0.1:81"), Some(("10.0.0.1".into(), 81)));
        assert_eq!(read("[2001:db8::1]:443"), Some(("2001:db8::1".into(), 443)));
        assert_eq!(read("::ffff:10.0.0.1"), Some(("10.0.0.1".into(), 0)));
        assert_eq!(read("unknown"), None);
    }
}
