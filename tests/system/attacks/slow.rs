//! What a hostile client can make the gateway hold.

use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::Up;
use serde_json::json;

/// Memory that a process has in hand, in bytes (proc(5), `VmRSS`).
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// The number of a metric's line.
async fn metric(up: &Up, line: &str) -> u64 {
    let page = Call::get("/apisix/prometheus/metrics").to(up.prometheus).await.unwrap().text();
    let number = page.lines().find_map(|text| text.strip_prefix(line)?.trim().parse::<f64>().ok());
    number.unwrap_or_default() as u64
}

#[tokio::test]
async fn thousands_of_half_heads_hold_a_few_kilobytes_each() {
    let connections = if std::env::var_os("MILECASTLE_TEST_FULL").is_some() { 8000 } else { 2000 };
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    let half = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}", "x".repeat(200));
    let before = resident(up.process.id());
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Raw::connect(up.http).await.unwrap();
        client.send(&half).await.unwrap();
        clients.push(client);
    }
    eventually("all heads are being read", async || {
        metric(&up, "apisix_nginx_http_current_connections{state=\"reading\"}").await >= connections
    })
    .await;
    let each = resident(up.process.id()).saturating_sub(before) / clients.len();
    eprintln!("{connections} connections with half a head of {} bytes: {each} bytes each", half.len());
    assert!(each < 64 * 1024, "{each} bytes for each half head");
    // Others are served meanwhile, and what was begun can be ended.
    assert_eq!(up.get("/").await.status, 200);
    for client in clients.iter_mut().step_by(100) {
        client.send("\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    }
    drop(clients);
    eventually("they are gone", async || {
        metric(&up, "apisix_nginx_http_current_connections{state=\"reading\"}").await == 0
    })
    .await;
}
