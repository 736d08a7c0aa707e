//! What holds the secrets: an object for every place of every kind and plugin, and ways in which it is wrong.

use milecastle_model::{Kind, secret_places};
use milecastle_testkit::nowhere;
use milecastle_testkit::tls::{Authority, Identity};
use serde_json::{Value, json};

use super::{MARK, Object, Secrets};

pub(super) fn secret(name: &str) -> Value {
    format!("{MARK}-{name}").into()
}

/// An upstream that nobody serves, with a private key for it.
fn upstream(pair: &Identity) -> Value {
    json!({
        "scheme": "https", "nodes": { nowhere().to_string(): 1 },
        "tls": { "client_cert": pair.cert, "client_key": pair.key },
    })
}

/// Objects that have, together, a secret in every place that a kind or a plugin declares.
pub(super) fn objects(secrets: &mut Secrets, authority: &Authority) -> Vec<Object> {
    let (one, two, three, four) =
        (secrets.pair(authority), secrets.pair(authority), secrets.pair(authority), secrets.pair(authority));
    let key = |name: &str| json!({ "key-auth": { "key": secret(name) } });
    let traced = json!({ "sampler": { "name": "always_on" } });
    let within = json!({ "rules": [{ "weighted_upstreams": [{ "weight": 1, "upstream": upstream(&three) }] }] });
    vec![
        (
            Kind::Ssl,
            "/ssls/1",
            json!({ "sni": "canary.example", "cert": one.cert, "key": one.key, "certs": [two.cert], "keys": [two.key] }),
        ),
        (Kind::Ssl, "/ssls/env", json!({ "sni": "env.example", "cert": one.cert, "key": "$env://CANARY_PEM" })),
        (Kind::Upstream, "/upstreams/1", upstream(&three)),
        (Kind::Service, "/services/1", json!({ "upstream": upstream(&four) })),
        (
            Kind::Route,
            "/routes/1",
            json!({ "uri": "/kept", "plugins": { "key-auth": {}, "opentelemetry": traced }, "upstream": upstream(&four) }),
        ),
        (Kind::StreamRoute, "/stream_routes/1", json!({ "server_port": 9100, "upstream": upstream(&three) })),
        (
            Kind::StreamRoute,
            "/stream_routes/2",
            json!({ "server_port": 9101, "plugins": { "traffic-split": within }, "upstream": { "nodes": {} } }),
        ),
        (
            Kind::Secret,
            "/secrets/vault/1",
            json!({ "uri": "http://127.0.0.1:1", "prefix": "kv", "token": secret("vault") }),
        ),
        (
            Kind::Secret,
            "/secrets/aws/1",
            json!({ "access_key_id": "a", "secret_access_key": secret("aws"), "session_token": secret("session") }),
        ),
        (
            Kind::Secret,
            "/secrets/gcp/1",
            json!({ "auth_config": { "client_email": "e", "private_key": secret("gcp"), "project_id": "p" } }),
        ),
        (
            Kind::PluginMetadata,
            "/plugin_metadata/opentelemetry",
            json!({
                "collector": {
                    "address": nowhere().to_string(),
                    "request_headers": { "Authorization": secret("collector"), "X-Tenant": secret("tenant") },
                },
                "batch_span_processor": { "inactive_timeout": 0 },
            }),
        ),
        (Kind::Consumer, "/consumers/jack", json!({ "username": "jack", "plugins": key("jack") })),
        (Kind::Credential, "/consumers/jack/credentials/1", json!({ "plugins": key("credential") })),
        (
            Kind::Credential,
            "/consumers/jack/credentials/env",
            json!({ "plugins": { "key-auth": { "key": "$env://CANARY_KEY" } } }),
        ),
    ]
}

/// Objects with secrets that this version refuses.
pub(super) fn refused_objects() -> Vec<Object> {
    let counted = json!({
        "count": 1, "time_window": 60, "policy": "redis-sentinel", "redis_master_name": "m",
        "redis_sentinels": [{ "host": "127.0.0.1", "port": 1 }], "redis_password": secret("redis"),
        "sentinel_password": secret("sentinel"),
    });
    let plugins = json!({ "limit-count": counted });
    vec![(Kind::Route, "/routes/counted", json!({ "uri": "/counted", "plugins": plugins }))]
}

/// Settings of the group with a secret in each place that a registry has.
pub(super) fn settings() -> Value {
    let at = || format!("http://u:{MARK}-login@{}", nowhere());
    json!({
        "proxy_mode": "http&stream",
        "discovery": {
            "consul": { "servers": [at()], "token": secret("consul") },
            "consul_kv": { "servers": [at()], "token": secret("consul_kv") },
            "nacos": { "host": [at()], "access_key": "a", "secret_key": secret("nacos") },
            "eureka": { "host": [at()] },
            "kubernetes": {
                "service": { "schema": "http", "host": "127.0.0.1", "port": nowhere().port() },
                "client": { "token": secret("kubernetes") },
            },
        },
    })
}

/// The pointer of a dotted path of a plugin in objects of a kind: in its configuration, or in its metadata.
fn place_in(kind: Kind, plugin: &str, path: &str) -> String {
    let path = path.replace('.', "/");
    if kind == Kind::PluginMetadata { format!("/{path}") } else { format!("/plugins/{plugin}/{path}") }
}

/// Every place of a secret, of each kind and plugin, has one in these bodies.
pub(super) fn assert_all_places(objects: &[Object], secrets: &Secrets) {
    let has_one = |body: &Value, pointer: &str| {
        body.pointer(pointer).is_some_and(|value| secrets.within(&value.to_string()).is_some())
    };
    for kind in Kind::ALL {
        for place in secret_places(*kind) {
            let has = objects.iter().any(|(of, _, body)| of == kind && has_one(body, place));
            assert!(has, "no {kind:?} of this test has a secret at {place}");
        }
    }
    for def in milecastle_plugins::ALL.iter().chain(milecastle_plugins::STREAM) {
        for path in def.encrypted {
            let has = objects.iter().any(|(kind, _, body)| has_one(body, &place_in(*kind, def.name, path)));
            assert!(has, "no object of this test has a secret at `{path}` of the plugin {}", def.name);
        }
    }
}

/// The places in a body where texts stand that hold a secret.
fn places_of_secrets(body: &Value, at: &str, secrets: &Secrets) -> Vec<String> {
    match body {
        Value::String(text) => secrets.within(text).map(|_| at.to_owned()).into_iter().collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(n, item)| places_of_secrets(item, &format!("{at}/{n}"), secrets))
            .collect(),
        Value::Object(members) => {
            let of = |(name, member): (&String, &Value)| places_of_secrets(member, &format!("{at}/{name}"), secrets);
            members.iter().flat_map(of).collect()
        }
        _ => Vec::new(),
    }
}

/// A body, spoilt at each of its secrets in several ways, and as a whole.
pub(super) fn spoilt(body: &Value, secrets: &Secrets) -> Vec<Value> {
    let mut all = vec![body.clone()];
    all[0]["no such attribute"] = true.into();
    for place in places_of_secrets(body, "", secrets) {
        let text = body.pointer(&place).unwrap().as_str().unwrap();
        for wrong in [
            json!([text]),
            json!({ "of": text }),
            json!(format!("{text}\u{7f}\n ")),
            json!(format!("junk {}", text.repeat(2))),
            json!(text.repeat(70_000 / text.len() + 1)),
        ] {
            let mut spoilt = body.clone();
            *spoilt.pointer_mut(&place).unwrap() = wrong;
            all.push(spoilt);
        }
    }
    all
}
