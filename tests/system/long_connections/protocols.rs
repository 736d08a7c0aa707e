//! The end as each protocol says it, and what is not to be ended.

use super::{ended, plugins, read_head, settled};
use crate::stream::{Gateway, server};
use crate::tunnels::{CLOSE, TEXT, chat, chat_telling, frame, hear, open_with, say};
use crate::upstreams_http2::peers::{Server, call};
use milecastle_testkit::eventually;
use milecastle_testkit::raw::Raw;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

const KEY: &str = "apikey: amys-key\r\n";

/// A route of WebSockets that are cut.
async fn route(gateway: &Gateway, uri: &str, node: SocketAddr, more: serde_json::Value) {
    let mut plugins = plugins(&json!({ "policy": "cut" }));
    plugins.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let upstream = json!({ "nodes": { node.to_string(): 1 } });
    let route = json!({ "uri": uri, "enable_websocket": true, "upstream": upstream, "plugins": plugins });
    gateway.up.put("/routes/1", route).await;
    eventually("the route is there", async || gateway.up.get(uri).await.status != 404).await;
}

async fn delete(gateway: &Gateway, path: &str) {
    assert_eq!(gateway.up.admin("DELETE", path, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_told_as_well_as_the_client() {
    let gateway = Gateway::plain();
    let (tell, told) = mpsc::channel();
    let node = chat_telling(move |kind, payload| drop(tell.send((kind, payload.to_vec()))));
    route(&gateway, "/ws", node, json!({})).await;
    let mut client = open_with(gateway.up.http, "a.test", "").await;
    say(&mut client, b"hello").await;
    delete(&gateway, "/routes/1").await;
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    let told: Vec<_> = (0..2).map(|_| told.recv_timeout(std::time::Duration::from_secs(20)).unwrap()).collect();
    assert_eq!(told, [(TEXT, b"hello".to_vec()), (CLOSE, 1001_u16.to_be_bytes().to_vec())]);
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_has_begun_is_completed_before_the_close_frame() {
    let patience = ("MILECASTLE__GATEWAY__TIMEOUTS__LINGERING_TIMEOUT", "60s");
    let gateway = Gateway::start(&[], &[], &[patience]);
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    let message = frame(TEXT, b"in two halves", false);
    let sent = message.clone();
    let node = server(move |mut stream| {
        if read_head(&mut stream).is_none_or(|head| !head.to_ascii_lowercase().contains("upgrade: websocket")) {
            return;
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(switch.as_bytes()).unwrap();
        stream.write_all(&sent[..5]).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        stream.write_all(&sent[5..]).unwrap();
        stream.write_all(&frame(TEXT, b"too late", false)).unwrap();
        // Until the gateway has left.
        drop(stream.read_to_end(&mut Vec::new()));
    });
    route(&gateway, "/ws", node, json!({})).await;
    let mut client = Raw::connect(gateway.up.http).await.unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    client.send(format!("GET /ws HTTP/1.1\r\nHost: a.test\r\n{upgrade}\r\n")).await.unwrap();
    assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(client.read_exact(5).await.unwrap(), message[..5]);
    delete(&gateway, "/routes/1").await;
    eventually("the WebSocket was told to end", async || ended(&gateway, "websocket").await == 1.0).await;
    go_on.send(()).unwrap();
    assert_eq!(client.read_exact(message.len() - 5).await.unwrap(), message[5..]);
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    assert!(client.read_to_end().await.unwrap().is_empty());
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_deleted_takes_its_connections_along() {
    let gateway = Gateway::plain();
    gateway
        .up
        .put("/consumers/amy", json!({ "username": "amy", "plugins": { "key-auth": { "key": "amys-key" } } }))
        .await;
    route(&gateway, "/ws", chat(), json!({ "key-auth": {} })).await;
    let mut client = open_with(gateway.up.http, "a.test", KEY).await;
    say(&mut client, b"hello").await;
    delete(&gateway, "/consumers/amy").await;
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    gateway.up.kill();
}

/// Whatever the upstream is told of it: the ground is what was presented.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_is_deleted_takes_its_connections_along_and_no_others() {
    let gateway = Gateway::plain();
    gateway.up.put("/consumers/amy", json!({ "username": "amy" })).await;
    for (id, key) in [("first", "amys-key"), ("second", "amys-other-key")] {
        let credential = json!({ "plugins": { "key-auth": { "key": key } } });
        gateway.up.put(&format!("/consumers/amy/credentials/{id}"), credential).await;
    }
    let silent = json!({ "headers": { "remove": ["X-Credential-Identifier"] } });
    route(&gateway, "/ws", chat(), json!({ "key-auth": {}, "proxy-rewrite": silent })).await;
    let mut client = open_with(gateway.up.http, "a.test", KEY).await;
    let mut other = open_with(gateway.up.http, "a.test", "apikey: amys-other-key\r\n").await;
    say(&mut client, b"hello").await;
    delete(&gateway, "/consumers/amy/credentials/first").await;
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    say(&mut other, b"still here").await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_change_are_another_ground_and_the_policy_itself_is_none() {
    let gateway = Gateway::plain();
    let node = chat();
    route(&gateway, "/ws", node, json!({})).await;
    let mut client = open_with(gateway.up.http, "a.test", "").await;
    let keep = json!({ "long-connections": { "policy": "keep" } });
    route(&gateway, "/ws", node, keep).await;
    route(&gateway, "/ws", node, json!({ "prometheus": {} })).await;
    settled(&gateway).await;
    say(&mut client, b"what only watches, and the policy, may change").await;
    route(&gateway, "/ws", node, json!({ "ip-restriction": { "blacklist": ["10.0.0.0/8"] } })).await;
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_settings_hold_where_no_plugin_says_anything() {
    let gateway = Gateway::start(&[], &[], &[("MILECASTLE__GATEWAY__LONG_CONNECTIONS__POLICY", "cut")]);
    let upstream = json!({ "nodes": { chat().to_string(): 1 } });
    gateway.up.put("/routes/1", json!({ "uri": "/ws", "enable_websocket": true, "upstream": upstream })).await;
    gateway.up.answers("/ws", 426).await;
    let mut client = open_with(gateway.up.http, "a.test", "").await;
    delete(&gateway, "/routes/1").await;
    hear(&mut client, CLOSE, &1001_u16.to_be_bytes()).await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_of_another_protocol_ends_on_both_sides_without_a_word() {
    let gateway = Gateway::plain();
    let (tell, told) = mpsc::channel();
    let node = server(move |mut stream| {
        let Some(head) = read_head(&mut stream) else { return };
        if !head.contains("\r\nUpgrade: tcp\r\n") {
            return drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
        }
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n").unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map(|_| rest).map_err(|error| error.kind());
        tell.send(end).unwrap();
    });
    route(&gateway, "/attach", node, json!({ "upgrade": { "protocols": ["tcp"] } })).await;
    let mut client = Raw::connect(gateway.up.http).await.unwrap();
    client.send("POST /attach HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").await.unwrap();
    assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 101"));
    // In a WebSocket these would begin a frame, for whose end there is nothing to wait here.
    client.send(b"\x81\x85\x00\x00").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"\x81\x85\x00\x00");
    delete(&gateway, "/routes/1").await;
    assert!(client.read_to_end().await.unwrap().is_empty());
    let end = told.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(end, Ok(Vec::new()), "an end, and no reset");
    eventually("it is counted", async || ended(&gateway, "tunnel").await == 1.0).await;
    gateway.up.kill();
}

/// A server whose answer has two halves; it sends the second when it is let.
fn halves() -> (SocketAddr, mpsc::Sender<()>) {
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    let node = server(move |mut stream| {
        let Some(head) = read_head(&mut stream) else { return };
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        if !head.starts_with("GET /halves") || stream.write_all(answer.as_bytes()).is_err() {
            return drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n"));
        }
        may_go_on.lock().unwrap().recv().unwrap();
        drop(stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n"));
    });
    (node, go_on)
}

/// Reads the first half of an answer whose route then goes.
async fn first_half(gateway: &Gateway, node: SocketAddr) -> Raw {
    let upstream = json!({ "nodes": { node.to_string(): 1 } });
    let route = json!({ "uri": "/*", "upstream": upstream, "plugins": plugins(&json!({ "policy": "cut" })) });
    gateway.up.put("/routes/1", route).await;
    gateway.up.answers("/ready", 204).await;
    let mut client = Raw::connect(gateway.up.http).await.unwrap();
    client.send("GET /halves HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    client.read_until(b"5\r\nfirst\r\n").await.unwrap();
    delete(gateway, "/routes/1").await;
    gateway.up.answers("/ready", 404).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_merely_in_flight_is_not_cut() {
    let gateway = Gateway::start(&[], &[], &[("MILECASTLE__GATEWAY__LONG_CONNECTIONS__ANSWERS_FROM", "1h")]);
    let (node, go_on) = halves();
    let mut client = first_half(&gateway, node).await;
    go_on.send(()).unwrap();
    assert_eq!(client.read_until(b"0\r\n\r\n").await.unwrap(), b"6\r\nsecond\r\n0\r\n\r\n");
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_does_not_pass_for_a_whole_one() {
    let gateway = Gateway::start(&[], &[], &[("MILECASTLE__GATEWAY__LONG_CONNECTIONS__ANSWERS_FROM", "0s")]);
    let (node, _never) = halves();
    let mut client = first_half(&gateway, node).await;
    assert!(client.read_to_end().await.unwrap().is_empty(), "no last chunk");
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_ends_with_unavailable() {
    let gateway = Gateway::start(&[], &[], &[("MILECASTLE__GATEWAY__LONG_CONNECTIONS__ANSWERS_FROM", "0s")]);
    let server = Server::start(&[]);
    let upstream = json!({ "scheme": "grpc", "nodes": { server.address.to_string(): 1 } });
    let route = json!({ "uri": "/test.Echo/*", "upstream": upstream, "plugins": plugins(&json!({ "policy": "cut" })) });
    gateway.up.put("/routes/1", route).await;
    settled(&gateway).await;
    let waiting = tokio::spawn(call(gateway.up.http, "wait", json!({})));
    eventually("the call is under way", async || server.seen().iter().any(|seen| seen["method"] == "Hang")).await;
    delete(&gateway, "/routes/1").await;
    let ended = waiting.await.unwrap();
    assert_eq!((&ended["code"], &ended["first"]["x-first"]), (&json!("UNAVAILABLE"), &json!("1")), "{ended}");
    server.sees_cancellation().await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_datagram_of_a_cut_session_goes_by_the_new_configuration() {
    let gateway = Gateway::start(&[], &[json!("127.0.0.1:0")], &[]);
    let named = |name: &'static [u8]| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(name, from).unwrap();
            }
        });
        address
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(gateway.at("UDP")).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let says = |name: &[u8]| {
        let mut buffer = [0; 64];
        client.send(b"who?").unwrap();
        matches!(client.recv(&mut buffer), Ok(read) if &buffer[..read] == name)
    };
    // All from one socket: to the gateway this is one session.
    for name in [b"old", b"new"] {
        gateway.route("1", named(name), json!({ "plugins": plugins(&json!({ "policy": "cut" })) })).await;
        eventually("the node of the configuration in force answers", async || says(name)).await;
    }
    gateway.up.kill();
}
