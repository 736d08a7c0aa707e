//! The access log of real traffic.

use super::support::{Bed, route_to};
use milecastle_settings::Time;
use milecastle_testkit::{Call, Echo, SOON, TempDir, wait_for_blocking};
use serde_json::json;
use std::path::Path;

/// A gateway with a log of this format.
fn logging(echo: &Echo, path: &Path, format: &str, header_timeout: Time) -> Bed {
    Bed::with(route_to(&[echo.address()], json!({ "uri": "/known" })), |settings| {
        let http = &mut settings.nginx_config.http;
        http.enable_access_log = true;
        http.access_log = path.to_owned();
        http.access_log_format = format.to_owned();
        http.client_header_timeout = header_timeout;
    })
}

/// Waits for so many lines.
fn lines(path: &Path, number: usize) -> Vec<String> {
    wait_for_blocking("a line for each request", SOON, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() == number).then_some(lines)
    })
}

#[test]
fn every_request_leaves_a_line() {
    let (echo, dir) = (Echo::start(), TempDir::new());
    let path = dir.path().join("access.log");
    let format = "$request|$status|$sent_http_content_type|$upstream_addr|$http_x_a";
    let bed = logging(&echo, &path, format, Time::secs(60));
    let kind = bed.get("/known?x=1").header("content-type");
    bed.call(Call::get("/unknown").header("x-a", "a\"b"));
    // Refused before any route is looked for: no Host.
    assert!(bed.raw("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 400"));
    let expected = [
        format!("GET /known?x=1 HTTP/1.1|200|{kind}|{}|-", echo.address()),
        "GET /unknown HTTP/1.1|404|text/plain; charset=utf-8|-|a\\x22b".to_owned(),
        "GET / HTTP/1.1|400|text/html; charset=utf-8|-|-".to_owned(),
    ];
    assert_eq!(lines(&path, 3), expected);
}

#[test]
fn heads_that_cannot_be_read_leave_a_line() {
    let (echo, dir) = (Echo::start(), TempDir::new());
    let path = dir.path().join("access.log");
    let format = "$request|$uri|$request_method|$status|$remote_addr";
    let bed = logging(&echo, &path, format, Time::secs(2));
    assert!(bed.raw("nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(bed.raw(format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000))).starts_with("HTTP/1.1 414"));
    assert!(bed.raw(format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(70_000))).starts_with("HTTP/1.1 431"));
    assert!(bed.raw("GET / HTTP/1.1\r\nHost: h\r\n").starts_with("HTTP/1.1 408"));
    let expected = [400, 414, 431, 408].map(|status| format!("-|-|-|{status}|127.0.0.1"));
    assert_eq!(lines(&path, 4), expected);
    assert_eq!(bed.totals().responses_4xx, 4);
}
