//! §8, §9, §13: certificates, protobuf definitions, secret managers.

use super::{EMPTY, NO_BOOLEAN, NO_HOST, NO_ITEMS, NO_TEXT, NO_WORD, NOT_UNIQUE, Table, long, within};
use crate::gateway::{Gateway, on_sqlite};
use milecastle_testkit::tls::Authority;
use serde_json::{Value, json};

on_sqlite!(
    resources_8_certificates,
    resources_8_what_an_ssl_object_must_have,
    resources_9_protos,
    resources_13_managers,
    resources_13_6_addresses_that_could_never_be_asked_are_refused
);

const CERT: &str = "string too short, expected at least 128, got 127";
const KEY: &str = "string too short, expected at least 64, got 63";

async fn resources_8_certificates(gw: Gateway) {
    let authority = Authority::new("tests");
    let (one, two) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let base = json!({"sni": "a.test", "cert": one.cert, "key": one.key});
    let with = |name: &str, value: Value| {
        let mut body = base.clone();
        body[name] = value;
        body
    };
    let mut table = Table::new(&gw, "8", ("ssl", "/ssls/1"), &[], base.clone()).await;
    table.row("type", &[json!("client"), json!("server")], &[(json!("x"), NO_WORD)]).await;
    let too_long = "string too long, expected at most 65536, got 65537";
    let refused = [(json!(long(127)), CERT), (json!(long(65_537)), too_long)];
    table.row("cert", &[json!(two.cert), json!(format!("{}{}", one.cert, authority.pem()))], &refused).await;
    table.row("key", &[], &[(json!(long(63)), KEY), (json!(long(65_537)), too_long)]).await;
    let item = |reason: &str| format!("failed to validate item 1: {reason}");
    table
        .row_of(with("keys", json!([two.key])), "certs", &[json!([two.cert])], &[(json!([long(127)]), item(CERT))])
        .await;
    table.row_of(with("certs", json!([two.cert])), "keys", &[], &[(json!([long(63)]), item(KEY))]).await;
    let unequal = "mismatched number of certs and keys";
    gw.refused(&format!("PUT /ssls/1 {}", with("certs", json!([two.cert]))), 400, unequal).await;
    table.row("sni", &["a.test", "*.a.test", "*"].map(Value::from), &[(json!("a b"), NO_HOST)]).await;
    let nameless = json!({"cert": one.cert, "key": one.key});
    table.row_of(nameless, "snis", &[json!(["a.test"]), json!(["a.test", "*.b"])], &[(json!([]), NO_ITEMS)]).await;
    table.row("client.ca", &[json!(authority.pem())], &[(json!(long(127)), CERT)]).await;
    let asking = with("client", json!({"ca": authority.pem()}));
    let refused = [(json!(-1), "expected -1 to be at least 0")];
    table.row_of(asking.clone(), "client.depth", &[json!(0), json!(9)], &refused).await;
    let refused = [(json!([]), NO_ITEMS), (json!(["a", "a"]), NOT_UNIQUE)];
    table.row_of(asking, "client.skip_mtls_uri_regex", &[json!(["^/a"]), json!(["^/a", "^/b"])], &refused).await;
    table.row("client", &[], &[(json!({"depth": 1}), r#"property "ca" is required"#)]).await;
    table.row("status", &[json!(0), json!(1)], &[(json!(2), NO_WORD)]).await;
    let refused = [(json!(["SSLv3"]), item(NO_WORD)), (json!(["TLSv1.2", "TLSv1.2"]), NOT_UNIQUE.to_owned())];
    let all = json!(["TLSv1.1", "TLSv1.2", "TLSv1.3"]);
    table.row("ssl_protocols", &[json!(["TLSv1.3"]), all], &refused).await;
    assert_eq!(table.schema["properties"]["ssl_protocols"]["maxItems"], 3);
    let refused = [
        (json!({"cache_ttl": 59}), within("cache_ttl", "expected 59 to be at least 60")),
        (json!({"enabled": 1}), within("enabled", NO_BOOLEAN)),
        (json!({"more": 1}), "additional properties forbidden, found more".to_owned()),
    ];
    let taken = [json!({}), json!({"enabled": true, "skip_verify": true, "cache_ttl": 60})];
    table.row("ocsp_stapling", &taken, &refused).await;
    for (name, default) in [
        ("type", json!("server")),
        ("status", json!(1)),
        ("client.depth", json!(1)),
        ("ocsp_stapling.enabled", json!(false)),
        ("ocsp_stapling.skip_verify", json!(false)),
        ("ocsp_stapling.cache_ttl", json!(3600)),
    ] {
        table.default(name, default);
    }
    table.is_whole();
}

async fn resources_8_what_an_ssl_object_must_have(gw: Gateway) {
    let identity = Authority::new("tests").issue(&["a.test"]);
    let (cert, key) = (&identity.cert, &identity.key);
    let server = "invalid configuration: then clause did not match: value should match only one schema, but matches";
    let nameless = r#"none: property "sni" is required; or property "snis" is required"#;
    let keyless = r#"none: property "key" is required; or property "snis" is required"#;
    let both = r#"both schemas 1 and 2: ["sni","key","cert"] and ["snis","key","cert"] exclude each other"#;
    for (body, reason) in [
        (json!({"cert": cert, "key": key}), nameless),
        (json!({"cert": cert, "sni": "a.test"}), keyless),
        (json!({"cert": cert, "key": key, "sni": "a.test", "snis": ["b.test"]}), both),
    ] {
        gw.refused(&format!("PUT /ssls/1 {body}"), 400, &format!("{server} {reason}")).await;
    }
    let client = r#"invalid configuration: else clause did not match: property "key" is required"#;
    gw.refused(&format!("PUT /ssls/1 {}", json!({"type": "client", "cert": cert})), 400, client).await;
    gw.done(&format!("PUT /ssls/1 {}", json!({"type": "client", "cert": cert, "key": key}))).await;
    for name in ["validity_start", "validity_end", "exptime"] {
        let mut body = json!({"sni": "a.test", "cert": cert, "key": key});
        body[name] = 1.into();
        let unknown = format!("invalid configuration: additional properties forbidden, found {name}");
        gw.refused(&format!("PUT /ssls/1 {body}"), 400, &unknown).await;
    }
}

async fn resources_9_protos(gw: Gateway) {
    let mut table = Table::new(&gw, "9", ("proto", "/protos/1"), &[], json!({})).await;
    let source = r#"syntax = "proto3"; message M { string a = 1; } "#;
    let longest = format!("{source}//{}", long(1_048_576 - 2 - source.len()));
    let refused =
        [(json!(""), EMPTY), (json!(format!("{longest}x")), "string too long, expected at most 1048576, got 1048577")];
    table.row("content", &[json!(source), json!(longest)], &refused).await;
    gw.refused("PUT /protos/1 {}", 400, r#"invalid configuration: property "content" is required"#).await;
    table.is_whole();
}

async fn resources_13_managers(gw: Gateway) {
    let vault = json!({"uri": "https://vault.test:8200", "prefix": "kv", "token": "t"});
    let aws = json!({"access_key_id": "a", "secret_access_key": "s"});
    let config = json!({"client_email": "a@b", "private_key": "k", "project_id": "p"});
    let gcp = json!({ "auth_config": config });
    for (path, whole) in [("/secrets/vault/1", &vault), ("/secrets/aws/1", &aws)] {
        gw.done(&format!("PUT {path} {whole}")).await;
        for name in whole.as_object().unwrap().keys() {
            let mut body = whole.clone();
            body.as_object_mut().unwrap().shift_remove(name);
            let lacking = format!(r#"invalid configuration: property "{name}" is required"#);
            gw.refused(&format!("PUT {path} {body}"), 400, &lacking).await;
        }
    }
    for (path, whole, name) in [
        ("/secrets/vault/1", &vault, "namespace"),
        ("/secrets/aws/1", &aws, "session_token"),
        ("/secrets/aws/1", &aws, "endpoint_url"),
    ] {
        let with = |value: Value| {
            let mut body = whole.clone();
            body[name] = value;
            format!("PUT {path} {body}")
        };
        gw.done(&with("https://a.test".into())).await;
        gw.refused(&with(1.into()), 400, &format!("invalid configuration: {}", within(name, NO_TEXT))).await;
    }
    for uri in ["vault.test", "http://", "://vault.test"] {
        let mut body = vault.clone();
        body["uri"] = uri.into();
        let answer = gw.send(&format!("PUT /secrets/vault/1 {body}")).await;
        let said = r#"property \"uri\" validation failed: failed to match pattern"#;
        assert!(answer.status == 400 && answer.text().contains(said), "{uri}: {}", answer.text());
    }
    gw.done(&format!("PUT /secrets/gcp/1 {gcp}")).await;
    gw.done(r#"PUT /secrets/gcp/1 {"auth_file":"/etc/gcp.json","ssl_verify":false}"#).await;
    let one = "invalid configuration: value should match only one schema, but matches";
    let both = json!({"auth_config": config, "auth_file": "/etc/gcp.json"});
    let excluded = r#"both schemas 1 and 2: ["auth_config"] and ["auth_file"] exclude each other"#;
    gw.refused(&format!("PUT /secrets/gcp/1 {both}"), 400, &format!("{one} {excluded}")).await;
    for name in ["client_email", "private_key", "project_id"] {
        let mut body = gcp.clone();
        body["auth_config"].as_object_mut().unwrap().shift_remove(name);
        let lacking = within("auth_config", &format!(r#"property "{name}" is required"#));
        gw.refused(&format!("PUT /secrets/gcp/1 {body}"), 400, &format!("invalid configuration: {lacking}")).await;
    }
    for (manager, at, default) in [
        ("aws", "region", json!("us-east-1")),
        ("gcp", "ssl_verify", json!(true)),
        ("gcp", "auth_config/properties/token_uri", json!("https://oauth2.googleapis.com/token")),
        ("gcp", "auth_config/properties/entries_uri", json!("https://secretmanager.googleapis.com/v1")),
        ("gcp", "auth_config/properties/scope", json!(["https://www.googleapis.com/auth/cloud-platform"])),
    ] {
        let schema = gw.send(&format!("GET /schema/secret_{manager}")).await.json().unwrap();
        assert_eq!(schema.pointer(&format!("/properties/{at}/default")), Some(&default), "{manager} {at}");
    }
}

async fn resources_13_6_addresses_that_could_never_be_asked_are_refused(gw: Gateway) {
    let vault = json!({"uri": "https://a.test", "prefix": "kv", "token": "t"});
    let aws = json!({"access_key_id": "a", "secret_access_key": "s"});
    let gcp = json!({"auth_config": {"client_email": "a@b", "private_key": "k", "project_id": "p"}});
    let form =
        "must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment";
    for (path, whole, at) in [
        ("/secrets/vault/1", &vault, "/uri"),
        ("/secrets/aws/1", &aws, "/endpoint_url"),
        ("/secrets/gcp/1", &gcp, "/auth_config/token_uri"),
        ("/secrets/gcp/1", &gcp, "/auth_config/entries_uri"),
    ] {
        let (above, name) = at.rsplit_once('/').unwrap();
        let with = |address: &str| {
            let mut body = whole.clone();
            body.pointer_mut(above).unwrap()[name] = address.into();
            format!("PUT {path} {body}")
        };
        for address in ["http://127.0.0.1:8200", "https://a.test/b/", "https://[::1]:65535", "$ENV://ADDRESS"] {
            gw.done(&with(address)).await;
        }
        let reason = within(name, form);
        let reason = above.strip_prefix('/').map_or_else(|| reason.clone(), |above| within(above, &reason));
        let refused = format!("invalid configuration: {reason}");
        for address in [
            "ftp://a.test",
            "https://a.test:0",
            "https://a.test:65536",
            "https://user:password@a.test",
            "https://a.test/a b",
            "https://a.test/?b",
            "https://a.test#c",
            "https://a.test/../b",
        ] {
            gw.refused(&with(address), 400, &refused).await;
        }
    }
}
