//! Clients that are slow, and many.

use super::{Site, affordable, counts, metric};
use milecastle_testkit::eventually;
use milecastle_testkit::frames::{END_HEADERS, END_STREAM, Frames, frame, kind, request};
use milecastle_testkit::raw::{Raw, exchange};
use milecastle_tests::full;

const READING: &str = "apisix_nginx_http_current_connections{state=\"reading\"}";
const SLOW_HEADS: &str = "apisix_slow_request_heads_total";
const BAD_HEADS: &str = "apisix_bad_request_heads_total";

#[tokio::test]
async fn thousands_of_half_heads_hold_a_few_kilobytes_each() {
    let connections = if full() { 8000 } else { 2000 };
    let site = Site::start(&[]).await;
    let up = &site.up;
    let half = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}", "x".repeat(200));
    let before = up.process.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Raw::connect(up.http).await.unwrap();
        client.send(&half).await.unwrap();
        clients.push(client);
    }
    eventually("all heads are being read", async || metric(up.prometheus, READING).await >= connections).await;
    let each = up.process.resident_bytes().saturating_sub(before) / connections;
    eprintln!("{connections} connections with half a head of {} bytes: {each} bytes each", half.len());
    assert!(each < 64 * 1024, "{each} bytes for each half head");
    // Others are served meanwhile, and what was begun can be ended.
    assert_eq!(up.get("/").await.status, 200);
    for client in clients.iter_mut().step_by(100) {
        client.send("\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    }
    drop(clients);
    eventually("they are gone", async || metric(up.prometheus, READING).await == 0).await;
    site.stop().await;
}

/// Connections that say nothing, begin a head and go no further, or begin a body and go no further.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_go_on_is_cut_off() {
    let connections = if full() { 3000 } else { 500 };
    let settings = [
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_HEADER_TIMEOUT", "1s"),
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_BODY_TIMEOUT", "1s"),
    ];
    let mut site = Site::start(&settings).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let slow_heads = metric(page, SLOW_HEADS).await;
    let mut watched = site.watched();
    for (begun, expected) in [
        ("", ""),
        ("GET / HTTP/1.1\r\nHost: h\r\n", "HTTP/1.1 408 "),
        ("POST /large/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello", "HTTP/1.1 408 "),
    ] {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut client = Raw::connect(address).await.unwrap();
            client.send(begun).await.unwrap();
            clients.push(client);
        }
        for client in &mut clients {
            let answer = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
            assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{begun:?}: {answer}");
        }
        let cpu = watched.unharmed(&format!("after {connections} connections that stopped at {begun:?}"));
        assert!(cpu < affordable(), "{cpu:?}");
    }
    counts(page, SLOW_HEADS, slow_heads + connections).await;
    bystanders.end("beside clients that do not go on").await;
    site.stop().await;
}

/// The same over HTTP/2: a head whose last frame does not come ends the connection, a body that stops its request.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_go_on_over_http2_is_cut_off() {
    let connections = if full() { 2000 } else { 200 };
    let settings = [
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_HEADER_TIMEOUT", "1s"),
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_BODY_TIMEOUT", "1s"),
    ];
    let mut site = Site::start(&settings).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let slow_heads = metric(page, SLOW_HEADS).await;
    let mut watched = site.watched();
    let (get, post) = (request("GET", "/", "h"), request("POST", "/large/1", "h"));
    for (flags, data) in [(0, &b""[..]), (END_HEADERS, b"hello")] {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut client = Frames::connect(address, &[]).await.unwrap();
            // Once settings were exchanged: within a head they would be what ends the connection.
            client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &get)).await.unwrap();
            assert_eq!(client.status(1).await.unwrap().ok(), Some(200));
            client.send(frame(kind::HEADERS, flags, 3, &post)).await.unwrap();
            if !data.is_empty() {
                client.send(frame(kind::DATA, 0, 3, data)).await.unwrap();
            }
            clients.push(client);
        }
        for client in &mut clients {
            let answered = client.status(3).await.unwrap();
            assert_eq!(answered.ok(), (!data.is_empty()).then_some(408));
        }
        let cpu =
            watched.unharmed(&format!("after {connections} HTTP/2 connections with {} bytes of a body", data.len()));
        assert!(cpu < affordable(), "{cpu:?}");
    }
    counts(page, SLOW_HEADS, slow_heads + connections).await;
    assert_eq!(metric(page, SLOW_HEADS).await, slow_heads + connections, "a body that stops is no head");
    bystanders.end("beside HTTP/2 clients that do not go on").await;
    site.stop().await;
}

/// Heads beyond the limits on number and size.
#[tokio::test(flavor = "multi_thread")]
async fn large_heads_are_refused() {
    let rounds = if full() { 1000 } else { 100 };
    let mut site = Site::start(&[]).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let bad = metric(page, BAD_HEADS).await;
    let mut watched = site.watched();
    let many: String = (0..10_000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = format!("X: {}\r\n", "x".repeat(1 << 20));
    for fields in [&many, &large] {
        for _ in 0..rounds {
            let answer = exchange(address, format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        let cpu = watched.unharmed(&format!("after {rounds} heads of {} bytes", fields.len()));
        assert!(cpu < affordable(), "{cpu:?}");
    }
    counts(page, BAD_HEADS, bad + 2 * rounds).await;
    bystanders.end("beside large heads").await;
    site.stop().await;
}
