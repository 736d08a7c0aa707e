use super::DEF;
use super::clock::{Clock, NodeClock};
use milecastle_matching::{Lookup, VarName};
use milecastle_plugin_api::testing::{Ask, Exchange, Gateway, Setup};
use milecastle_plugin_api::{NoSecrets, Registry, Shared};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A clock that stands still until it is moved.
#[derive(Clone)]
struct StoppedClock(Arc<Mutex<Duration>>);

impl StoppedClock {
    fn advance(&self, seconds: f64) {
        *self.0.lock().unwrap() += Duration::from_secs_f64(seconds);
    }
}

impl Clock for StoppedClock {
    fn monotonic(&self, _: Instant) -> Duration {
        *self.0.lock().unwrap()
    }

    fn wall(&self) -> Duration {
        Duration::from_secs(1_000_000) + self.monotonic(Instant::now())
    }
}

/// A node whose clock can be moved.
struct Node {
    registry: Arc<Registry>,
    clock: StoppedClock,
}

impl Node {
    fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let clock = StoppedClock(Arc::default());
        shared.put(Arc::new(NodeClock(Box::new(clock.clone()))));
        let defs = [&DEF, &crate::key_auth::DEF];
        Self { registry: Arc::new(Registry::new(&defs, Map::new(), shared, Arc::new(NoSecrets))), clock }
    }

    fn setup(&self) -> Setup {
        Setup::of(self.registry.clone())
    }

    fn route(&self, config: Value) -> Gateway {
        self.setup().route(json!({ "limit-count": config }))
    }
}

fn route(config: Value) -> Gateway {
    Node::new().route(config)
}

/// Limit, remaining and reset.
fn quota(done: &Exchange) -> [Option<&str>; 3] {
    ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(|name| done.header(name))
}

fn statuses(gateway: &Gateway, asks: &[&str]) -> Vec<u16> {
    asks.iter().map(|ask| gateway.send(*ask).status).collect()
}

#[test]
fn the_third_of_two_is_rejected() {
    let node = Node::new();
    let gateway = node.route(json!({ "count": 2, "time_window": 60 }));
    let first = gateway.send("GET /");
    assert_eq!((first.status, quota(&first)), (200, [Some("2"), Some("1"), Some("60")]));
    let second = gateway.send("GET /");
    assert_eq!((second.status, second.header("x-ratelimit-remaining")), (200, Some("0")));
    node.clock.advance(0.126);
    let third = gateway.send("GET /");
    assert_eq!((third.status, quota(&third)), (503, [Some("2"), Some("0"), Some("59.87")]));
    assert!(third.text().starts_with("<html>"), "no body of the plugin's own");
}

#[test]
fn a_window_ends_and_another_begins() {
    let node = Node::new();
    let gateway = node.route(json!({ "count": 1, "time_window": 60 }));
    assert_eq!(statuses(&gateway, &["GET /", "GET /"]), [200, 503]);
    node.clock.advance(30.0);
    assert_eq!(gateway.send("GET /").status, 503);
    node.clock.advance(30.0);
    assert_eq!(statuses(&gateway, &["GET /", "GET /"]), [200, 503]);
}

#[test]
fn the_rejection_is_configurable() {
    let done = {
        let gateway = route(json!({ "count": 1, "time_window": 60, "rejected_code": 429, "rejected_msg": "slow" }));
        gateway.send("GET /");
        gateway.send("GET /")
    };
    assert_eq!((done.status, done.text()), (429, "{\"error_msg\":\"slow\"}\n"));
    let meta = json!({ "error_response": { "code": 9 } });
    let gateway = route(json!({ "count": 1, "time_window": 60, "_meta": meta }));
    gateway.send("GET /");
    let done = gateway.send("GET /");
    assert_eq!((done.status, done.text()), (503, "{\"code\":9}\n"));
}

#[test]
fn headers_can_be_left_out() {
    let gateway = route(json!({ "count": 1, "time_window": 60, "show_limit_quota_header": false }));
    assert_eq!(quota(&gateway.send("GET /")), [None; 3]);
    assert_eq!(quota(&gateway.send("GET /")), [None; 3]);
}

#[test]
fn keys_of_all_types_separate() {
    let one =
        |key: &str, key_type: &str| route(json!({ "count": 1, "time_window": 60, "key": key, "key_type": key_type }));
    let by_header = one("http_x_user", "var");
    assert_eq!(statuses(&by_header, &["GET /\nX-User: a", "GET /\nX-User: b", "GET /\nX-User: a"]), [200, 200, 503]);
    // Without a value the client's address counts.
    let from = |ip: &str| by_header.send(Ask::from("GET /").from_peer(ip)).status;
    assert_eq!([from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.1")], [200, 200, 503]);

    let combined = one("$consumer_name $remote_addr", "var_combination");
    let from = |ip: &str| combined.send(Ask::from("GET /").from_peer(ip)).status;
    assert_eq!([from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.1")], [200, 200, 503]);

    let unresolved = one("$http_x_a $http_x_b", "var_combination");
    let from = |ip: &str| unresolved.send(Ask::from("GET /").from_peer(ip)).status;
    assert_eq!([from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.1")], [200, 200, 503]);

    let constant = one("remote_addr", "constant");
    let from = |ip: &str| constant.send(Ask::from("GET /").from_peer(ip)).status;
    assert_eq!([from("10.0.0.1"), from("10.0.0.2")], [200, 503]);
}

#[test]
fn a_group_shares_its_counters_among_objects() {
    let node = Node::new();
    let config =
        json!({ "limit-count": { "count": 2, "time_window": 60, "group": "g1", "key_type": "constant", "key": "k" } });
    let one = node.setup().layers(&[("/routes/1", config.clone())]);
    let two = node.setup().layers(&[("/routes/2", config)]);
    assert_eq!([one.send("GET /").status, two.send("GET /").status, one.send("GET /").status], [200, 200, 503]);
}

#[test]
fn members_of_a_group_must_be_configured_alike() {
    let node = Node::new();
    let write = |owner: &str, count: u64| {
        let config = json!({ "limit-count": { "count": count, "time_window": 60, "group": "g1" } });
        node.setup().faults_at(owner, milecastle_plugin_api::Placement::Object, config)
    };
    assert_eq!(write("/routes/1", 2), []);
    assert_eq!(write("/routes/1", 3), [], "the only member may change");
    assert_eq!(write("/routes/2", 3), []);
    let faults = write("/routes/2", 4);
    assert!(
        faults[0].message.ends_with("group conf mismatched") && faults[0].path == "/limit-count/group",
        "{faults:?}"
    );
    // What has been accepted elsewhere is loaded all the same.
    let config = json!({ "limit-count": { "count": 9, "time_window": 60, "group": "g1" } });
    assert_eq!(node.setup().layers(&[("/routes/3", config)]).send("GET /").status, 200);
}

#[test]
fn a_counter_belongs_to_its_object_and_configuration() {
    let node = Node::new();
    let gateway = |owner: &str, count: u64| {
        node.setup().layers(&[(owner, json!({ "limit-count": { "count": count, "time_window": 60 } }))])
    };
    let service = gateway("/services/1", 1);
    assert_eq!(statuses(&service, &["GET /", "GET /"]), [200, 503]);
    // Two routes of one service build the same instance; so does an edit elsewhere in the object.
    assert_eq!(gateway("/services/1", 1).send("GET /").status, 503);
    assert_eq!(gateway("/services/2", 1).send("GET /").status, 200);
    assert_eq!(gateway("/services/1", 5).send("GET /").status, 200, "its own configuration has changed");
}

#[test]
fn a_consumers_limit_covers_all_it_calls_and_nobody_else() {
    let node = Node::new();
    let limit = json!({ "count": 1, "time_window": 60 });
    let gateway = |owner: &str| {
        let consumer = |name: &str| json!({ "username": name, "plugins": { "key-auth": { "key": name }, "limit-count": limit.clone() } });
        node.setup().consumer(consumer("amy")).consumer(consumer("bob")).layers(&[(owner, json!({ "key-auth": {} }))])
    };
    let (one, two) = (gateway("/routes/1"), gateway("/routes/2"));
    assert_eq!(one.send("GET /\napikey: amy").status, 200);
    assert_eq!(two.send("GET /\napikey: amy").status, 503);
    assert_eq!(two.send("GET /\napikey: bob").status, 200);
}

#[test]
fn rules_apply_if_their_key_has_a_value() {
    let rules = json!([
        { "key": "$http_x_user", "count": 1, "time_window": 60 },
        { "key": "$http_x_org", "count": 2, "time_window": 120, "header_prefix": "org" },
    ]);
    let gateway = route(json!({ "rules": rules.clone() }));
    let both = gateway.send("GET /\nX-User: a\nX-Org: o");
    assert_eq!(both.status, 200);
    assert_eq!((both.header("x-1-ratelimit-limit"), both.header("x-1-ratelimit-remaining")), (Some("1"), Some("0")));
    assert_eq!((both.header("x-org-ratelimit-limit"), both.header("x-org-ratelimit-reset")), (Some("2"), Some("120")));
    let org = gateway.send("GET /\nX-Org: o");
    assert_eq!((org.status, org.header("x-1-ratelimit-limit")), (200, None));
    let rejected = gateway.send("GET /\nX-User: a\nX-Org: p");
    assert_eq!((rejected.status, rejected.header("x-org-ratelimit-limit")), (503, None), "the first rejection ends it");
    assert_eq!(gateway.send("GET /\nX-Org: p").header("x-org-ratelimit-remaining"), Some("1"), "p was not charged");
    let none = gateway.send("GET /");
    assert_eq!((none.status, none.ended_by), (500, Some("limit-count")));
    let lenient = route(json!({ "rules": rules, "allow_degradation": true }));
    assert_eq!(lenient.send("GET /").status, 200);
}

#[test]
fn a_literal_suffix_makes_several_windows_for_one_address() {
    let gateway = route(json!({ "rules": [
        { "key": "${remote_addr}_2s", "count": 5, "time_window": 2 },
        { "key": "${remote_addr}_60s", "count": 9, "time_window": 60 },
    ] }));
    let done = gateway.send("GET /");
    assert_eq!(
        (done.header("x-1-ratelimit-remaining"), done.header("x-2-ratelimit-remaining")),
        (Some("4"), Some("8"))
    );
    let literal = route(json!({ "rules": [{ "key": "always", "count": 1, "time_window": 1 }] }));
    assert_eq!(literal.send("GET /").status, 500, "a literal key never applies");
}

#[test]
fn numbers_may_be_templates() {
    let gateway = route(json!({
        "count": "${http_x_quota ?? 5}", "time_window": "${http_x_window ?? 60}", "key": "http_x_user",
    }));
    assert_eq!(gateway.send("GET /\nX-User: a").header("x-ratelimit-limit"), Some("5"));
    let two = gateway.send("GET /\nX-User: b\nX-Quota: 2\nX-Window: 7");
    assert_eq!(quota(&two), [Some("2"), Some("1"), Some("7")]);
    for bad in ["abc", "0", "-1", "1.5", "9007199254740992", ""] {
        let failed = gateway.send(format!("GET /\nX-User: c\nX-Quota: {bad}").as_str());
        assert_eq!((failed.status, quota(&failed)), (500, [None; 3]), "{bad}");
    }
    assert_eq!(gateway.send("GET /\nX-User: d\nX-Quota: 9007199254740991").status, 200);
    let lenient = route(json!({ "count": "$http_x_quota", "time_window": 60, "allow_degradation": true }));
    assert_eq!(lenient.send("GET /").status, 200);
}

#[test]
fn a_bad_number_in_a_rule_fails_all_before_any_is_charged() {
    let gateway = route(json!({ "rules": [
        { "key": "$http_x_user", "count": 1, "time_window": 60 },
        { "key": "$http_x_org", "count": "$http_x_quota", "time_window": 60 },
    ] }));
    assert_eq!(gateway.send("GET /\nX-User: a\nX-Org: o").status, 500);
    assert_eq!(gateway.send("GET /\nX-User: a").status, 200);
}

#[test]
fn metadata_renames_the_headers() {
    let metadata = json!({ "limit_header": "X-Quota", "reset_header": "My-RateLimit-Reset" });
    let done = Node::new()
        .setup()
        .metadata("limit-count", metadata.clone())
        .route(json!({ "limit-count": { "count": 2, "time_window": 60 } }))
        .send("GET /");
    assert_eq!(quota(&done), [None, Some("1"), None]);
    assert_eq!((done.header("x-quota"), done.header("my-ratelimit-reset")), (Some("2"), Some("60")));
    let rule = json!({ "key": "$remote_addr", "count": 2, "time_window": 60, "header_prefix": "minute" });
    let done = Node::new()
        .setup()
        .metadata("limit-count", metadata)
        .route(json!({ "limit-count": { "rules": [rule] } }))
        .send("GET /");
    assert_eq!((done.header("x-quota"), done.header("x-minute-ratelimit-remaining")), (Some("2"), Some("1")));
    assert_eq!(done.header("my-minute-ratelimit-reset"), Some("60"));
}

#[test]
fn the_variable_tells_of_the_last_rule() {
    let info = |done: &Exchange| -> Value {
        let text = done.cx.var(&VarName::parse("rate_limiting_info")).unwrap().text().into_owned();
        serde_json::from_str(&text).unwrap()
    };
    let gateway = route(json!({ "count": 1, "time_window": 60, "key": "http_x_user" }));
    let expected = json!({
        "rate_limiting_key": "a\"b", "rate_limiting_limit": 1, "rate_limiting_remaining": 0, "rate_limiting_reset": 60,
    });
    assert_eq!(info(&gateway.send("GET /\nX-User: a\"b")), expected);
    assert_eq!(info(&gateway.send("GET /\nX-User: plain"))["rate_limiting_key"], "plain");
}

#[test]
fn a_burst_before_the_border_of_a_sliding_window_counts_after_it() {
    let node = Node::new();
    let gateway = node.route(json!({ "count": 10, "time_window": 10, "window_type": "sliding" }));
    node.clock.advance(9.5);
    assert_eq!(statuses(&gateway, &["GET /"; 10]), [200; 10]);
    node.clock.advance(0.5);
    let border = gateway.send("GET /");
    assert_eq!((border.status, border.header("x-ratelimit-remaining")), (503, Some("0")));
    node.clock.advance(30.0);
    assert_eq!(gateway.send("GET /").header("x-ratelimit-remaining"), Some("9"));
}

#[test]
fn workers_count_together_and_exactly() {
    let node = Arc::new(Node::new());
    // Somebody holds the instance throughout, as the snapshot does.
    let _held = node.route(json!({ "count": 100, "time_window": 3600 }));
    let passed: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let node = node.clone();
                scope.spawn(move || {
                    let gateway = node.route(json!({ "count": 100, "time_window": 3600 }));
                    (0..100).filter(|_| gateway.send("GET /").status == 200).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(passed, 100);
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = Node::new().setup().faults(json!({ "limit-count": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    let with = |extra: Value| {
        let mut config = json!({ "count": 2, "time_window": 60 });
        extra.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
        config
    };
    let rule = |key: &str| json!({ "key": key, "count": 1, "time_window": 1 });
    check(json!({}), "object matches none of the required");
    check(json!({ "count": 1 }), "object matches none of the required");
    let below = "property \"count\" validation failed: value should match only one schema, but matches none: \
                 expected -3 to be greater than 0";
    check(json!({ "count": -3, "time_window": 60 }), below);
    for odd in [json!(0), json!(-1), json!(1.5), json!(1e30), json!(u64::MAX), json!(true), json!(null), json!([1])] {
        let none = "validation failed: value should match only one schema, but matches none";
        check(json!({ "count": odd, "time_window": 60 }), &format!("property \"count\" {none}"));
        check(json!({ "count": 1, "time_window": odd }), &format!("property \"time_window\" {none}"));
        let rule = json!({ "key": "$a", "count": odd, "time_window": 1 });
        check(json!({ "rules": [rule] }), &format!("property \"count\" {none}"));
    }
    check(with(json!({ "rules": [rule("$a")] })), "count/time_window and rules cannot be specified at the same time");
    check(json!({ "rules": [rule("$a")], "group": "g" }), "group and rules cannot be specified at the same time");
    check(json!({ "rules": [rule("$a"), rule("$a")] }), "duplicate key '$a' in rules");
    check(json!({ "rules": [{ "key": "$a", "count": 1 }] }), "property \"time_window\" is required");
    check(json!({ "rules": [{ "count": 1, "time_window": 1 }] }), "property \"key\" is required");
    check(
        json!({ "rules": [{ "key": "$a", "count": 1, "time_window": 1, "header_prefix": "a b" }] }),
        "cannot stand in a header name",
    );
    check(with(json!({ "window_type": "tumbling" })), "matches none of the enum values");
    check(with(json!({ "key_type": "x" })), "matches none of the enum values");
    check(with(json!({ "policy": "memcached" })), "matches none of the enum values");
    check(with(json!({ "rejected_code": 199 })), "expected 199 to be at least 200");
    check(with(json!({ "rejected_code": 600 })), "expected 600 to be at most 599");
    check(with(json!({ "rejected_msg": "" })), "string too short");
    for policy in ["redis-cluster", "redis-sentinel"] {
        let text = format!("policy {policy} is not available in this version, use redis or local");
        check(with(json!({ "policy": policy })), &text);
    }
    check(with(json!({ "policy": "redis" })), "property \"redis_host\" is required");
    let redis = |name: &str, value: Value| with(json!({ "policy": "redis", "redis_host": "h.test", name: value }));
    check(redis("sync_interval", json!(1)), "sync_interval is not available in this version");
    check(redis("redis_host", json!("h")), "string too short");
    for (name, below) in
        [("redis_port", 0), ("redis_timeout", 0), ("redis_keepalive_timeout", 999), ("redis_keepalive_pool", 0)]
    {
        check(
            redis(name, json!(below)),
            &format!("property \"{name}\" validation failed: expected {below} to be at least"),
        );
    }
    let faults =
        Node::new().setup().registry().build_metadata("limit-count", &json!({ "limit_header": "a b" })).unwrap();
    assert!(faults.unwrap_err()[0].message.contains("invalid header name: a b"));
}

#[test]
fn what_redis_is_told_is_written_as_specified() {
    let check = |more: Value| {
        let mut config = json!({ "count": 2, "time_window": 60, "policy": "redis", "redis_host": "h.test" });
        more.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
        Node::new().setup().faults(json!({ "limit-count": config }))
    };
    let all = json!({ "redis_port": 7000, "redis_username": "u", "redis_password": "p", "redis_database": 3, "redis_timeout": 1,
        "redis_ssl": true, "redis_ssl_verify": true, "redis_keepalive_timeout": 1000, "redis_keepalive_pool": 1,
        "sync_interval": -1, "window_type": "sliding" });
    assert_eq!([check(json!({})), check(all)], [[], []]);
}

#[test]
fn a_whole_number_may_be_written_with_a_point() {
    assert_eq!(route(json!({ "count": 2.0, "time_window": 6e1 })).send("GET /").header("x-ratelimit-limit"), Some("2"));
}
