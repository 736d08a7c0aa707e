//! The tables of `docs/spec/plugins/_variables.md` against what has a value, and the lists of `docs/compatibility.md` against what
//! has none.

use super::tests::{client_tls, picked, setup};
use crate::stream::{StreamCx, Transport};
use crate::testing::Ask;
use crate::{Consumer, Proxied, RequestCx};
use http::{HeaderMap, HeaderValue};
use milecastle_matching::{Lookup, VarName};
use serde_json::json;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

const VARIABLES: &str = include_str!("../../../../../docs/spec/plugins/_variables.md");
const COMPATIBILITY: &str = include_str!("../../../../../docs/compatibility.md");

/// Those that have a value where a plugin has given them one, and nowhere else.
const OF_PLUGINS: [&str; 5] = [
    "mqtt_client_id",
    "opentelemetry_context_traceparent",
    "opentelemetry_span_id",
    "opentelemetry_trace_id",
    "proxy_rewrite_regex_uri_captures",
];

/// The names of one section. Where any will do, `id` stands.
fn names(letter: &str) -> Vec<String> {
    let title = format!("{letter}. ");
    let section = VARIABLES.split("\n## ").find(|section| section.starts_with(&title)).unwrap();
    let listed = section.lines().skip(1).map(|line| match line.strip_prefix('|') {
        Some(row) => row.split('|').next().unwrap(),
        None => line.strip_prefix("Others accepted: ").unwrap_or(line),
    });
    let is_name = |cell: &&str| !matches!(cell.trim(), "name" | "family") && !cell.trim().starts_with("---");
    let mut names = Vec::new();
    for text in listed.filter(is_name).map(without_notes) {
        let text = text.split(". ").next().unwrap().trim_end_matches('.');
        let words = text.split([',', '/', ' ']).filter(|word| !word.is_empty());
        names.extend(words.map(|word| word.replace("NAME", "id").replace("PATH", "id").replace('*', "id")));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.');
    assert!(!names.is_empty() && names.iter().all(|name| name.bytes().all(plain)), "{letter}: {names:?}");
    names
}

/// A text without what stands in parentheses.
fn without_notes(text: &str) -> String {
    let mut within = false;
    let keep = |character: &char| {
        within = *character == '(' || (within && *character != ')');
        !within && *character != ')'
    };
    text.chars().filter(keep).collect()
}

/// The names in a row about variables that have no value.
fn listed(row: &str) -> Vec<&'static str> {
    let row = COMPATIBILITY.lines().find_map(|line| line.strip_prefix(row)).unwrap();
    row.split('`').skip(1).step_by(2).collect()
}

/// Requests that have together whatever a request can have.
fn requests() -> [RequestCx; 2] {
    let form = "POST /?id=1\nHost: h\nCookie: id=1\nId: 1\nAuthorization: Basic am9lOnB3\nX-Forwarded-For: 10.0.0.1\n\
        X-Forwarded-Proto: https\nX-Forwarded-Host: h\nX-Forwarded-Port: 443\nForwarded: for=10.0.0.1\n\
        Content-Type: application/x-www-form-urlencoded\nContent-Length: 4\n\nid=1";
    let graphql = "POST /\nContent-Type: application/json\n\n{\"query\": \"query Q { a }\"}";
    let gateway = setup().route(json!({ "reads-body": {} }));
    let answer = "200\nId: 1\nSet-Cookie: id=1\n\nok";
    let mut cx = gateway.send(Ask::from(form).tls(client_tls()).answered(answer)).cx;
    Rc::get_mut(&mut cx.client).expect("nobody else has the connection").proxied = Some(Box::new(proxied()));
    cx.consumer = Some(Arc::new(Consumer {
        name: "amy".into(),
        name_header: HeaderValue::from_static("amy"),
        group_id: Some("g".into()),
        group_found: true,
        custom_id: None,
        labels: serde_json::Map::new(),
        overlay: Vec::new().into(),
    }));
    let mut trailers = HeaderMap::new();
    trailers.insert("id", HeaderValue::from_static("1"));
    let trailers = Rc::new(trailers);
    cx.response.trailers = Some(trailers.clone());
    cx.upstream.trailers = Some(trailers);
    cx.upstream.node = Some(picked(None));
    cx.upstream.upgrade = Some("websocket".into());
    [cx, gateway.send(graphql).cx]
}

fn proxied() -> Proxied {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Proxied { client: address("192.0.2.7:4711"), server: address("198.51.100.1:443") }
}

/// A session that has what a session can have.
fn session(of: &RequestCx) -> StreamCx {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let mut cx = StreamCx::new(Transport::Tcp, address("127.0.0.1:50000"), address("127.0.0.1:9100"), 7);
    cx.tls = Some(client_tls());
    cx.proxied = Some(proxied());
    cx.upstream.push(of.upstream.last().unwrap().clone());
    cx
}

#[test]
fn every_variable_has_a_value_or_is_listed_as_having_none() {
    let requests = requests();
    let session = session(&requests[0]);
    let of_requests = |name: &VarName| requests.iter().any(|cx| cx.var(name).is_some());
    let of_sessions = |name: &VarName| session.var(name).is_some();
    let none_of_sessions = listed("| Variables of sessions without a value |");
    let none_of_requests = [&none_of_sessions[..], &listed("| Variables of requests without a value |")].concat();
    let check = |letter: &str, has_value: &dyn Fn(&VarName) -> bool, none: &[&str]| {
        for name in names(letter).iter().filter(|name| !OF_PLUGINS.contains(&name.as_str())) {
            let has = has_value(&VarName::parse(name));
            assert_ne!(has, none.contains(&name.as_str()), "{name} of table {letter} has a value: {has}");
        }
    };
    for letter in ["A", "B", "B2", "C", "D", "E"] {
        check(letter, &of_requests, &none_of_requests);
    }
    check("F", &of_sessions, &none_of_sessions);
    let proxied = ["addr", "port", "server_addr", "server_port"].map(|part| {
        let name = VarName::parse(&format!("proxy_protocol_{part}"));
        session.var(&name).unwrap().text().into_owned()
    });
    assert_eq!(proxied, ["192.0.2.7", "4711", "198.51.100.1", "443"]);
}
