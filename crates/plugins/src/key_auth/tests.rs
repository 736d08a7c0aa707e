use super::DEF;
use milecastle_matching::Template;
use milecastle_plugin_api::Placement;
use milecastle_plugin_api::testing::{Exchange, Gateway, Setup};
use serde_json::{Value, json};

fn setup() -> Setup {
    Setup::new(&[&DEF])
        .consumer(json!({
            "username": "amy",
            "labels": { "custom_id": "42" },
            "plugins": { "key-auth": { "key": "good" } },
            "credentials": { "c1": { "key-auth": { "key": "one" } }, "c2": { "key-auth": { "key": "two" } } },
        }))
        .consumer(json!({ "username": "anon", "labels": { "custom_id": "7" } }))
}

fn gateway(config: Value) -> Gateway {
    setup().route(json!({ "key-auth": config }))
}

fn refused(done: &Exchange, message: &str, realm: &str) {
    assert_eq!((done.status, done.text()), (401, format!("{{\"message\":\"{message}\"}}\n").as_str()));
    assert_eq!(done.header("www-authenticate"), Some(format!("apikey realm=\"{realm}\"").as_str()));
    assert!(done.upstream.is_none());
}

fn user(done: &Exchange) -> Option<&str> {
    done.sent().header("x-consumer-username")
}

#[test]
fn a_key_in_header_or_query_identifies_the_consumer() {
    let gateway = gateway(json!({}));
    for ask in ["GET /\napikey: good", "GET /?apikey=good", "GET /?apikey=g%6Fod", "GET /\napikey: good\napikey: bad"] {
        let done = gateway.send(ask);
        assert_eq!((done.status, user(&done)), (200, Some("amy")), "{ask}");
        assert_eq!(done.sent().header("x-consumer-custom-id"), Some("42"));
        assert_eq!(&*done.cx.consumer.as_ref().unwrap().name, "amy");
    }
}

#[test]
fn without_a_right_key_the_request_is_refused() {
    let gateway = gateway(json!({}));
    refused(&gateway.send("GET /"), "Missing API key in request", "key");
    for ask in [
        "GET /\napikey: bad",
        "GET /\napikey: GOOD",
        "GET /\napikey: bad\napikey: good",
        "GET /?apikey=good\napikey: bad",
        "GET /?apikey=good\napikey:",
        "GET /?apikey=good&apikey=good",
        "GET /?apikey",
        "GET /?apikey=",
    ] {
        refused(&gateway.send(ask), "Invalid API key in request", "key");
    }
    let nobody = Setup::new(&[&DEF]).route(json!({ "key-auth": {} }));
    refused(&nobody.send("GET /\napikey: good"), "Invalid API key in request", "key");
}

#[test]
fn names_and_realm_are_configurable() {
    let gateway = gateway(json!({ "header": "X-Key", "query": "k", "realm": "team A" }));
    assert_eq!(gateway.send("GET /?k=good").status, 200);
    assert_eq!(gateway.send("GET /\nx-key: good").status, 200);
    refused(&gateway.send("GET /?apikey=good"), "Missing API key in request", "team A");
}

#[test]
fn a_name_that_is_no_headers_leaves_the_query() {
    let gateway = gateway(json!({ "header": "not a header" }));
    assert_eq!(gateway.send("GET /?apikey=good").status, 200);
}

#[test]
fn credentials_are_hidden_where_they_were_found() {
    let gateway = gateway(json!({ "hide_credentials": true }));
    let done = gateway.send("GET /?apikey=good&a=1");
    assert_eq!(done.sent().target, "/?a=1");
    let done = gateway.send("GET /?apikey=kept&a=1\napikey: good");
    assert_eq!((done.sent().header("apikey"), done.sent().target.as_str()), (None, "/?apikey=kept&a=1"));
    let shown = setup().route(json!({ "key-auth": {} })).send("GET /?a=1\napikey: good");
    assert_eq!(shown.sent().header("apikey"), Some("good"));
}

/// What a log line with all variables that show something of the request's head would say.
fn logged(done: &Exchange) -> String {
    let all = "$request $request_uri $real_request_uri $args $arg_k $arg_apikey $http_x_key $http_apikey $upstream_uri";
    Template::parse(all).render(&done.cx).text
}

#[test]
fn no_log_shows_a_key_right_or_wrong() {
    let gateway = setup().route(json!({ "key-auth": { "header": "X-Key", "query": "k" } }));
    for (ask, shown) in [
        ("GET /?a=1&k=good&b=2", "GET /?a=1&k=***&b=2 HTTP/1.1 /?a=1&k=***&b=2 "),
        ("GET /?k=wrong", "GET /?k=*** HTTP/1.1 "),
        ("GET /?%6B=good\nX-Key: good\nX-Key: wrong", "GET /?%6B=*** HTTP/1.1 "),
        ("GET /?k=wrong&k=good", "GET /?k=***&k=*** HTTP/1.1 "),
        ("GET /\nX-Key: wrong", "GET / HTTP/1.1 "),
    ] {
        let done = gateway.send(ask);
        let line = logged(&done);
        assert!(line.starts_with(shown) && !line.contains("good") && !line.contains("wrong"), "{ask}: {line}");
    }
    let done = gateway.send("GET /?a=1&k=good");
    assert_eq!(done.sent().target, "/?a=1&k=good", "the upstream gets what the client sent");
    assert!(
        logged(&gateway.send("GET /?apikey=1\nX-Key: good\napikey: 2")).contains("/?apikey=1"),
        "others are no secrets"
    );
    let rewritten = Setup::new(&[&DEF, &crate::proxy_rewrite::DEF])
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "good" } } }))
        .route(json!({ "proxy-rewrite": { "uri": "/v2$uri" }, "key-auth": {} }))
        .send("GET /x?apikey=good");
    assert_eq!(rewritten.sent().target, "/v2/x?apikey=good");
    assert!(logged(&rewritten).ends_with(" /v2/x?apikey=***"), "{}", logged(&rewritten));
}

#[test]
fn a_hidden_key_leaves_an_already_rewritten_target_too() {
    let gateway = Setup::new(&[&DEF, &crate::proxy_rewrite::DEF])
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "good" } } }))
        .global(json!({ "proxy-rewrite": { "uri": "/v2$uri" } }))
        .route(json!({ "key-auth": { "hide_credentials": true } }));
    assert_eq!(gateway.send("GET /x?apikey=good&a=1").sent().target, "/v2/x?a=1");
}

#[test]
fn the_anonymous_consumer_takes_failures() {
    let gateway = gateway(json!({ "anonymous_consumer": "anon", "hide_credentials": true }));
    for ask in ["GET /?a=1", "GET /?apikey=bad&a=1\napikey: bad", "GET /?a=1&apikey=good&apikey=good"] {
        let done = gateway.send(ask);
        assert_eq!((done.status, user(&done)), (200, Some("anon")), "{ask}");
        assert_eq!((done.sent().target.as_str(), done.sent().header("apikey")), ("/?a=1", None), "{ask}");
        assert_eq!(done.sent().header("x-consumer-custom-id"), None);
        assert_eq!(done.header("www-authenticate"), None);
    }
    assert_eq!(user(&gateway.send("GET /\napikey: good")), Some("amy"));
}

#[test]
fn a_missing_anonymous_consumer_is_a_refusal() {
    let gateway = gateway(json!({ "anonymous_consumer": "nobody" }));
    refused(&gateway.send("GET /"), "Invalid user authorization", "key");
    refused(&gateway.send("GET /\napikey: bad"), "Invalid user authorization", "key");
}

#[test]
fn credentials_of_one_consumer_are_told_apart() {
    let gateway = gateway(json!({}));
    let credential = |key: &str| {
        let done = gateway
            .send(format!("GET /\napikey: {key}\nX-Credential-Identifier: fake\nX-Consumer-Custom-ID: fake").as_str());
        (user(&done).unwrap().to_owned(), done.sent().header("x-credential-identifier").map(str::to_owned))
    };
    assert_eq!(credential("one"), ("amy".into(), Some("c1".into())));
    assert_eq!(credential("two"), ("amy".into(), Some("c2".into())));
    assert_eq!(credential("good"), ("amy".into(), None));
}

#[test]
fn error_response_replaces_the_body_but_not_the_status() {
    let gateway = gateway(json!({ "_meta": { "error_response": { "code": 1 } } }));
    let done = gateway.send("GET /");
    assert_eq!((done.status, done.text()), (401, "{\"code\":1}\n"));
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = setup().faults(json!({ "key-auth": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    check(json!({ "header": 1 }), "property \"header\" validation failed: wrong type: expected string, got number");
    check(json!({ "hide_credentials": "yes" }), "wrong type: expected boolean, got string");
    check(json!({ "anonymous_consumer": "" }), "string too short, expected at least 1, got 0");
    check(json!({ "realm": "a\"b" }), "failed to match pattern");
    check(json!({ "realm": "a\\b" }), "failed to match pattern");
    check(json!({ "realm": "a\u{e9}" }), "failed to match pattern");
    check(json!({ "realm": "" }), "string too short");
    check(json!({ "realm": "x".repeat(129) }), "string too long, expected at most 128, got 129");
    assert_eq!(setup().faults(json!({ "key-auth": { "realm": "a b!#[]~", "unknown": 1 } })), []);

    let credential =
        |config: Value| setup().faults_at("/consumers/x", Placement::Credential, json!({ "key-auth": config }));
    assert!(credential(json!({}))[0].message.ends_with("property \"key\" is required"));
    assert_eq!(credential(json!({ "key": "k" })), []);
}
