//! Valid bodies for the tests, at least one of each kind, which together use every attribute.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::Kind;

/// A self-signed certificate and its key, PEM.
pub(crate) static PAIR: LazyLock<(String, String)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
});

/// `base` with further members, which replace those of the same name.
pub(crate) fn with(base: &Value, members: Value) -> Value {
    let mut body = base.clone();
    for (name, member) in members.as_object().unwrap() {
        body[name] = member.clone();
    }
    body
}

pub(crate) fn upstream() -> Value {
    json!({"nodes": {"127.0.0.1:1980": 1}})
}

fn rich_upstream() -> Value {
    let (cert, key) = &*PAIR;
    json!({
        "id": 1, "name": "u", "desc": "d", "labels": {"env": "prod"}, "create_time": 1, "update_time": 2,
        "type": "chash", "hash_on": "vars", "key": "arg_user",
        "nodes": [
            {"host": "127.0.0.1", "port": 80, "weight": 1, "priority": -1, "metadata": {"a": 1}, "free": true},
            {"host": "[::1]", "weight": 0},
        ],
        "checks": {
            "active": {
                "type": "https", "timeout": 0.5, "concurrency": 3, "host": "h", "port": 8080, "http_method": "HEAD",
                "http_path": "/ok", "http_req_body": "", "https_verify_certificate": false, "req_headers": ["A: b"],
                "healthy": {"interval": 1, "http_statuses": [200], "successes": 1},
                "unhealthy": {
                    "interval": 2, "http_statuses": [500, 501], "http_failures": 254, "tcp_failures": 1, "timeouts": 9,
                },
                "free": null,
            },
            "passive": {
                "type": "tcp",
                "healthy": {"http_statuses": [204], "successes": 0},
                "unhealthy": {"http_statuses": [599], "http_failures": 0, "tcp_failures": 0, "timeouts": 0},
            },
        },
        "retries": 0, "retry_timeout": 0.25, "timeout": {"connect": 0.5, "send": 6, "read": 6.25},
        "pass_host": "rewrite", "upstream_host": "a.test", "scheme": "https",
        "keepalive_pool": {"size": 1, "idle_timeout": 0, "requests": 1},
        "tls": {"client_cert": cert, "client_key": key, "verify": true},
    })
}

/// Every example.
pub(crate) fn all() -> Vec<(Kind, Value)> {
    let (cert, key) = &*PAIR;
    let discovered = json!({
        "service_name": "s", "discovery_type": "nacos", "tls": {"client_cert_id": "c"},
        "discovery_args": {"namespace_id": "n", "group_name": "g", "metadata": {"version": "1"}},
    });
    let common = json!({
        "id": "r-1", "name": "n", "desc": "", "labels": {"a": "b"}, "create_time": 1, "update_time": 2,
    });
    let nameless = json!({"id": 7, "desc": "d", "labels": {"a": "b"}, "create_time": 1, "update_time": 2});
    let plugins = json!({"plugins": {"limit-count": {"count": 1, "_meta": {"disable": false}}}});
    vec![
        (Kind::Route, json!({"uri": "/hello", "upstream_id": "1"})),
        (
            Kind::Route,
            with(
                &common,
                json!({
                    "uris": ["/a", "/b/*"], "hosts": ["*.a.test", "*"], "methods": ["GET", "PURGE"],
                    "remote_addrs": ["10.0.0.1", "10.0.0.0/8", "::1", "fe80::/10"], "priority": -5,
                    "vars": [["arg_a", "==", "1"]], "script_id": 3, "plugins": {"x": {}}, "plugin_config_id": "p",
                    "upstream": rich_upstream(), "service_id": 4, "enable_websocket": true, "status": 0,
                    "timeout": {"connect": 1, "send": 1, "read": 1},
                }),
            ),
        ),
        (Kind::Service, json!({})),
        (
            Kind::Service,
            with(
                &common,
                json!({
                    "plugins": {}, "upstream": discovered, "upstream_id": 1, "hosts": ["a.test"], "enable_websocket": false,
                }),
            ),
        ),
        (Kind::Upstream, upstream()),
        (Kind::Upstream, rich_upstream()),
        (Kind::Upstream, discovered),
        (
            Kind::Consumer,
            with(&nameless, json!({"username": "jack_1-a", "group_id": "g", "plugins": {"key-auth": {"key": "k"}}})),
        ),
        (Kind::Credential, with(&common, json!({"plugins": {"key-auth": {"key": "k"}}}))),
        (
            Kind::Ssl,
            with(
                &nameless,
                json!({
                    "type": "server", "cert": cert, "key": key, "certs": [cert], "keys": ["$secret://vault/1/tls/key"],
                    "snis": ["A.test.", "*.b.test"], "status": 1, "ssl_protocols": ["TLSv1.2", "TLSv1.3"],
                    "client": {"ca": cert, "depth": 0, "skip_mtls_uri_regex": ["^/open"]},
                    "ocsp_stapling": {"enabled": true, "skip_verify": true, "cache_ttl": 60},
                }),
            ),
        ),
        (Kind::Ssl, json!({"type": "client", "cert": cert, "key": "c".repeat(64)})),
        (Kind::GlobalRule, with(&plugins, json!({"id": "1", "create_time": 1, "update_time": 1}))),
        (Kind::PluginConfig, with(&with(&common, plugins.clone()), json!({"name": ""}))),
        (Kind::ConsumerGroup, with(&common, plugins)),
        (Kind::PluginMetadata, json!({"id": "http-logger", "log_format": {"host": "$host"}})),
        (
            Kind::StreamRoute,
            with(
                &common,
                json!({
                    "remote_addr": "10.0.0.0/8", "server_addr": "::1", "server_port": 9100, "sni": "*.a.test",
                    "upstream": upstream(), "upstream_id": 1, "service_id": 2, "plugins": {},
                    "protocol": {
                        "name": "redis", "superior_id": 9, "conf": {"faults": []},
                        "logger": [{"name": "syslog", "filter": [], "conf": {}}],
                    },
                }),
            ),
        ),
        (Kind::Proto, with(&common, json!({"content": "syntax = \"proto3\";"}))),
        (
            Kind::Secret,
            json!({"id": "vault/1", "uri": "https://127.0.0.1:8200", "prefix": "kv", "token": "t", "namespace": "n"}),
        ),
        (Kind::Secret, json!({"id": "aws/1", "access_key_id": "a", "secret_access_key": "s", "region": "r"})),
        (
            Kind::Secret,
            json!({"id": "gcp/1", "auth_config": {"client_email": "e", "private_key": "k", "project_id": "p"}}),
        ),
        (
            Kind::GraphqlCostDecoration,
            with(
                &common,
                json!({
                    "field_path": "Query.users.name", "add_value": 0.5, "add_arguments": ["first"], "mul_value": 2,
                    "mul_arguments": [],
                }),
            ),
        ),
        (
            Kind::GroupSettings,
            json!({
                "plugins": ["key-auth", "limit-count"], "router": {"http": "radixtree_uri_with_parameter"},
                "proxy_mode": "http&stream", "stream_plugins": ["limit-conn"], "upstream_tls": {"verify": "upstream"},
            }),
        ),
    ]
}
