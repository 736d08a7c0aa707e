//! References between objects, dangling ones included.

use super::{Config, delete, mark, put};
use crate::{Outcome, UpstreamRef};
use http::StatusCode;
use milecastle_model::Kind;
use serde_json::json;
use std::sync::Arc;

#[test]
fn resources_2_1_4_a_missing_service_is_404_until_it_comes() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a", "service_id": "s" }))]);
    assert_eq!(config.route("/a").unwrap().outcome, Outcome::Fail(StatusCode::NOT_FOUND));
    config.good(&[put(Kind::Service, "s", json!({ "name": "shop", "plugins": mark("service") }))]);
    let route = config.route("/a").unwrap();
    assert_eq!(route.outcome, Outcome::Serve);
    assert_eq!(route.info.service_name.as_deref(), Some("shop"));
    assert_eq!(config.plugins("/a"), ["mark:service"]);
    config.good(&[delete(Kind::Service, "s")]);
    assert_eq!(config.route("/a").unwrap().outcome, Outcome::Fail(StatusCode::NOT_FOUND));
}

#[test]
fn resources_7_a_missing_plugin_config_is_503_until_it_comes() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a", "plugin_config_id": 7 }))]);
    assert_eq!(config.route("/a").unwrap().outcome, Outcome::Fail(StatusCode::SERVICE_UNAVAILABLE));
    config.good(&[put(Kind::PluginConfig, "7", json!({ "plugins": mark("shared") }))]);
    assert_eq!(config.plugins("/a"), ["mark:shared"]);
}

#[test]
fn the_route_wins_over_the_plugin_config_and_that_over_the_service() {
    let mut config = Config::new();
    config.good(&[
        put(Kind::Service, "s", json!({ "plugins": mark("service") })),
        put(Kind::PluginConfig, "p", json!({ "plugins": mark("shared") })),
        put(Kind::Route, "1", json!({ "uri": "/1", "service_id": "s" })),
        put(Kind::Route, "2", json!({ "uri": "/2", "service_id": "s", "plugin_config_id": "p" })),
        put(
            Kind::Route,
            "3",
            json!({ "uri": "/3", "service_id": "s", "plugin_config_id": "p", "plugins": mark("own") }),
        ),
    ]);
    assert_eq!(config.plugins("/1"), ["mark:service"]);
    assert_eq!(config.plugins("/2"), ["mark:shared"]);
    assert_eq!(config.plugins("/3"), ["mark:own"]);
}

#[test]
fn routes_without_plugins_of_their_own_share_what_they_inherit() {
    let mut config = Config::new();
    config.good(&[
        put(Kind::Service, "s", json!({ "plugins": mark("service") })),
        put(Kind::PluginConfig, "empty", json!({ "plugins": {} })),
        put(Kind::Route, "1", json!({ "uri": "/1", "service_id": "s" })),
        put(Kind::Route, "2", json!({ "uri": "/2", "service_id": "s", "plugin_config_id": "empty" })),
        put(Kind::Route, "3", json!({ "uri": "/3", "service_id": "s", "plugins": mark("own") })),
    ]);
    let chain = |uri: &str| config.route(uri).unwrap().chain.clone();
    assert!(Arc::ptr_eq(&chain("/1"), &chain("/2")));
    assert!(!Arc::ptr_eq(&chain("/1"), &chain("/3")));
}

#[test]
fn a_routes_upstream_is_its_own_before_its_services() {
    let nodes = |port: u16| json!({ "nodes": { format!("127.0.0.1:{port}"): 1 } });
    let mut config = Config::new();
    config.good(&[
        put(Kind::Service, "inline", json!({ "upstream": nodes(1) })),
        put(Kind::Service, "named", json!({ "upstream_id": "u" })),
        put(Kind::Route, "1", json!({ "uri": "/1", "service_id": "inline" })),
        put(Kind::Route, "2", json!({ "uri": "/2", "service_id": "named" })),
        put(Kind::Route, "3", json!({ "uri": "/3", "service_id": "named", "upstream": nodes(2) })),
        put(Kind::Route, "4", json!({ "uri": "/4", "service_id": "inline", "upstream_id": "v" })),
        put(Kind::Route, "5", json!({ "uri": "/5" , "plugins": {} })),
    ]);
    let upstream = |path: &str| match &config.route(path).unwrap().upstream {
        UpstreamRef::None => "none".to_owned(),
        UpstreamRef::Id(id) => format!("id {id}"),
        UpstreamRef::Inline(upstream) => format!("{} {}", upstream.key, upstream.nodes[0].port),
    };
    assert_eq!(upstream("/1"), "/services/inline 1");
    assert_eq!(upstream("/2"), "id u");
    assert_eq!(upstream("/3"), "/routes/3 2");
    assert_eq!(upstream("/4"), "id v");
    assert_eq!(upstream("/5"), "none");
}

#[test]
fn a_route_inherits_the_hosts_of_its_service() {
    let mut config = Config::new();
    config.good(&[
        put(Kind::Service, "s", json!({ "hosts": ["a.test"] })),
        put(Kind::Route, "1", json!({ "uri": "/", "service_id": "s" })),
    ]);
    assert!(super::find(&config.now, "a.test", "/").is_some());
    assert!(super::find(&config.now, "b.test", "/").is_none());
    config.good(&[put(Kind::Service, "s", json!({ "hosts": ["b.test"] }))]);
    assert!(super::find(&config.now, "b.test", "/").is_some());
}

#[test]
fn a_route_that_is_switched_off_does_not_match() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/", "status": 0 }))]);
    assert!(config.route("/").is_none());
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/", "status": 1 }))]);
    assert!(config.route("/").is_some());
}

#[test]
fn only_conditions_on_the_body_make_the_gateway_read_it() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/", "vars": [["arg_a", "==", "1"]] }))]);
    let wants = |config: &Config| (config.now.wants_fields(), config.now.wants_document());
    assert_eq!(wants(&config), (false, false));
    config.good(&[put(Kind::Route, "2", json!({ "uri": "/", "vars": [["post_arg_a", "==", "1"]] }))]);
    assert_eq!(wants(&config), (true, false));
    config.good(&[put(Kind::Route, "2", json!({ "uri": "/", "vars": [["graphql_name", "==", "Q"]] }))]);
    assert_eq!(wants(&config), (false, true));
    config.good(&[delete(Kind::Route, "2")]);
    assert_eq!(wants(&config), (false, false));
}
