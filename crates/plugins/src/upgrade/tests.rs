use super::DEF;
use milecastle_plugin_api::testing::Setup;
use serde_json::{Value, json};

/// What a request on a route with these protocols, under a global rule with those, may change to.
fn allowed(route: Option<Value>, global: Option<Value>, ask: &str) -> Option<Vec<String>> {
    let plugins = |protocols: Option<Value>| {
        protocols.map_or(json!({}), |protocols| json!({ "upgrade": { "protocols": protocols } }))
    };
    let gateway = Setup::new(&[&DEF]).global(plugins(global)).route(plugins(route));
    gateway.send(ask).cx.upgrades.as_deref().map(<[String]>::to_vec)
}

#[test]
fn the_protocols_are_left_with_the_request_as_they_are_written() {
    assert_eq!(allowed(None, None, "GET /"), None);
    let names = || Some(json!(["SPDY/3.1", "tcp", "WebSocket"]));
    let expected = ["SPDY/3.1", "tcp", "WebSocket"].map(str::to_owned).to_vec();
    for ask in ["GET /", "POST /\nUpgrade: tcp\n\nbody"] {
        assert_eq!(allowed(names(), None, ask).as_ref(), Some(&expected), "{ask}");
    }
}

#[test]
fn the_route_has_the_last_word() {
    let tcp = || Some(json!(["tcp"]));
    assert_eq!(allowed(None, tcp(), "GET /"), Some(vec!["tcp".to_owned()]));
    assert_eq!(allowed(Some(json!(["other"])), tcp(), "GET /"), Some(vec!["other".to_owned()]));
}

#[test]
fn a_filter_leaves_requests_out() {
    let config = json!({ "protocols": ["tcp"], "_meta": { "filter": [["arg_a", "==", "1"]] } });
    let gateway = Setup::new(&[&DEF]).route(json!({ "upgrade": config }));
    assert!(gateway.send("GET /").cx.upgrades.is_none());
    assert!(gateway.send("GET /?a=1").cx.upgrades.is_some());
}

#[test]
fn a_reference_that_stands_for_nothing_allows_nothing() {
    let names = json!(["$env://PROTOCOL", "$secret://vault/1/protocols/its name", "tcp"]);
    assert_eq!(Setup::new(&[&DEF]).faults(json!({ "upgrade": { "protocols": names } })), []);
    assert_eq!(allowed(Some(names), None, "GET /"), Some(vec!["tcp".to_owned()]));
}

#[test]
fn what_carries_requests_is_refused_with_the_reason() {
    let names = "h2 H2C h2c h2/1 h2-14 h2-16 H2C-14 h3 h3-29 h3-Q050 hq-29 h1 http hTTp HTTP/1.1 HTTP/2.0 HTTP2 \
                 HTTP-draft-04/2.0 https tls TLS/1.0 TLS-1.3/2 TLSv1.3 tls1 SSL/3";
    for name in names.split(' ') {
        let faults = Setup::new(&[&DEF]).faults(json!({ "upgrade": { "protocols": ["tcp", name] } }));
        let [fault] = faults.as_slice() else { panic!("{name}: {faults:?}") };
        assert_eq!(fault.path, "/upgrade/protocols/1", "{name}");
        assert!(fault.message.contains("requests would pass by routes and plugins"), "{name}: {}", fault.message);
    }
}

#[test]
fn what_is_no_list_of_protocols_is_refused() {
    let names = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>();
    let faults = |protocols: Value| Setup::new(&[&DEF]).faults(json!({ "upgrade": { "protocols": protocols } }));
    for protocols in [
        json!([]),
        json!("tcp"),
        json!([1]),
        json!(names(17)),
        json!(["p".repeat(65)]),
        json!([""]),
        json!(["/1"]),
        json!(["tcp/"]),
        json!(["a/1/2"]),
        json!(["a b"]),
        json!(["a, b"]),
        json!(["a\r\nX: 1"]),
        json!(["é"]),
    ] {
        assert!(!faults(protocols.clone()).is_empty(), "{protocols}");
    }
    assert!(!Setup::new(&[&DEF]).faults(json!({ "upgrade": {} })).is_empty());
    for protocols in
        [json!(names(16)), json!(["p".repeat(64), "a/1", "httpd", "h264", "h2o", "xtls", "!#$%&'*+-.^_`|~/~"])]
    {
        assert_eq!(faults(protocols.clone()), [], "{protocols}");
    }
}
