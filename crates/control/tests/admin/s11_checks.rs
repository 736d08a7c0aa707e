//! §11: references and semantic checks.

use crate::gateway::{Gateway, on_both};
use milecastle_testkit::tls::Authority;
use serde_json::json;

on_both!(
    s11_1_exclusive_attributes,
    s11_1_dangling_references,
    s11_1_schema_comes_before_references_and_these_before_plugins,
    s11_1_client_certificates,
    s11_1_upstreams,
    s11_1_certificates,
    s11_1_expressions_and_scripts,
    s11_1_plugins,
    s11_1_consumers_and_credentials,
    s11_1_duplicate_keys,
    s11_1_duplicate_plugins_in_global_rules,
    s11_1_a_disabled_plugin_may_be_wrong,
    s11_1_protos,
    s11_1_graphql_cost_decorations,
    s11_2_upstreams_in_use,
    s11_2_services_and_configs_in_use,
    s11_2_protos_in_use,
    s11_2_force,
    s11_2_deleting_cascades,
    s11_2_certificates_are_not_checked,
);

async fn all(gw: &Gateway, lines: &[&str]) {
    for line in lines {
        gw.done(line).await;
    }
}

async fn s11_1_exclusive_attributes(gw: Gateway) {
    let both = r#"PUT /routes/1 {"uri":"/a","plugins":{},"host":"a.b","hosts":["c.d"]}"#;
    gw.refused(both, 400, "only one of host or hosts is allowed").await;
    let both = r#"PUT /routes/1 {"uri":"/a","plugins":{},"remote_addr":"10.0.0.1","remote_addrs":["10.0.0.2"]}"#;
    gw.refused(both, 400, "only one of remote_addr or remote_addrs is allowed").await;
}

async fn s11_1_dangling_references(gw: Gateway) {
    let upstream = "failed to fetch upstream info by upstream id [9], response code: 404";
    let service = "failed to fetch service info by service id [9], response code: 404";
    let config = "failed to fetch plugin config info by plugin config id [9], response code: 404";
    let group = "failed to fetch consumer group info by consumer group id [9], response code: 404";
    let ssl = "failed to fetch ssl info by ssl id [9], response code: 404";
    for (line, message) in [
        (r#"PUT /routes/1 {"uri":"/a","upstream_id":9}"#, upstream),
        (r#"PUT /services/1 {"upstream_id":"9"}"#, upstream),
        (r#"PUT /routes/1 {"uri":"/a","service_id":"9"}"#, service),
        (r#"PUT /routes/1 {"uri":"/a","plugins":{},"plugin_config_id":"9"}"#, config),
        (r#"PUT /consumers {"username":"jack","group_id":"9"}"#, group),
        (r#"PUT /upstreams/1 {"nodes":{},"tls":{"client_cert_id":"9"}}"#, ssl),
        (r#"PUT /routes/1 {"uri":"/a","upstream":{"nodes":{},"tls":{"client_cert_id":9}}}"#, ssl),
        (r#"POST /routes {"uri":"/a","upstream_id":"9","service_id":"9"}"#, upstream),
    ] {
        gw.refused(line, 400, message).await;
    }
}

async fn s11_1_schema_comes_before_references_and_these_before_plugins(gw: Gateway) {
    let wrong =
        r#"invalid configuration: property "priority" validation failed: wrong type: expected integer, got string"#;
    let line = r#"PUT /routes/1 {"uri":"/a","upstream_id":"9","priority":"x","plugins":{"nope":{}}}"#;
    gw.refused(line, 400, wrong).await;
    let missing = "failed to fetch upstream info by upstream id [9], response code: 404";
    gw.refused(r#"PUT /routes/1 {"uri":"/a","upstream_id":"9","plugins":{"nope":{}}}"#, 400, missing).await;
    gw.refused(r#"PUT /routes/1 {"uri":"/a","upstream_id":"9","vars":[["a"]]}"#, 400, missing).await;
}

async fn s11_1_client_certificates(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    let mut ssl = json!({"cert": identity.cert.clone(), "key": identity.key.clone(), "sni": "a.example"});
    gw.done(&format!("PUT /ssls/server {ssl}")).await;
    ssl["type"] = "client".into();
    gw.done(&format!("PUT /ssls/client {ssl}")).await;
    let wrong = "failed to fetch ssl info by ssl id [server], wrong ssl type";
    gw.refused(r#"PUT /upstreams/1 {"nodes":{},"tls":{"client_cert_id":"server"}}"#, 400, wrong).await;
    let inline = r#"PUT /services/1 {"upstream":{"nodes":{},"tls":{"client_cert_id":"server"}}}"#;
    gw.refused(inline, 400, wrong).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{},"tls":{"client_cert_id":"client"}}"#).await;
}

async fn s11_1_upstreams(gw: Gateway) {
    for (members, message) in [
        (r#""nodes":{"a:0":1}"#, "invalid port 0"),
        (r#""nodes":{"a:65536":1}"#, "invalid port 65536"),
        (
            r#""nodes":[{"host":"::1","port":80,"weight":1}]"#,
            "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
        ),
        (r#""nodes":{},"pass_host":"rewrite""#, "`upstream_host` can't be empty when `pass_host` is `rewrite`"),
        (r#""nodes":{},"type":"chash""#, "missing key"),
    ] {
        gw.refused(&format!("PUT /upstreams/1 {{{members}}}"), 400, message).await;
        let inline = format!(r#"PUT /routes/1 {{"uri":"/a","upstream":{{{members}}}}}"#);
        gw.refused(&inline, 400, message).await;
    }
    let answer = gw.send(r#"PUT /upstreams/1 {"nodes":{},"type":"chash","key":"nope"}"#).await;
    assert!(answer.text().starts_with(r#"{"error_msg":"invalid configuration: failed to match pattern "#));
    assert_eq!(answer.status, 400);
}

async fn s11_1_certificates(gw: Gateway) {
    let authority = Authority::new("tests");
    let (good, other) = (authority.issue(&["a.example"]), authority.issue(&["b.example"]));
    let junk = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(200));
    let put = async |body: serde_json::Value, prefix: &str| {
        let answer = gw.send(&format!("PUT /ssls/1 {body}")).await;
        let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400);
        assert!(text.starts_with(prefix), "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    };
    let (cert, key) = (good.cert.clone(), good.key.clone());
    put(json!({"sni": "a.example", "cert": junk, "key": key}), "failed to parse cert: ").await;
    put(
        json!({"sni": "a.example", "cert": cert, "key": key, "certs": [other.cert.clone()], "keys": []}),
        "mismatched number of certs and keys",
    )
    .await;
    put(
        json!({"sni": "a.example", "cert": cert, "key": key, "certs": [junk], "keys": [other.key.clone()]}),
        "failed to handle cert-key pair[1]: ",
    )
    .await;
    put(
        json!({"sni": "a.example", "cert": cert, "key": key, "client": {"ca": junk}}),
        "failed to validate client_cert: ",
    )
    .await;
    assert_eq!(gw.revision().await, 0);
}

async fn s11_1_expressions_and_scripts(gw: Gateway) {
    for (members, prefix) in [
        (r#""vars":[["a","nope","b"]]"#, "failed to validate the 'vars' expression: "),
        (r#""filter_func":"function(vars) return true end""#, "failed to load 'filter_func' string: "),
    ] {
        let answer = gw.send(&format!(r#"PUT /routes/1 {{"uri":"/a","upstream":{{"nodes":{{}}}},{members}}}"#)).await;
        let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400);
        assert!(text.starts_with(prefix), "{text}");
    }
}

async fn s11_1_plugins(gw: Gateway) {
    let count = "failed to check the configuration of plugin limit-count err: ";
    for (plugins, message) in [
        (r#"{"nope":{}}"#, "unknown plugin [nope]".to_owned()),
        (r#"{"limit-count":1}"#, "invalid plugin conf 1 for plugin [limit-count]".to_owned()),
        (r#"{"limit-count":{}}"#, format!(r#"{count}property "count" is required"#)),
        (
            r#"{"limit-count":{"count":0}}"#,
            format!(r#"{count}property "count" validation failed: expected 0 to be at least 1"#),
        ),
    ] {
        for path in ["/routes/1", "/services/1", "/plugin_configs/1", "/global_rules/1", "/consumer_groups/1"] {
            let uri = if path == "/routes/1" { r#""uri":"/a","# } else { "" };
            gw.refused(&format!(r#"PUT {path} {{{uri}"plugins":{plugins}}}"#), 400, &message).await;
        }
        let consumer = format!(r#"PUT /consumers {{"username":"jack","plugins":{plugins}}}"#);
        gw.refused(&consumer, 400, &format!("invalid plugins configuration: {message}")).await;
    }
    let answer = gw.send(r#"PUT /services/1 {"plugins":{"key-auth":{"_meta":{"filter":[["a","nope",1]]}}}}"#).await;
    assert!(answer.text().contains("failed to validate the 'vars' expression: "), "{}", answer.text());
    let answer =
        gw.send(r#"PUT /services/1 {"plugins":{"key-auth":{"_meta":{"pre_function":"return function() end"}}}}"#).await;
    assert!(answer.text().contains("failed to load _meta.pre_function in plugin key-auth: "), "{}", answer.text());
}

async fn s11_1_consumers_and_credentials(gw: Gateway) {
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    let put = |plugins: &str| format!(r#"PUT /consumers/jack/credentials/c {{"plugins":{plugins}}}"#);
    let only_auth = "only supports auth type plugins in consumer credential";
    gw.refused(&put(r#"{"limit-count":{"count":1}}"#), 400, only_auth).await;
    gw.refused(&put(r#"{"nope":{}}"#), 400, "unknown plugin nope").await;
    let key = r#"failed to check the configuration of plugin key-auth err: property "key" is required"#;
    gw.refused(&put(r#"{"key-auth":{}}"#), 400, &format!("invalid plugins configuration: {key}")).await;
    // The schema first, then the parent.
    let orphan = |plugins: &str| format!(r#"PUT /consumers/nobody/credentials/c {{"plugins":{plugins}}}"#);
    gw.refused(&orphan(r#"{"key-auth":{}}"#), 400, &format!("invalid plugins configuration: {key}")).await;
    gw.refused(&orphan(r#"{"key-auth":{"key":"k"}}"#), 404, "consumer not found").await;
    let service = r#"PUT /services/9/graphql_cost_decorations/d {"field_path":"a.b"}"#;
    gw.refused(service, 404, "service not found").await;
}

async fn s11_1_duplicate_keys(gw: Gateway) {
    all(
        &gw,
        &[
            r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k1"}}}"#,
            r#"PUT /consumers {"username":"zoe","plugins":{"basic-auth":{"username":"z","password":"p"}}}"#,
            r#"PUT /consumers/jack/credentials/c1 {"plugins":{"key-auth":{"key":"k2"}}}"#,
        ],
    )
    .await;
    let consumer = "duplicate key of plugin key-auth found with consumer: jack";
    let credential = "duplicate key of plugin key-auth found with credential: c1 of consumer: jack";
    let key = |key: &str| format!(r#"{{"plugins":{{"key-auth":{{"key":"{key}"}}}}}}"#);
    gw.refused(r#"PUT /consumers {"username":"bob","plugins":{"key-auth":{"key":"k1"}}}"#, 400, consumer).await;
    gw.refused(r#"PUT /consumers {"username":"bob","plugins":{"key-auth":{"key":"k2"}}}"#, 400, credential).await;
    gw.refused(&format!("PUT /consumers/zoe/credentials/c9 {}", key("k1")), 400, consumer).await;
    gw.refused(&format!("PUT /consumers/zoe/credentials/c1 {}", key("k2")), 400, credential).await;
    // A credential clashes with everything but itself, a consumer not with its own credentials.
    gw.refused(&format!("PUT /consumers/jack/credentials/c2 {}", key("k2")), 400, credential).await;
    gw.refused(&format!("PUT /consumers/jack/credentials/c2 {}", key("k1")), 400, consumer).await;
    let basic = r#"{"username":"bob","plugins":{"basic-auth":{"username":"z","password":"q"}}}"#;
    let username = "duplicate username of plugin basic-auth found with consumer: zoe";
    gw.refused(&format!("PUT /consumers {basic}"), 400, username).await;
    all(
        &gw,
        &[
            &format!("PUT /consumers/jack/credentials/c1 {}", key("k2")),
            r#"PUT /consumers {"username":"jack","plugins":{"key-auth":{"key":"k2"}}}"#,
            // References are not compared.
            r#"PUT /consumers {"username":"r1","plugins":{"key-auth":{"key":"$env://KEY"}}}"#,
            r#"PUT /consumers {"username":"r2","plugins":{"key-auth":{"key":"$env://KEY"}}}"#,
            // What was given up is free again.
            r#"PUT /consumers {"username":"bob","plugins":{"key-auth":{"key":"k1"}}}"#,
        ],
    )
    .await;
}

async fn s11_1_duplicate_plugins_in_global_rules(gw: Gateway) {
    gw.done(r#"PUT /global_rules/1 {"plugins":{"http-logger":{},"limit-count":{"count":1}}}"#).await;
    let taken = "plugin 'limit-count' already exists in global rule with id '1'";
    gw.refused(r#"PUT /global_rules/2 {"plugins":{"key-auth":{},"limit-count":{"count":2}}}"#, 400, taken).await;
    gw.done(r#"PUT /global_rules/2 {"plugins":{"key-auth":{}}}"#).await;
    gw.refused(r#"PATCH /global_rules/2 {"plugins":{"limit-count":{"count":2}}}"#, 400, taken).await;
    gw.done(r#"PUT /global_rules/1 {"plugins":{"limit-count":{"count":3}}}"#).await;
    gw.done(r#"PUT /global_rules/2 {"plugins":{"key-auth":{},"http-logger":{}}}"#).await;
}

async fn s11_1_a_disabled_plugin_may_be_wrong(gw: Gateway) {
    gw.done(r#"PUT /services/1 {"plugins":{"limit-count":{"count":0,"_meta":{"disable":true}}}}"#).await;
}

const SPLIT: &str = r#"{"traffic-split":{"rules":[{"weighted_upstreams":[{"upstream_id":1,"weight":1}]}]}}"#;

async fn s11_1_protos(gw: Gateway) {
    let content = r#"syntax = \"proto3\"; message M { string a = 1; }"#;
    gw.done(&format!(r#"PUT /protos/1 {{"content":"{content}"}}"#)).await;
    for content in [r#"syntax = \"proto3\"; message M { Nowhere a = 1; }"#, "no definition"] {
        let answer = gw.send(&format!(r#"PUT /protos/2 {{"content":"{content}"}}"#)).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text().starts_with(r#"{"error_msg":"invalid content: "#), "{}", answer.text());
    }
    gw.refused("PUT /protos/2 {}", 400, r#"invalid configuration: property "content" is required"#).await;
    assert_eq!(gw.revision().await, 1);
}

async fn s11_1_graphql_cost_decorations(gw: Gateway) {
    all(&gw, &["PUT /services/s {}", "PUT /services/t {}"]).await;
    let first = gw.done(r#"PUT /services/s/graphql_cost_decorations/1 {"field_path":"Query.users"}"#).await;
    assert_eq!((&first["id"], &first["service_id"]), (&json!("1"), &json!("s")));
    gw.done(r#"PUT /services/s/graphql_cost_decorations/1 {"field_path":"Query.users","service_id":"s"}"#).await;
    let taken = "field_path Query.users is already decorated on this service by [1]";
    gw.refused(r#"PUT /services/s/graphql_cost_decorations/2 {"field_path":"Query.users"}"#, 400, taken).await;
    gw.refused(r#"POST /services/s/graphql_cost_decorations {"field_path":"Query.users"}"#, 400, taken).await;
    gw.done(r#"PUT /services/t/graphql_cost_decorations/1 {"field_path":"Query.users"}"#).await;
    gw.done(r#"PUT /services/s/graphql_cost_decorations/2 {"field_path":"Query.teams"}"#).await;
    gw.refused(r#"PATCH /services/s/graphql_cost_decorations/2 {"field_path":"Query.users"}"#, 400, taken).await;
    let elsewhere = r#"PUT /services/s/graphql_cost_decorations/3 {"field_path":"a.b","service_id":"t"}"#;
    gw.refused(elsewhere, 400, "wrong service_id, it is taken from the path").await;
    let patch = r#"PATCH /services/s/graphql_cost_decorations/2 {"service_id":"t"}"#;
    gw.refused(patch, 400, "service_id can not be patched").await;
    let orphan = r#"PUT /services//graphql_cost_decorations/2 {"field_path":"a.b"}"#;
    gw.refused(orphan, 400, "missing service id").await;
    // The field is free again once its decoration is about another one, or gone.
    gw.done(r#"PATCH /services/s/graphql_cost_decorations/1 {"field_path":"Query.others"}"#).await;
    gw.done(r#"PATCH /services/s/graphql_cost_decorations/2 {"field_path":"Query.users"}"#).await;
    gw.done("DELETE /services/s/graphql_cost_decorations/2").await;
    gw.done(r#"POST /services/s/graphql_cost_decorations {"field_path":"Query.users"}"#).await;
}

async fn s11_2_upstreams_in_use(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    // Each is looked at before those that follow.
    let within =
        |kind: &str, id: &str| format!("can not delete this upstream, plugin in {kind} [{id}] is still using it now");
    let service = "can not delete this upstream, service [s1] is still using it now".to_owned();
    let route = "can not delete this upstream, route [r1] is still using it now".to_owned();
    for (path, body, message) in [
        ("/global_rules/g", format!(r#"{{"plugins":{SPLIT}}}"#), within("global_rules", "g")),
        ("/consumer_groups/cg", format!(r#"{{"plugins":{SPLIT}}}"#), within("consumer_group", "cg")),
        ("/consumers/jack", format!(r#"{{"username":"jack","plugins":{SPLIT}}}"#), within("consumer", "jack")),
        ("/plugin_configs/pc", format!(r#"{{"plugins":{SPLIT}}}"#), within("plugin_config", "pc")),
        ("/services/s2", format!(r#"{{"plugins":{SPLIT}}}"#), within("service", "s2")),
        ("/services/s1", r#"{"upstream_id":1}"#.to_owned(), service),
        ("/routes/r2", format!(r#"{{"uri":"/a","plugins":{SPLIT}}}"#), within("route", "r2")),
        ("/routes/r1", r#"{"uri":"/a","upstream_id":"1"}"#.to_owned(), route),
    ] {
        gw.done(&format!("PUT {path} {body}")).await;
        gw.refused("DELETE /upstreams/1", 400, &message).await;
    }
}

async fn s11_2_services_and_configs_in_use(gw: Gateway) {
    all(
        &gw,
        &[
            "PUT /services/1 {}",
            r#"PUT /plugin_configs/1 {"plugins":{}}"#,
            r#"PUT /consumer_groups/1 {"plugins":{}}"#,
            r#"PUT /routes/r {"uri":"/a","service_id":"1","plugin_config_id":1}"#,
            r#"PUT /consumers {"username":"jack","group_id":"1"}"#,
        ],
    )
    .await;
    for (path, message) in [
        ("/services/1", "can not delete this service directly, route [r] is still using it now"),
        ("/plugin_configs/1", "can not delete this plugin config, route [r] is still using it now"),
        ("/consumer_groups/1", "can not delete this consumer group, consumer [jack] is still using it now"),
    ] {
        gw.refused(&format!("DELETE {path}"), 400, message).await;
    }
    all(&gw, &["DELETE /routes/r", "DELETE /consumers/jack", "DELETE /services/1", "DELETE /plugin_configs/1"]).await;
}

async fn s11_2_protos_in_use(gw: Gateway) {
    gw.done(r#"PUT /protos/1 {"content":"syntax = \"proto3\";"}"#).await;
    gw.done(r#"PUT /services/s {"plugins":{"grpc-transcode":{"proto_id":"1"}}}"#).await;
    gw.refused("DELETE /protos/1", 400, "can not delete this proto, service [s] is still using it now").await;
    gw.done(r#"PUT /routes/r {"uri":"/a","plugins":{"grpc-transcode":{"proto_id":1}}}"#).await;
    gw.refused("DELETE /protos/1", 400, "can not delete this proto, route [r] is still using it now").await;
}

async fn s11_2_force(gw: Gateway) {
    all(&gw, &[r#"PUT /upstreams/1 {"nodes":{}}"#, r#"PUT /routes/r {"uri":"/a","upstream_id":"1"}"#]).await;
    for force in ["1", "TRUE", "yes", ""] {
        assert_eq!(gw.send(&format!("DELETE /upstreams/1?force={force}")).await.status, 400, "{force}");
    }
    gw.done("DELETE /upstreams/1?force=true").await;
    // The reference dangles now: the object stays readable, and a write has to mend it.
    assert_eq!(gw.send("GET /routes/r").await.status, 200);
    let missing = "failed to fetch upstream info by upstream id [1], response code: 404";
    gw.refused(r#"PATCH /routes/r {"priority":1}"#, 400, missing).await;
}

async fn s11_2_deleting_cascades(gw: Gateway) {
    all(
        &gw,
        &[
            r#"PUT /consumers {"username":"jack"}"#,
            r#"PUT /consumers {"username":"jacky"}"#,
            r#"PUT /consumers/jack/credentials/a {"plugins":{"key-auth":{"key":"a"}}}"#,
            r#"PUT /consumers/jacky/credentials/b {"plugins":{"key-auth":{"key":"b"}}}"#,
            "PUT /services/s {}",
            r#"PUT /services/s/graphql_cost_decorations/d {"field_path":"a.b"}"#,
        ],
    )
    .await;
    let before = gw.revision().await;
    all(&gw, &["DELETE /consumers/jack", "DELETE /services/s"]).await;
    assert_eq!(gw.revision().await, before + 2);
    assert_eq!(gw.send("GET /consumers/jack/credentials/a").await.status, 404);
    assert_eq!(gw.send("GET /services/s/graphql_cost_decorations/d").await.status, 404);
    assert_eq!(gw.send("GET /consumers/jacky/credentials/b").await.status, 200);
    gw.done(r#"PUT /consumers {"username":"new","plugins":{"key-auth":{"key":"a"}}}"#).await;
}

async fn s11_2_certificates_are_not_checked(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.example"]);
    let ssl = json!({"type": "client", "cert": identity.cert.clone(), "key": identity.key.clone()});
    gw.done(&format!("PUT /ssls/1 {ssl}")).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{},"tls":{"client_cert_id":"1"}}"#).await;
    gw.done("DELETE /ssls/1").await;
}
