//! More connections than there may be.

use super::{Site, affordable, counts, metric};
use crate::bystanders::{Bystanders, Door, LONG};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, wait_for};
use milecastle_tests::{Up, full};
use serde_json::json;
use std::net::SocketAddr;

const HELD: &str = "apisix_connections_held_total";
const EVICTED: &str = "apisix_connections_evicted_total";

/// Three times as many connections as there may be, of clients that say nothing, begin a head, have been answered and say no more,
/// or begin no handshake. Honest clients, each on a connection of its own, wait a while and are served.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_only_wait_make_room_for_others() {
    let most = if full() { 1000 } else { 200 };
    let connections = most.to_string();
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__CONNECTIONS", connections.as_str()),
        // Longer than an honest client of a busy machine takes from connecting to asking.
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "3s"),
        // All are let in in the order in which they come, so that the first is among those who make room.
        ("MILECASTLE__GATEWAY__TIMEOUTS__DEFERRED_ACCEPT", "0s"),
    ];
    let mut site = Site::start(&settings).await;
    let (http, https, page, bystanders) = (site.up.http, site.up.https, site.up.prometheus, site.bystanders());
    let mut watched = site.watched();
    let kinds =
        [(http, ""), (http, "GET / HTTP/1.1\r\nHost: h\r\n"), (http, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"), (https, "")];
    let mut flood = Vec::new();
    for (address, begun) in (0..3 * most).zip(kinds.into_iter().cycle()).map(|(_, kind)| kind) {
        let mut client = Raw::connect(address).await.unwrap();
        client.send(begun).await.unwrap();
        flood.push(client);
    }
    counts(page, EVICTED, 2 * most).await;
    assert!(metric(page, HELD).await > 0);
    let cpu = watched.unharmed(&format!("after {} connections where {most} may be", flood.len()));
    assert!(cpu < affordable(), "{cpu:?}");
    let first = flood[0].read_to_end().await.unwrap();
    assert!(first.is_empty(), "a connection that said nothing is closed without a word");
    bystanders.end("beside connections that only wait").await;
    drop(flood);
    site.stop().await;
}

/// A process that may have few files open, and no limit that anybody has set: more clients of HTTP and of the TCP proxy that say nothing
/// than there are files. Honest ones of both are served by their upstream.
#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_leave_files_for_others_and_for_upstreams() {
    const FILES: u32 = 512;
    /// What the gateway lets in by that (`limits.connections`).
    const ROOM: u64 = 192;
    const SILENT: u64 = 250;
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__APISIX__STREAM_PROXY", r#"{"tcp": ["127.0.0.1:0"]}"#),
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "3s"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__DEFERRED_ACCEPT", "0s"),
    ];
    let (mut up, echo) = (Up::start_with_files(FILES, &settings), Echo::start());
    up.set_group(&["--proxy-mode", "http&stream"]);
    let address = |line: &str| line.trim().strip_prefix("TCP ")?.trim().parse::<SocketAddr>().ok();
    let tcp = up.process.wait_for_line("the TCP listener", LONG, address);
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/*", "upstream": upstream })).await;
    up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    up.answers("/", 200).await;
    wait_for("sessions are passed on", LONG, async || Call::get("/").to(tcp).await.ok()).await;
    let door = |name, address| Door { name, address, target: "/", status: 200 };
    let bystanders = Bystanders::start(&[door("HTTP", up.http), door("TCP", tcp)]);
    let mut flood = Vec::new();
    for _ in 0..SILENT {
        for address in [up.http, tcp] {
            flood.push(Raw::connect(address).await.unwrap());
        }
    }
    counts(up.prometheus, EVICTED, 2 * SILENT - ROOM).await;
    bystanders.end("beside clients that say nothing").await;
    drop(flood);
    // No connection could not be accepted, and no upstream not be reached: either is an error in the log.
    tokio::task::spawn_blocking(move || up.stop()).await.unwrap();
}
