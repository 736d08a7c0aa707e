use super::DEF;
use milecastle_matching::{Lookup, VarName};
use milecastle_plugin_api::testing::{Exchange, Setup};
use serde_json::{Value, json};
use std::sync::Arc;

fn send(config: Value, ask: &str) -> Exchange {
    Setup::new(&[&DEF]).route(json!({ "proxy-rewrite": config })).send(ask)
}

fn target(config: Value, target: &str, expected: &str) {
    let done = send(config.clone(), &format!("GET {target}\nHost: h"));
    assert_eq!(done.sent().target, expected, "{config} {target}");
}

#[test]
fn uri_is_a_template_and_the_query_stays() {
    let v2 = || json!({ "uri": "/v2$uri" });
    target(v2(), "/a?b=1", "/v2/a?b=1");
    target(v2(), "/a", "/v2/a");
    target(v2(), "/a?", "/v2/a");
    target(v2(), "/a%20b%25c", "/v2/a%20b%25c");
    target(json!({ "uri": "/x?y=1" }), "/a", "/x?y=1");
    target(json!({ "uri": "/x?y=$arg_b z" }), "/a?b=1%26", "/x?y=1& z&b=1%26".replace("& z", "&%20z").as_str());
    target(json!({ "uri": "/${arg_none ?? d}" }), "/a", "/d");
    target(json!({ "uri": "/$host/é" }), "/a", "/h/%C3%A9");
}

#[test]
fn a_question_mark_of_a_variable_opens_no_query() {
    target(json!({ "uri": "/v2$uri" }), "/a%3Fb", "/v2/a%3Fb");
    target(json!({ "uri": "/v2?q=$uri" }), "/a%3Fb", "/v2?q=/a%3Fb");
    target(json!({ "regex_uri": ["^/(.*)$", "/v2/$1"] }), "/a%3Fb?c=1", "/v2/a%3Fb?c=1");
}

#[test]
fn nothing_can_be_injected_into_the_request() {
    for config in [
        json!({ "uri": "/v2$uri" }),
        json!({ "regex_uri": ["(?s)^/(.*)$", "/v2/$1"] }),
        json!({ "uri": "/v2$uri", "use_real_request_uri_unsafe": true }),
        json!({ "uri": "/v2?u=$uri" }),
    ] {
        let done = send(config, "GET /x%0d%0aY:%201");
        let sent = &done.sent().target;
        assert!(sent.contains("%0D%0AY:%201"), "{sent:?}");
    }
    let done = send(json!({ "headers": { "set": { "X-U": "$uri" } } }), "GET /x%0d%0aY:1");
    assert_eq!(done.sent().header("x-u"), Some("/x%0D%0AY:1"));
    assert_eq!(done.sent().header("y"), None);
}

#[test]
fn the_first_pattern_that_matches_is_applied() {
    let config = || json!({ "regex_uri": ["^/u/(\\d+)$", "/users/$1"], "headers": { "set": { "X-Id": "$1", "X-No": "[${7}]" } } });
    let done = send(config(), "GET /u/7?a=1");
    assert_eq!((done.sent().target.as_str(), done.sent().header("x-id")), ("/users/7?a=1", Some("7")));
    assert_eq!(done.sent().header("x-no"), Some("[]"));
    let captures = done.cx.var(&VarName::parse("proxy_rewrite_regex_uri_captures")).unwrap().text().into_owned();
    assert_eq!(captures, r#"["/u/7","7"]"#);
    let done = send(config(), "GET /x?a=1");
    assert_eq!((done.sent().target.as_str(), done.sent().header("x-id")), ("/x?a=1", Some("")));
    assert!(done.cx.request.rewritten_target().is_none(), "the target stays as received");

    let pairs = || json!({ "regex_uri": ["^/a", "/first", "^/a/b", "/second", "b$", "third"] });
    target(pairs(), "/a/b", "/first/b");
    target(pairs(), "/c/b", "/c/third");
    target(pairs(), "/c", "/c");
    target(json!({ "regex_uri": ["a", "x"] }), "/aaa", "/xaa");
    target(json!({ "regex_uri": ["^/old/(.*)$", "/new?name=$1"] }), "/old/a%20b?z=1", "/new?name=a%20b&z=1");
    target(json!({ "regex_uri": ["(?<=/v)1(?=/)", "2"] }), "/v1/x", "/v2/x");
    target(json!({ "uri": "/wins", "regex_uri": ["/", "/loses"] }), "/x", "/wins");
}

#[test]
fn unsafe_mode_starts_from_what_the_client_sent() {
    let raw = |mut config: Value| {
        config["use_real_request_uri_unsafe"] = true.into();
        config
    };
    target(raw(json!({})), "/a%2Fb//c?d=%20", "/a%2Fb//c?d=%20");
    target(raw(json!({ "regex_uri": ["^/a", "/z"] })), "/a%2Fb//c?d=1", "/z%2Fb//c?d=1");
    target(raw(json!({ "regex_uri": ["^/no", "/z"] })), "/a%2Fb?d=1", "/a%2Fb?d=1");
    target(raw(json!({ "uri": "/x%2F" })), "/a?d=1", "/x%2F?d=1");
    target(raw(json!({ "uri": "/x?y=1" })), "/a?d=1", "/x?y=1&d=1");
}

#[test]
fn later_plugins_see_the_new_path_and_method() {
    let done = send(json!({ "uri": "/v2$uri", "method": "POST" }), "GET /a%20b");
    let var = |name: &str| done.cx.var(&VarName::parse(name)).unwrap().text().into_owned();
    assert_eq!([var("uri"), var("request_uri"), var("method")], ["/v2/a b", "/a b", "POST"]);
    assert_eq!(done.sent().method, "POST");
}

#[test]
fn headers_are_added_set_and_removed_in_this_order() {
    let done = send(
        json!({ "headers": {
            "add": { "X-Add": ["v1", "v2"], "X-Both": "add", "X-Gone": "1" },
            "set": { "X-Set": ["s1", "s2"], "X-Both": "set", "X-Num": 1.5, "X-Empty": "$arg_none", "X-Var": "a-$arg_q-b" },
            "remove": ["X-Gone", "X-Client", "x-never"],
        } }),
        "GET /?q=1\nX-Add: own\nX-Set: own\nX-Client: c",
    );
    let sent = done.sent();
    assert_eq!(sent.header_all("x-add"), ["own", "v1", "v2"]);
    assert_eq!(sent.header_all("x-set"), ["s1", "s2"]);
    assert_eq!(sent.header_all("x-both"), ["set"]);
    let one = |name| sent.header(name);
    assert_eq!([one("x-num"), one("x-empty"), one("x-var")], [Some("1.5"), Some(""), Some("a-1-b")]);
    assert_eq!([one("x-gone"), one("x-client")], [None, None]);
}

#[test]
fn the_old_form_sets_headers() {
    let done = send(json!({ "headers": { "X-A": "$arg_q", "add": "value", "X-N": 7 } }), "GET /?q=1\nX-A: own");
    assert_eq!(done.sent().header_all("x-a"), ["1"]);
    assert_eq!((done.sent().header("add"), done.sent().header("x-n")), (Some("value"), Some("7")));
}

#[test]
fn host_is_for_the_upstream() {
    let done = send(json!({ "host": "up.test:8080" }), "GET /\nHost: h");
    assert_eq!(done.sent().host.as_ref().unwrap(), "up.test:8080");
    let host = done.cx.var(&VarName::parse("upstream_host")).unwrap().text().into_owned();
    assert_eq!((host.as_str(), done.cx.request.host()), ("up.test:8080", "h"));
}

#[test]
fn a_match_that_is_given_up_is_a_500() {
    for (pattern, path) in [
        (r"(?:(a)|(a)|a\1)*\2c$", format!("/{}", "a".repeat(64))),
        // Short paths do as well.
        (r"^(?:(.)|(.)|(.)|(.))+\1\2\3\4!$", "/api/delay/5".to_owned()),
    ] {
        let done = send(json!({ "regex_uri": [pattern, "/x"] }), &format!("GET {path}"));
        assert_eq!(done.status, 500, "{pattern}");
        let (text, expected) = (done.text(), format!("{{\"error_msg\":\"failed to match the uri {path} "));
        assert!(text.starts_with(&expected) && text.contains("too much backtracking"), "{text}");
    }
}

#[test]
fn a_consumers_own_copy_rewrites_only_if_the_route_has_none() {
    let gateway = |route: Value| {
        Setup::new(&[&DEF, &crate::key_auth::DEF])
            .consumer(json!({
                "username": "amy",
                "plugins": { "key-auth": { "key": "k" }, "proxy-rewrite": { "uri": "/consumer" } },
            }))
            .route(route)
            .send("GET /x\napikey: k")
    };
    assert_eq!(gateway(json!({ "key-auth": {} })).sent().target, "/consumer");
    let both = gateway(json!({ "key-auth": {}, "proxy-rewrite": { "uri": "/route" } }));
    assert_eq!(both.sent().target, "/route");
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = Setup::new(&[&DEF]).faults(json!({ "proxy-rewrite": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    let headers = |headers: Value| json!({ "headers": headers });
    check(json!({}), "expect object to have at least 1 properties");
    check(json!({ "method": "CONNECT" }), "matches none of the enum values");
    check(json!({ "uri": "x" }), "failed to match pattern");
    check(json!({ "uri": format!("/{}", "x".repeat(4096)) }), "string too long, expected at most 4096, got 4097");
    check(json!({ "host": "a/b" }), "failed to match pattern");
    check(json!({ "host": "a:123456" }), "failed to match pattern");
    check(json!({ "regex_uri": ["a"] }), "expect array to have at least 2 items");
    check(json!({ "regex_uri": ["a", "b", "c"] }), "The length of regex_uri should be an even number");
    check(json!({ "regex_uri": ["a", "b", "(", "c"] }), "invalid regex_uri((, c): ");
    check(headers(json!({})), "property \"headers\" validation failed");
    check(headers(json!({ "set": {} })), "property \"headers\" validation failed");
    check(headers(json!({ "set": { "a:b": "x" } })), "property \"headers\" validation failed");
    check(headers(json!({ "set": { "a": [] } })), "property \"headers\" validation failed");
    check(headers(json!({ "remove": ["a:b"] })), "property \"headers\" validation failed");
    check(headers(json!({ "set": { "a": "1" }, "other": "x" })), "property \"headers\" validation failed");
    check(headers(json!({ "set": { "a b": "1" } })), "invalid field character in header");
    check(headers(json!({ "X:A": "1" })), "invalid field character in header");
    check(headers(json!({ "X A": "1" })), "invalid field character in header");
    check(headers(json!({ "": "1" })), "invalid field length in header");
    check(headers(json!({ "X-A": "é" })), "invalid value character in header");
    check(headers(json!({ "X-A": true })), "property \"headers\" validation failed");
    let large: Vec<String> = (0..4).flat_map(|n| [format!(r"(a{n})\g<1>"), "b".to_owned()]).collect();
    let faults = Setup::new(&[&DEF]).faults(json!({ "proxy-rewrite": { "regex_uri": large } }));
    let places: Vec<&str> = faults.iter().map(|fault| &*fault.path).collect();
    assert_eq!(places, ["/proxy-rewrite/regex_uri/6"], "too much with those before it");
    let accepted = json!({ "proxy-rewrite": { "regex_uri": ["$secret://vault/1/a/b", "/x", "$ENV://P", "y"] } });
    assert_eq!(Setup::new(&[&DEF]).faults(accepted), []);
}

#[test]
fn what_a_reference_stands_for_has_to_fit_too_and_is_not_told() {
    struct Kept(&'static str);
    impl milecastle_plugin_api::Secrets for Kept {
        fn resolve(&self, _: &str) -> Option<String> {
            Some(self.0.to_owned())
        }
    }
    let faults = |kept: &'static str| {
        let setup = Setup::with(&[&DEF], &Value::Null, Arc::new(Kept(kept)), Arc::default());
        setup.faults(json!({ "proxy-rewrite": { "uri": "$secret://vault/1/p/k" } }))
    };
    assert_eq!(faults("/there"), []);
    for unfit in ["sesame", "http://sesame/"] {
        let [fault] = &*faults(unfit) else { panic!("one fault of {unfit}") };
        assert_eq!(fault.path, "/proxy-rewrite/uri");
        assert!(
            fault.message.contains("what a reference stands for") && !fault.message.contains("sesame"),
            "{fault:?}"
        );
    }
}
