//! What `adc` sends, with the answers that it reads, byte by byte (`docs/spec/clients.md` §1 and §2).

use crate::gateway::{Gateway, KEY, T, bare, on_both};
use futures_util::future::join_all;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Answer, Call};
use serde_json::{Map, Value, json};

on_both!(
    c1_ping_and_version,
    c1_sync_dump_and_delete,
    c1_1_a_service_has_the_upstream_of_its_id,
    c1_2_routes_have_these_attributes,
    c1_3_a_global_rule_has_the_id_of_its_plugin,
    c1_4_ids_in_bodies_are_those_of_paths,
    c1_5_labels_are_texts_without_blanks,
    c1_6_writes_of_one_type_are_concurrent,
    c1_without_stream_mode_there_are_no_stream_routes,
    c1_7_certificates_come_back_as_they_are,
    c1_validate,
    c2_find_the_newest_server,
    c2_sync_by_collection,
);

/// SHA-1 of the names `svc`, `svc.route` and `svc.other`.
const SERVICE: &str = "a0089182becd921781d5ba1e58fa4d129b24060f";
const ROUTE: &str = "93e777bee6d995ba278e80670b2e86f742c9611e";
const EXTRA: &str = "dcd8725e732a2117258d9ab881fe8792d4616096";

/// The collections that a dump asks for, all at once.
const DUMPED: [&str; 9] = [
    "services",
    "routes",
    "upstreams",
    "ssls",
    "consumers",
    "plugin_configs",
    "global_rules",
    "plugin_metadata",
    "stream_routes",
];

/// What is written, in the order of writing: path and body. An upstream comes before its service, a consumer before its
/// credentials.
fn objects(cert: &str, key: &str) -> Vec<(String, Value)> {
    let node = json!([{"host": "127.0.0.1", "port": 1980, "weight": 1}]);
    vec![
        (
            format!("/upstreams/{SERVICE}"),
            json!({"name": "svc", "type": "roundrobin", "scheme": "http", "pass_host": "pass", "nodes": node}),
        ),
        (
            format!("/services/{SERVICE}"),
            json!({"id": SERVICE, "name": "svc", "hosts": ["a.example"], "upstream_id": SERVICE}),
        ),
        (
            format!("/upstreams/{EXTRA}"),
            json!({"id": EXTRA, "name": "other", "nodes": node, "labels": {"__ADC_UPSTREAM_SERVICE_ID": SERVICE}}),
        ),
        (
            format!("/routes/{ROUTE}"),
            json!({
                "id": ROUTE, "name": "route", "labels": {"owners": "[\"a\",\"b\"]"}, "uris": ["/a", "/b/*"],
                "methods": ["GET", "POST"], "vars": [["arg_x", "==", "1"]], "service_id": SERVICE,
                "enable_websocket": false, "plugins": {"limit-count": {"count": 1}}, "priority": 0,
                "timeout": {"connect": 6, "send": 6, "read": 6}, "status": 1,
            }),
        ),
        ("/consumers/jack".into(), json!({"username": "jack", "labels": {"team": "x"}, "plugins": {}})),
        (
            "/consumers/jack/credentials/0d9b02907b61bece798022e2a17639acfa6c2136".into(),
            json!({
                "id": "0d9b02907b61bece798022e2a17639acfa6c2136", "name": "primary",
                "plugins": {"key-auth": {"key": "k"}},
            }),
        ),
        (
            "/ssls/f4e610b835c891c0a5535babfb29f1dbc4dcd8f9".into(),
            json!({
                "id": "f4e610b835c891c0a5535babfb29f1dbc4dcd8f9", "status": 1, "type": "server", "snis": ["a.example"],
                "cert": cert, "key": key,
            }),
        ),
        ("/global_rules/basic-auth".into(), json!({"id": "basic-auth", "plugins": {"basic-auth": {}}})),
        ("/plugin_metadata/http-logger".into(), json!({"log_format": {"host": "$host"}})),
    ]
}

/// A body as it is stored: the id first if it was not sent, timestamps last.
fn stored(path: &str, body: &Value) -> Value {
    let (collection, id) = (path.split('/').nth(1).unwrap(), path.rsplit('/').next().unwrap());
    let mut members = Map::new();
    if collection != "consumers" && body.get("id").is_none() {
        members.insert("id".into(), id.into());
    }
    members.extend(body.as_object().unwrap().clone());
    if collection != "plugin_metadata" {
        members.insert("create_time".into(), T.into());
        members.insert("update_time".into(), T.into());
    }
    Value::Object(members)
}

/// The list of a collection as reads show it, of objects that were written one after the other: by id, without private keys.
fn listed(objects: &[(String, Value)], collection: &str) -> String {
    let place = format!("/{collection}/");
    let is_in = |path: &str| path.strip_prefix(&place).is_some_and(|id| !id.contains('/'));
    // The first revision is that of the group's settings.
    let written = (2_u64..).zip(objects).filter(|(_, (path, _))| is_in(path));
    let mut entries: Vec<(&String, String)> = written
        .map(|(revision, (path, body))| {
            let mut value = stored(path, body);
            value.as_object_mut().unwrap().shift_remove("key");
            let indices = format!("\"createdIndex\":{revision},\"modifiedIndex\":{revision}");
            (path, format!("{{\"key\":\"/apisix{path}\",\"value\":{value},{indices}}}"))
        })
        .collect();
    entries.sort();
    let list: Vec<String> = entries.into_iter().map(|(_, entry)| entry).collect();
    format!("{{\"list\":[{}],\"total\":{}}}\n", list.join(","), list.len())
}

async fn dump(gw: &Gateway) -> Vec<(&'static str, Answer)> {
    let answers = DUMPED.map(|collection| async move { (collection, gw.send(&format!("GET /{collection}")).await) });
    join_all(answers).await
}

async fn c1_ping_and_version(gw: Gateway) {
    let answer = gw.send("GET /routes").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"list\":[],\"total\":0}\n"));
    assert!(!answer.header("server").contains("APISIX/"), "any other name counts as the newest version");
}

async fn c1_sync_dump_and_delete(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    let gw = gw.with_streams().await;
    let objects = objects(&identity.cert, &identity.key);
    for (path, body) in &objects {
        let answer = gw.send(&format!("PUT {path} {body}")).await;
        let mut value = stored(path, body);
        if let Some(key) = value.get_mut("key") {
            // A private key comes back as a mark.
            let shown = answer.json().unwrap()["value"]["key"].clone();
            assert!(shown.as_str().unwrap().starts_with("sealed:"), "{path}");
            *key = shown;
        }
        let expected = format!("{{\"key\":\"/apisix{path}\",\"value\":{value}}}\n");
        assert_eq!((answer.status, answer.text()), (201, expected));
    }
    // The next sync finds what it wrote, and nothing else.
    for (collection, answer) in dump(&gw).await {
        assert_eq!((answer.status, answer.text()), (200, listed(&objects, collection)), "{collection}");
    }
    let credentials = gw.send("GET /consumers/jack/credentials").await;
    assert_eq!((credentials.status, credentials.text()), (200, listed(&objects, "consumers/jack/credentials")));
    // References go first; nothing is forced.
    for (path, _) in objects.iter().rev() {
        let answer = gw.send(&format!("DELETE {path}")).await;
        let expected = format!("{{\"key\":\"/apisix{path}\",\"deleted\":\"1\"}}\n");
        assert_eq!((answer.status, answer.text()), (200, expected), "{path}");
    }
}

async fn c1_1_a_service_has_the_upstream_of_its_id(gw: Gateway) {
    let service = json!({"id": SERVICE, "name": "svc", "upstream_id": SERVICE});
    let early = gw.send(&format!("PUT /services/{SERVICE} {service}")).await;
    assert_eq!(early.status, 400, "the upstream comes first: {}", early.text());
    gw.done(&format!(r#"PUT /upstreams/{SERVICE} {{"nodes":{{}}}}"#)).await;
    gw.done(&format!("PUT /services/{SERVICE} {service}")).await;
    let used = format!("can not delete this upstream, service [{SERVICE}] is still using it now");
    gw.refused(&format!("DELETE /upstreams/{SERVICE}"), 400, &used).await;
    let extra = json!({"id": EXTRA, "nodes": {}, "labels": {"__ADC_UPSTREAM_SERVICE_ID": SERVICE}});
    gw.done(&format!("PUT /upstreams/{EXTRA} {extra}")).await;
    assert_eq!(
        (gw.read(&format!("/services/{SERVICE}")).await, gw.read(&format!("/upstreams/{EXTRA}")).await),
        (service, extra)
    );
    for path in ["services", "upstreams"] {
        assert_eq!(gw.send(&format!("DELETE /{path}/{SERVICE}")).await.status, 200, "{path}");
    }
}

async fn c1_2_routes_have_these_attributes(gw: Gateway) {
    gw.done(&format!(r#"PUT /services/{SERVICE} {{"name":"svc"}}"#)).await;
    let mut route = json!({
        "id": ROUTE, "name": "route", "desc": "d", "labels": {"a": "b"}, "uris": ["/a"], "hosts": ["a.example"],
        "methods": ["GET"], "remote_addrs": ["10.0.0.0/8"], "vars": [["arg_x", "==", "1"]], "service_id": SERVICE,
        "enable_websocket": true, "plugins": {"limit-count": {"count": 1}}, "priority": 1,
        "timeout": {"connect": 6, "send": 6, "read": 6}, "status": 1,
    });
    let path = format!("/routes/{ROUTE}");
    gw.done(&format!("PUT {path} {route}")).await;
    assert_eq!(gw.read(&path).await.to_string(), route.to_string());
    // No Lua is run.
    route["filter_func"] = "function(vars) return true end".into();
    assert_eq!(gw.send(&format!("PUT {path} {route}")).await.status, 400);
}

async fn c1_3_a_global_rule_has_the_id_of_its_plugin(gw: Gateway) {
    let rule = json!({"id": "limit-count", "plugins": {"limit-count": {"count": 1}}});
    gw.done(&format!("PUT /global_rules/limit-count {rule}")).await;
    assert_eq!(gw.read("/global_rules/limit-count").await, rule);
    let identity = Authority::new("tests").issue(&["a.example"]);
    let mut ssl = json!({
        "id": "1", "labels": {"a": "b"}, "status": 1, "type": "server", "snis": ["a.example"], "cert": identity.cert,
        "key": identity.key, "certs": [identity.cert], "keys": [identity.key],
    });
    gw.done(&format!("PUT /ssls/1 {ssl}")).await;
    for private in ["key", "keys"] {
        ssl.as_object_mut().unwrap().shift_remove(private);
    }
    assert_eq!(gw.read("/ssls/1").await, ssl);
}

async fn c1_4_ids_in_bodies_are_those_of_paths(gw: Gateway) {
    gw.done(&format!(r#"PUT /upstreams/{SERVICE} {{"nodes":{{}}}}"#)).await;
    assert_eq!(gw.read(&format!("/upstreams/{SERVICE}")).await["id"], SERVICE);
    let other = format!(r#"PUT /routes/{ROUTE} {{"id":"{EXTRA}","uris":["/a"],"plugins":{{}}}}"#);
    gw.refused(&other, 400, "wrong route id").await;
    gw.refused(r#"PUT /consumers/jack {"username":"jill"}"#, 400, "wrong username").await;
}

async fn c1_5_labels_are_texts_without_blanks(gw: Gateway) {
    let body = json!({"id": EXTRA, "nodes": {}, "labels": {"list": "[\"a\",1]", "object": "{\"a\":{\"b\":null}}", "no": "false"}});
    gw.done(&format!("PUT /upstreams/{EXTRA} {body}")).await;
    assert_eq!(gw.read(&format!("/upstreams/{EXTRA}")).await, body);
    for unfit in [json!("[1, 2]"), json!([1, 2]), json!(false)] {
        let body = json!({"nodes": {}, "labels": {"a": unfit}});
        assert_eq!(gw.send(&format!("PUT /upstreams/{EXTRA} {body}")).await.status, 400, "{body}");
    }
}

async fn c1_6_writes_of_one_type_are_concurrent(gw: Gateway) {
    let write = |n: usize| {
        let gw = &gw;
        async move {
            let nodes = format!(r#"{{"127.0.0.1:{}":1}}"#, n + 1);
            let answer = gw.send(&format!(r#"PUT /upstreams/{n:040} {{"nodes":{nodes}}}"#)).await;
            let expected = format!(
                "{{\"key\":\"/apisix/upstreams/{n:040}\",\"value\":{{\"id\":\"{n:040}\",\"nodes\":{nodes},\
                 \"create_time\":{T},\"update_time\":{T}}}}}\n"
            );
            assert_eq!((answer.status, answer.text()), (201, expected));
        }
    };
    join_all((0..20).map(write)).await;
    assert_eq!(gw.send("GET /upstreams").await.json().unwrap()["total"], 20);
}

async fn c1_7_certificates_come_back_as_they_are(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    let text = identity.cert.trim_end();
    for cert in [text.to_owned(), format!("{text}\n"), format!("{text}\n\n")] {
        let ssl =
            json!({"snis": ["a.example"], "cert": cert, "key": identity.key, "certs": [cert], "keys": [identity.key]});
        gw.done(&format!("PUT /ssls/1 {ssl}")).await;
        let shown = gw.read("/ssls/1").await;
        assert_eq!((&shown["cert"], &shown["certs"]), (&json!(cert), &json!([cert])));
    }
}

async fn c1_without_stream_mode_there_are_no_stream_routes(gw: Gateway) {
    for (collection, answer) in dump(&gw).await {
        let expected = match collection {
            "stream_routes" => (400, "{\"error_msg\":\"stream mode is disabled, can not add stream routes\"}\n"),
            _ => (200, "{\"list\":[],\"total\":0}\n"),
        };
        assert_eq!((answer.status, answer.text().as_str()), expected, "{collection}");
    }
    let none = gw.send("GET /consumers/jack/credentials").await;
    assert_eq!((none.status, none.text().as_str()), (404, "{\"message\":\"Key not found\"}\n"));
}

async fn c1_validate(gw: Gateway) {
    let good = json!({
        "routes": [{"id": ROUTE, "uris": ["/a"], "service_id": SERVICE}], "services": [{"id": SERVICE}],
        "upstreams": [{"id": SERVICE, "nodes": []}], "consumers": [{"username": "jack"}], "ssls": [],
        "global_rules": [{"id": "basic-auth", "plugins": {"basic-auth": {}}}], "stream_routes": [],
        "plugin_metadata": [{"id": "http-logger"}],
    });
    let answer = gw.send(&format!("POST /configs/validate {good}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}\n"));
    let bad = json!({"routes": [{"id": ROUTE, "uris": [], "service_id": SERVICE}]});
    let answer = gw.send(&format!("POST /configs/validate {bad}")).await;
    let expected = concat!(
        r#"{"error_msg":"Configuration validation failed","errors":[{"resource_type":"routes","#,
        r#""resource_id":"93e777bee6d995ba278e80670b2e86f742c9611e","index":0,"error":"invalid configuration: "#,
        r#"property \"uris\" validation failed: expect array to have at least 1 items"}]}"#,
        "\n"
    );
    assert_eq!((answer.status, answer.text().as_str()), (400, expected));
}

async fn c2_find_the_newest_server(gw: Gateway) {
    let answer = bare("HEAD ").to(gw.address()).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("server"), gw.send("GET /routes").await.header("server"));
    let answer = gw.send("HEAD /configs").await;
    assert_eq!((answer.status, answer.header("x-last-modified").as_str()), (200, ""), "absent is 0");
}

async fn c2_sync_by_collection(gw: Gateway) {
    let put = async |digest: &str, body: &Value| {
        let call = Call::new(http::Method::PUT, "/apisix/admin/configs").header("x-api-key", KEY);
        let call = call.header("x-digest", digest).header("content-type", "application/json").body(body.to_string());
        call.to(gw.address()).await.unwrap()
    };
    let (first, second) = (1_790_000_000_000_u64, 1_790_000_000_500_u64);
    let upstream = json!([{"id": SERVICE, "nodes": [], "modifiedIndex": first}]);
    let consumers = json!([
        {"username": "jack", "modifiedIndex": first},
        {"id": "jack/credentials/primary", "name": "primary", "plugins": {"key-auth": {"key": "k"}}, "modifiedIndex": first},
    ]);
    let body = json!({
        "upstreams": upstream, "upstreams_conf_version": first, "consumers": consumers, "consumers_conf_version": first,
    });
    let digest = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let taken = put(digest, &body).await;
    assert_eq!((taken.status, taken.text().as_str()), (202, ""));
    // Found on any server, the newest one is asked for all of it: what was sent, so that the next sync finds no difference.
    let at = gw.send("HEAD /configs").await.header("x-last-modified");
    let answer = gw.send("GET /configs").await;
    let expected = format!(
        "{{\"routes_conf_version\":1,\"services_conf_version\":1,\"upstreams\":{upstream},\
         \"upstreams_conf_version\":{first},\"consumers\":{consumers},\"consumers_conf_version\":{first},\
         \"ssls_conf_version\":1,\"stream_routes_conf_version\":1,\"plugin_metadata_conf_version\":1,\
         \"global_rules_conf_version\":1,\"protos_conf_version\":1,\"plugin_configs_conf_version\":1,\
         \"consumer_groups_conf_version\":1,\"secrets_conf_version\":1,\
         \"plugins_conf_version\":1,\"X-Last-Modified\":{at},\"X-Digest\":\"{digest}\"}}\n"
    );
    assert_eq!((answer.status, answer.text()), (200, expected));
    let mut dumped = answer.json().unwrap();
    // It sends the dump back, with what has changed in the collections that have.
    let members = dumped.as_object_mut().unwrap();
    for own in ["X-Last-Modified", "X-Digest"] {
        assert!(members.shift_remove(own).is_some(), "{own}");
    }
    members["upstreams"][0]["retries"] = 1.into();
    members["upstreams"][0]["modifiedIndex"] = second.into();
    members["upstreams_conf_version"] = second.into();
    let taken = put("356a192b7913b04c54574d18c28d46e6395428ab", &dumped).await;
    assert_eq!((taken.status, taken.text().as_str()), (202, ""));
    assert_eq!(gw.revision().await, 2);
    let again = gw.send("GET /configs").await.json().unwrap();
    assert_eq!((&again["upstreams"][0]["retries"], &again["consumers_conf_version"]), (&json!(1), &json!(first)));
    assert_eq!(again["consumers"], consumers);
    let stale = json!({"upstreams": [], "upstreams_conf_version": first});
    let answer = put("da4b9237bacccdf19c0760cab7aec4a8359010b0", &stale).await;
    let expected = "{\"error_msg\":\"upstreams_conf_version must be greater than or equal to (1790000000500)\"}\n";
    assert_eq!((answer.status, answer.text().as_str()), (400, expected));
}
