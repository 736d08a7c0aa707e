//! Objects that cannot be built.

use super::{Config, delete, mark, put};
use crate::Outcome;
use http::StatusCode;
use milecastle_model::Kind;
use serde_json::json;

const UNAVAILABLE: Outcome = Outcome::Fail(StatusCode::SERVICE_UNAVAILABLE);

#[test]
fn a_route_keeps_its_last_good_form() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a", "plugins": mark("x") }))]);
    let rejected = config.step(&[put(Kind::Route, "1", json!({ "uri": "/b", "plugins": mark("bad") }))]);
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        rejected[0].reason,
        "/plugins/mark/text: failed to check the configuration of plugin mark err: bad text"
    );
    assert_eq!(config.plugins("/a"), ["mark:x"]);
    assert!(config.route("/b").is_none());
    let (key, _, serving) = config.now.quarantined().next().unwrap();
    assert_eq!((key.path().as_str(), serving), ("/routes/1", true));
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/b", "plugins": mark("y") }))]);
    assert_eq!(config.plugins("/b"), ["mark:y"]);
    assert_eq!(config.now.quarantined().count(), 0);
}

#[test]
fn a_route_without_a_good_form_answers_503_where_it_would_match() {
    let mut config = Config::new();
    config.step(&[put(Kind::Route, "1", json!({ "uri": "/a", "plugins": mark("bad") }))]);
    assert_eq!(config.route("/a").unwrap().outcome, UNAVAILABLE);
    assert!(!config.now.quarantined().next().unwrap().2);
    config.good(&[delete(Kind::Route, "1")]);
    assert!(config.route("/a").is_none());
    assert_eq!(config.now.quarantined().count(), 0);
}

#[test]
fn a_quarantined_route_can_be_broken_again() {
    let mut config = Config::new();
    config.step(&[put(Kind::Route, "1", json!({ "uri": "/a", "plugins": mark("bad") }))]);
    config.step(&[put(Kind::Route, "1", json!({ "uri": "/b", "plugins": mark("bad") }))]);
    assert!(config.route("/a").is_none(), "a form that never served is no last good form");
    assert_eq!(config.route("/b").unwrap().outcome, UNAVAILABLE);
}

#[test]
fn what_depends_on_a_service_without_a_good_form_answers_503() {
    let mut config = Config::new();
    config.step(&[
        put(Kind::Service, "s", json!({ "plugins": mark("bad") })),
        put(Kind::Route, "1", json!({ "uri": "/a", "service_id": "s" })),
    ]);
    assert_eq!(config.route("/a").unwrap().outcome, UNAVAILABLE);
    config.good(&[put(Kind::Service, "s", json!({ "plugins": mark("x") }))]);
    assert_eq!(config.plugins("/a"), ["mark:x"]);
    config.step(&[put(Kind::Service, "s", json!({ "plugins": mark("bad") }))]);
    assert_eq!(config.plugins("/a"), ["mark:x"]);
}

#[test]
fn no_request_passes_a_global_rule_that_cannot_run() {
    let mut config = Config::new();
    config.step(&[put(Kind::GlobalRule, "1", json!({ "plugins": mark("bad") }))]);
    assert!(!config.now.global_is_whole());
    config.good(&[delete(Kind::GlobalRule, "1")]);
    assert!(config.now.global_is_whole());
    config.good(&[put(Kind::GlobalRule, "1", json!({ "plugins": mark("x") }))]);
    config.step(&[put(Kind::GlobalRule, "1", json!({ "plugins": mark("bad") }))]);
    assert!(config.now.global_is_whole() && config.now.global().contains("mark"));
}

#[test]
fn an_upstream_without_a_good_form_has_no_nodes() {
    let mut config = Config::new();
    config.step(&[put(Kind::Upstream, "1", json!({ "nodes": 7 }))]);
    assert!(config.now.upstream("1").unwrap().nodes.is_empty());
    config.good(&[put(Kind::Upstream, "1", json!({ "nodes": { "127.0.0.1:80": 1 } }))]);
    config.step(&[put(Kind::Upstream, "1", json!({ "nodes": 7 }))]);
    assert_eq!(config.now.upstream("1").unwrap().nodes.len(), 1);
}

#[test]
fn bytes_that_are_no_json_are_quarantined_too() {
    let mut config = Config::new();
    let key = milecastle_model::Key::new(Kind::Route, "1");
    let object = milecastle_model::Object { key, body: "{".into(), created: 1, modified: 1 };
    let rejected = config.step(&[milecastle_model::Change::Put(object)]);
    assert!(rejected[0].reason.contains("not JSON"), "{}", rejected[0].reason);
}
