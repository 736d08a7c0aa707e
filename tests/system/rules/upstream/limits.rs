//! Limits of `timeout` but that of reading (§6.2): each is the only one that could end the request within the test.

use super::{Scripted, nodes, route_to, site};
use milecastle_testkit::{Call, Echo};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

/// An upstream of one node with these limits; an hour where none is given.
fn limited(scheme: &str, node: SocketAddr, limits: &[(&str, f64)]) -> Value {
    let mut timeout = json!({ "connect": 3600, "send": 3600, "read": 3600 });
    limits.iter().for_each(|(name, seconds)| timeout[*name] = json!(seconds));
    json!({ "scheme": scheme, "nodes": nodes(&[node]), "timeout": timeout, "retries": 0 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_6_2_fractions_of_seconds_for_connecting() {
    let (site, echo, silent) = (site().await, Echo::start(), Scripted::silent());
    // A queue of one place that is taken: the system lets further handshakes of TCP wait.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut taken = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(address)).await
    {
        taken.push(connected.unwrap());
    }
    for (rule, upstream, status) in [
        ("u62-tcp", limited("http", address, &[("connect", 0.25)]), 504),
        // TCP is there at once, TLS never.
        ("u62-tls", limited("https", silent.address, &[("connect", 0.25)]), 504),
        ("u62-soon", limited("http", echo.address(), &[("connect", 0.999)]), 200),
    ] {
        site.put([route_to(rule, upstream)]).await;
        assert_eq!(site.up.get(&format!("/{rule}/x")).await.status, status, "{rule}");
    }
    drop((full, taken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_6_2_fractions_of_seconds_between_two_writes() {
    let site = site().await;
    // Reads the head, and nothing of the body, which has no room in the system's buffers.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let stuck = Scripted::new(move |_, _| {
        assert!(held.lock().unwrap().recv().is_err(), "it is held until the test lets go");
        Err(std::io::ErrorKind::Other.into())
    });
    site.put([route_to("u62-send", limited("http", stuck.address, &[("send", 0.25)]))]).await;
    let answer = site.call(Call::post("/u62-send/x", vec![b'x'; 64 << 20])).await;
    assert_eq!((answer.status, answer.header("x-statuses")), (504, "504".to_owned()));
    drop(hold);
    // One that takes what it is sent is waited for, however long its answer takes to begin.
    let echo = Echo::start();
    site.put([route_to("u62-send", limited("http", echo.address(), &[("send", 0.25)]))]).await;
    assert_eq!(site.call(Call::post("/u62-send/x", "text")).await.status, 200);
}
