//! What metrics show after something has happened that each of them counts.

use milecastle_testkit::frames::{END_HEADERS, END_STREAM, Frames, frame, kind, request};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, eventually, nowhere};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The metrics page.
struct Page(String);

impl Page {
    async fn of(up: &Up) -> Self {
        Self(Call::get("/apisix/prometheus/metrics").to(up.prometheus).await.unwrap().text())
    }

    /// What a series shows, if it is there.
    fn get(&self, series: &str) -> Option<f64> {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix("apisix_"));
        lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("{series} is not there:\n{}", self.0))
    }
}

async fn comes_to(up: &Up, series: &str, least: f64) {
    eventually(series, async || Page::of(up).await.get(series).is_some_and(|value| value >= least)).await;
}

/// How often the limit of this key has bitten.
fn hits(limit: &str) -> String {
    format!("limit_hits_total{{limit=\"{limit}\"}}")
}

/// A gateway of one worker, for counts to be exact, with limits that are soon reached, and other settings.
fn narrow(more: &[(&str, &str)]) -> Up {
    let limits = json!({ "http2_streams": 1, "matched_body": "1k", "retry_body": "1k", "upstream_header_bytes": "1k",
        "upstream_header_count": 10, "hash_ring_points": 10_000 });
    let limits = limits.to_string();
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS", &*limits),
        ("MILECASTLE__GATEWAY__UPSTREAM_POOL__IDLE_CONNECTIONS", "1"),
    ];
    Up::start_with(&[&settings[..], more].concat())
}

/// A server that reads each request up to these bytes, says this, and closes.
fn saying(end: &'static [u8], answer: String) -> SocketAddr {
    crate::stream::server(move |mut stream: TcpStream| {
        let (mut got, mut piece) = (Vec::new(), [0; 4096]);
        while !got.ends_with(end) {
            match stream.read(&mut piece) {
                Ok(read @ 1..) => got.extend_from_slice(&piece[..read]),
                _ => return,
            }
        }
        drop(stream.write_all(answer.as_bytes()));
    })
}

/// Routes `/{name}/*`, each to the nodes of its upstream, the first of which is tried first.
async fn put(up: &Up, name: &str, nodes: &[SocketAddr]) {
    let node =
        |(n, at): (i64, &SocketAddr)| json!({ "host": "127.0.0.1", "port": at.port(), "weight": 1, "priority": -n });
    let nodes: Value = (0..).zip(nodes).map(node).collect();
    let route = json!({ "uri": format!("/{name}/*"), "upstream": { "nodes": nodes } });
    up.put(&format!("/routes/{name}"), route).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_requests_at_upstreams_shows_in_figures() {
    let (up, one, other) = (narrow(&[]), Echo::start(), Echo::start());
    let lost = saying(b"end", String::new());
    let long = saying(b"\r\n\r\n", format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2000)));
    let fields: String = (0..20).map(|n| format!("X-{n}: x\r\n")).collect();
    let many = saying(b"\r\n\r\n", format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
    put(&up, "one", &[one.address()]).await;
    put(&up, "other", &[other.address()]).await;
    put(&up, "dead", &[nowhere(), one.address()]).await;
    put(&up, "lost", &[lost, one.address()]).await;
    put(&up, "long", &[long]).await;
    put(&up, "many", &[many]).await;
    let weights = json!({ one.address().to_string(): 1, other.address().to_string(): 1000 });
    let ring = json!({ "type": "chash", "key": "uri", "nodes": weights });
    up.put("/routes/ring", json!({ "uri": "/ring/*", "upstream": ring })).await;
    // The second request goes on the connection of the first.
    up.answers("/one/x", 200).await;
    up.answers("/one/x", 200).await;
    comes_to(&up, "upstream_pool_hits_total", 1.0).await;
    // There is room for one connection that rests.
    up.answers("/other/x", 200).await;
    comes_to(&up, &hits("upstream_pool.idle_connections"), 1.0).await;
    up.answers("/ring/x", 200).await;
    comes_to(&up, "hash_rings_cut_total", 1.0).await;
    assert_eq!(up.get("/dead/x").await.status, 200);
    comes_to(&up, "upstream_retries_total", 1.0).await;
    comes_to(&up, "upstream_connect_failures_total", 1.0).await;
    let put = Call::new(http::Method::PUT, "/lost/x").body(format!("{}end", "y".repeat(2000)));
    assert_eq!(put.to(up.http).await.unwrap().status, 502);
    comes_to(&up, &hits("limits.retry_body"), 1.0).await;
    assert_eq!((up.get("/long/x").await.status, up.get("/many/x").await.status), (502, 502));
    comes_to(&up, &hits("limits.upstream_header_bytes"), 1.0).await;
    comes_to(&up, &hits("limits.upstream_header_count"), 1.0).await;
    let page = Page::of(&up).await;
    assert!(page.value("upstream_connects_total") >= 3.0);
    assert!(page.value("upstream_response_time_sum") > 0.0);
    assert!(page.value("responses_5xx_total") >= 3.0);
    assert_eq!(page.value("responses_5xx_total"), page.value("responses_total{class=\"5xx\"}"));
    up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_are_held_to_shows_in_figures() {
    let http = json!({ "client_body_timeout": "300ms", "client_max_body_size": "64k", "send_timeout": "300ms" });
    let timeouts = json!({ "http2_ping": "1s", "tls_handshake": "300ms" });
    let [http, timeouts] = [http, timeouts].map(|section| section.to_string());
    let impatient =
        [("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP", &*http), ("MILECASTLE__GATEWAY__TIMEOUTS", &*timeouts)];
    let (up, echo) = (narrow(&impatient), Echo::start());
    put(&up, "one", &[echo.address()]).await;
    let form = json!({ "uri": "/form", "vars": [["post_arg.a", "==", "1"]], "upstream": { "nodes": { echo.address().to_string(): 1 } } });
    up.put("/routes/form", form).await;
    up.answers("/one/x", 200).await;
    let mut large = Raw::connect(up.http).await.unwrap();
    large.send("POST /one/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
    assert!(large.read_head().await.unwrap().starts_with("HTTP/1.1 413 "));
    comes_to(&up, &hits("nginx_config.http.client_max_body_size"), 1.0).await;
    let mut slow = Raw::connect(up.http).await.unwrap();
    slow.send("POST /one/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    assert!(slow.read_head().await.unwrap().starts_with("HTTP/1.1 408 "));
    comes_to(&up, &hits("nginx_config.http.client_body_timeout"), 1.0).await;
    // Half a form, which is more than conditions look at.
    let mut half = Raw::connect(up.http).await.unwrap();
    let head =
        "POST /form HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 4096";
    half.send(format!("{head}\r\n\r\na=1&b={}", "y".repeat(2048))).await.unwrap();
    comes_to(&up, &hits("limits.matched_body"), 1.0).await;
    // One that reads nothing of what has no room in the system's buffers.
    let mut deaf = Raw::connect(up.http).await.unwrap();
    deaf.send("GET /one/large/64000000 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    comes_to(&up, &hits("nginx_config.http.send_timeout"), 1.0).await;
    // A stream too many; and then a ping that nobody answers.
    let mut frames = Frames::connect(up.http, &[]).await.unwrap();
    for stream in [1, 3] {
        let head = request("GET", "/one/hang", "h");
        frames.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &head)).await.unwrap();
    }
    assert!(frames.status(3).await.unwrap().is_err(), "it is refused");
    comes_to(&up, &hits("limits.http2_streams"), 1.0).await;
    comes_to(&up, &hits("timeouts.http2_ping"), 1.0).await;
    // A handshake that goes no further than its first byte.
    let mut shaking = Raw::connect(up.https).await.unwrap();
    shaking.send([0x16]).await.unwrap();
    comes_to(&up, &hits("timeouts.tls_handshake"), 1.0).await;
    comes_to(&up, "tls_handshake_failures_total", 1.0).await;
    drop((large, slow, half, deaf, frames, shaking));
    up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_node_shows_in_figures() {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(1);
    let (up, echo) = (Up::start(), Echo::start());
    put(&up, "one", &[echo.address()]).await;
    up.answers("/one/x", 200).await;
    comes_to(&up, "config_revision", 1.0).await;
    eventually("what is in force is on the disk", async || {
        let page = Page::of(&up).await;
        page.value("last_good_revision") == page.value("config_revision")
    })
    .await;
    let page = Page::of(&up).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(page.value("config_head_revision"), page.value("config_revision"));
    for moment in ["config_published_timestamp_seconds", "last_good_checkpoint_timestamp_seconds"] {
        assert!((began.as_secs_f64()..=now.as_secs_f64()).contains(&page.value(moment)), "{moment}");
    }
    for (series, value) in [
        ("config_stream_connected", 1.0),
        ("config_alarms", 0.0),
        ("config_quarantined_objects", 0.0),
        ("last_good_failures_total", 0.0),
        ("last_good_damaged_files_total", 0.0),
        ("draining", 0.0),
        ("drain_seconds_left", 0.0),
        ("access_log_dropped_lines_total", 0.0),
        ("request_panics_total", 0.0),
        ("nginx_metric_errors_total", 0.0),
    ] {
        assert_eq!(page.value(series), value, "{series}");
    }
    for (series, above) in [
        ("last_good_bytes", 0.0),
        ("last_good_generations", 0.0),
        ("process_cpu_seconds", 0.0),
        ("process_resident_memory_bytes", 10e6),
        ("nginx_http_current_connections{state=\"accepted\"}", 0.0),
        ("nginx_http_current_connections{state=\"handled\"}", 0.0),
        ("http_requests_total", 0.0),
    ] {
        assert!(page.value(series) > above, "{series}");
    }
    up.stop();
}
