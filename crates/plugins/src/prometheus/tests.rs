use super::DEF;
use http::StatusCode;
use milecastle_plugin_api::testing::{Answer, Ask, Setup};
use milecastle_plugin_api::{NoSecrets, RouteInfo, Shared};
use milecastle_telemetry::metrics::Registry;
use serde_json::{Value, json};
use std::sync::Arc;

/// A node with these static settings.
struct Node {
    shared: Arc<Shared>,
    attr: Value,
}

impl Node {
    fn new(attr: Value) -> Self {
        Self { shared: Arc::default(), attr: json!({ "prometheus": attr }) }
    }

    fn setup(&self) -> Setup {
        Setup::with(&[&DEF, &crate::key_auth::DEF], &self.attr, Arc::new(NoSecrets), self.shared.clone())
            .matched_uri("/hello")
    }

    /// The page's lines with this text in them, in the page's order.
    fn lines(&self, with: &str) -> Vec<String> {
        let registry = self.shared.get_or_init(|| Registry::new("none_", 1));
        let page = registry.render();
        page.lines().filter(|line| !line.starts_with('#') && line.contains(with)).map(str::to_owned).collect()
    }
}

fn plugin() -> Value {
    json!({ "prometheus": {} })
}

#[test]
fn a_request_is_counted_with_all_labels() {
    let node = Node::new(json!({}));
    let gateway = node.setup().route(plugin());
    gateway.send("GET /hello");
    let labels = "code=\"200\",route=\"1\",matched_uri=\"/hello\",matched_host=\"\",service=\"\",consumer=\"\",node=\"127.0.0.1\",\
                  request_type=\"traditional_http\",request_llm_model=\"\",llm_model=\"\",response_source=\"upstream\"";
    assert_eq!(node.lines("http_status"), [format!("apisix_http_status{{{labels}}} 1")]);
    gateway.send("GET /hello");
    assert_eq!(node.lines("http_status"), [format!("apisix_http_status{{{labels}}} 2")]);
    let common = "route=\"1\",service=\"\",consumer=\"\",node=\"127.0.0.1\",request_type=\"traditional_http\",request_llm_model=\"\",llm_model=\"\"";
    assert_eq!(
        node.lines("bandwidth"),
        [
            format!("apisix_bandwidth{{type=\"egress\",{common}}} 204"),
            format!("apisix_bandwidth{{type=\"ingress\",{common}}} 100"),
        ]
    );
    let counts = ["apisix", "request", "upstream"]
        .map(|kind| format!("apisix_http_latency_count{{type=\"{kind}\",{common}}} 2"));
    assert_eq!(node.lines("http_latency_count"), counts);
    // Two answers in 4 ms each.
    let sum = &node.lines("http_latency_sum{type=\"upstream\"")[0];
    assert!(sum.ends_with("} 8"), "{sum}");
}

#[test]
fn an_unmatched_request_has_empty_labels_and_no_upstream() {
    let node = Node::new(json!({}));
    node.setup().global(plugin()).no_route().send("GET /nowhere");
    let line = &node.lines("http_status")[0];
    assert!(
        line.contains(
            "code=\"404\",route=\"\",matched_uri=\"\",matched_host=\"\",service=\"\",consumer=\"\",node=\"\""
        ),
        "{line}"
    );
    assert!(line.contains("response_source=\"apisix\""), "{line}");
    assert_eq!(node.lines("type=\"upstream\""), [""; 0]);
    assert_eq!(node.lines("http_latency_count").len(), 2);
}

#[test]
fn sources_are_told_apart() {
    let node = Node::new(json!({}));
    let gateway = node.setup().route(json!({ "prometheus": {}, "key-auth": {} }));
    gateway.send("GET /");
    node.setup().route(plugin()).send(Ask::from("GET /").answered(Answer::failed(StatusCode::BAD_GATEWAY)));
    let lines = node.lines("http_status");
    assert!(lines[0].contains("code=\"401\"") && lines[0].contains("response_source=\"apisix\""), "{lines:?}");
    assert!(lines[1].contains("code=\"502\"") && lines[1].contains("response_source=\"nginx\""), "{lines:?}");
}

#[test]
fn the_routes_instance_takes_the_global_ones_place() {
    let node = Node::new(json!({}));
    node.setup().global(plugin()).route(json!({ "prometheus": { "prefer_name": true } })).send("GET /");
    assert!(node.lines("http_status")[0].ends_with("} 1"));
}

#[test]
fn names_are_preferred_where_there_are_any() {
    let node = Node::new(json!({}));
    let info = |name: Option<&str>| RouteInfo {
        id: "r1".into(),
        name: name.map(Into::into),
        service_id: Some("s1".into()),
        service_name: name.map(|_| "users".into()),
        ..RouteInfo::default()
    };
    for name in [Some("first"), Some(""), None] {
        node.setup().info(info(name)).route(json!({ "prometheus": { "prefer_name": true } })).send("GET /");
    }
    node.setup().info(info(Some("first"))).route(plugin()).send("GET /");
    let lines = node.lines("http_status");
    let labels: Vec<&str> = lines.iter().map(|line| line.split(",matched_uri").next().unwrap()).collect();
    assert_eq!(
        labels,
        [
            "apisix_http_status{code=\"200\",route=\"first\"",
            "apisix_http_status{code=\"200\",route=\"r1\"",
            "apisix_http_status{code=\"200\",route=\"r1\""
        ]
    );
    assert!(lines[0].contains("service=\"users\"") && lines[1].contains("service=\"s1\""), "{lines:?}");
}

#[test]
fn consumer_and_matched_host_are_labels() {
    let node = Node::new(json!({}));
    node.setup()
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "k" } } }))
        .matched_host("*.a.test")
        .route(json!({ "prometheus": {}, "key-auth": {} }))
        .send("GET /\napikey: k");
    let line = &node.lines("http_status")[0];
    assert!(line.contains("matched_host=\"*.a.test\"") && line.contains("consumer=\"amy\""), "{line}");
}

#[test]
fn labels_can_be_switched_off_and_on() {
    let node = Node::new(json!({}));
    let send = |setup: Setup| setup.route(plugin()).send("GET /");
    send(node.setup().metadata(
        "prometheus",
        json!({ "disabled_labels": { "http_status": ["node", "route"], "bandwidth": ["node"] } }),
    ));
    let line = &node.lines("http_status")[0];
    assert!(line.contains("code=\"200\",route=\"\"") && line.contains("node=\"\""), "{line}");
    assert_eq!(node.lines("bandwidth{type=\"egress\",route=\"1\",service=\"\",consumer=\"\",node=\"\"").len(), 1);
    assert_eq!(
        node.lines("latency_count{type=\"request\",route=\"1\",service=\"\",consumer=\"\",node=\"127.0.0.1\"").len(),
        1
    );
    send(node.setup());
    assert_eq!(node.lines("http_status{").len(), 2, "the same worker sees the change at once");
}

#[test]
fn metadata_names_known_metrics_and_labels_only() {
    let check = |disabled: Value, fault: Option<&str>| {
        let setup = Node::new(json!({})).setup();
        let built = setup.registry().build_metadata("prometheus", &json!({ "disabled_labels": disabled })).unwrap();
        match (built, fault) {
            (Ok(_), None) => {}
            (Err(faults), Some(text)) => assert!(faults[0].message.contains(text), "{faults:?}"),
            (Ok(_), Some(text)) => panic!("{text} is missing"),
            (Err(faults), None) => panic!("{faults:?}"),
        }
    };
    check(
        json!({ "http_status": ["node", "response_source"], "llm_latency": ["route_id"], "ai_cache_misses_total": ["route"] }),
        None,
    );
    check(json!({ "http_status": ["code"] }), Some("matches none of the enum values"));
    check(json!({ "http_latency": ["type"] }), Some("matches none of the enum values"));
    check(json!({ "ai_cache_hits_total": ["layer"] }), Some("matches none of the enum values"));
    check(json!({ "bandwidth": ["matched_uri"] }), Some("matches none of the enum values"));
    check(json!({ "node_info": ["version"] }), Some("additional properties forbidden, found node_info"));
}

#[test]
fn extra_labels_come_last() {
    let extra = json!({ "metrics": { "http_status": { "extra_labels": [{ "upstream_addr": "$upstream_addr" }, { "q": "$arg_q" }] } } });
    let node = Node::new(extra);
    node.setup().route(plugin()).send("GET /?q=a%22b");
    node.setup().global(plugin()).no_route().send("GET /");
    let lines = node.lines("http_status");
    assert!(
        lines[0].ends_with("response_source=\"upstream\",upstream_addr=\"127.0.0.1:1980\",q=\"a\\\"b\"} 1"),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("response_source=\"apisix\",upstream_addr=\"\",q=\"\"} 1"), "{lines:?}");
}

#[test]
fn buckets_and_prefix_are_settings() {
    let node = Node::new(json!({ "default_buckets": [15, 55], "metric_prefix": "gw_" }));
    node.setup().route(plugin()).send("GET /");
    let lines = node.lines("gw_http_latency_bucket{type=\"request\"");
    let bounds: Vec<&str> =
        lines.iter().map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap()).collect();
    assert_eq!(bounds, ["15", "55", "+Inf"]);
    assert_eq!(node.lines("apisix_http").len(), 0);
}

#[test]
fn series_without_update_leave_the_page() {
    let node = Node::new(json!({ "metrics": { "http_status": { "expire": 5 } } }));
    node.setup().route(plugin()).send("GET /");
    let registry = node.shared.get_or_init(|| Registry::new("none_", 1));
    let shown = |seconds: u64| {
        let page = registry.render_at(std::time::Instant::now() + std::time::Duration::from_secs(seconds));
        (page.contains("apisix_http_status{"), page.contains("apisix_bandwidth{"))
    };
    assert_eq!((shown(1), shown(60)), ((true, true), (false, true)));
    // The worker still holds the handle; its next update brings the series back.
    node.setup().route(plugin()).send("GET /");
    assert_eq!(shown(61), (true, true));
}

#[test]
fn faults_are_found_on_write() {
    let faults = Node::new(json!({})).setup().faults(json!({ "prometheus": { "prefer_name": 1 } }));
    assert!(faults[0].message.contains("wrong type: expected boolean, got number"), "{faults:?}");
    for (attr, text) in [
        (json!({ "default_buckets": "x" }), "plugin_attr.prometheus.default_buckets: a list of numbers is needed"),
        (json!({ "default_buckets": [2, 1] }), "plugin_attr.prometheus: buckets of http_latency must be finite"),
        (json!({ "metrics": { "bandwidth": { "extra_labels": ["a"] } } }), "each item is {label: $variable}"),
    ] {
        let faults = Node::new(attr).setup().faults(plugin());
        assert!(faults[0].message.contains(text), "{faults:?}");
    }
}
