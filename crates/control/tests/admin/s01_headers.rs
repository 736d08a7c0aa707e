//! §1: headers of every answer.

use crate::gateway::{Gateway, bare, on_sqlite};
use milecastle_testkit::Answer;

on_sqlite!(
    s1_content_type_server_and_newline,
    s1_version_header_only_from_handlers,
    s1_cors_headers,
    s1_options_is_answered_without_a_key,
    s1_trailing_slashes_are_ignored,
);

/// Content type, version header, newline at the end.
fn about(answer: &Answer) -> (String, String, bool) {
    (answer.header("content-type"), answer.header("x-api-version"), answer.text().ends_with('\n'))
}

async fn s1_content_type_server_and_newline(gw: Gateway) {
    let answer = gw.send("GET /routes").await;
    let server = answer.header("server");
    let version = server.strip_prefix("Milecastle/").unwrap();
    assert_eq!(version.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{server}");
    assert_eq!(about(&answer), ("application/json".into(), "v3".into(), true));
    let answer = gw.send("GET /routes?page=1&page_size=1").await;
    assert_eq!(about(&answer), ("application/json".into(), "v3".into(), false));
    let gw = Gateway::configured(|settings| settings.admin.server_header = "APISIX/3.18.0".into()).await;
    for line in ["GET /routes", "HEAD ", "GET /nope"] {
        assert_eq!(gw.send(line).await.header("server"), "APISIX/3.18.0", "{line}");
    }
}

async fn s1_version_header_only_from_handlers(gw: Gateway) {
    for (line, expected) in [
        ("GET /routes/1", "v3"),
        ("POST /consumers {}", "v3"),
        ("PUT /routes/1 {}", "v3"),
        ("GET /schema/route", "v3"),
        ("GET /plugins/key-auth", "v3"),
        ("GET /nope", ""),
        ("PUT /routes/1 {", ""),
        ("GET /routes?ttl=x", ""),
        ("PUT /schema/route {}", ""),
        ("GET /plugins/list", ""),
        ("PUT /plugins/reload", ""),
        ("POST /schema/validate/routes {}", ""),
        ("POST /configs/validate {}", ""),
        ("HEAD ", ""),
    ] {
        assert_eq!(gw.send(line).await.header("x-api-version"), expected, "{line}");
    }
    assert_eq!(bare("GET /routes").to(gw.address()).await.unwrap().header("x-api-version"), "");
}

async fn s1_cors_headers(gw: Gateway) {
    for line in ["GET /routes", "GET /nope", "HEAD "] {
        let answer = gw.send(line).await;
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{line}");
        assert_eq!(answer.header("access-control-allow-credentials"), "true", "{line}");
        assert_eq!(answer.header("access-control-expose-headers"), "*", "{line}");
        assert_eq!(answer.header("access-control-max-age"), "3600", "{line}");
    }
    let without = Gateway::configured(|settings| settings.admin.enable_admin_cors = false).await;
    assert_eq!(without.send("GET /routes").await.header("access-control-allow-origin"), "");
    assert_eq!(without.send("OPTIONS /routes").await.status, 404);
}

async fn s1_options_is_answered_without_a_key(gw: Gateway) {
    for path in ["/routes", "/nope/1/2", ""] {
        let answer = bare(&format!("OPTIONS {path}")).to(gw.address()).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(answer.header("content-length"), "0");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-methods"), "POST, GET, PUT, OPTIONS, DELETE, PATCH");
        assert_eq!(answer.header("access-control-allow-headers"), "*");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert_eq!(answer.header("access-control-max-age"), "3600");
    }
}

async fn s1_trailing_slashes_are_ignored(gw: Gateway) {
    gw.done(r#"POST /upstreams/// {"nodes":{"a:1":1}}"#).await;
    gw.done(r#"PUT /upstreams/1// {"nodes":{"a:1":1}}"#).await;
    assert_eq!(gw.send("GET /upstreams/").await.json().unwrap()["total"], 2);
    assert_eq!(gw.send("GET /upstreams/1/").await.status, 200);
}
