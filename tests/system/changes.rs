//! Configuration changes under load.

use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Connection, Echo, Target, eventually};
use milecastle_tests::Up;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Changes of the short run.
const CHANGES: u32 = 200;
/// Connections of the load, half of them kept, half new for each request; a third each are plain, TLS, and HTTP/2 over TLS.
const CLIENTS: usize = 12;

/// One client that never retries; gives the number of requests that were not answered with 200.
async fn load(target: Target, kept: bool, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> u64 {
    let mut failed = 0;
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        if !kept || connection.is_none() {
            connection = target.connect().await.ok();
        }
        let n = sent.fetch_add(1, Ordering::Relaxed);
        let call = if n.is_multiple_of(2) { Call::get("/steady") } else { Call::post("/steady", "body") };
        let answer = match &mut connection {
            Some(connection) => call.send(connection).await.ok(),
            None => None,
        };
        if answer.is_none_or(|answer| answer.status != 200) {
            failed += 1;
            connection = None;
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_fail_no_request_and_close_no_connection() {
    let (up, echo) = (Up::start(), Echo::start());
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/routes/steady", json!({ "uri": "/steady", "upstream": upstream })).await;
    up.answers("/steady", 200).await;
    let authority = Authority::new("servers");
    let certificate = || {
        let identity = authority.issue(&["steady.test"]);
        json!({ "cert": identity.cert, "key": identity.key, "snis": ["steady.test"] })
    };
    up.put("/ssls/steady", certificate()).await;
    let secure = Target::tls(up.https, "steady.test", &authority.pem());
    eventually("the certificate is served", async || secure.connect().await.is_ok()).await;
    let targets = [Target::plain(up.http), secure.clone(), secure.http2()];
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(load(targets[n % 3].clone(), n % 2 == 0, stop.clone(), sent.clone())))
        .collect();
    for n in 0..CHANGES {
        let id = n % 20;
        if id == 0 {
            up.put("/ssls/steady", certificate()).await;
        }
        up.put(&format!("/routes/moving-{id}"), json!({ "uri": format!("/moving/{n}"), "upstream": upstream })).await;
    }
    up.answers(&format!("/moving/{}", CHANGES - 1), 200).await;
    stop.store(true, Ordering::Relaxed);
    let mut failed = 0;
    for client in clients {
        failed += client.await.unwrap();
    }
    assert_eq!(failed, 0, "of {} requests", sent.load(Ordering::Relaxed));
    assert!(sent.load(Ordering::Relaxed) > u64::from(CHANGES), "the load ran beside the changes");
}
