//! What strangers send.

use milecastle_testkit::raw::{Raw, exchange};
use milecastle_testkit::{Call, Echo};
use milecastle_tests::Up;
use serde_json::json;

async fn serving() -> (Up, Echo) {
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    echo.take();
    (up, echo)
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_reaches_no_upstream() {
    let (up, echo) = serving().await;
    let refused = [
        ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("bad chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nab\r\n0\r\n\r\n"),
        ("unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("folded header", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
        ("space before colon", "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"),
        ("garbage", "\u{1}\u{2}\u{3}\r\n\r\n"),
        ("escape from the root", "GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (what, request) in refused {
        let answer = exchange(up.http, request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer.is_empty() || status(&answer) == Some(400), "{what}: {answer}");
    }
    let received = echo.take();
    let complete = received.iter().filter(|request| request.method() != "POST").count();
    assert_eq!(complete, 0, "{received:?}");
    assert_eq!(up.get("/").await.status, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let (up, _echo) = serving().await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let answer = exchange(up.http, large).await.unwrap();
    assert_eq!(status(&answer), Some(431), "{answer}");
    let fields: String = (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = exchange(up.http, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await.unwrap();
    assert_eq!(status(&answer), Some(431), "{answer}");
}

#[tokio::test]
async fn chunked_with_a_length_is_refused_and_ends_the_connection() {
    let (up, echo) = serving().await;
    let request =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let answer = exchange(up.http, format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
    assert_eq!(status(&answer), Some(400), "{answer}");
    let targets: Vec<String> = echo.take().iter().map(|request| request.target()).collect();
    assert!(targets.is_empty(), "{targets:?}");
}

#[tokio::test]
async fn a_client_that_leaves_early_harms_nobody() {
    let (up, echo) = serving().await;
    for _ in 0..50 {
        let mut raw = Raw::connect(up.http).await.unwrap();
        raw.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await.unwrap();
    }
    assert_eq!(up.get("/after").await.status, 200);
    milecastle_testkit::eventually("the upstream's connections are let go", async || echo.open_connections() <= 2)
        .await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_the_gateways_error() {
    let (up, _echo) = serving().await;
    assert_eq!(up.get("/reset").await.status, 502);
    assert!(Call::get("/cut").to(up.http).await.is_err(), "a cut body must not look whole");
    assert_eq!(up.get("/").await.status, 200);
}
