use super::DEF;
use crate::decode::encoded;
use milecastle_plugin_api::testing::{Answer, Ask, Exchange, Setup};
use serde_json::{Value, json};

fn send(config: Value, answer: impl Into<Answer>) -> Exchange {
    Setup::new(&[&DEF]).route(json!({ "response-rewrite": config })).send(Ask::from("GET /?a=1").answered(answer))
}

fn filtered(filters: Value, answer: impl Into<Answer>) -> Exchange {
    send(json!({ "filters": filters }), answer)
}

fn hello() -> Value {
    json!([{ "regex": "Hello", "replace": "Bye" }])
}

#[test]
fn status_and_body_are_replaced_whatever_the_coding() {
    let answer =
        Answer::from("200\nContent-Encoding: gzip\nContent-Length: 30\nETag: x\nLast-Modified: y\nX-Kept: z\n\n")
            .chunks(&[&encoded::gzip(b"old"), b"more"]);
    let done = send(json!({ "status_code": 201, "body": "{\"a\":1}" }), answer);
    assert_eq!((done.status, done.text()), (201, "{\"a\":1}"));
    for stale in ["content-encoding", "content-length", "etag", "last-modified"] {
        assert_eq!(done.header(stale), None, "{stale}");
    }
    assert_eq!(done.header("x-kept"), Some("z"));
}

#[test]
fn a_body_may_be_base64_and_is_no_template() {
    assert_eq!(send(json!({ "body": "AP8k", "body_base64": true }), "200\n\nold").body, [0, 0xff, b'$']);
    assert_eq!(send(json!({ "body": "$status" }), "200\n\nold").text(), "$status");
    assert_eq!(send(json!({ "body": "" }), "200\n\nold").text(), "");
}

#[test]
fn headers_are_added_set_and_removed_in_this_order() {
    let done = send(
        json!({ "headers": {
            "add": ["Set-Cookie: a=1", "Set-Cookie: b=$arg_a", "X-Both: add", "X-Gone: 1"],
            "set": { "X-Both": "set", "X-S": "$status", "X-N": 5 },
            "remove": ["X-Gone", "X-Up"],
        } }),
        "200\nSet-Cookie: up=1\nX-Up: 1\nETag: kept\n\nbody",
    );
    assert_eq!(done.header_all("set-cookie"), ["up=1", "a=1", "b=1"]);
    assert_eq!(done.header_all("x-both"), ["set"]);
    let one = |name| done.header(name);
    assert_eq!([one("x-s"), one("x-n"), one("x-gone"), one("x-up")], [Some("200"), Some("5"), None, None]);
    assert_eq!((one("etag"), done.text()), (Some("kept"), "body"), "the body is as it was");
}

#[test]
fn the_old_form_sets_and_an_empty_text_removes() {
    let done = send(json!({ "headers": { "X": "", "Y": "$status", "add": "1" } }), "200\nX: up\nY: up\n\n");
    assert_eq!((done.header("x"), done.header("y"), done.header("add")), (None, Some("200"), Some("1")));
}

#[test]
fn a_header_takes_the_new_status() {
    let config = json!({ "status_code": 418, "headers": { "set": { "X-S": "$status" } } });
    assert_eq!(send(config, "200\n\n").header("x-s"), Some("418"));
}

#[test]
fn the_condition_is_evaluated_once_before_anything_changes() {
    let config =
        json!({ "vars": [["status", "==", 500]], "status_code": 503, "body": "sorry", "headers": { "X": "1" } });
    let failed = send(config.clone(), Answer::from("500\n\n").chunks(&[b"a", b"b"]));
    assert_eq!((failed.status, failed.text(), failed.header("x")), (503, "sorry", Some("1")));
    let fine = send(config, Answer::from("200\n\n").chunks(&[b"a", b"b"]));
    assert_eq!((fine.status, fine.text(), fine.header("x")), (200, "ab", None));
}

#[test]
fn filters_edit_once_or_everywhere() {
    assert_eq!(filtered(hello(), "200\n\nHello Hello").text(), "Bye Hello");
    let mut everywhere = hello();
    everywhere[0]["scope"] = "global".into();
    assert_eq!(filtered(everywhere, "200\n\nHello Hello").text(), "Bye Bye");
    let chain = json!([
        { "regex": "(\\w+) (\\w+)", "replace": "$2 $1" },
        { "regex": "B", "replace": "${0}b", "options": "i", "scope": "global" },
    ]);
    assert_eq!(filtered(chain, "200\n\na b").text(), "bb a");
    assert_eq!(filtered(json!([{ "regex": "a.b", "replace": "x", "options": "s" }]), "200\n\na\nb").text(), "x");
}

#[test]
fn filters_see_a_body_of_many_chunks_whole() {
    let answer = Answer::from("200\nContent-Length: 11\n\n").chunks(&[b"Hel", b"lo ", b"", b"all"]);
    let done = filtered(hello(), answer);
    assert_eq!((done.text(), done.header("content-length")), ("Bye all", None));
}

#[test]
fn coded_bodies_are_decoded_first() {
    for (coding, bytes) in [("gzip", encoded::gzip(b"Hello")), ("br", encoded::brotli(b"Hello"))] {
        let answer = Answer::from(format!("200\nContent-Encoding: {coding}\n\n").as_str()).chunks(&[&bytes]);
        let done = filtered(hello(), answer);
        assert_eq!((done.text(), done.header("content-encoding")), ("Bye", None), "{coding}");
    }
}

#[test]
fn an_unknown_coding_passes_untouched() {
    let done = filtered(hello(), "200\nContent-Encoding: zstd\nETag: x\n\nHello");
    assert_eq!((done.text(), done.header("content-encoding"), done.header("etag")), ("Hello", Some("zstd"), Some("x")));
}

#[test]
fn a_body_that_cannot_be_decoded_is_sent_as_it_came() {
    assert_eq!(filtered(hello(), "200\nContent-Encoding: gzip\n\nHello").text(), "Hello");
}

#[test]
fn a_long_body_is_cut() {
    let config = |size: usize| json!({ "filters": hello(), "max_resp_body_size": size });
    assert_eq!(send(config(7), Answer::from("200\n\n").chunks(&[b"Hello", b" all", b" of you"])).text(), "Bye a");
    let zipped = Answer::from("200\nContent-Encoding: gzip\n\n").chunks(&[&encoded::gzip(b"Hello all")]);
    assert_eq!(send(config(60), zipped).text(), "Bye all");
}

#[test]
fn a_failing_filter_does_not_stop_the_others() {
    let filters = json!([
        { "regex": r"(?:(a)|(a)|a\1)*\2c$", "replace": "x" },
        { "regex": "^a", "replace": "b" },
    ]);
    let body = "a".repeat(64);
    assert_eq!(filtered(filters, format!("200\n\n{body}").as_str()).text(), body.replacen('a', "b", 1));
}

#[test]
fn bodies_that_are_no_text_are_filtered_too() {
    let answer = Answer::from("200\n\n").chunks(&[b"\xff\x00Hello\xfe"]);
    assert_eq!(filtered(hello(), answer).body, b"\xff\x00Bye\xfe");
}

#[test]
fn answers_without_body_stay_without() {
    let gateway = Setup::new(&[&DEF]).route(json!({ "response-rewrite": { "body": "new" } }));
    assert_eq!(gateway.send(Ask::from("HEAD /").answered("200\n\n")).text(), "");
    assert_eq!(gateway.send(Ask::from("GET /").answered("204\n\n")).text(), "");
    assert_eq!(gateway.send(Ask::from("GET /").answered("304\n\n")).text(), "");
}

#[test]
fn answers_of_the_gateway_are_rewritten_too() {
    let config = json!({ "response-rewrite": { "body": "nothing here", "headers": { "set": { "X-G": "1" } } } });
    let done = Setup::new(&[&DEF]).global(config.clone()).no_route().send("GET /");
    assert_eq!((done.status, done.text(), done.header("x-g")), (404, "nothing here", Some("1")));
    let defs = [&DEF, &crate::key_auth::DEF];
    let mut plugins = config;
    plugins["key-auth"] = json!({});
    let done = Setup::new(&defs).route(plugins).send("GET /");
    assert_eq!((done.status, done.text()), (401, "nothing here"));
}

#[test]
fn the_same_filters_on_a_global_rule_and_the_route_run_twice() {
    let config = json!({ "response-rewrite": { "filters": [{ "regex": "o", "replace": "0" }] } });
    let done = Setup::new(&[&DEF]).global(config.clone()).route(config).send(Ask::from("GET /").answered("200\n\nfoo"));
    assert_eq!(done.text(), "f00");
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = Setup::new(&[&DEF]).faults(json!({ "response-rewrite": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    let headers = |headers: Value| json!({ "headers": headers });
    check(json!({ "status_code": 599 }), "expected 599 to be at most 598");
    check(json!({ "status_code": 199 }), "expected 199 to be at least 200");
    check(json!({ "body": "x", "filters": hello() }), "body and filters cannot be specified at the same time");
    check(json!({ "body_base64": true }), "invalid base64 content");
    check(json!({ "body_base64": true, "body": "" }), "invalid base64 content");
    check(json!({ "body_base64": true, "body": "??" }), "invalid base64 content");
    check(json!({ "vars": [["a"]] }), "failed to validate the 'vars' expression: ");
    check(json!({ "filters": [] }), "expect array to have at least 1 items");
    check(json!({ "filters": [{ "regex": "", "replace": "" }] }), "string too short");
    check(json!({ "filters": [{ "regex": "x" }] }), "property \"replace\" is required");
    check(json!({ "filters": [{ "regex": "(", "replace": "" }] }), "regex \"(\" validation failed: ");
    check(json!({ "vars": [["uri", "~~", r"\p{Nonsense}"]] }), "failed to validate the 'vars' expression: ");
    check(
        json!({ "filters": [{ "regex": "x", "replace": "", "options": "z" }] }),
        "regex \"x\" validation failed: unknown flag \"z\"",
    );
    check(json!({ "filters": [{ "regex": "x", "replace": "", "scope": "all" }] }), "matches none of the enum values");
    check(json!({ "max_resp_body_size": 0 }), "expected 0 to be at least 1");
    check(json!({ "max_resp_body_size": 1e30 }), "expected 1e+30 to be at most 1073741824");
    for bad in [
        json!({ "add": ["X: http://h/"] }),
        json!({ "add": ["X"] }),
        json!({ "set": {} }),
        json!({ "remove": ["a:b"] }),
    ] {
        let faults = Setup::new(&[&DEF]).faults(json!({ "response-rewrite": headers(bad.clone()) }));
        assert!(!faults.is_empty(), "{bad}");
    }
    check(headers(json!({ "X": true })), "invalid type as header value");
    check(headers(json!({ "": "1" })), "invalid field length in header");
    let accepted = json!({ "response-rewrite": { "body_base64": true, "body": "$env://PAGE" } });
    assert_eq!(Setup::new(&[&DEF]).faults(accepted), []);
}
