//! The local rows of `docs/spec/admin-api.md` §11.1 and §18.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{check, client_timestamps};
use crate::examples::{self, PAIR, upstream, with};
use crate::{Kind, MASK, mask, patch, references, secrets};

/// Compares path and answer of every fault.
fn faults(kind: Kind, body: Value, expected: &[(&str, &str)]) {
    let faults = check(kind, &body);
    let found: Vec<(String, String)> = faults.iter().map(|fault| (fault.path.clone(), fault.to_string())).collect();
    let expected: Vec<(String, String)> = expected.iter().map(|&(p, m)| (p.to_owned(), m.to_owned())).collect();
    assert_eq!(found, expected, "{kind} {body}");
}

fn ssl() -> Value {
    json!({"cert": PAIR.0, "key": PAIR.1, "sni": "a.test"})
}

#[test]
fn every_example_passes() {
    for (kind, body) in examples::all() {
        faults(kind, body, &[]);
    }
}

#[test]
fn bodies_of_the_conformance_examples() {
    faults(Kind::Upstream, json!({"nodes": {"127.0.0.1:1980": 1}, "type": "roundrobin"}), &[]);
    faults(Kind::Route, json!({"uri": "/hello", "upstream_id": "1", "methods": ["GET"], "priority": 3}), &[]);
    faults(
        Kind::Route,
        json!({"uri": 123, "upstream_id": "1"}),
        &[(
            "/uri",
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        )],
    );
    faults(Kind::Consumer, json!({"username": "jack", "plugins": {"key-auth": {"key": "k1"}}}), &[]);
    for body in [json!([]), json!([1])] {
        faults(Kind::Service, body, &[("", "invalid configuration: wrong type: expected object, got table")]);
    }
}

#[test]
fn one_or_many() {
    let base = json!({"uri": "/a", "upstream_id": 1});
    let first = |members: Value| check(Kind::Route, &with(&base, members))[0].to_string();
    assert_eq!(first(json!({"host": "a", "hosts": ["b"]})), "only one of host or hosts is allowed");
    assert_eq!(
        first(json!({"remote_addr": "::1", "remote_addrs": ["::2"], "uri": 1})),
        "only one of remote_addr or remote_addrs is allowed"
    );
}

#[test]
fn upstreams() {
    // The same rules hold for the standalone and for the inline form.
    let refused = |members: Value, path: &str, text: &str| {
        let body = with(&upstream(), members);
        faults(Kind::Upstream, body.clone(), &[(path, text)]);
        for kind in [Kind::Route, Kind::Service, Kind::StreamRoute] {
            let mut holder = json!({"upstream": body});
            if kind == Kind::Route {
                holder["uri"] = "/a".into();
            }
            faults(kind, holder, &[(&format!("/upstream{path}"), text)]);
        }
    };
    refused(json!({"nodes": {"a:0": 1}}), "/nodes/a:0", "invalid port 0");
    refused(json!({"nodes": {"a:65536": 1, "b:1": 1}}), "/nodes/a:65536", "invalid port 65536");
    refused(json!({"nodes": {"[::1]:99999": 1}}), "/nodes/[::1]:99999", "invalid port 99999");
    refused(json!({"nodes": {"a/b:x": 1}}), "/nodes/a~1b:x", "invalid port x");
    refused(
        json!({"nodes": [{"host": "a", "weight": 1}, {"host": "::1", "port": 80, "weight": 1}]}),
        "/nodes/1/host",
        "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
    );
    // Names of services are shown, so they hold no login.
    let found =
        |registry: &str, name: &str| json!({"type": "roundrobin", "discovery_type": registry, "service_name": name});
    let login = "must not have a login: it belongs in `servers` of the registry `consul_kv`";
    for name in ["http://user:secret@a:8500/v1/kv/upstreams/web/", "user:secret@a"] {
        faults(Kind::Upstream, found("consul_kv", name), &[("/service_name", login)]);
    }
    for (registry, name) in [("consul_kv", "http://a:8500/v1/kv/upstreams/web@home/"), ("nacos", "web@home")] {
        faults(Kind::Upstream, found(registry, name), &[]);
    }
    let rewrite = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
    refused(json!({"pass_host": "rewrite"}), "/upstream_host", rewrite);
    refused(json!({"type": "chash"}), "/key", "missing key");
    refused(json!({"type": "chash", "hash_on": "vars_combinations"}), "/key", "missing key");
    let vars = "invalid configuration: failed to match pattern \"^((uri|server_name|server_addr|request_uri|remote_port\
                |remote_addr|query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$\" with \"http_x\"";
    refused(json!({"type": "chash", "key": "http_x"}), "/key", vars);
    let header = "invalid configuration: failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"a b\"";
    refused(json!({"type": "chash", "hash_on": "header", "key": "a b"}), "/key", header);
    refused(json!({"type": "chash", "hash_on": "cookie", "key": "a b"}), "/key", header);
    let combination =
        "invalid configuration: failed to match pattern \"\\\\$(?:[0-9a-zA-Z_]+|\\\\{[^{}]+\\\\})\" with \"a\"";
    refused(json!({"type": "chash", "hash_on": "vars_combinations", "key": "a"}), "/key", combination);
    for members in [
        json!({"type": "chash", "hash_on": "consumer"}),
        json!({"type": "chash", "hash_on": "consumer", "key": "any thing"}),
        json!({"type": "chash", "key": "arg_a-b"}),
        json!({"type": "chash", "hash_on": "vars_combinations", "key": "$host-${arg_a ?? x}"}),
        json!({"key": "anything goes without chash"}),
        json!({"nodes": {"::1": 1, "[::1]:80": 1, "[::2]": 1, "a": 1, "a:65535": 1}}),
        json!({"pass_host": "rewrite", "upstream_host": "a"}),
    ] {
        faults(Kind::Upstream, with(&upstream(), members), &[]);
    }
}

#[test]
fn keys_and_certificates() {
    let (cert, key) = &*PAIR;
    let broken = format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}", "#".repeat(128));
    let refused = |members: Value, expected: &[(&str, &str)]| faults(Kind::Ssl, with(&ssl(), members), expected);
    refused(
        json!({"cert": "x".repeat(128)}),
        &[(
            "/cert",
            "failed to parse cert: no certificate found; expected a block that begins with -----BEGIN CERTIFICATE-----",
        )],
    );
    refused(json!({"cert": broken}), &[("/cert", "failed to parse cert: certificate 1 is not X.509")]);
    refused(
        json!({"cert": format!("{cert}{broken}")}),
        &[("/cert", "failed to parse cert: certificate 2 is not X.509")],
    );
    refused(json!({"cert": cert.replace("END", "FIN")}), &[("/cert", "failed to parse cert: the PEM text is damaged")]);
    refused(
        json!({"key": cert}),
        &[("/key", "failed to parse key: no private key found; expected an unencrypted PKCS#8, PKCS#1 or SEC1 block")],
    );
    let odd = format!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}", "#".repeat(64));
    refused(json!({"key": odd}), &[("/key", "failed to parse key: the private key is not DER")]);
    refused(json!({"certs": [cert]}), &[("/keys", "mismatched number of certs and keys")]);
    refused(
        json!({"certs": [cert, cert], "keys": [key, cert]}),
        &[(
            "/keys/1",
            "failed to handle cert-key pair[2]: failed to parse key: no private key found; expected an unencrypted \
             PKCS#8, PKCS#1 or SEC1 block",
        )],
    );
    refused(
        json!({"client": {"ca": broken}}),
        &[("/client/ca", "failed to validate client_cert: certificate 1 is not X.509")],
    );
    // Ciphertext and references are not read.
    refused(json!({"key": "c".repeat(64), "certs": ["$secret://vault/1/a/b"], "keys": ["$ENV://K"]}), &[]);
    refused(json!({"client": {"ca": "$secret://vault/1/a/b"}}), &[]);
    let chain = format!("subject=a\n{cert}\n{cert}");
    refused(json!({"cert": chain, "key": format!("Bag Attributes\n{key}")}), &[]);

    let upstream = |tls: Value| with(&upstream(), json!({"tls": tls}));
    faults(
        Kind::Upstream,
        upstream(json!({"client_cert": broken, "client_key": odd})),
        &[
            ("/tls/client_cert", "failed to parse cert: certificate 1 is not X.509"),
            ("/tls/client_key", "failed to parse key: the private key is not DER"),
        ],
    );
    faults(
        Kind::Service,
        json!({"upstream": upstream(json!({"client_cert": broken, "client_key": key}))}),
        &[("/upstream/tls/client_cert", "failed to parse cert: certificate 1 is not X.509")],
    );
}

#[test]
fn stream_routes() {
    faults(
        Kind::StreamRoute,
        json!({"remote_addr": "10.0.0.0/33"}),
        &[("/remote_addr", "invalid remote_addr: 10.0.0.0/33")],
    );
    faults(Kind::StreamRoute, json!({"server_addr": "a"}), &[("/server_addr", "invalid server_addr: a")]);
    faults(
        Kind::StreamRoute,
        json!({"id": "7", "protocol": {"name": "redis", "superior_id": 7}}),
        &[("/protocol/superior_id", "stream route can not set itself as superior_id")],
    );
}

#[test]
fn secret_managers() {
    faults(Kind::Secret, json!({"id": "azure/1"}), &[("/id", "invalid secret manager: azure")]);
    faults(
        Kind::Secret,
        json!({"id": "vault/1", "uri": "127.0.0.1:8200", "prefix": "kv"}),
        &[
            (
                "/uri",
                "invalid configuration: property \"uri\" validation failed: failed to match pattern \
                 \"^[a-zA-Z][a-zA-Z0-9+.-]*://([0-9a-zA-Z.-]+|\\\\[[0-9a-fA-F:]+\\\\])(:[0-9]+)?\" with \"127.0.0.1:8200\"",
            ),
            ("/token", "invalid configuration: property \"token\" is required"),
        ],
    );
    faults(
        Kind::Secret,
        json!({"id": "aws/1", "access_key_id": "a"}),
        &[("/secret_access_key", "invalid configuration: property \"secret_access_key\" is required")],
    );
    faults(
        Kind::Secret,
        json!({"id": "gcp/1"}),
        &[(
            "",
            "invalid configuration: value should match only one schema, but matches none: \
             property \"auth_config\" is required; or property \"auth_file\" is required",
        )],
    );
    faults(Kind::Secret, json!({"prefix": 1}), &[]);
}

#[test]
fn addresses_of_secret_managers() {
    let form =
        "must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment";
    let vault = json!({"id": "vault/1", "uri": "https://a.test:70000", "prefix": "kv", "token": "t"});
    let text = format!("invalid configuration: property \"uri\" validation failed: {form}");
    faults(Kind::Secret, vault.clone(), &[("/uri", &text)]);
    let account = json!({
        "client_email": "e", "private_key": "k", "project_id": "p", "token_uri": "http://a", "entries_uri": "a.test",
    });
    let text = format!(
        "invalid configuration: property \"auth_config\" validation failed: property \"entries_uri\" validation failed: {form}"
    );
    faults(Kind::Secret, json!({"id": "gcp/1", "auth_config": account}), &[("/auth_config/entries_uri", &text)]);
    // Attributes of others mean nothing.
    faults(Kind::Secret, with(&vault, json!({"uri": "$env://VAULT_ADDR", "endpoint_url": "none"})), &[]);
}

#[test]
fn lua_is_refused() {
    let base = json!({"uri": "/a", "upstream_id": 1});
    faults(
        Kind::Route,
        with(&base, json!({"filter_func": "function(vars) return true end"})),
        &[(
            "/filter_func",
            "failed to load 'filter_func' string: Lua functions are not supported by this version; use vars",
        )],
    );
    let script = "failed to load 'script' string: Lua scripts are not supported by this version; use plugins";
    faults(Kind::Route, with(&base, json!({"script": "return true;"})), &[("/script", script)]);
    faults(Kind::Service, json!({"script": "return true;"}), &[("/script", script)]);
    let plugins = |disable: bool| json!({"a/b": {"_meta": {"disable": disable, "pre_function": "return 1"}}});
    let pre = "failed to load _meta.pre_function in plugin a/b: \
               Lua functions are not supported by this version; use _meta.filter";
    let path = "/plugins/a~1b/_meta/pre_function";
    faults(Kind::Route, with(&base, json!({"plugins": plugins(false)})), &[(path, pre)]);
    faults(Kind::Route, with(&base, json!({"plugins": plugins(true)})), &[]);
    let prefixed = format!("invalid plugins configuration: {pre}");
    faults(Kind::Consumer, json!({"username": "a", "plugins": plugins(false)}), &[(path, &prefixed)]);
    faults(Kind::Credential, json!({"plugins": plugins(false)}), &[(path, &prefixed)]);
}

#[test]
fn references_where_a_word_is_needed() {
    faults(
        Kind::Upstream,
        with(&upstream(), json!({"pass_host": "$env://X"})),
        &[("", "invalid configuration: unknown variant `$env://X`, expected one of `pass`, `node`, `rewrite`")],
    );
}

#[test]
fn timestamps_of_clients() {
    let check = |body: Value, expected: &[(&str, &str)]| {
        let faults = client_timestamps(&body);
        let found: Vec<_> = faults.iter().map(|fault| (fault.path.as_str(), fault.message.as_str())).collect();
        assert_eq!(found, expected);
        assert!(faults.iter().all(|fault| fault.to_string() == fault.message));
    };
    check(
        json!({"create_time": 1, "upstream": {"create_time": 1}, "plugins": {"update_time": {}}}),
        &[
            ("/create_time", "the property is forbidden:  create_time"),
            ("/upstream/create_time", "the property is forbidden:  upstream.create_time"),
            ("/plugins/update_time", "the property is forbidden:  plugins.update_time"),
        ],
    );
    check(json!({"uri": "/", "labels": {"create_time": "x"}}), &[]);
    check(json!([1]), &[]);
}

/// Any JSON, weighted towards what the checks look at.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "id",
        "uri",
        "upstream",
        "nodes",
        "host",
        "port",
        "tls",
        "client_cert",
        "client_key",
        "type",
        "chash",
        "key",
        "plugins",
        "_meta",
        "pre_function",
        "protocol",
        "superior_id",
        "checks",
        "active",
        "keys",
        "certs",
        "cert",
        "server",
        "client",
        "ca",
        "timeout",
        "$secret://x",
        "$ENV://x",
        "[::1]:0",
        "---",
        "*",
        "vault/1",
        "gcp/",
    ]);
    let text = prop_oneof![word.prop_map(str::to_owned), ".{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3_i8..4).prop_map(|small| Value::from(f64::from(small))),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Values at the edges of what the schemas accept.
fn odd_value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!([]),
        json!({}),
        json!(0),
        json!(1.0),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(0.5),
        json!(""),
        json!(null),
        json!([{}]),
        json!({"a": {}}),
    ])
}

/// JSON pointers of every value in `value`, itself included.
fn places(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(n, item)| (n.to_string(), item)).collect(),
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        _ => Vec::new(),
    };
    for (name, inner) in inner {
        found.extend(places(inner).iter().map(|rest| crate::pointer::join("", &name) + rest));
    }
    found
}

proptest! {
    #[test]
    fn no_json_makes_a_check_panic(mut body in any_json(), patch in any_json(), path in prop::collection::vec("[a-c]{0,1}", 0..4)) {
        for &kind in Kind::ALL {
            for fault in check(kind, &body) {
                prop_assert!(fault.path.is_empty() || fault.path.starts_with('/'), "{}", fault.path);
            }
            for reference in references(kind, &body) {
                prop_assert!(body.pointer(&reference.path).is_some());
            }
            let mut masked = body.clone();
            mask(kind, &mut masked);
            let places = secrets(kind, &masked);
            prop_assert!(secrets(kind, &body).iter().all(|place| places.contains(place)));
            prop_assert!(places.iter().all(|place| masked.pointer(place).is_some_and(|value| value == MASK)));
        }
        client_timestamps(&body);
        let before = body.clone();
        if patch::set_path(&mut body, &path, Value::Null).is_err() {
            prop_assert_eq!(&before, &body);
        }
        patch::merge_patch(&mut body.clone(), &patch);
        patch::merge(&mut body, &patch);
    }

    /// What the schema and the rules accept, the typed forms can read: asking them is the last step of [`check`], and only
    /// a reference in the place of a word may fail there.
    #[test]
    fn typed_forms_read_what_the_rules_accept(
        example in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        value in prop_oneof![any_json(), odd_value()],
    ) {
        let (kind, mut body) = example.get(&examples::all()[..]).clone();
        let reference = value.as_str().is_some_and(crate::is_reference);
        let place = place.get(&places(&body)[..]).clone();
        *body.pointer_mut(&place).unwrap() = value;
        let unreadable = crate::types::readable(kind, &body).err().map(|error| error.to_string());
        let only_there = check(kind, &body).iter().map(|fault| Some(fault.message.clone())).eq([unreadable.clone()]);
        prop_assert!(unreadable.is_none() || !only_there || reference, "{unreadable:?} in {kind} {body}");
    }

    #[test]
    fn nothing_is_lost_on_the_way_through_json(body in any_json()) {
        let text = serde_json::to_vec(&body).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Value>(&text).unwrap(), &body);
        let mut merged = body.clone();
        patch::merge(&mut merged, &json!({}));
        prop_assert!(!body.is_object() || merged == body);
        patch::merge_patch(&mut merged, &json!({}));
        prop_assert!(!body.is_object() || merged == body);
    }
}
