//! Clients that let answers come and never take them.

use super::{Site, affordable, counts, metric};
use crate::bystanders::LONG;
use milecastle_testkit::frames::{END_HEADERS, END_STREAM, Frames, frame, kind, request};
use milecastle_testkit::wait_for;
use milecastle_tests::full;
use std::collections::BTreeSet;

/// RFC 9113 §6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Streams of one connection that the gateway allows.
const STREAMS: u32 = 100;

const STUCK: &str = "apisix_http2_stuck_streams_total";

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_stay_closed_hold_no_answer_for_ever() {
    let connections = if full() { 50 } else { 3 };
    let mut site = Site::start(&[("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__SEND_TIMEOUT", "1s")]).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let mut watched = site.watched();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Frames::connect(address, &[(INITIAL_WINDOW_SIZE, 0)]).await.unwrap();
        for n in 0..STREAMS {
            let block = request("GET", "/large/1000000", "h");
            client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block)).await.unwrap();
        }
        clients.push(client);
    }
    let cpu = watched.unharmed(&format!("beside {connections} connections, each with {STREAMS} closed windows"));
    assert!(cpu < affordable(), "{cpu:?}");
    for client in &mut clients {
        let mut open: BTreeSet<u32> = (0..STREAMS).map(|n| 2 * n + 1).collect();
        while !open.is_empty() {
            let frame = client.read().await.unwrap().expect("the connection goes on");
            assert!(frame.kind != kind::DATA, "there is no window for data");
            if frame.kind == kind::RST_STREAM {
                assert!(open.remove(&frame.stream));
            }
        }
    }
    counts(page, STUCK, u64::from(connections * STREAMS)).await;
    let idle =
        async || (metric(page, "apisix_nginx_http_current_connections{state=\"writing\"}").await <= 1).then_some(());
    wait_for("no request is held", LONG, idle).await;
    drop(clients);
    bystanders.end("beside windows that stay closed").await;
    site.stop().await;
}
