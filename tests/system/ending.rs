//! A node that ends under load. Its clients never retry, and none of them has a request lost.
//!
//! A client may find the door closed, and it may read that a connection ends. What it has sent on a connection of which
//! nobody had said that it ends must be answered.

use milecastle_testkit::raw::Raw;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, Target, came_too_late, eventually};
use milecastle_tests::Up;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SIGTERM: i32 = 15;
/// Clients of each kind.
const CLIENTS: usize = 12;
/// Answers before the end begins.
const WARM: u64 = 2_000;
const END: Duration = Duration::from_secs(60);

/// What a client has seen.
#[derive(Debug, Default)]
struct Tally {
    answered: u64,
    /// Answers that said that the connection ends.
    told: u64,
    /// Connections that were not opened.
    refused: u64,
    /// Requests without an answer, or with another than 200: what became of them.
    lost: Vec<String>,
}

/// What all clients share.
struct Load {
    address: SocketAddr,
    answered: AtomicU64,
    over: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self, tally: &mut Tally) {
        tally.answered += 1;
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends a request and reads its answer; whether that says that the connection ends.
async fn exchange(connection: &mut Raw, post: bool) -> Result<bool, String> {
    let request = if post {
        "POST /steady HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
    } else {
        "GET /steady HTTP/1.1\r\nHost: h\r\n\r\n"
    };
    let sent = connection.send(request).await;
    let head = connection.read_head().await.map_err(|error| format!("{sent:?}, then {error:#}"))?;
    let head = head.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(head);
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    connection.read_exact(length.unwrap()).await.map_err(|error| format!("within the body: {error:#}"))?;
    Ok(head.contains("\r\nconnection: close\r\n"))
}

async fn http1(load: Arc<Load>, kept: bool, post: bool) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while load.goes_on() {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Raw::connect(load.address).await {
                Ok(open) => open,
                Err(_) => {
                    tally.refused += 1;
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        match exchange(&mut open, post).await {
            Ok(ends) => {
                load.count(&mut tally);
                tally.told += u64::from(ends);
                connection = Some(open).filter(|_| kept && !ends);
            }
            Err(what) => tally.lost.push(what),
        }
    }
    tally
}

/// A client that keeps its connections, over TLS or in HTTP/2.
async fn through(target: Target, load: Arc<Load>) -> Tally {
    let mut tally = Tally::default();
    while load.goes_on() {
        let Ok(mut connection) = target.connect().await else {
            tally.refused += 1;
            tokio::task::yield_now().await;
            continue;
        };
        while load.goes_on() && connection.is_open() {
            match Call::post("/steady", "body").send(&mut connection).await {
                Ok(answer) if answer.status == 200 => load.count(&mut tally),
                Ok(answer) => tally.lost.push(format!("{answer:?}")),
                Err(error) if came_too_late(&error) => tally.told += 1,
                Err(error) => tally.lost.push(format!("{error:#}")),
            }
        }
    }
    tally
}

/// Ends a node under load, and gives what its clients have seen together.
async fn end_under_load(settings: &[(&str, &str)]) -> Tally {
    let (mut up, echo) = (Up::start_with(settings), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    let authority = Authority::new("test");
    let identity = authority.issue(&["site.test"]);
    up.put("/ssls/1", json!({ "sni": "site.test", "cert": identity.cert, "key": identity.key })).await;
    let site = Target::tls(up.https, "site.test", &authority.pem());
    eventually("the certificate is served", async || site.connect().await.is_ok()).await;
    let load = Arc::new(Load { address: up.http, answered: AtomicU64::new(0), over: AtomicBool::new(false) });
    let mut clients: Vec<_> = (0..CLIENTS)
        .flat_map(|n| [true, false].map(|kept| tokio::spawn(http1(load.clone(), kept, n % 2 == 0))))
        .collect();
    for target in [Target::plain(up.http).http2(), site.clone().http2(), site] {
        clients.extend((0..CLIENTS / 4).map(|_| tokio::spawn(through(target.clone(), load.clone()))));
    }
    eventually("the load runs", async || load.answered.load(Ordering::Relaxed) >= WARM).await;
    up.process.signal(SIGTERM);
    let ended = tokio::task::spawn_blocking(move || {
        let status = up.process.wait_for_end(END);
        assert!(status.success(), "{status}");
        assert_eq!(up.process.unannounced(), Vec::<String>::new());
    });
    ended.await.unwrap();
    load.over.store(true, Ordering::Relaxed);
    let mut all = Tally::default();
    for client in clients {
        let tally = client.await.unwrap();
        all.answered += tally.answered;
        all.told += tally.told;
        all.refused += tally.refused;
        all.lost.extend(tally.lost);
    }
    eprintln!("{} answered, {} told, {} refused, {} lost", all.answered, all.told, all.refused, all.lost.len());
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_without_grace() {
    let grace = ("MILECASTLE__GATEWAY__SHUTDOWN__GRACE", "0s");
    let seen = end_under_load(&[grace, ("MILECASTLE__GATEWAY__SHUTDOWN__LAST_CALL", "1s")]).await;
    assert_eq!(seen.lost, Vec::<String>::new());
    assert!(seen.told > 0 && seen.refused > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_the_grace_of_the_defaults() {
    // As in docs/configuration.md.
    let settings = [("MILECASTLE__GATEWAY__SHUTDOWN__GRACE", "5s"), ("MILECASTLE__GATEWAY__SHUTDOWN__LAST_CALL", "1s")];
    let seen = end_under_load(&settings).await;
    assert_eq!(seen.lost, Vec::<String>::new());
    assert!(seen.told > 0, "{seen:?}");
}
