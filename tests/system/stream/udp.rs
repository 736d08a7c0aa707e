//! UDP.

use super::{Gateway, SOON};
use milecastle_testkit::eventually;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// A server that sends back each datagram behind its name.
pub(super) fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut room) {
            drop(socket.send_to(&[name.as_bytes(), &room[..len]].concat(), from));
        }
    });
    address
}

fn client(to: SocketAddr, patience: Duration) -> UdpSocket {
    let own: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// The answer to a datagram, if one comes.
fn ask(socket: &UdpSocket, bytes: &[u8]) -> Option<Vec<u8>> {
    socket.send(bytes).ok()?;
    let mut room = [0; 65_535];
    let len = socket.recv(&mut room).ok()?;
    Some(room[..len].to_vec())
}

/// Waits until datagrams are answered.
pub(super) async fn until_answered(at: SocketAddr, expected: &[u8]) {
    eventually("an answer", async || {
        ask(&client(at, Duration::from_millis(200)), b"x").is_some_and(|said| said == expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_pass_both_ways_and_clients_are_kept_apart() {
    let gateway = Gateway::start(&[], &[json!("127.0.0.1:0")], &[]);
    let at = gateway.at("UDP");
    let upstream = json!({ "nodes": { echo("u:").to_string(): 1 }, "scheme": "udp" });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    until_answered(at, b"u:x").await;
    let clients: Vec<UdpSocket> = (0..100).map(|_| client(at, SOON)).collect();
    for (n, socket) in clients.iter().enumerate() {
        socket.send(format!("client {n}").as_bytes()).unwrap();
    }
    let mut room = [0; 65_535];
    for (n, socket) in clients.iter().enumerate() {
        let len = socket.recv(&mut room).unwrap();
        assert_eq!(&room[..len], format!("u:client {n}").as_bytes());
    }
    // The largest that fits, and none at all.
    let large = vec![7; 60_000];
    assert_eq!(ask(&clients[0], &large).unwrap()[2..], large);
    assert_eq!(ask(&clients[0], b"").unwrap(), b"u:");
    eventually("the sessions are counted", async || {
        gateway.metric("apisix_udp_sessions").await.is_some_and(|open| open >= 100.0)
    })
    .await;
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_on_every_interface_answers_from_the_address_that_was_asked() {
    let gateway = Gateway::start(&[], &[json!(0)], &[]);
    let port = gateway.at("UDP").port();
    let upstream = json!({ "nodes": { echo("u:").to_string(): 1 } });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream, "server_addr": "127.0.0.2" })).await;
    // A connected socket takes datagrams of that address alone.
    until_answered(([127, 0, 0, 2], port).into(), b"u:x").await;
    let other = client(([127, 0, 0, 3], port).into(), Duration::from_millis(300));
    assert_eq!(ask(&other, b"x"), None, "the route is for the other address");
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_silence_and_their_number_is_bounded() {
    let limit = ("MILECASTLE__GATEWAY__LIMITS__UDP_SESSIONS", "4");
    let gateway = Gateway::start(&[], &[json!("127.0.0.1:0")], &[limit, ("MILECASTLE__GATEWAY__WORKERS", "1")]);
    let at = gateway.at("UDP");
    let timeout = json!({ "connect": 1, "send": 1, "read": 1 });
    let upstream = json!({ "nodes": { echo("u:").to_string(): 1 }, "timeout": timeout });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    until_answered(at, b"u:x").await;
    let answered = (0..12).filter(|_| ask(&client(at, Duration::from_millis(50)), b"x").is_some()).count();
    assert!(answered <= 4, "{answered} sessions");
    eventually("some were refused", async || {
        gateway.metric("apisix_udp_sessions_refused_total").await.is_some_and(|count| count > 0.0)
    })
    .await;
    eventually("all have ended", async || gateway.metric("apisix_udp_sessions").await == Some(0.0)).await;
    until_answered(at, b"u:x").await;
    gateway.up.stop();
}
