use super::{DEF, STREAM};
use milecastle_plugin_api::WhenSuperseded;
use milecastle_plugin_api::stream::Preread;
use milecastle_plugin_api::testing::Setup;
use serde_json::{Value, json};
use std::time::Duration;

/// What a request on a route with this configuration, under a global rule with that one, leaves behind.
fn chosen(route: Option<Value>, global: Option<Value>) -> Option<WhenSuperseded> {
    let plugins = |config: Option<Value>| config.map_or(json!({}), |config| json!({ "long-connections": config }));
    let mut setup = Setup::new(&[&DEF]);
    if global.is_some() {
        setup = setup.global(plugins(global));
    }
    setup.route(plugins(route)).send("GET /").cx.when_superseded
}

#[test]
fn the_policy_is_left_with_the_request() {
    let after = |seconds| Some(WhenSuperseded::EndAfter(Duration::from_secs(seconds)));
    assert_eq!(chosen(None, None), None);
    assert_eq!(chosen(Some(json!({ "policy": "keep" })), None), Some(WhenSuperseded::Keep));
    assert_eq!(chosen(Some(json!({ "policy": "cut" })), None), after(0));
    assert_eq!(chosen(Some(json!({ "policy": "drain" })), None), after(30));
    assert_eq!(chosen(Some(json!({ "policy": "drain", "drain": 7 })), None), after(7));
}

#[test]
fn the_route_has_the_last_word() {
    let cut = Some(json!({ "policy": "cut" }));
    assert_eq!(chosen(Some(json!({ "policy": "keep" })), cut.clone()), Some(WhenSuperseded::Keep));
    assert_eq!(chosen(None, cut), Some(WhenSuperseded::EndAfter(Duration::ZERO)));
}

#[test]
fn a_filter_leaves_requests_out() {
    let config = json!({ "policy": "cut", "_meta": { "filter": [["arg_room", "==", "1"]] } });
    let gateway = Setup::new(&[&DEF]).route(json!({ "long-connections": config }));
    assert_eq!(gateway.send("GET /").cx.when_superseded, None);
    assert!(gateway.send("GET /?room=1").cx.when_superseded.is_some());
}

#[test]
fn the_policy_is_left_with_the_session() {
    let config = json!({ "long-connections": { "policy": "drain", "drain": 300 } });
    let (session, passed) = Setup::new(&[&STREAM]).sessions(config).begin("10.0.0.1");
    assert_eq!(passed, Preread::Passed);
    assert_eq!(session.cx.when_superseded, Some(WhenSuperseded::EndAfter(Duration::from_secs(300))));
}

#[test]
fn what_is_no_policy_is_refused() {
    for config in [json!({}), json!({ "policy": "close" }), json!({ "policy": "drain", "drain": 0 })] {
        assert!(!Setup::new(&[&DEF]).faults(json!({ "long-connections": config })).is_empty());
    }
}
