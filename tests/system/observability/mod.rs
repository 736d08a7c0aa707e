//! What a gateway tells about itself and its traffic (`docs/observability.md`).

mod collector;
mod figures;

use collector::Collector;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, TempDir, eventually, free_port};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A gateway whose route `/*` is traced always, before `upstream`.
async fn traced(up: &Up, address: &str, upstream: Value) {
    let metadata = json!({
        "collector": { "address": address },
        "batch_span_processor": { "inactive_timeout": 0.1 },
        "resource": { "service.name": "edge" },
    });
    up.put("/plugin_metadata/opentelemetry", metadata).await;
    let plugins = json!({ "opentelemetry": { "sampler": { "name": "always_on" } } });
    up.put("/routes/r", json!({ "uri": "/*", "name": "all", "plugins": plugins, "upstream": upstream })).await;
    up.answers("/ready", 200).await;
}

async fn call(up: &Up, target: &str) {
    let caller = format!("00-{TRACE}-{SPAN}-01");
    let answer =
        Call::get(target).header("traceparent", &caller).header("tracestate", "v=1").to(up.http).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn is_request(item: &Value, target: &str) -> bool {
    item["kind"] == "SPAN_KIND_SERVER" && item["attributes"]["http.target"] == target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_spans_of_a_request_and_of_its_tries() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let mut up = Up::start_with(&[("MILECASTLE__GATEWAY__APISIX__TRACING", "true")]);
    let nobody = free_port();
    let nodes = json!([
        { "host": "127.0.0.1", "port": nobody, "weight": 1, "priority": 1 },
        { "host": "127.0.0.1", "port": echo.address().port(), "weight": 1, "priority": 0 },
    ]);
    up.process.announce("an upstream node gave no answer");
    traced(&up, &collector.address.to_string(), json!({ "nodes": nodes })).await;
    call(&up, "/shop?a=1").await;
    let span = collector.gets("the span", |item| is_request(item, "/shop?a=1")).await;
    assert_eq!([&span["trace"], &span["parent"], &span["state"]], [TRACE, SPAN, "v=1"], "{span}");
    assert_eq!([&span["name"], &span["scope"]], ["GET /*", "opentelemetry-lua"], "{span}");
    assert_eq!(span["resource"]["service.name"], "edge");
    let attributes = &span["attributes"];
    assert_eq!([&attributes["apisix.route_id"], &attributes["apisix.route_name"]], ["r", "all"], "{span}");
    assert_eq!(attributes["http.status_code"], 200);
    assert!(span["nanoseconds"].as_u64().is_some_and(|took| took > 0), "{span}");

    let is_try = |item: &Value, port: u16| item["parent"] == span["id"] && item["attributes"]["server.port"] == port;
    let failed = collector.gets("the try that failed", |item| is_try(item, nobody)).await;
    let answered = collector.gets("the try that was answered", |item| is_try(item, echo.address().port())).await;
    assert_eq!([&failed["kind"], &failed["status"]["code"]], ["SPAN_KIND_CLIENT", "STATUS_CODE_ERROR"], "{failed}");
    assert_eq!(answered["attributes"]["http.request.resend_count"], 1, "{answered}");
    let seen = echo.received();
    let told = seen.iter().find(|request| request.target() == "/shop?a=1").unwrap();
    assert_eq!(told.header("traceparent"), [format!("00-{TRACE}-{}-01", answered["id"].as_str().unwrap())]);
    assert_eq!(told.header("tracestate"), ["v=1"]);
    up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_in_each_phase_is_a_span_below_what_it_is_part_of() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let up = Up::start_with(&[("MILECASTLE__GATEWAY__APISIX__TRACING", "true")]);
    let nodes = json!({ "nodes": { echo.address().to_string(): 1 } });
    traced(&up, &collector.address.to_string(), nodes).await;
    let global =
        json!({ "proxy-rewrite": { "headers": { "set": { "X-A": "1" } } }, "response-rewrite": { "body": "global" } });
    up.put("/global_rules/1", json!({ "plugins": global })).await;
    eventually("the global rule is in force", async || up.get("/").await.text() == "global").await;
    call(&up, "/way?a=1").await;
    let request = collector.gets("the request", |item| is_request(item, "/way?a=1")).await;
    let mut ids = std::collections::HashMap::from([("", request["id"].clone())]);
    for (within, name) in [
        ("", "apisix.phase.access"),
        ("apisix.phase.access", "http_router_match"),
        ("apisix.phase.access", "run_global_rules.rewrite"),
        ("run_global_rules.rewrite", "apisix.phase.rewrite.plugins.proxy-rewrite"),
        ("apisix.phase.access", "apisix.phase.rewrite.plugins.opentelemetry"),
        ("", "apisix.phase.before_proxy.plugins.opentelemetry"),
        ("", "apisix.phase.header_filter"),
        ("apisix.phase.header_filter", "run_global_rules.header_filter"),
        ("run_global_rules.header_filter", "apisix.phase.header_filter.plugins.response-rewrite"),
        ("", "apisix.phase.body_filter"),
    ] {
        let is_it = |item: &Value| item["name"] == name && item["parent"] == ids[within];
        let span = collector.gets(&format!("{name} within {within:?}"), is_it).await;
        assert_eq!([&span["kind"], &span["trace"]], ["SPAN_KIND_INTERNAL", TRACE], "{span}");
        ids.insert(name, span["id"].clone());
    }
    up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_go_over_tls_to_a_collector_that_is_trusted_and_the_last_ones_before_the_end() {
    let authority = Authority::new("collectors");
    let collector = Collector::tls(&authority.issue(&["localhost"]));
    let echo = Echo::start();
    let dir = TempDir::new();
    let trusted = dir.write("ca.pem", authority.pem());
    let trust = [("MILECASTLE__GATEWAY__APISIX__SSL__SSL_TRUSTED_CERTIFICATE", trusted.to_str().unwrap())];
    let up = Up::start_with(&trust);
    let address = format!("https://localhost:{}", collector.address.port());
    traced(&up, &address, json!({ "nodes": { echo.address().to_string(): 1 } })).await;
    call(&up, "/first").await;
    collector.gets("the span", |item| is_request(item, "/first")).await;
    call(&up, "/last").await;
    drop(up.stop());
    collector.gets("the span of the last request", |item| is_request(item, "/last")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_pushed_to_a_collector() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let endpoint = collector.address.to_string();
    let up = Up::start_with(&[
        ("MILECASTLE__GATEWAY__METRICS_PUSH__ENDPOINT", &endpoint),
        ("MILECASTLE__GATEWAY__METRICS_PUSH__INTERVAL", "100ms"),
        ("MILECASTLE__GATEWAY__METRICS_PUSH__AUTHORIZATION", "Bearer t"),
    ]);
    up.put("/routes/r", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    let answered = |item: &Value| {
        let is_2xx = |point: &Value| point["labels"]["class"] == "2xx" && point["asInt"] != "0";
        item["metric"] == "apisix_responses_total" && item["points"].as_array().unwrap().iter().any(is_2xx)
    };
    let pushed = collector.gets("the answers by class", answered).await;
    assert_eq!([&pushed["kind"], &pushed["authorization"]], ["sum", "Bearer t"], "{pushed}");
    assert_eq!(pushed["resource"]["service.name"], "milecastle-gateway");
    let timed = |item: &Value| item["metric"] == "apisix_upstream_response_time" && item["points"][0]["count"] != "0";
    let pushed = collector.gets("the times of upstreams", timed).await;
    assert_eq!(pushed["kind"], "histogram", "{pushed}");
    up.stop();
}

/// Names in the first column of a table.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_metrics_are_those_of_a_running_gateway() {
    let echo = Echo::start();
    let up = Up::start();
    up.put("/plugin_metadata/opentelemetry", json!({})).await;
    let plugins = json!({ "prometheus": {}, "opentelemetry": {} });
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/routes/r", json!({ "uri": "/*", "plugins": plugins, "upstream": upstream })).await;
    up.answers("/", 200).await;
    up.answers("/status/404", 404).await;
    let value = |page: &str, series: &str| -> Option<f64> {
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    };
    let page = async || Call::get("/apisix/prometheus/metrics").to(up.prometheus).await.unwrap().text();
    eventually("requests show by class", async || {
        let page = page().await;
        let at_least_one = |series: &str| value(&page, series).is_some_and(|count| count >= 1.0);
        ["{class=\"2xx\"}", "{class=\"4xx\"}"]
            .iter()
            .all(|class| at_least_one(&format!("apisix_responses_total{class}")))
            && at_least_one("apisix_upstream_response_time_count")
    })
    .await;
    let page = page().await;
    let shown: BTreeSet<String> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE apisix_")?.split_once(' ')?.0.to_owned()))
        .collect();
    let documented = documented();
    assert_eq!(shown.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "not documented");
    // Those of the plugin for sessions, which is off here.
    let of_sessions = ["stream_connection_total", "stream_status"].map(str::to_owned);
    assert_eq!(documented.difference(&shown).collect::<Vec<_>>(), of_sessions.iter().collect::<Vec<_>>(), "not there");
    let per_worker =
        |name: &str| ["0", "1"].map(|worker| value(&page, &format!("apisix_{name}{{worker=\"{worker}\"}}")));
    for name in ["worker_accepted_connections_total", "worker_connections", "worker_requests_total"] {
        assert!(per_worker(name).iter().all(Option::is_some), "{name}");
    }
    let requests: f64 = per_worker("worker_requests_total").into_iter().flatten().sum();
    assert_eq!(Some(requests), value(&page, "apisix_http_requests_total"));
    up.stop();
}
