//! §4: health checks.

use super::{NO_BOOLEAN, NO_HOST, NO_ITEMS, NO_TEXT, NO_WORD, NOT_UNIQUE, Table};
use crate::gateway::{Gateway, on_sqlite};
use serde_json::{Value, json};

on_sqlite!(resources_4_checks_are_open, resources_4_1_active_checks, resources_4_2_passive_checks);

async fn resources_4_checks_are_open(gw: Gateway) {
    let mut table = Table::new(&gw, "4", ("upstream", "/upstreams/1"), &[], json!({"nodes": {}})).await;
    let more = json!({"more": 1});
    let open = json!({
        "more": 1, "active": {"more": 1, "healthy": more, "unhealthy": more},
        "passive": {"more": 1, "healthy": more, "unhealthy": more},
    });
    let active = r#"property "active" is required"#;
    table.row("checks", &[open], &[(json!({}), active), (json!({"passive": {}}), active)]).await;
}

/// A list of statuses.
async fn statuses(table: &mut Table<'_>, name: &'static str) {
    let refused = [
        (json!([199]), "failed to validate item 1: expected 199 to be at least 200"),
        (json!([600]), "failed to validate item 1: expected 600 to be at most 599"),
        (json!([]), NO_ITEMS),
        (json!([200, 200]), NOT_UNIQUE),
    ];
    table.row(name, &[json!([200]), json!([200, 599])], &refused).await;
}

/// A threshold from `least` to 254.
async fn threshold(table: &mut Table<'_>, name: &'static str, least: i32) {
    let below = format!("expected {} to be at least {least}", least - 1);
    let refused = [(json!(least - 1), &*below), (json!(255), "expected 255 to be at most 254")];
    table.row(name, &[json!(least), json!(254)], &refused).await;
}

async fn resources_4_1_active_checks(gw: Gateway) {
    let at = &["checks", "active"];
    let mut table = Table::new(&gw, "4.1", ("upstream", "/upstreams/1"), at, json!({"nodes": {}})).await;
    table.row("type", &["http", "https", "tcp"].map(Value::from), &[(json!("grpc"), NO_WORD)]).await;
    table.row("timeout", &[json!(0.1), json!(10)], &[(json!("1"), "wrong type: expected number, got string")]).await;
    table.row("concurrency", &[json!(1)], &[(json!(1.5), "wrong type: expected integer, got number")]).await;
    table.row("host", &[json!("a.test")], &[(json!("a b"), NO_HOST)]).await;
    let refused = [(json!(0), "expected 0 to be at least 1"), (json!(65_536), "expected 65536 to be at most 65535")];
    table.row("port", &[json!(1), json!(65_535)], &refused).await;
    table.row("http_method", &["HEAD", "POST", "PURGE"].map(Value::from), &[(json!("FETCH"), NO_WORD)]).await;
    table.row("http_path", &[json!("/ping?a=b")], &[(json!(1), NO_TEXT)]).await;
    table.row("http_req_body", &[json!(""), json!("{}")], &[(json!(1), NO_TEXT)]).await;
    table.row("https_verify_certificate", &[json!(false), json!(true)], &[(json!(1), NO_BOOLEAN)]).await;
    table.row("req_headers", &[json!(["A: b"])], &[(json!([]), NO_ITEMS)]).await;
    for name in ["healthy.interval", "unhealthy.interval"] {
        table.row(name, &[json!(1), json!(3600)], &[(json!(0), "expected 0 to be at least 1")]).await;
        table.default(name, json!(1));
    }
    statuses(&mut table, "healthy.http_statuses").await;
    statuses(&mut table, "unhealthy.http_statuses").await;
    for (name, default) in [
        ("healthy.successes", 2),
        ("unhealthy.http_failures", 5),
        ("unhealthy.tcp_failures", 2),
        ("unhealthy.timeouts", 3),
    ] {
        threshold(&mut table, name, 1).await;
        table.default(name, json!(default));
    }
    for (name, default) in [
        ("type", json!("http")),
        ("timeout", json!(1)),
        ("concurrency", json!(10)),
        ("http_method", json!("GET")),
        ("http_path", json!("/")),
        ("http_req_body", json!("")),
        ("https_verify_certificate", json!(true)),
        ("healthy.http_statuses", json!([200, 302])),
        ("unhealthy.http_statuses", json!([429, 404, 500, 501, 502, 503, 504, 505])),
    ] {
        table.default(name, default);
    }
    table.is_whole();
}

async fn resources_4_2_passive_checks(gw: Gateway) {
    let at = &["checks", "passive"];
    let base = json!({"nodes": {}, "checks": {"active": {}}});
    let mut table = Table::new(&gw, "4.2", ("upstream", "/upstreams/1"), at, base).await;
    table.row("type", &["http", "https", "tcp"].map(Value::from), &[(json!("udp"), NO_WORD)]).await;
    table.default("type", json!("http"));
    statuses(&mut table, "healthy.http_statuses").await;
    statuses(&mut table, "unhealthy.http_statuses").await;
    let good = [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
    table.default("healthy.http_statuses", json!(good));
    table.default("unhealthy.http_statuses", json!([429, 500, 503]));
    for (name, default) in [
        ("healthy.successes", 5),
        ("unhealthy.http_failures", 5),
        ("unhealthy.tcp_failures", 2),
        ("unhealthy.timeouts", 7),
    ] {
        threshold(&mut table, name, 0).await;
        table.default(name, json!(default));
    }
    table.is_whole();
}
