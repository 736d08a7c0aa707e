use super::DEF;
use milecastle_matching::{Lookup, VarName};
use milecastle_plugin_api::testing::{Ask, Exchange, Gateway, Setup};
use serde_json::{Value, json};
use std::collections::HashSet;

fn gateway(config: Value) -> Gateway {
    Setup::new(&[&DEF]).route(json!({ "request-id": config }))
}

/// The id that upstream, client and variable agree on.
fn id(done: &Exchange) -> String {
    let id = done.header("x-request-id").unwrap();
    assert_eq!(done.sent().header("x-request-id"), Some(id));
    assert_eq!(done.cx.var(&VarName::parse("apisix_request_id")).unwrap().text(), id);
    id.to_owned()
}

/// The form of a UUID, with this version.
fn is_uuid(id: &str, version: char) -> bool {
    id.len() == 36
        && id.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            14 => c == version,
            19 => "89ab".contains(c),
            _ => c.is_ascii_digit() || ('a'..='f').contains(&c),
        })
}

#[test]
fn a_request_without_id_gets_a_uuid() {
    let gateway = gateway(json!({}));
    let ids: HashSet<String> = (0..1000).map(|_| id(&gateway.send("GET /"))).collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| is_uuid(id, '4')));
    assert!(is_uuid(&id(&gateway.send("GET /\nX-Request-Id:")), '4'), "an empty header is no id");
}

#[test]
fn the_clients_id_is_kept() {
    assert_eq!(id(&gateway(json!({})).send("GET /\nX-Request-Id: abc\nX-Request-Id: def")), "abc");
}

#[test]
fn the_upstreams_id_is_kept_on_the_answer() {
    let gateway = gateway(json!({}));
    let done = gateway.send(Ask::from("GET /\nX-Request-Id: abc").answered("200\nX-Request-Id: theirs\n\n"));
    assert_eq!(done.header("x-request-id"), Some("theirs"));
    let done = gateway.send(Ask::from("GET /\nX-Request-Id: abc").answered("200\nX-Request-Id:\n\n"));
    assert_eq!(done.header("x-request-id"), Some("abc"));
}

#[test]
fn the_answer_can_go_without() {
    let done = gateway(json!({ "include_in_response": false })).send("GET /");
    assert_eq!(done.header("x-request-id"), None);
    assert!(done.sent().header("x-request-id").is_some());
}

#[test]
fn algorithms_have_their_forms() {
    let made = |algorithm: &str| {
        let gateway = gateway(json!({ "algorithm": algorithm }));
        (0..200).map(|_| id(&gateway.send("GET /"))).collect::<Vec<_>>()
    };
    assert!(made("uuidv7").iter().all(|id| is_uuid(id, '7')));
    assert!(
        made("nanoid")
            .iter()
            .all(|id| id.len() == 21 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
    );
    assert!(made("ksuid").iter().all(|id| id.len() == 27 && id.bytes().all(|b| b.is_ascii_alphanumeric())));
    assert!(
        made("range_id").iter().all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_alphanumeric() && b != b'J'))
    );
}

#[test]
fn time_ordered_ids_grow() {
    let gateway = gateway(json!({ "algorithm": "uuidv7" }));
    // Far more than a millisecond holds of the counter alone.
    let ids: Vec<String> = (0..5000).map(|_| id(&gateway.send("GET /"))).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
}

#[test]
fn a_ksuid_carries_its_second() {
    let at = |id: &str| {
        let digit = |b: u8| match b {
            b'0'..=b'9' => b - b'0',
            b'A'..=b'Z' => b - b'A' + 10,
            _ => b - b'a' + 36,
        };
        // 160 bits do not fit into u128: the upper 32 are what the number divided by 2^128 leaves.
        let value = id.bytes().fold([0_u64; 5], |mut words, b| {
            let mut carry = u64::from(digit(b));
            for word in words.iter_mut().rev() {
                let sum = *word * 62 + carry;
                (*word, carry) = (sum & 0xffff_ffff, sum >> 32);
            }
            words
        });
        value[0] + 1_400_000_000
    };
    let made = at(&id(&gateway(json!({ "algorithm": "ksuid" })).send("GET /")));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(made <= now && made + 60 > now, "{made} {now}");
}

#[test]
fn range_ids_use_the_whole_set() {
    let gateway = gateway(json!({ "algorithm": "range_id", "range_id": { "length": 700, "char_set": "abcdéé7" } }));
    let done = gateway.send("GET /");
    let id = std::str::from_utf8(done.headers["x-request-id"].as_bytes()).unwrap();
    assert_eq!((id.chars().count(), id.chars().collect::<HashSet<_>>().len()), (700, 6));
}

#[test]
fn instances_with_different_headers_work_side_by_side() {
    let gateway = Setup::new(&[&DEF])
        .global(json!({ "request-id": { "header_name": "X-Global" } }))
        .route(json!({ "request-id": {} }));
    let done = gateway.send("GET /");
    let both = [done.header("x-global").unwrap(), done.header("x-request-id").unwrap()];
    assert!(both.iter().all(|id| is_uuid(id, '4')) && both[0] != both[1]);
    assert_eq!(done.sent().header("x-global"), Some(both[0]));
}

#[test]
fn answers_of_the_gateway_carry_the_id() {
    let refused =
        Setup::new(&[&DEF, &crate::key_auth::DEF]).route(json!({ "request-id": {}, "key-auth": {} })).send("GET /");
    assert_eq!((refused.status, is_uuid(refused.header("x-request-id").unwrap(), '4')), (401, true));
    let unmatched =
        Setup::new(&[&DEF]).global(json!({ "request-id": {} })).no_route().send("GET /\nX-Request-Id: mine");
    assert_eq!((unmatched.status, unmatched.header("x-request-id")), (404, Some("mine")));
}

#[test]
fn the_id_survives_a_plugin_that_removes_the_header_upstream() {
    let gateway = Setup::new(&[&DEF, &crate::proxy_rewrite::DEF])
        .route(json!({ "request-id": {}, "proxy-rewrite": { "headers": { "remove": ["X-Request-Id"] } } }));
    let done = gateway.send("GET /");
    assert_eq!(done.sent().header("x-request-id"), None);
    assert!(is_uuid(done.header("x-request-id").unwrap(), '4'));
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = Setup::new(&[&DEF]).faults(json!({ "request-id": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    check(json!({ "range_id": { "length": 5 } }), "expected 5 to be at least 6");
    check(json!({ "range_id": { "length": 4097 } }), "expected 4097 to be at most 4096");
    check(json!({ "range_id": { "length": 1e30 } }), "expected 1e+30 to be at most 4096");
    check(json!({ "range_id": { "char_set": "abc" } }), "string too short, expected at least 6, got 3");
    check(json!({ "algorithm": "snowflake" }), "matches none of the enum values");
    check(json!({ "header_name": "no header" }), "invalid header name: no header");
    check(json!({ "range_id": { "char_set": "abcdef\n" } }), "control characters cannot stand in a header");
}
