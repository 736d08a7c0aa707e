//! Settings of the gateway group: what they decide, and that each snapshot is built under its own.

use super::{Config, compiler, delete, mark, put};
use crate::{Compiler, Outcome};
use http::StatusCode;
use milecastle_model::{Change, Key, Kind, Object};
use serde_json::{Value, json};
use std::sync::Arc;

fn settings(body: Value) -> Change {
    put(Kind::GroupSettings, "group", body)
}

fn outcome(config: &Config, path: &str) -> Option<Outcome> {
    config.route(path).map(|route| route.outcome)
}

const UNAVAILABLE: Option<Outcome> = Some(Outcome::Fail(StatusCode::SERVICE_UNAVAILABLE));

#[test]
fn an_object_with_a_plugin_that_is_not_enabled_is_not_served_at_all() {
    let mut config = Config::new();
    config.good(&[
        put(Kind::Route, "1", json!({ "uri": "/marked", "plugins": mark("x") })),
        put(Kind::Route, "2", json!({ "uri": "/plain" })),
    ]);
    let before = config.route("/marked").unwrap();
    let rejected = config.step(&[settings(json!({ "plugins": ["pass"] }))]);
    assert_eq!(rejected.iter().map(|one| &*one.reason).collect::<Vec<_>>(), ["/plugins/mark: unknown plugin [mark]"]);
    // Not its last good form, which was built under other settings.
    assert_eq!((outcome(&config, "/marked"), outcome(&config, "/plain")), (UNAVAILABLE, Some(Outcome::Serve)));
    assert!(config.now.quarantined().all(|(_, _, serving)| !serving));
    config.good(&[settings(json!({ "plugins": ["mark"] }))]);
    assert_eq!(config.plugins("/marked"), ["mark:x"]);
    assert!(before.chain.entries()[0].same_instance(&config.route("/marked").unwrap().chain.entries()[0]));
    config.good(&[delete(Kind::GroupSettings, "group")]);
    assert_eq!(config.now.compiler().registry().plugins().len(), 2);
}

#[test]
fn a_global_rule_without_its_plugin_lets_nothing_pass() {
    let mut config = Config::new();
    config.good(&[put(Kind::GlobalRule, "1", json!({ "plugins": mark("x") }))]);
    config.step(&[settings(json!({ "plugins": [] }))]);
    assert!(!config.now.global_is_whole());
    config.good(&[settings(json!({}))]);
    assert!(config.now.global_is_whole() && config.now.global().contains("mark"));
}

#[test]
fn the_router_is_of_the_settings_however_a_snapshot_came_about() {
    let route = put(Kind::Route, "1", json!({ "uri": "/users/:id" }));
    let mode = settings(json!({ "router": { "http": "radixtree_uri_with_parameter" } }));
    let found = |config: &Config| config.route("/users/7").is_some();
    let mut config = Config::new();
    config.good(std::slice::from_ref(&route));
    assert!(!found(&config), "the path is literal by default");
    config.good(std::slice::from_ref(&mode));
    assert!(found(&config));
    let mut at_once = Config::new();
    at_once.good(&[mode, route]);
    assert!(found(&at_once));
    let objects: Vec<Object> = at_once.now.all_objects().cloned().collect();
    at_once.now = compiler().build("line", 3, objects).0;
    assert!(found(&at_once));
    // One more revision, which does not touch them.
    at_once.good(&[put(Kind::Route, "2", json!({ "uri": "/teams/:id" }))]);
    assert!(found(&at_once) && at_once.route("/teams/7").is_some());
    at_once.now = at_once.compiler.build_over(&at_once.now, "line", 9, Vec::new()).0;
    assert_eq!(
        at_once.now.compiler().settings(),
        compiler().settings(),
        "without the object they are the default ones"
    );
}

#[test]
fn equal_settings_build_nothing_anew() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a" })), settings(json!({ "plugins": ["mark"] }))]);
    let before = config.route("/a").unwrap();
    config.good(&[settings(json!({ "router": {}, "plugins": ["mark"] }))]);
    assert!(std::sync::Arc::ptr_eq(&before, &config.route("/a").unwrap()));
}

#[test]
fn settings_of_another_version_are_not_guessed_at() {
    let body = json!({ "plugins": ["mark"], "of_tomorrow": true });
    let Change::Put(stored) = settings(body.clone()) else { unreachable!("it is a put") };
    let faults = |result: Result<Compiler, Vec<milecastle_model::Fault>>| result.map(drop).unwrap_err();
    assert_eq!(faults(compiler().of_group(Some(&stored)))[0].path, "/of_tomorrow");
    let stored = Object { body: "no".into(), ..stored };
    assert!(faults(compiler().of_group(Some(&stored)))[0].message.starts_with("not JSON"));
    let mut config = Config::new();
    config.good(&[settings(json!({ "plugins": ["mark"] }))]);
    assert_eq!(config.step(&[settings(body)])[0].key, Key::group_settings());
    assert!(config.now.compiler().registry().get("pass").is_none(), "the former ones go on");
}

#[test]
fn settings_name_plugins_that_there_are() {
    let check = |body: Value, expected: &[(&str, &str)]| {
        let faults = compiler().check(Kind::GroupSettings, "group", &body);
        let found: Vec<_> = faults.iter().map(|fault| (&*fault.path, &*fault.message)).collect();
        assert_eq!(found, expected);
    };
    check(json!({}), &[]);
    check(json!({ "plugins": [] }), &[]);
    check(json!({ "plugins": ["pass", "mark"] }), &[]);
    check(json!({ "plugins": ["pass", "mrak"] }), &[("/plugins/1", "there is no plugin [mrak]; did you mean [mark]?")]);
}

#[test]
fn registries_build_nothing_anew_and_are_the_same_object_until_they_are_others() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a" }))]);
    let (route, none) = (config.route("/a").unwrap(), config.now.discovery().clone());
    let dns = |address: &str| settings(json!({ "discovery": { "dns": { "servers": [address] } } }));
    config.good(&[dns("192.0.2.1")]);
    let first = config.now.discovery().clone();
    assert!(!Arc::ptr_eq(&first, &none) && first.dns.is_some());
    assert!(Arc::ptr_eq(&config.route("/a").unwrap(), &route));
    config.good(&[dns("192.0.2.1:53")]);
    config.good(&[put(Kind::Route, "2", json!({ "uri": "/b" }))]);
    assert!(Arc::ptr_eq(config.now.discovery(), &first), "53 is the port where none is named");
    config.good(&[settings(json!({ "plugins": ["mark"], "discovery": { "dns": { "servers": ["192.0.2.1"] } } }))]);
    assert!(Arc::ptr_eq(config.now.discovery(), &first) && !Arc::ptr_eq(&config.route("/a").unwrap(), &route));
    config.good(&[delete(Kind::GroupSettings, "group")]);
    assert_eq!(**config.now.discovery(), *none);
}

#[test]
fn registries_that_are_none_are_refused_with_their_place() {
    let mut config = Config::new();
    let body = json!({ "discovery": { "consul": { "servers": ["consul"] }, "nacos": {} } });
    let faults = compiler().check(Kind::GroupSettings, "group", &body);
    assert_eq!(faults.iter().map(|fault| &*fault.path).collect::<Vec<_>>(), ["/discovery/consul/servers/0"]);
    let rejected = config.step(&[settings(body)]);
    assert!(rejected[0].reason.starts_with("/discovery/consul/servers/0: "), "{}", rejected[0].reason);
}
