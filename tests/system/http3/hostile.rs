//! What is malformed or more than may be, over HTTP/3.

use super::Site;
use super::client::python;
use milecastle_testkit::eventually;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_and_others_go_on() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__HEADER_BYTES", "8k")]).await;
    let mut client = site.client();
    site.echo.take();
    let pseudo = json!([[":method", "GET"], [":scheme", "https"], [":authority", "localhost"], [":path", "/"]]);
    let with = |more: Value| {
        let mut fields = pseudo.as_array().unwrap().clone();
        fields.extend(more.as_array().unwrap().clone());
        json!(fields)
    };
    let without = |left_out: &str| {
        let fields = pseudo.as_array().unwrap().iter().filter(|pair| pair[0] != left_out);
        json!(fields.collect::<Vec<_>>())
    };
    for fields in [
        with(json!([["connection", "close"]])),
        with(json!([["transfer-encoding", "chunked"]])),
        with(json!([["te", "gzip"]])),
        with(json!([["x-Upper", "1"]])),
        with(json!([["x-line", "a\r\nb"]])),
        with(json!([["content-length", "1"], ["content-length", "2"]])),
        with(json!([["host", "other.test"]])),
        with(json!([[":path", "/again"]])),
        with(json!([["x", "y"], [":scheme", "https"]])),
        with(json!([[":protocol", "websocket"]])),
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        json!([[":method", "CONNECT"], [":authority", "localhost:80"]]),
        json!([[":method", "GET"], [":scheme", "https"], [":authority", "localhost"], [":path", "no-slash"]]),
        json!([[":method", "GET"], [":scheme", "ftp"], [":authority", "localhost"], [":path", "/"]]),
        json!([[":method", "GET"], [":scheme", "https"], [":authority", "user@localhost"], [":path", "/"]]),
    ] {
        let answer = client.ask(json!({ "do": "request", "authority": "", "fields": fields }));
        assert_eq!(answer["status"], 400, "{fields}: {answer}");
    }
    let long = "x".repeat(10_000);
    let answer = client.request("/", json!({ "headers": [["x-long", long]] }));
    assert_eq!(answer["status"], 431, "{answer}");
    let many: Vec<_> = (0..150).map(|number| json!([format!("x-{number}"), "1"])).collect();
    assert_eq!(client.request("/", json!({ "headers": many }))["status"], 431);
    let larger: Vec<_> = (0..300).map(|number| json!([format!("x-{number}"), "1"])).collect();
    for (headers, status) in [(json!([["te", "gzip"]]), 400), (json!(larger), 431)] {
        let answer = client.request("/", json!({ "method": "HEAD", "headers": headers }));
        assert_eq!((&answer["status"], &answer["length"]), (&json!(status), &json!(0)), "HEAD: {answer}");
    }
    assert_eq!(client.request("/%2e%2e/x", json!({}))["status"], 400, "paths have one reading, as over HTTP/1");
    assert!(site.echo.received().is_empty(), "nothing of that goes upstream");
    assert_eq!(client.request("/", json!({}))["status"], 200);
    eventually("they are counted", async || site.metric("bad_request_heads_total").await == 18).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_the_protocol_end_the_connection() {
    let site = Site::start(&[]).await;
    let one_way = |bytes: &str| json!({ "do": "raw", "one_way": true, "bytes": [bytes] });
    let request = |bytes: &str| json!({ "do": "raw", "bytes": [bytes], "end": true });
    for (asked, code) in [
        // DATA, SETTINGS and a frame of HTTP/2 before any head.
        (request("000161"), 0x105),
        (request("0400"), 0x105),
        (request("0600"), 0x105),
        // A head that cannot be decoded, and one that is cut short.
        (request("01030000ff"), 0x200),
        (request("0105000051"), 0x106),
        // A second control stream, a second encoder, and a push.
        (one_way("000400"), 0x103),
        (one_way("02"), 0x103),
        (one_way("01"), 0x103),
    ] {
        let told = site.client().ask(asked.clone());
        assert_eq!(told["closed"], code, "{asked}: {told}");
    }
    // No head at all concerns the stream alone.
    let mut client = site.client();
    assert_eq!(client.ask(request("21024142"))["reset"], 0x10d);
    assert_eq!(client.request("/", json!({}))["status"], 200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_without_end_is_sent_away() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__HTTP3_CANCELS", "20")]).await;
    let mut client = site.client();
    client.ask(json!({ "do": "cancel", "authority": "localhost", "path": "/hang", "count": 100 }));
    assert_eq!(client.ask(json!({ "do": "over" }))["closed"], 0x107);
    eventually("it is counted", async || site.metric("http3_cancels_cut_total").await == 1).await;
    assert_eq!(site.client().request("/", json!({}))["status"], 200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_stop_are_answered_in_time() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_HEADER_TIMEOUT", "1s")]).await;
    let told = site.client().ask(json!({ "do": "raw", "bytes": ["01100000"] }));
    assert_eq!(told["status"], 408, "{told}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_proved_where_many_shake_hands() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__HTTP3_HANDSHAKES", "0")]).await;
    assert_eq!(site.client().request("/", json!({}))["status"], 200);
    eventually("it is counted", async || site.metric("http3_retries_total").await == 1).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_without_end_keep_nobody_out() {
    const NUMBER: u64 = 200;
    let site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__HTTP3_HANDSHAKES", "10")]).await;
    let before = site.up.process.resident_bytes();
    let mut flood = python("half_open.py");
    flood.args([site.up.https.port().to_string(), NUMBER.to_string()]);
    assert!(flood.status().unwrap().success());
    // Datagrams may be lost where the machine is busy.
    eventually("most have to prove their address", async || site.metric("http3_retries_total").await > NUMBER / 2)
        .await;
    assert_eq!(site.client().request("/", json!({}))["status"], 200);
    let grown = site.up.process.resident_bytes().saturating_sub(before);
    eprintln!("{NUMBER} handshakes that go no further: resident memory grew by {grown} bytes");
    assert!(grown < 64 << 20, "{grown} bytes");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_prove_no_address_take_no_place() {
    const NUMBER: u64 = 20;
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__CONNECTIONS", "1"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "1ms"),
    ];
    let site = Site::start(&settings).await;
    let open = async || site.metric("nginx_http_current_connections{state=\"active\"}").await;
    eventually("nobody is there", async || open().await == 0).await;
    let mut client = site.client();
    assert_eq!(client.request("/", json!({}))["status"], 200, "{}", client.greeting);
    let evicted = site.metric("connections_evicted_total").await;
    let mut flood = python("half_open.py");
    flood.args([site.up.https.port().to_string(), NUMBER.to_string()]);
    assert!(flood.status().unwrap().success());
    eventually("they are asked to prove their address", async || site.metric("http3_retries_total").await > NUMBER / 2)
        .await;
    assert_eq!(site.metric("connections_evicted_total").await, evicted);
    assert_eq!(client.request("/", json!({}))["status"], 200, "who was there before goes on");
    site.stop().await;
}
