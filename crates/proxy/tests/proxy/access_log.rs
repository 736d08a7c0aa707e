//! The access log of real traffic.

use super::support::{Bed, route_to};
use milecastle_testkit::{Call, Echo, SOON, TempDir, wait_for_blocking};
use serde_json::json;

#[test]
fn every_request_leaves_a_line() {
    let echo = Echo::start();
    let dir = TempDir::new();
    let path = dir.path().join("access.log");
    let bed = Bed::with(route_to(&[echo.address()], json!({ "uri": "/known" })), |settings| {
        let http = &mut settings.nginx_config.http;
        http.enable_access_log = true;
        http.access_log = path.clone();
        http.access_log_format = "$request|$status|$sent_http_content_type|$upstream_addr|$http_x_a".to_owned();
    });
    let kind = bed.get("/known?x=1").header("content-type");
    bed.call(Call::get("/unknown").header("x-a", "a\"b"));
    // Refused before any route is looked for: no Host.
    assert!(bed.raw("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 400"));
    let expected = [
        format!("GET /known?x=1 HTTP/1.1|200|{kind}|{}|-", echo.address()),
        "GET /unknown HTTP/1.1|404|text/plain; charset=utf-8|-|a\\x22b".to_owned(),
        "GET / HTTP/1.1|400|text/html; charset=utf-8|-|-".to_owned(),
    ];
    let mut lines = Vec::new();
    wait_for_blocking("three lines", SOON, || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        lines = text.lines().map(str::to_owned).collect();
        (lines.len() == 3).then_some(())
    });
    assert_eq!(lines, expected);
}
