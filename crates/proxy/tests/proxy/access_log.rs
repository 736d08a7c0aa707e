//! The access log of real traffic.

use super::support::{Bed, Scripted, route_to};
use milecastle_settings::Time;
use milecastle_testkit::{Call, Echo, SOON, TempDir, wait_for_blocking};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// A gateway with a log of this format.
fn logging(upstream: SocketAddr, path: &Path, format: &str, header_timeout: Time) -> Bed {
    Bed::with(route_to(&[upstream], json!({ "uri": "/known" })), |settings| {
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
    let bed = logging(echo.address(), &path, format, Time::secs(60));
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
    let bed = logging(echo.address(), &path, format, Time::secs(2));
    assert!(bed.raw("nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(bed.raw(format!("GET /{} HTTP/1.1\r\n", "x".repeat(70_000))).starts_with("HTTP/1.1 414"));
    assert!(bed.raw(format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(70_000))).starts_with("HTTP/1.1 431"));
    assert!(bed.raw("GET / HTTP/1.1\r\nHost: h\r\n").starts_with("HTTP/1.1 408"));
    let expected = [400, 414, 431, 408].map(|status| format!("-|-|-|{status}|127.0.0.1"));
    assert_eq!(lines(&path, 4), expected);
    assert_eq!(bed.totals().responses_4xx, 4);
}

#[test]
fn trailers_are_shown_as_they_came_and_as_they_were_sent() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
    let (upstream, dir) = (Scripted::answering(answer, true), TempDir::new());
    let path = dir.path().join("access.log");
    let format = "$upstream_trailer_x_sum|$sent_trailer_x_sum|$connection_requests";
    let bed = logging(upstream.addr, &path, format, Time::secs(60));
    let ask = |fields: &str| format!("GET /known HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let said = bed.raw(ask("TE: trailers\r\n") + &ask("Connection: close\r\n"));
    assert_eq!(said.matches("x-sum: 7").count(), 1, "{said}");
    assert_eq!(lines(&path, 2), ["7|7|1", "7|-|2"]);
}
