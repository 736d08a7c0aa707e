//! What the official dashboard sends, with the answers that it reads (`docs/spec/clients.md` §4), and what scripts and Terraform
//! providers rest on besides (§6, §7).

use crate::gateway::{Gateway, KEY, T, bare, on_both};
use milecastle_testkit::tls::Authority;
use serde_json::{Value, json};

on_both!(
    c4_the_key_comes_from_a_dialog,
    c4_lists_with_pages,
    c4_routes_of_a_service,
    c4_create_edit_and_delete,
    c4_credentials,
    c4_plugins_and_metadata,
    c4_secrets,
    c4_stream_pages_without_stream_mode,
    c6_what_terraform_rests_on,
    c7_1_scripts,
);

/// What is said of an object that is deleted.
fn deleted(path: &str) -> (u16, String) {
    (200, format!("{{\"key\":\"/apisix{path}\",\"deleted\":\"1\"}}\n"))
}

/// What is said of an object that is written, and shown: its body with the timestamps of the server.
fn written(path: &str, members: &str) -> String {
    format!("\"key\":\"/apisix{path}\",\"value\":{{{members},\"create_time\":{T},\"update_time\":{T}}}")
}

/// Where it was written last: `revision`, the one that made it.
fn made_at(revision: u64) -> String {
    format!("\"createdIndex\":{revision},\"modifiedIndex\":{revision}")
}

/// Status and body.
async fn told(gw: &Gateway, line: &str) -> (u16, String) {
    let answer = gw.send(line).await;
    (answer.status, answer.text())
}

/// An id as the dashboard makes it: 21 characters of `A-Za-z0-9_-`.
const NANOID: &str = "V1StGXR8_Z5jdHi6B-myT";

async fn c4_the_key_comes_from_a_dialog(gw: Gateway) {
    let refused = bare("GET /routes?page=1&page_size=10").to(gw.address()).await.unwrap();
    let text = "{\"error_msg\":\"failed to check token\",\"description\":\"missing apikey\"}\n";
    assert_eq!((refused.status, refused.text().as_str()), (401, text));
}

async fn c4_lists_with_pages(gw: Gateway) {
    let gw = gw.with_streams().await;
    for collection in [
        "routes",
        "stream_routes",
        "services",
        "upstreams",
        "consumers",
        "consumer_groups",
        "ssls",
        "global_rules",
        "plugin_configs",
        "protos",
        "secrets",
    ] {
        let answer = gw.send(&format!("GET /{collection}?page=1&page_size=10&name=&label=")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "{\"list\":[],\"total\":0}\n"), "{collection}");
    }
    for n in 0..12 {
        gw.done(&format!(r#"PUT /services/s{n:02} {{"name":"n{n}"}}"#)).await;
    }
    let second = gw.send("GET /services?page=2&page_size=10").await;
    let entry = |n: u64| {
        // The first revision is that of the group's settings.
        let at = n + 2;
        format!(
            "{{\"key\":\"/apisix/services/s{n}\",\"value\":{{\"id\":\"s{n}\",\"name\":\"n{n}\",\"create_time\":{T},\
             \"update_time\":{T}}},\"createdIndex\":{at},\"modifiedIndex\":{at}}}"
        )
    };
    let expected = format!("{{\"list\":[{},{}],\"total\":12}}\n", entry(10), entry(11));
    assert_eq!((second.status, second.text()), (200, expected));
    assert_eq!(gw.send("GET /services?page=1&page_size=10&name=n1").await.json().unwrap()["total"], 3);
}

async fn c4_routes_of_a_service(gw: Gateway) {
    let gw = gw.with_streams().await;
    gw.done("PUT /services/s {}").await;
    gw.done(r#"PUT /routes/r {"uri":"/a","service_id":"s"}"#).await;
    gw.done(r#"PUT /routes/other {"uri":"/b","plugins":{}}"#).await;
    gw.done(r#"PUT /stream_routes/t {"server_port":9100,"service_id":"s"}"#).await;
    // After the group's settings and the service.
    for (collection, id, members, revision) in [
        ("routes", "r", r#""id":"r","uri":"/a","service_id":"s""#, 3),
        ("stream_routes", "t", r#""id":"t","server_port":9100,"service_id":"s""#, 5),
    ] {
        let line = format!("GET /{collection}?filter=service_id%3Ds&page=1&page_size=10");
        let (route, at) = (written(&format!("/{collection}/{id}"), members), made_at(revision));
        assert_eq!(told(&gw, &line).await, (200, format!("{{\"list\":[{{{route},{at}}}],\"total\":1}}\n")));
    }
}

async fn c4_create_edit_and_delete(gw: Gateway) {
    let gw = gw.with_streams().await;
    let identity = Authority::new("tests").issue(&["a.example"]);
    let ssl = json!({"cert": identity.cert.clone(), "key": identity.key.clone(), "snis": ["a.example"]}).to_string();
    for (collection, body) in [
        ("upstreams", r#"{"nodes":[{"host":"127.0.0.1","port":80,"weight":1}]}"#),
        ("services", r#"{"upstream":{"nodes":{"127.0.0.1:80":1}}}"#),
        ("routes", r#"{"uri":"/a","plugins":{}}"#),
        ("stream_routes", r#"{"server_port":9100}"#),
        ("ssls", &ssl),
        ("protos", r#"{"content":"syntax = \"proto3\";"}"#),
    ] {
        let made = gw.send(&format!("POST /{collection} {body}")).await;
        let revision = gw.revision().await;
        let path = format!("/{collection}/{revision:020}");
        // A private key comes back as a mark, and not at all where the object is read.
        let mark = made.json().unwrap()["value"].get("key").cloned();
        let mut value: Value = serde_json::from_str(body).unwrap();
        let members = value.as_object_mut().unwrap();
        members.shift_insert(0, "id".into(), format!("{revision:020}").into());
        members.extend(mark.map(|mark| ("key".to_owned(), mark)));
        let answer = format!("{{{}}}\n", written(&path, &inside(&value)));
        assert_eq!((made.status, made.text()), (201, answer.clone()), "{collection}");
        value.as_object_mut().unwrap().shift_remove("key");
        let shown = format!("{{{},{}}}\n", written(&path, &inside(&value)), made_at(revision));
        assert_eq!(told(&gw, &format!("GET {path}")).await, (200, shown), "{collection}");
        // It edits what it has read, without the id and the timestamps.
        assert_eq!(told(&gw, &format!("PUT {path} {body}")).await, (200, answer), "{collection}");
        assert_eq!(told(&gw, &format!("DELETE {path}")).await, deleted(&path));
    }
    for collection in ["global_rules", "plugin_configs", "consumer_groups"] {
        let plugins = r#""plugins":{"limit-count":{"count":1}}"#;
        let path = format!("/{collection}/{NANOID}");
        let members = written(&path, &format!("\"id\":\"{NANOID}\",{plugins}"));
        assert_eq!(told(&gw, &format!("PUT {path} {{{plugins}}}")).await, (201, format!("{{{members}}}\n")));
        let at = made_at(gw.revision().await);
        assert_eq!(told(&gw, &format!("GET {path}")).await, (200, format!("{{{members},{at}}}\n")));
        assert_eq!(told(&gw, &format!("DELETE {path}")).await, deleted(&path));
    }
    gw.done(r#"PUT /upstreams/u {"nodes":{}}"#).await;
    gw.done(r#"PUT /routes/r {"uri":"/a","upstream_id":"u"}"#).await;
    let used = gw.send("DELETE /upstreams/u").await;
    let text = "{\"error_msg\":\"can not delete this upstream, route [r] is still using it now\"}\n";
    assert_eq!((used.status, used.text().as_str()), (400, text));
}

/// The members of an object, as they stand in its text.
fn inside(object: &Value) -> String {
    let text = object.to_string();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap().to_owned()
}

async fn c4_credentials(gw: Gateway) {
    let jack = written("/consumers/jack", r#""username":"jack""#);
    assert_eq!(told(&gw, r#"PUT /consumers {"username":"jack"}"#).await, (201, format!("{{{jack}}}\n")));
    let empty = gw.send("GET /consumers/jack/credentials?username=jack").await;
    assert_eq!((empty.status, empty.text().as_str()), (404, "{\"message\":\"Key not found\"}\n"));
    let body = r#"{"plugins":{"key-auth":{"key":"k"}}}"#;
    let path = format!("/consumers/jack/credentials/{NANOID}");
    let members = written(&path, &format!(r#""id":"{NANOID}","plugins":{{"key-auth":{{"key":"k"}}}}"#));
    assert_eq!(told(&gw, &format!("PUT {path} {body}")).await, (201, format!("{{{members}}}\n")));
    let at = made_at(gw.revision().await);
    let list = format!("{{\"list\":[{{{members},{at}}}],\"total\":1}}\n");
    assert_eq!(told(&gw, "GET /consumers/jack/credentials?username=jack").await, (200, list));
    assert_eq!(told(&gw, &format!("DELETE {path}")).await, deleted(&path));
}

async fn c4_plugins_and_metadata(gw: Gateway) {
    let names = ["basic-auth", "key-auth", "limit-count", "traffic-split", "grpc-transcode", "http-logger"];
    assert_eq!(told(&gw, "GET /plugins/list").await, (200, format!("{}\n", json!(names))));
    let answer = gw.send("GET /plugins?subsystem=http&all=true").await;
    let all = answer.json().unwrap();
    assert_eq!((answer.status, answer.text()), (200, format!("{all}\n")), "compact, as all answers are");
    assert!(all.as_object().unwrap().keys().eq(names), "{all}");
    for name in names {
        assert!(all[name]["schema"].is_object(), "{name}");
        let schema = format!("{}\n", all[name]["schema"]);
        assert_eq!(told(&gw, &format!("GET /plugins/{name}")).await, (200, schema), "{name}");
        if all[name].get("metadata_schema").is_some() {
            let missing = (404, "{\"message\":\"Key not found\"}\n".to_owned());
            assert_eq!(told(&gw, &format!("GET /plugin_metadata/{name}")).await, missing, "{name}");
        }
    }
    let path = "/plugin_metadata/http-logger";
    let body = r#"{"id":"http-logger","log_format":{"host":"$host"}}"#;
    let members = format!("\"key\":\"/apisix{path}\",\"value\":{body}");
    let line = format!(r#"PUT {path} {{"log_format":{{"host":"$host"}}}}"#);
    assert_eq!(told(&gw, &line).await, (201, format!("{{{members}}}\n")));
    let at = made_at(1);
    assert_eq!(told(&gw, &format!("GET {path}")).await, (200, format!("{{{members},{at}}}\n")));
    assert_eq!(told(&gw, &format!("DELETE {path}")).await, deleted(path));
}

async fn c4_secrets(gw: Gateway) {
    let vault = r#""uri":"http://127.0.0.1:8200","prefix":"kv","token":"t""#;
    let path = format!("/secrets/vault/{NANOID}");
    let members = written(&path, &format!("\"id\":\"vault/{NANOID}\",{vault}"));
    assert_eq!(told(&gw, &format!("PUT {path} {{{vault}}}")).await, (201, format!("{{{members}}}\n")));
    let entry = format!("{{{members},{}}}", made_at(1));
    assert_eq!(told(&gw, &format!("GET {path}")).await, (200, format!("{entry}\n")));
    let list = format!("{{\"list\":[{entry}],\"total\":1}}\n");
    assert_eq!(told(&gw, "GET /secrets?page=1&page_size=10").await, (200, list));
    assert_eq!(told(&gw, &format!("DELETE {path}")).await, deleted(&path));
}

async fn c4_stream_pages_without_stream_mode(gw: Gateway) {
    let answer = gw.send("GET /stream_routes?page=1&page_size=10").await;
    let text = "{\"error_msg\":\"stream mode is disabled, can not add stream routes\"}\n";
    assert_eq!((answer.status, answer.text().as_str()), (400, text));
}

async fn c6_what_terraform_rests_on(gw: Gateway) {
    let made = gw.send(r#"POST /upstreams/ {"nodes":{}}"#).await.json().unwrap();
    let id = made["value"]["id"].as_str().unwrap();
    assert_eq!(gw.send(r#"PUT /consumers/ {"username":"jack"}"#).await.status, 201);
    // What comes back of plugins is what was sent: order, numbers, no defaults.
    let plugins = r#"{"limit-count":{"count":1},"basic-auth":{"b":1.0,"a":[1,{"z":null}]}}"#;
    gw.done(&format!(r#"PUT /routes/r {{"uri":"/a","plugins":{plugins},"upstream_id":"{id}"}}"#)).await;
    assert!(gw.send("GET /routes/r").await.text().contains(plugins));
    assert_eq!(gw.send(&format!("DELETE /upstreams/{id}?force=true")).await.json().unwrap()["deleted"], "1");
    assert_eq!(gw.send(&format!("DELETE /upstreams/{id}?force=true")).await.status, 404);
    let identity = Authority::new("tests").issue(&["a.example"]);
    let ssl =
        json!({"cert": identity.cert.clone(), "key": identity.key.clone(), "sni": "a.example", "validity_end": 1});
    let forbidden = "invalid configuration: additional properties forbidden, found validity_end";
    gw.refused(&format!("PUT /ssls/1 {ssl}"), 400, forbidden).await;
}

async fn c7_1_scripts(gw: Gateway) {
    // curl sends JSON as a form, and the key in the query.
    let call = bare(&format!(r#"PUT /upstreams/1?api_key={KEY} {{"nodes":{{"a:1":1}}}}"#));
    let call = call.header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(call.to(gw.address()).await.unwrap().status, 201);
    gw.done(r#"PUT /routes/1 {"uri":"/a","upstream_id":"1"}"#).await;
    assert_eq!(gw.done(r#"PATCH /routes/1/methods ["GET"]"#).await["methods"], json!(["GET"]));
    assert_eq!(gw.done(r#"PATCH /upstreams/1/nodes {"b:1":1}"#).await["nodes"], json!({"b:1": 1}));
    let made = gw.send(r#"POST /routes {"uri":"/b","upstream_id":"1"}"#).await.json().unwrap();
    let last = made["key"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(made["value"]["id"], last);
    assert_eq!(gw.send("GET /schema/route").await.status, 200);
}
