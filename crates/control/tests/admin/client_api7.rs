//! What `adc` sends with its backend `api7ee`, and what it reads (`docs/spec/clients.md` §3).

use crate::gateway::{Gateway, KEY, T, VIEWER, on_both};
use http::Method;
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};

on_both!(
    c3_ping_version_group_and_defaults,
    c3_sync_and_dump,
    c3_lists_byte_by_byte,
    c3_stream_services,
    c3_the_type_of_a_service_stays,
    c3_labels_choose,
    c3_upstreams_of_a_service,
    c3_deleting_a_service_takes_its_own_along,
    c3_what_went_along_is_deleted_once_more,
    c3_a_service_that_cannot_be_deleted_keeps_all_that_is_its_own,
    c3_validate,
    c3_nobody_gets_in_who_may_not_use_the_admin_api,
);

const NODES: &str = r#"[{"host":"127.0.0.1","port":1980,"weight":1}]"#;

fn call(method: Method, path: &str) -> Call {
    Call::new(method, &format!("/api7{path}")).header("x-api-key", KEY).header("content-type", "application/json")
}

async fn send(gw: &Gateway, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(method, path).body(body).to(gw.address()).await.unwrap()
}

/// The argument that names the group, as `adc` found its id.
fn at(path: &str) -> String {
    format!("/apisix/admin{path}{}gateway_group_id=default", if path.contains('?') { '&' } else { '?' })
}

#[track_caller]
fn get(gw: &Gateway, path: &str) -> impl Future<Output = Value> {
    let place = std::panic::Location::caller();
    let (path, to) = (path.to_owned(), gw.address());
    async move {
        let answer = call(Method::GET, &at(&path)).to(to).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {} ({place})", answer.text());
        answer.json().unwrap()
    }
}

async fn put(gw: &Gateway, path: &str, body: Value) {
    let answer = send(gw, Method::PUT, &at(path), &body).await;
    assert!(matches!(answer.status, 200 | 201), "{path}: {} {}", answer.status, answer.text());
}

/// A value without the timestamps of the server.
fn timeless(mut list: Value) -> Value {
    for item in list["list"].as_array_mut().unwrap() {
        let members = item.as_object_mut().unwrap();
        assert!(members.remove("create_time").is_some() && members.remove("update_time").is_some());
    }
    list
}

fn service(id: &str) -> Value {
    let upstream: Value = json!({ "name": "default", "scheme": "http", "type": "roundrobin", "nodes": nodes() });
    json!({
        "service_id": id, "name": id, "desc": "d", "labels": {"team": "a"}, "hosts": ["a.example"], "type": "http",
        "upstream": upstream, "plugins": {}, "strip_path_prefix": true,
    })
}

fn nodes() -> Value {
    serde_json::from_str(NODES).unwrap()
}

fn route(id: &str, service: &str) -> Value {
    json!({
        "route_id": id, "name": id, "service_id": service, "paths": ["/a", "/b/*"], "methods": ["GET"], "priority": 1,
        "plugins": {"limit-count": {"count": 1}}, "enable_websocket": false,
    })
}

async fn c3_ping_version_group_and_defaults(gw: Gateway) {
    assert_eq!(send(&gw, Method::GET, "/api/gateway_groups", &Value::Null).await.status, 200);
    let version = send(&gw, Method::GET, "/api/version", &Value::Null).await;
    assert_eq!((version.status, version.text().as_str()), (200, "{\"value\":\"3.9.10\"}\n"));
    for (argument, found) in [("search=default&name=default", 1), ("search=default", 1), ("search=none&name=none", 0)] {
        let groups = send(&gw, Method::GET, &format!("/api/gateway_groups?{argument}"), &Value::Null).await;
        let list = groups.json().unwrap()["list"].as_array().unwrap().clone();
        assert_eq!(list.len(), found, "{argument}");
        assert!(list.iter().all(|group| group["id"] == "default"));
    }
    let core = send(&gw, Method::GET, "/api/schema/core", &Value::Null).await.json().unwrap();
    for name in ["route", "service", "stream_service", "ssl", "consumer", "upstream"] {
        assert_eq!(core["value"][name]["type"], "object", "{name}");
    }
    // Nothing is added to what is written, so there are no defaults.
    assert!(!core.to_string().contains("\"default\":"), "{core}");
}

async fn c3_sync_and_dump(gw: Gateway) {
    let pair = Authority::new("tests").issue(&["a.example"]);
    put(&gw, "/services/s", service("s")).await;
    put(&gw, "/routes/r", route("r", "s")).await;
    put(&gw, "/services/other", service("other")).await;
    put(&gw, "/routes/o", route("o", "other")).await;
    let ssl =
        json!({"id": "x", "type": "server", "status": 1, "snis": ["a.example"], "cert": pair.cert, "key": pair.key});
    put(&gw, "/ssls/x", ssl).await;
    put(&gw, "/global_rules/limit-count", json!({"plugins": {"limit-count": {"count": 1}}})).await;
    put(&gw, "/plugin_metadata/limit-count", json!({"a": 1})).await;
    put(&gw, "/consumers/jack", json!({"username": "jack", "desc": "d"})).await;
    assert_eq!(get(&gw, "/consumers/jack/credentials").await, json!({"list": [], "total": 0}));
    put(&gw, "/consumers/jack/credentials/c", json!({"id": "c", "name": "c", "plugins": {"key-auth": {"key": "k"}}}))
        .await;
    // What was written is read, but for what the server adds; written again it is no change.
    let mut shown = service("s");
    shown["id"] = "s".into();
    shown.as_object_mut().unwrap().remove("strip_path_prefix");
    // The first revision is that which wrote it.
    shown["version"] = "1".into();
    shown["service_version_id"] = "s.1".into();
    let services = timeless(get(&gw, "/services").await);
    assert_eq!((&services["total"], &services["list"][1]), (&json!(2), &shown));
    let mut shown = route("r", "s");
    shown["id"] = "r".into();
    assert_eq!(timeless(get(&gw, "/routes?service_id=s").await), json!({"list": [shown], "total": 1}));
    let credentials = timeless(get(&gw, "/consumers/jack/credentials").await);
    assert_eq!(
        credentials,
        json!({"list": [{"id": "c", "name": "c", "plugins": {"key-auth": {"key": "k"}}}], "total": 1})
    );
    let consumers = timeless(get(&gw, "/consumers").await);
    assert_eq!(consumers, json!({"list": [{"username": "jack", "desc": "d"}], "total": 1}));
    let ssls = get(&gw, "/ssls").await;
    assert_eq!((&ssls["list"][0]["cert"], ssls["list"][0].get("key")), (&json!(pair.cert), None));
    let rules = timeless(get(&gw, "/global_rules").await);
    assert_eq!(rules["list"], json!([{"id": "limit-count", "plugins": {"limit-count": {"count": 1}}}]));
    assert_eq!(get(&gw, "/plugin_metadata").await, json!({"value": {"limit-count": {"a": 1}}}));
    let before = gw.revision().await;
    put(&gw, "/services/s", service("s")).await;
    put(&gw, "/routes/r", route("r", "s")).await;
    assert_eq!(gw.revision().await, before);
    for path in
        ["/consumers/jack/credentials/c", "/consumers/jack", "/ssls/x", "/global_rules/limit-count", "/routes/r"]
    {
        assert_eq!(send(&gw, Method::DELETE, &at(path), &Value::Null).await.status, 200, "{path}");
        assert_eq!(send(&gw, Method::DELETE, &at(path), &Value::Null).await.status, 404, "{path}");
    }
    assert_eq!(get(&gw, "/routes?service_id=s").await, json!({"list": [], "total": 0}));
    // A service that says the same in its own words is another client's, and is seen as well.
    gw.done(&format!(r#"PUT /routes/u {{"uri":"/u","upstream":{{"nodes":{NODES}}}}}"#)).await;
    assert_eq!(get(&gw, "/routes").await["list"][1]["paths"], json!(["/u"]));
}

async fn c3_lists_byte_by_byte(gw: Gateway) {
    let gw = gw.with_streams().await;
    put(&gw, "/services/s", json!({"name": "s", "type": "http", "upstream": {"nodes": nodes()}})).await;
    put(&gw, "/routes/r", json!({"name": "r", "service_id": "s", "paths": ["/a"]})).await;
    put(&gw, "/stream_routes/t", json!({"name": "t", "service_id": "s", "server_port": 9100})).await;
    put(&gw, "/services/s/upstreams/u", json!({"name": "u", "nodes": nodes()})).await;
    put(&gw, "/consumers/jack", json!({"username": "jack"})).await;
    put(&gw, "/consumers/jack/credentials/c", json!({"name": "c", "plugins": {"key-auth": {"key": "k"}}})).await;
    put(&gw, "/global_rules/limit-count", json!({"plugins": {"limit-count": {"count": 1}}})).await;
    put(&gw, "/plugin_metadata/http-logger", json!({"log_format": {"a": "b"}})).await;
    let times = format!(r#""create_time":{T},"update_time":{T}"#);
    let list = |object: String| format!("{{\"total\":1,\"list\":[{object}]}}\n");
    for (path, expected) in [
        (
            "/services",
            list(format!(
                r#"{{"id":"s","name":"s","upstream":{{"nodes":{NODES}}},{times},"service_id":"s","type":"http","version":"2","service_version_id":"s.2"}}"#
            )),
        ),
        ("/services/s/upstreams", list(format!(r#"{{"id":"u","name":"u","nodes":{NODES},{times}}}"#))),
        (
            "/routes?service_id=s",
            list(format!(r#"{{"id":"r","name":"r","service_id":"s",{times},"route_id":"r","paths":["/a"]}}"#)),
        ),
        (
            "/stream_routes?service_id=s",
            list(format!(
                r#"{{"id":"t","name":"t","service_id":"s","server_port":9100,{times},"stream_route_id":"t"}}"#
            )),
        ),
        ("/consumers", list(format!(r#"{{"username":"jack",{times}}}"#))),
        (
            "/consumers/jack/credentials",
            list(format!(r#"{{"id":"c","name":"c","plugins":{{"key-auth":{{"key":"k"}}}},{times}}}"#)),
        ),
        ("/global_rules", list(format!(r#"{{"id":"limit-count","plugins":{{"limit-count":{{"count":1}}}},{times}}}"#))),
        ("/plugin_metadata", "{\"value\":{\"http-logger\":{\"log_format\":{\"a\":\"b\"}}}}\n".to_owned()),
        ("/ssls", "{\"total\":0,\"list\":[]}\n".to_owned()),
    ] {
        let answer = send(&gw, Method::GET, &at(path), &Value::Null).await;
        assert_eq!((answer.status, answer.text()), (200, expected), "{path}");
    }
}

async fn c3_stream_services(gw: Gateway) {
    let gw = gw.with_streams().await;
    let upstream = json!({"name": "default", "scheme": "tcp", "nodes": nodes()});
    put(&gw, "/services/t", json!({"service_id": "t", "name": "t", "type": "stream", "upstream": upstream})).await;
    let body = json!({"stream_route_id": "r", "name": "r", "service_id": "t", "server_port": 9100});
    put(&gw, "/stream_routes/r", body.clone()).await;
    assert_eq!(get(&gw, "/services").await["list"][0]["type"], "stream");
    let mut shown = body;
    shown["id"] = "r".into();
    assert_eq!(timeless(get(&gw, "/stream_routes?service_id=t").await), json!({"list": [shown], "total": 1}));
    assert_eq!(send(&gw, Method::DELETE, &at("/services/t"), &Value::Null).await.status, 200);
    assert_eq!(get(&gw, "/stream_routes").await["total"], 0);
}

async fn c3_the_type_of_a_service_stays(gw: Gateway) {
    let gw = gw.with_streams().await;
    // adc writes no scheme where it is told no default, and a service need not have an upstream.
    put(&gw, "/services/t", json!({"name": "t", "type": "stream", "upstream": {"nodes": nodes()}})).await;
    put(&gw, "/services/bare", json!({"name": "bare", "type": "stream", "labels": {"a": "b"}})).await;
    let types = async || {
        let list = get(&gw, "/services").await;
        let of = |item: &Value| (item["id"].clone(), item["type"].clone(), item["labels"].clone());
        list["list"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let expected = [(json!("bare"), json!("stream"), json!({"a": "b"})), (json!("t"), json!("stream"), Value::Null)];
    assert_eq!(types().await, expected);
    // Others write these services too: a part of one, and the whole as it was read.
    gw.done(r#"PATCH /services/t {"desc":"d"}"#).await;
    let whole = gw.read("/services/bare").await;
    gw.done(&format!("PUT /services/bare {whole}")).await;
    assert_eq!(types().await, expected);
    put(&gw, "/services/t", json!({"name": "t", "type": "http", "upstream": {"nodes": nodes()}})).await;
    assert_eq!(types().await[1].1, "http");
    let refused = send(&gw, Method::PUT, &at("/services/t"), &json!({"name": "t", "type": "tcp"})).await;
    let text = "{\"error_msg\":\"type: expected http or stream\"}\n";
    assert_eq!((refused.status, refused.text().as_str()), (400, text));
}

async fn c3_labels_choose(gw: Gateway) {
    put(&gw, "/services/s", service("s")).await;
    let mut other = service("other");
    other["labels"] = json!({"team": "b", "env": "prod"});
    put(&gw, "/services/other", other).await;
    for (labels, ids) in [
        ("labels[team]=a", json!(["s"])),
        ("labels%5Bteam%5D=b&labels%5Benv%5D=prod", json!(["other"])),
        ("labels[team]=a&labels[env]=prod", json!([])),
    ] {
        let list = get(&gw, &format!("/services?{labels}")).await;
        let found: Value = list["list"].as_array().unwrap().iter().map(|item| item["service_id"].clone()).collect();
        assert_eq!((found, &list["total"]), (ids.clone(), &json!(ids.as_array().unwrap().len())), "{labels}");
    }
}

async fn c3_upstreams_of_a_service(gw: Gateway) {
    put(&gw, "/services/s", service("s")).await;
    let canary = json!({"id": "u", "name": "canary", "nodes": nodes(), "labels": {"a": "b"}});
    put(&gw, "/services/s/upstreams/u", canary.clone()).await;
    assert_eq!(timeless(get(&gw, "/services/s/upstreams").await), json!({"list": [canary.clone()], "total": 1}));
    assert_eq!(get(&gw, "/services/other/upstreams").await["total"], 0);
    let to_nobody = send(&gw, Method::PUT, &at("/services/none/upstreams/v"), &canary).await;
    assert_eq!(to_nobody.status, 404);
    // The upstreams of a service are deleted as its own alone.
    assert_eq!(send(&gw, Method::DELETE, &at("/services/other/upstreams/u"), &Value::Null).await.status, 404);
    assert_eq!(send(&gw, Method::DELETE, &at("/services/s/upstreams/u"), &Value::Null).await.status, 200);
    assert_eq!(get(&gw, "/services/s/upstreams").await["total"], 0);
}

async fn c3_deleting_a_service_takes_its_own_along(gw: Gateway) {
    for id in ["s", "other"] {
        put(&gw, &format!("/services/{id}"), service(id)).await;
        put(&gw, &format!("/routes/r-{id}"), route(&format!("r-{id}"), id)).await;
        put(&gw, &format!("/services/{id}/upstreams/u-{id}"), json!({"name": "u", "nodes": nodes()})).await;
    }
    put(&gw, "/routes/r2-s", route("r2-s", "s")).await;
    let before = gw.revision().await;
    let named = call(Method::DELETE, &at("/services/s")).header("idempotency-key", "k");
    let deleted = named.to(gw.address()).await.unwrap();
    let text = "{\"key\":\"/apisix/services/s\",\"deleted\":\"1\"}\n";
    assert_eq!((deleted.status, deleted.text().as_str()), (200, text));
    assert_eq!(gw.revision().await, before + 1, "all of it is one revision");
    let objects = gw.store.load("default").await.unwrap().objects;
    let mut left: Vec<String> = objects.into_iter().map(|object| object.key.to_string()).collect();
    left.sort();
    assert_eq!(left, ["/routes/r-other", "/services/other", "/upstreams/u-other"]);
    assert_eq!(send(&gw, Method::DELETE, &at("/services/s"), &Value::Null).await.status, 404);
}

async fn c3_what_went_along_is_deleted_once_more(gw: Gateway) {
    put(&gw, "/services/s", service("s")).await;
    put(&gw, "/services/s/upstreams/u", json!({"name": "u", "nodes": nodes()})).await;
    put(&gw, "/consumers/jack", json!({"username": "jack"})).await;
    put(&gw, "/consumers/jack/credentials/c", json!({"name": "c", "plugins": {"key-auth": {"key": "k"}}})).await;
    for (owner, own) in [("/services/s", "/upstreams/u"), ("/consumers/jack", "/credentials/c")] {
        let own = format!("{owner}{own}");
        let none = format!("{own}-none");
        assert_eq!(send(&gw, Method::DELETE, &at(&none), &Value::Null).await.status, 404, "its owner is there");
        assert_eq!(send(&gw, Method::DELETE, &at(owner), &Value::Null).await.status, 200, "{owner}");
        let revision = gw.revision().await;
        let again = send(&gw, Method::DELETE, &at(&own), &Value::Null).await;
        assert_eq!((again.status, again.text().as_str()), (200, "{\"deleted\":\"0\"}\n"), "{own}");
        let elsewhere = format!("/apisix/admin{own}?gateway_group_id=none");
        assert_eq!(send(&gw, Method::DELETE, &elsewhere, &Value::Null).await.status, 404, "{own}");
        assert_eq!(gw.revision().await, revision);
    }
}

#[tokio::test]
async fn c3_nothing_is_deleted_by_what_the_database_does_not_say() {
    let mut cluster = Cluster::start().unwrap();
    let gw = Gateway::on_cluster(&cluster).await;
    put(&gw, "/services/s", service("s")).await;
    put(&gw, "/services/s/upstreams/u", json!({"name": "u", "nodes": nodes()})).await;
    cluster.stop().unwrap();
    for path in ["/services/s/upstreams/u", "/services/s/upstreams/none", "/services/none/upstreams/none"] {
        let answer = send(&gw, Method::DELETE, &at(path), &Value::Null).await;
        assert_eq!((answer.status, answer.header("retry-after").is_empty()), (503, false), "{path}: {}", answer.text());
    }
}

async fn c3_a_service_that_cannot_be_deleted_keeps_all_that_is_its_own(gw: Gateway) {
    for id in ["s", "other"] {
        put(&gw, &format!("/services/{id}"), service(id)).await;
    }
    put(&gw, "/routes/r", route("r", "s")).await;
    put(&gw, "/services/s/upstreams/u", json!({"name": "u", "nodes": nodes()})).await;
    gw.done(r#"PUT /routes/elsewhere {"uri":"/e","service_id":"other","upstream_id":"u"}"#).await;
    let before = gw.revision().await;
    let refused = send(&gw, Method::DELETE, &at("/services/s"), &Value::Null).await;
    let text = "{\"error_msg\":\"can not delete this upstream, route [elsewhere] is still using it now\"}\n";
    assert_eq!((refused.status, refused.text().as_str()), (400, text));
    assert_eq!(gw.revision().await, before);
    for path in ["/services/s", "/routes/r", "/upstreams/u"] {
        assert_eq!(gw.send(&format!("GET {path}")).await.status, 200, "{path}");
    }
}

async fn c3_validate(gw: Gateway) {
    let path = at("/configs/validate");
    let good = json!({
        "services": [service("s")], "routes": [route("r", "s")], "consumers": [{"username": "jack"}],
        "global_rules": [{"plugins": {"limit-count": {"count": 1}}}], "plugin_metadata": [{"id": "limit-count"}],
    });
    let answer = send(&gw, Method::POST, &path, &good).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}\n"));
    let mut bad = good.clone();
    bad["routes"][0]["paths"] = json!(1);
    let answer = send(&gw, Method::POST, &path, &bad).await;
    let told = answer.json().unwrap();
    assert_eq!((answer.status, told["error_msg"].as_str()), (400, Some("Configuration validation failed")));
    let place = (&told["errors"][0]["resource_type"], &told["errors"][0]["resource_id"], &told["errors"][0]["index"]);
    assert_eq!(place, (&json!("routes"), &json!("r"), &json!(0)));
    bad = good;
    bad["services"][0]["path_prefix"] = json!("/v1");
    let told = send(&gw, Method::POST, &path, &bad).await.json().unwrap();
    let why = "path_prefix is not supported: write it into the paths of the routes";
    let error = json!({"resource_type": "services", "resource_id": "s", "index": 0, "error": why});
    assert_eq!(told["errors"], json!([error]));
    let written = send(&gw, Method::PUT, &at("/services/s"), &bad["services"][0]).await;
    assert_eq!((written.status, written.json().unwrap()), (400, json!({ "error_msg": why })));
    assert_eq!(gw.revision().await, 0);
}

async fn c3_nobody_gets_in_who_may_not_use_the_admin_api(gw: Gateway) {
    let with = async |key: &str, method: Method, path: &str, body: &str| {
        let call = Call::new(method, &format!("/api7{path}")).header("x-api-key", key).body(body.to_owned());
        call.to(gw.address()).await.unwrap().status
    };
    let body = service("s").to_string();
    for path in ["/api/gateway_groups", "/api/schema/core", "/apisix/admin/services", "/apisix/admin/plugin_metadata"] {
        assert_eq!(with("wrong", Method::GET, path, "").await, 401, "{path}");
        assert_eq!(with(VIEWER, Method::GET, path, "").await, 200, "{path}");
    }
    assert_eq!(with("wrong", Method::PUT, "/apisix/admin/services/s", &body).await, 401);
    assert_eq!(with(VIEWER, Method::PUT, "/apisix/admin/services/s", &body).await, 401);
    assert_eq!(with(VIEWER, Method::DELETE, "/apisix/admin/services/s", "").await, 401);
    for path in ["/", "/apisix", "/apisix/admin", "/apisix/admin/nope", "/apisix/admin/credentials/1", "/api/nodes"] {
        assert_eq!(with(KEY, Method::GET, path, "").await, 404, "{path}");
    }
    assert_eq!(with(KEY, Method::PUT, "/apisix/admin/routes/1?gateway_group_id=none", r#"{"paths":["/"]}"#).await, 404);
    assert_eq!(with(KEY, Method::PUT, "/apisix/admin/services/s", "{").await, 400);
    assert_eq!(gw.revision().await, 0);
}
