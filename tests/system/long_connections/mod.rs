//! What becomes of WebSockets, long answers and sessions when what they were opened under goes (`docs/long-connections.md`).

mod policies;
mod protocols;

use crate::stream::{Gateway, server};
use milecastle_testkit::raw::Raw;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Reads the head of a request; a server of these tests knows no bodies.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A server that sends events, one after the other, until nobody takes them.
fn events() -> SocketAddr {
    server(|mut stream| {
        if read_head(&mut stream).is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut taken = stream.write_all(head.as_bytes());
        while taken.is_ok() {
            taken = stream.write_all(b"9\r\ndata: x\n\n\r\n");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    })
}

/// Asks for events, and waits for the first one.
async fn listen(http: SocketAddr, host: &str) -> Raw {
    let mut client = Raw::connect(http).await.unwrap();
    client.send(format!("GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    client.read_until(b"data: x\n\n").await.unwrap();
    client
}

/// Plugins with a policy.
fn plugins(policy: &Value) -> Value {
    json!({ "long-connections": policy })
}

/// How many of a kind were ended by their policy.
async fn ended(gateway: &Gateway, kind: &str) -> f64 {
    let series = format!("apisix_superseded_connections_total{{kind=\"{kind}\"}}");
    gateway.metric(&series).await.unwrap_or_default()
}

/// Waits until all that was written is in force.
async fn settled(gateway: &Gateway) {
    gateway.up.put("/routes/mark", json!({ "uri": "/mark", "plugins": {} })).await;
    gateway.up.answers("/mark", 503).await;
    assert_eq!(gateway.up.admin("DELETE", "/routes/mark", None).await.status, 200);
    gateway.up.answers("/mark", 404).await;
}
