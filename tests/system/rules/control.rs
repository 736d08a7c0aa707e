//! `docs/spec/control-api.md`: the control API of a node, and its status.

use super::{Shared, Site, in_force, with};
use milecastle_testkit::{Answer, Call, Echo, eventually};
use milecastle_tests::{Cluster, free};
use serde_json::{Value, json};
use std::sync::Arc;

async fn site() -> Arc<Site> {
    static SITE: Shared<Site> = Shared::new();
    let discovery = json!({ "dns": { "servers": ["127.0.0.1:9"] } }).to_string();
    SITE.get(async || {
        let settings = [("MILECASTLE__GATEWAY__DISCOVERY", &*discovery)];
        Site::start(&settings, &[], &["is unhealthy", "no node of this upstream is healthy"]).await
    })
    .await
}

async fn ask(site: &Site, target: &str) -> Answer {
    Call::get(target).to(site.up.control).await.unwrap()
}

async fn shown(site: &Site, target: &str) -> Value {
    let answer = ask(site, target).await;
    assert_eq!((answer.status, &*answer.header("content-type")), (200, "application/json"), "{target}");
    answer.json().unwrap()
}

/// Asserts that a request is refused in these words.
async fn refuses(site: &Site, target: &str, status: u16, why: &str) {
    let answer = ask(site, target).await;
    assert_eq!((answer.status, answer.json().unwrap()), (status, json!({ "error_msg": why })), "{target}");
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// An upstream whose health is watched by its traffic.
fn watched(echo: &Echo, more: Value) -> Value {
    let passive = json!({ "unhealthy": { "http_statuses": [500], "http_failures": 1 } });
    let checks = json!({ "active": {}, "passive": passive });
    with(json!({ "nodes": { echo.address().to_string(): 1 }, "checks": checks }), more)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_what_can_be_asked() {
    let (site, echo) = (site().await, Echo::start());
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    site.put([
        ("/upstreams/c1", upstream),
        ("/services/c1", json!({ "upstream_id": "c1" })),
        ("/routes/c1", json!({ "uri": "/c1", "service_id": "c1" })),
        ("/plugin_metadata/file-logger", json!({ "log_format": { "a": "$uri" } })),
    ])
    .await;
    let schema = shown(&site, "/v1/schema").await;
    assert_eq!(names(&schema), ["main", "plugins", "stream_plugins"]);
    let main = [
        "consumer",
        "consumer_group",
        "global_rule",
        "graphql_cost_decoration",
        "plugin_config",
        "plugins",
        "proto",
        "route",
        "service",
        "ssl",
        "stream_route",
        "upstream",
        "upstream_hash_header_schema",
        "upstream_hash_vars_schema",
    ];
    assert_eq!(names(&schema["main"]), main);
    let key_auth = &schema["plugins"]["key-auth"];
    assert_eq!((&key_auth["priority"], &key_auth["type"]), (&json!(2500), &json!("auth")));
    assert!(key_auth["schema"].is_object() && key_auth["consumer_schema"].is_object(), "{key_auth}");
    for (one, all) in
        [("/v1/route/c1", "/v1/routes"), ("/v1/service/c1", "/v1/services"), ("/v1/upstream/c1", "/v1/upstreams")]
    {
        let (one, all) = (shown(&site, one).await, shown(&site, all).await);
        assert!(all.as_array().unwrap().contains(&one), "{one} in {all}");
    }
    let metadata = json!({ "id": "file-logger", "log_format": { "a": "$uri" } });
    assert_eq!(shown(&site, "/v1/plugin_metadata/file-logger").await, metadata);
    assert_eq!(shown(&site, "/v1/plugin_metadatas").await, json!([metadata]));
    refuses(&site, "/v1/route/none", 404, "route[none] not found").await;
    refuses(&site, "/v1/service/none", 404, "service[none] not found").await;
    refuses(&site, "/v1/upstream/none", 404, "upstream[none] not found").await;
    refuses(&site, "/v1/plugin_metadata/none", 404, "plugin metadata[none] not found").await;
    let call = async |method: &str, target: &str| {
        let answer = Call::new(method.parse().unwrap(), target).to(site.up.control).await.unwrap();
        (answer.status, answer.text())
    };
    assert_eq!(call("POST", "/v1/gc").await, (200, String::new()));
    assert_eq!(call("PUT", "/v1/plugins/reload").await, (200, "done".to_owned()));
    assert_eq!(names(&shown(&site, "/v1/discovery/dns/dump").await)[..1], ["services"]);
    let none = (503, "no instances of dns are kept on disk".to_owned());
    assert_eq!(call("GET", "/v1/discovery/dns/show_dump_file").await, none);
    assert!(shown(&site, "/v1/drain").await["process"].is_object());
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/v1/unknown"),
        ("GET", "/v1/routes/c1"),
        ("POST", "/v1/routes"),
        ("GET", "/v1/gc"),
        ("GET", "/v1/plugins/reload"),
        // None of these is there: registries that are not configured, and plugins (docs/compatibility.md).
        ("GET", "/v1/discovery/consul/dump"),
        ("GET", "/v1/discovery/consul/show_dump_file"),
        ("GET", "/v1/server_info"),
        ("GET", "/v1/plugin/example-plugin/hello"),
    ] {
        let (status, text) = call(method, target).await;
        assert!(status == 404 && text.contains("<center><h1>404 Not Found</h1></center>"), "{method} {target}: {text}");
    }
}

/// The checker of an object in the list of all.
async fn listed(site: &Site, name: &str) -> Option<Value> {
    let all = shown(site, "/v1/healthcheck").await;
    all.as_array().unwrap().iter().find(|checker| checker["name"] == name).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_1_1_a_checker_is_named_after_its_object() {
    let (site, echo) = (site().await, Echo::start());
    site.put([
        ("/upstreams/c111", watched(&echo, json!({}))),
        (
            "/routes/c111",
            json!({ "uri": "/c111", "upstream": watched(&echo, json!({ "checks": { "active": { "type": "tcp" } } })) }),
        ),
    ])
    .await;
    for (name, kind) in [("/apisix/upstreams/c111", "http"), ("/apisix/routes/c111", "tcp")] {
        assert_eq!(listed(&site, name).await.unwrap()["type"], kind, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_1_2_a_node_tells_under_which_host_it_is_probed() {
    let (site, echo) = (site().await, Echo::start());
    let mode = json!({ "pass_host": "rewrite", "upstream_host": "probed.test" });
    let route =
        |id: &str, upstream: Value| (format!("/routes/{id}"), json!({ "uri": format!("/{id}"), "upstream": upstream }));
    site.put([route("c112", watched(&echo, json!({}))), route("c112-host", watched(&echo, mode))]).await;
    for (id, expected) in [("c112", Value::Null), ("c112-host", json!("probed.test"))] {
        assert_eq!(site.up.get(&format!("/{id}")).await.status, 200);
        let target = format!("/v1/healthcheck/routes/{id}");
        eventually("it has been probed", async || ask(&site, &target).await.status == 200).await;
        let node = shown(&site, &target).await["nodes"][0].clone();
        assert_eq!(node["hostheader"], expected, "{node}");
        // Nothing of ours is purged later (docs/compatibility.md).
        assert_eq!(node["purge_time"], Value::Null, "{node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_1_3_states_and_counters_of_nodes() {
    let (site, echo) = (site().await, Echo::start());
    let passive = json!({ "healthy": { "http_statuses": [200], "successes": 2 },
        "unhealthy": { "http_statuses": [500], "http_failures": 2 } });
    let checks = json!({ "checks": { "active": {}, "passive": passive } });
    site.put([("/routes/c113", json!({ "uri": "/c113", "upstream": watched(&echo, checks) }))]).await;
    // Of a single node neither matters, so it goes on getting requests.
    for (status, state, success, failures) in [
        (200, "healthy", 0, 0),
        (500, "mostly_healthy", 0, 1),
        (500, "unhealthy", 0, 2),
        (200, "mostly_unhealthy", 1, 0),
        (200, "healthy", 2, 0),
    ] {
        echo.always(Some(status));
        assert_eq!(site.up.get("/c113").await.status, status);
        let counter = json!({ "success": success, "http_failure": failures, "tcp_failure": 0, "timeout_failure": 0 });
        let expected = json!([{ "ip": "127.0.0.1", "port": echo.port(), "hostname": "127.0.0.1", "status": state,
            "counter": counter }]);
        eventually(state, async || {
            listed(&site, "/apisix/routes/c113").await.is_some_and(|shown| shown["nodes"] == expected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_1_4_all_that_have_checks_are_listed_and_their_nodes_once_there_was_traffic() {
    let (site, echo) = (site().await, Echo::start());
    site.put([
        ("/upstreams/c114", watched(&echo, json!({}))),
        ("/upstreams/c114-plain", json!({ "nodes": { echo.address().to_string(): 1 } })),
        ("/services/c114", json!({ "upstream": watched(&echo, json!({})) })),
        ("/routes/c114", json!({ "uri": "/c114", "upstream": watched(&echo, json!({})) })),
        ("/routes/c114-id", json!({ "uri": "/c114-id", "upstream_id": "c114" })),
    ])
    .await;
    let all = shown(&site, "/v1/healthcheck").await;
    let ours = all.as_array().unwrap().iter().filter(|checker| checker["name"].as_str().unwrap().contains("/c114"));
    let ours: Vec<_> = ours.map(|checker| (checker["name"].clone(), checker["nodes"].clone())).collect();
    let named = ["/apisix/routes/c114", "/apisix/services/c114", "/apisix/upstreams/c114"];
    assert_eq!(ours, named.map(|name| (json!(name), json!([]))));
    refuses(&site, "/v1/healthcheck/upstreams/c114", 404, "no checker for upstreams[c114]").await;
    refuses(&site, "/v1/healthcheck/upstreams/c114-plain", 404, "no checker for upstreams[c114-plain]").await;
    refuses(&site, "/v1/healthcheck/upstreams/none", 404, "upstreams[none] not found").await;
    refuses(&site, "/v1/healthcheck/upstreams/", 404, "missing src id for src type upstreams").await;
    refuses(&site, "/v1/healthcheck/consumers/c", 400, "invalid src type consumers").await;
    assert_eq!(site.up.get("/c114-id").await.status, 200);
    eventually("its node is listed", async || ask(&site, "/v1/healthcheck/upstreams/c114").await.status == 200).await;
    let one = shown(&site, "/v1/healthcheck/upstreams/c114").await;
    assert_eq!(one["nodes"][0]["port"], echo.port());
    assert_eq!(listed(&site, "/apisix/upstreams/c114").await, Some(one));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_1_5_a_browser_is_shown_a_table() {
    let (site, echo) = (site().await, Echo::start());
    site.put([("/routes/c115", json!({ "uri": "/c115", "upstream": watched(&echo, json!({})) }))]).await;
    assert_eq!(site.up.get("/c115").await.status, 200);
    let row = format!("<td>/apisix/routes/c115</td><td>http</td><td>127.0.0.1:{}</td><td>healthy</td>", echo.port());
    let page = async || {
        let call = Call::get("/v1/healthcheck").header("accept", "text/html,application/xhtml+xml");
        call.to(site.up.control).await.unwrap()
    };
    eventually("its row", async || page().await.text().contains(&row)).await;
    let answer = page().await;
    assert_eq!(answer.header("content-type"), "text/html");
    let columns = [
        "Index",
        "Upstream",
        "Check type",
        "Host",
        "Status",
        "Success counts",
        "TCP Failures",
        "HTTP Failures",
        "TIMEOUT Failures",
    ];
    let head = columns.map(|column| format!("<th>{column}</th>")).concat();
    assert!(answer.text().contains(&head), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_1_2_objects_as_they_were_loaded() {
    let (site, echo) = (site().await, Echo::start());
    let at = echo.address().to_string();
    let key = milecastle_testkit::tls::Authority::new("c12").issue(&["c12"]);
    let upstream = json!({ "nodes": { &at: 1, "name.test:81": 2 }, "scheme": "https",
        "tls": { "client_cert": key.cert, "client_key": key.key } });
    site.put([
        ("/upstreams/c12", upstream),
        ("/routes/c12", json!({ "uri": "/c12", "hosts": ["A.C12.test"], "upstream": { "nodes": { &at: 1 } } })),
    ])
    .await;
    site.put([(
        "/routes/c12",
        json!({ "uri": "/c12-b", "hosts": ["A.C12.test"], "upstream": { "nodes": { &at: 1 } } }),
    )])
    .await;
    let route = shown(&site, "/v1/route/c12").await;
    let mut members = names(&route);
    members.sort_unstable();
    assert_eq!(members, ["createdIndex", "has_domain", "key", "modifiedIndex", "orig_modifiedIndex", "value"]);
    assert_eq!((&route["key"], &route["has_domain"]), (&json!("/apisix/routes/c12"), &json!(false)));
    assert!(route["createdIndex"].as_u64() < route["modifiedIndex"].as_u64(), "{route}");
    assert_eq!(route["orig_modifiedIndex"], route["modifiedIndex"]);
    let value = &route["value"];
    assert_eq!((&value["hosts"], &value["priority"], &value["status"]), (&json!(["a.c12.test"]), &json!(0), &json!(1)));
    let node = json!([{ "host": "127.0.0.1", "port": echo.port(), "weight": 1 }]);
    assert_eq!(value["upstream"]["nodes"], node);
    let upstream = shown(&site, "/v1/upstream/c12").await;
    assert_eq!((&upstream["has_domain"], upstream.get("orig_modifiedIndex")), (&json!(true), None));
    assert_eq!(upstream["value"]["dns_nodes"].as_array().unwrap().len(), 2);
    assert_eq!(upstream["value"]["type"], "roundrobin");
    // No authentication here, so secrets are masked (docs/compatibility.md).
    assert_eq!(upstream["value"]["tls"]["client_key"], "******");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_2_4_a_node_is_ready_once_every_worker_has_a_configuration() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    cluster.hand_out(&cluster.token(&control));
    // Nobody answers there.
    let mut lonely = cluster.gateway("lonely", &[free()]);
    lonely.process.announce("no configuration stream");
    let say = async |status: std::net::SocketAddr, method: &str, target: &str| {
        let answer = Call::new(method.parse().unwrap(), target).to(status).await.unwrap();
        (answer.status, answer.text())
    };
    let (code, text) = say(lonely.status, "GET", "/status/ready").await;
    let why: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &why["status"]), (503, &json!("error")));
    assert_eq!(why["error"], "worker id: 0 has not received configuration");
    drop(lonely);
    let site = site().await;
    in_force(&site.up).await;
    for (method, target) in
        [("GET", "/status"), ("POST", "/status/any"), ("GET", "/status/ready"), ("DELETE", "/status/ready")]
    {
        assert_eq!(
            say(site.up.status, method, target).await,
            (200, r#"{"status":"ok"}"#.to_owned()),
            "{method} {target}"
        );
    }
    assert_eq!(say(site.up.status, "GET", "/").await.0, 404);
    control.stop();
}
