//! More connections than there may be.

use super::{Site, affordable, counts, metric};
use milecastle_testkit::raw::Raw;
use milecastle_tests::full;

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
