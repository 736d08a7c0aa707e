//! Typed forms: defaults, leniency, both forms of nodes, effective routes.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::examples::{self, PAIR};

fn read<T: DeserializeOwned>(body: Value) -> T {
    // As the data plane does: from bytes.
    serde_json::from_slice(&serde_json::to_vec(&body).unwrap()).unwrap()
}

fn upstream(members: Value) -> Upstream {
    read(examples::with(&examples::upstream(), members))
}

#[test]
fn every_example_is_read() {
    for (kind, body) in examples::all() {
        readable(kind, &body).unwrap();
    }
}

#[test]
fn nodes_of_both_forms() {
    let check = |nodes: Value, expected: &[(&str, Option<u16>, u32, i32)]| {
        let read = upstream(json!({"nodes": nodes})).nodes.unwrap();
        let found: Vec<_> =
            read.iter().map(|node| (node.host.as_str(), node.port, node.weight, node.priority)).collect();
        assert_eq!(found, expected);
    };
    check(
        json!({"a.test": 1, "a.test:80": 2.0, "127.0.0.1:1980": 0, "[::1]:8080": 3, "[::2]": 4, "fe80::3": 5}),
        &[
            ("a.test", None, 1, 0),
            ("a.test", Some(80), 2, 0),
            ("127.0.0.1", Some(1980), 0, 0),
            ("::1", Some(8080), 3, 0),
            ("::2", None, 4, 0),
            ("fe80::3", None, 5, 0),
        ],
    );
    check(
        json!([{"host": "[::1]", "port": 80.0, "weight": 1, "priority": -2}, {"host": "b", "weight": 1e300}]),
        &[("::1", Some(80), 1, -2), ("b", None, u32::MAX, 0)],
    );
    check(json!({}), &[]);
    check(json!([]), &[]);
    let node = &upstream(json!({"nodes": [{"host": "[::1]", "weight": 1, "metadata": {"a": 1}}]})).nodes.unwrap()[0];
    assert_eq!((bracketed(&node.host).as_ref(), &node.metadata["a"]), ("[::1]", &json!(1)));
    let node = &upstream(json!({"nodes": {"a.test:1": 1}})).nodes.unwrap()[0];
    assert_eq!(bracketed(&node.host), "a.test");
    assert_eq!(read::<Upstream>(json!({"service_name": "s", "discovery_type": "dns"})).nodes, None);
    assert!(serde_json::from_value::<Upstream>(json!({"nodes": {"a:0": 1}})).is_err());
}

#[test]
fn defaults_of_upstreams() {
    let plain = upstream(json!({}));
    assert_eq!(plain.balancer, Balancer::RoundRobin);
    assert_eq!((plain.hash_on, plain.pass_host, plain.scheme), (HashOn::Vars, PassHost::Pass, Scheme::Http));
    assert_eq!((plain.retries, plain.retry_timeout, plain.timeout, plain.checks), (None, None, None, None));
    assert_eq!(upstream(json!({"type": "none"})).balancer, Balancer::Other("none".to_owned()));
    assert_eq!(upstream(json!({"type": "least_conn"})).balancer, Balancer::LeastConn);
    assert_eq!(upstream(json!({"retry_timeout": 0})).retry_timeout, None);
    assert_eq!(upstream(json!({"retry_timeout": 1.5})).retry_timeout, Some(Duration::from_millis(1500)));
    let pool = upstream(json!({"keepalive_pool": []})).keepalive_pool.unwrap();
    assert_eq!((pool.size, pool.idle_timeout, pool.requests), (320, Duration::from_secs(60), 1000));
    let pool = upstream(json!({"keepalive_pool": {"idle_timeout": 0, "size": 5.0}})).keepalive_pool.unwrap();
    assert_eq!((pool.size, pool.idle_timeout), (5, Duration::ZERO));
    let timeout = upstream(json!({"timeout": {"connect": 0.0001, "send": 2, "read": 1e300}})).timeout.unwrap();
    assert_eq!((timeout.connect, timeout.send), (Duration::from_millis(1), Duration::from_secs(2)));
    assert!(timeout.read > Duration::from_secs(1 << 31) && timeout.read < Duration::from_secs(1 << 32));
    let ports = [Scheme::Http, Scheme::Grpc, Scheme::Https, Scheme::Grpcs, Scheme::Tcp].map(Scheme::default_port);
    assert_eq!(ports, [Some(80), Some(80), Some(443), Some(443), None]);
    for scheme in ["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"] {
        assert_eq!(upstream(json!({"scheme": scheme})).scheme.as_str(), scheme);
    }
}

#[test]
fn defaults_of_health_checks() {
    let checks = |checks: Value| upstream(json!({"checks": checks})).checks.unwrap();
    let absent = checks(json!({"active": {}}));
    assert_eq!(absent.active, ActiveCheck::default());
    assert_eq!(absent.passive, None);
    // An absent object is not probed but keeps its thresholds; a present one has an interval.
    assert_eq!(absent.active.healthy.interval, Duration::ZERO);
    assert_eq!((absent.active.healthy.successes, absent.active.unhealthy.timeouts), (2, 3));
    let empty = checks(json!({"active": {"healthy": {}, "unhealthy": []}, "passive": []}));
    assert_eq!(empty.active.healthy.interval, Duration::from_secs(1));
    assert_eq!(empty.active.unhealthy.interval, Duration::from_secs(1));
    assert_eq!(empty.active.healthy.http_statuses, [200, 302]);
    assert_eq!(empty.active.unhealthy.http_statuses, [429, 404, 500, 501, 502, 503, 504, 505]);
    assert_eq!((empty.active.unhealthy.http_failures, empty.active.unhealthy.tcp_failures), (5, 2));
    let passive = empty.passive.unwrap();
    assert_eq!(passive, PassiveCheck::default());
    assert_eq!(passive.healthy.http_statuses.len(), 19);
    assert_eq!((passive.healthy.successes, passive.unhealthy.timeouts), (5, 7));
    let active = checks(json!({"active": {"timeout": -1, "concurrency": 0, "type": "tcp"}})).active;
    assert_eq!((active.timeout, active.concurrency, active.kind), (Duration::from_secs(1), 1, ProbeKind::Tcp));
}

#[test]
fn routes_and_consumers() {
    let route: Route = read(json!({"uri": "/a", "id": 5, "plugins": [], "methods": {}, "labels": [], "vars": {}}));
    assert_eq!((route.priority, route.enabled, route.enable_websocket), (0, true, None));
    assert_eq!(route.vars, Some(json!([])));
    assert_eq!(route.paths().collect::<Vec<_>>(), ["/a"]);
    let route: Route = read(json!({"uris": ["/a", "/b"], "status": 0.0, "priority": -2.0, "remote_addr": "::1"}));
    assert_eq!((route.priority, route.enabled), (-2, false));
    assert_eq!(route.client_addresses().collect::<Vec<_>>(), ["::1"]);
    let consumer: Consumer = read(json!({"username": "j", "labels": {"custom_id": "7"}, "unknown": 1}));
    assert_eq!(consumer.custom_id(), Some("7"));
}

#[test]
fn certificates() {
    let ssl: Ssl = read(json!({
        "cert": PAIR.0, "key": PAIR.1, "certs": ["c"], "keys": ["k"], "snis": ["A.Test.", "*.b"], "client": {"ca": "x"},
        "ssl_protocols": {}, "ocsp_stapling": {},
    }));
    assert_eq!(ssl.server_names().collect::<Vec<_>>(), ["a.test", "*.b"]);
    assert_eq!(ssl.pairs().map(|(_, key)| key.expose().to_owned()).collect::<Vec<_>>(), [PAIR.1.as_str(), "k"]);
    assert_eq!((ssl.kind, ssl.enabled, ssl.client.as_ref().unwrap().depth), (SslKind::Server, true, 1));
    assert_eq!(ssl.ssl_protocols, Some(vec![]));
    assert_eq!(ssl.ocsp_stapling.as_ref().unwrap().cache_ttl, Duration::from_secs(3600));
    assert!(!format!("{ssl:?}").contains("PRIVATE"));
    let ssl: Ssl = read(json!({"cert": "c", "key": "k", "sni": "a", "ssl_protocols": ["TLSv1.3", "TLSv1.1"]}));
    assert_eq!(ssl.ssl_protocols, Some(vec![TlsVersion::V1_3, TlsVersion::V1_1]));
}

#[test]
fn debug_shows_no_plugin() {
    let plugins = json!({"key-auth": {"key": "hush"}});
    let texts = [
        format!("{:?}", read::<Consumer>(json!({"username": "j", "plugins": plugins}))),
        format!("{:?}", read::<Credential>(json!({"plugins": plugins}))),
        format!("{:?}", read::<Route>(json!({"plugins": plugins}))),
        format!("{:?}", read::<GlobalRule>(json!({"plugins": plugins}))),
    ];
    assert!(texts.iter().all(|text| !text.contains("hush")), "{texts:?}");
}

/// Asserts which upstream a route has, of a service or without one.
fn check_upstream(route: Value, service: Option<Value>, expected: &str) {
    let (route, service) = (read::<Route>(route), service.map(read::<Service>));
    let won = match effective(&route, service.as_ref()).upstream {
        Some(UpstreamSource::Id(id)) => format!("id {id}"),
        Some(UpstreamSource::Inline(upstream)) => format!("inline {}", upstream.name.as_deref().unwrap()),
        None => "none".to_owned(),
    };
    assert_eq!(won, expected);
}

fn inline(name: &str) -> Value {
    json!({"nodes": {}, "name": name})
}

#[test]
fn resources_2_1_1_a_routes_plugin_replaces_that_of_the_service_as_a_whole() {
    let service: Service = read(json!({
        "plugins": {"a": {"of": "s"}, "b": {"of": "s", "more": 1}, "c": {"of": "s"}},
    }));
    let config: PluginConfig = read(json!({"plugins": {"b": {"of": "p"}, "c": {"of": "p"}}}));
    let route: Route = read(json!({"plugins": {"c": {"of": "r"}}}));
    let own = effective(&route, Some(&service));
    let plugins = |config| serde_json::to_value(own.plugins(config)).unwrap();
    assert_eq!(plugins(None), json!({"a": {"of": "s"}, "b": {"of": "s", "more": 1}, "c": {"of": "r"}}));
    assert_eq!(plugins(Some(&config)), json!({"a": {"of": "s"}, "b": {"of": "p"}, "c": {"of": "r"}}));
}

#[test]
fn resources_2_1_2_a_routes_upstream_comes_before_its_services() {
    check_upstream(json!({}), None, "none");
    check_upstream(json!({}), Some(json!({})), "none");
    check_upstream(json!({"upstream": inline("r")}), Some(json!({"upstream_id": 2})), "inline r");
    check_upstream(json!({"upstream_id": 1}), Some(json!({"upstream": inline("s")})), "id 1");
    check_upstream(json!({}), Some(json!({"upstream": inline("s")})), "inline s");
}

#[test]
fn resources_2_1_3_attributes_of_a_route_and_of_its_service() {
    let service: Service = read(json!({
        "hosts": ["s"], "labels": {"from": "s"}, "enable_websocket": true, "name": "service",
    }));
    let bare: Route = read(json!({}));
    let taken = effective(&bare, Some(&service));
    assert_eq!((&taken.hosts[..], taken.enable_websocket, taken.name), (&["s"][..], true, None));
    assert_eq!(taken.labels["from"], "s");
    let route: Route = read(json!({
        "host": "r", "labels": {"from": "r"}, "enable_websocket": false, "name": "route",
        "timeout": {"connect": 1, "send": 1, "read": 1},
    }));
    let own = effective(&route, Some(&service));
    assert_eq!((&own.hosts[..], own.enable_websocket, own.name), (&["r"][..], false, Some("route")));
    assert_eq!((own.labels["from"].as_str(), own.timeout.map(|t| t.read)), ("r", Some(Duration::from_secs(1))));
    let several: Route = read(json!({"hosts": ["x", "y"], "host": "z"}));
    assert_eq!(effective(&several, Some(&service)).hosts, ["x", "y"]);
    assert!(effective(&bare, None).hosts.is_empty() && !effective(&bare, None).enable_websocket);
}

#[test]
fn resources_2_1_5_an_id_comes_before_what_is_inline() {
    check_upstream(json!({"upstream_id": 1, "upstream": inline("r")}), None, "id 1");
    check_upstream(json!({}), Some(json!({"upstream_id": 2, "upstream": inline("s")})), "id 2");
}
