//! WebSocket through the real binary, in real frames.

use milecastle_testkit::eventually;
use milecastle_testkit::raw::Raw;
use milecastle_tests::Up;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const SIGTERM: i32 = 15;

const ASK: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: chat.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// What belongs to the key (RFC 6455 §1.3).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const CLOSE: u8 = 0x88;

/// A frame of up to 65,535 bytes (RFC 6455 §5.2), masked as clients must.
pub(crate) fn frame(kind: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![kind];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(bit | short),
        _ => {
            frame.push(bit | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

/// Reads a masked frame; `None` when the peer has ended sending.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut exact = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let head = exact(2)?;
    let length = match head[1] & 0x7f {
        126 => usize::from(u16::from_be_bytes(exact(2)?.try_into().unwrap())),
        short => usize::from(short),
    };
    let mask = exact(4)?;
    let payload = exact(length)?.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some((head[0], payload))
}

/// A server that sends every message back, answers a close with a close, and says good-bye when the client stops sending.
pub(crate) fn chat() -> SocketAddr {
    chat_telling(|_, _| {})
}

/// The same, which tells of each frame that it gets.
pub(crate) fn chat_telling(tell: impl Fn(u8, &[u8]) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let expected = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";
                if !head.starts_with("GET /ws?room=1 HTTP/1.1\r\n") || !head.contains(expected) {
                    return drop(stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n"));
                }
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).unwrap();
                stream.write_all(&frame(TEXT, b"welcome", false)).unwrap();
                while let Some((kind, payload)) = read_frame(&mut stream) {
                    tell(kind, &payload);
                    stream.write_all(&frame(kind, &payload, false)).unwrap();
                    if kind == CLOSE {
                        return;
                    }
                }
                stream.write_all(&frame(TEXT, b"good-bye", false)).unwrap();
            });
        }
    });
    address
}

pub(crate) async fn say(client: &mut Raw, text: &[u8]) {
    client.send(frame(TEXT, text, true)).await.unwrap();
    hear(client, TEXT, text).await;
}

pub(crate) async fn hear(client: &mut Raw, kind: u8, payload: &[u8]) {
    let expected = frame(kind, payload, false);
    assert!(client.read_exact(expected.len()).await.unwrap() == expected);
}

async fn open(up: &Up) -> Raw {
    open_at(up.http).await
}

/// A WebSocket through the gateway that serves HTTP at this address.
pub(crate) async fn open_at(http: SocketAddr) -> Raw {
    open_with(http, "chat.test", "").await
}

/// The same, of a host, asked for with further lines in the head.
pub(crate) async fn open_with(http: SocketAddr, host: &str, lines: &str) -> Raw {
    let mut client = Raw::connect(http).await.unwrap();
    client.send(ASK.replace("chat.test\r\n", &format!("{host}\r\n{lines}"))).await.unwrap();
    let head = client.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nsec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase())), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    hear(&mut client, TEXT, b"welcome").await;
    client
}

async fn serving() -> (Up, serde_json::Value) {
    serving_of(Up::start(), chat()).await
}

/// The same, of this server.
async fn serving_of(up: Up, server: SocketAddr) -> (Up, serde_json::Value) {
    let route = json!({ "uri": "/ws", "enable_websocket": true, "upstream": { "nodes": { server.to_string(): 1 } } });
    up.put("/routes/ws", route.clone()).await;
    eventually("the route is in force", async || {
        let mut client = Raw::connect(up.http).await.unwrap();
        client.send(ASK).await.unwrap();
        client.read_head().await.unwrap().starts_with("HTTP/1.1 101")
    })
    .await;
    (up, route)
}

#[tokio::test]
async fn websocket_messages_pass_both_ways_until_either_side_closes() {
    let (up, _) = serving().await;
    let mut client = open(&up).await;
    say(&mut client, b"hello").await;
    for size in [0, 125, 126, 60_000] {
        say(&mut client, &vec![b'm'; size]).await;
    }
    client.send(frame(CLOSE, &1000_u16.to_be_bytes(), true)).await.unwrap();
    hear(&mut client, CLOSE, &1000_u16.to_be_bytes()).await;
    assert!(client.read_to_end().await.unwrap().is_empty(), "the server's end is passed on");
    drop(client);
    // One direction may end before the other.
    let mut client = open(&up).await;
    say(&mut client, b"hello").await;
    client.finish_sending().await.unwrap();
    hear(&mut client, TEXT, b"good-bye").await;
    assert!(client.read_to_end().await.unwrap().is_empty());
    drop(client);
    drop(up.stop());
}

#[tokio::test]
async fn tunnels_outlive_changes_of_their_route_and_can_be_closed_meanwhile() {
    let (up, mut route) = serving().await;
    let (mut first, second) = (open(&up).await, open(&up).await);
    let mut second = Some(second);
    route["enable_websocket"] = json!(false);
    up.put("/routes/ws", route).await;
    for n in 0..50 {
        up.put(&format!("/routes/{n}"), json!({ "uri": format!("/{n}"), "plugins": {} })).await;
        say(&mut first, b"still here").await;
        if let Some(mut second) = second.take_if(|_| n == 25) {
            second.send(frame(CLOSE, &[], true)).await.unwrap();
            hear(&mut second, CLOSE, &[]).await;
            assert!(second.read_to_end().await.unwrap().is_empty());
        }
    }
    assert_eq!(up.admin("DELETE", "/routes/ws", None).await.status, 200);
    up.answers("/ws", 404).await;
    say(&mut first, b"even now").await;
    first.send(frame(CLOSE, &[], true)).await.unwrap();
    hear(&mut first, CLOSE, &[]).await;
    assert!(first.read_to_end().await.unwrap().is_empty());
    drop(first);
    drop(up.stop());
}

#[tokio::test]
async fn tunnels_that_are_left_when_the_process_ends_are_told_on_both_sides() {
    const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
    let (tell, told) = std::sync::mpsc::channel();
    let server = chat_telling(move |kind, payload| drop(tell.send((kind, payload.to_vec()))));
    let settings = [
        ("MILECASTLE__GATEWAY__SHUTDOWN__LAST_CALL", "100ms"),
        ("MILECASTLE__GATEWAY__SHUTDOWN__DRAIN", "500ms"),
        // Longer than anything takes on a busy machine: who takes leave ends it.
        ("MILECASTLE__GATEWAY__SHUTDOWN__FAREWELL", "60s"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__LINGERING_TIMEOUT", "60s"),
    ];
    let (mut up, _) = serving_of(Up::start_with(&settings), server).await;
    let (mut client, mut busy) = (open(&up).await, open(&up).await);
    say(&mut client, b"hello").await;
    // One whose client is in the middle of a message hears of it too, and the message is not torn for the server.
    let message = frame(TEXT, b"to be continued", true);
    let (begin, rest) = message.split_at(8);
    busy.send(begin).await.unwrap();
    up.process.announce("requests in flight were cut");
    up.process.signal(SIGTERM);
    for client in [&mut client, &mut busy] {
        hear(client, CLOSE, &GOING_AWAY).await;
    }
    busy.send(rest).await.unwrap();
    drop(client);
    busy.finish_sending().await.unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let status = up.process.wait_for_end(Duration::from_secs(60));
        assert!(status.success(), "{status}");
        assert_eq!(up.process.unannounced(), Vec::<String>::new());
    });
    ended.await.unwrap();
    let told: Vec<_> = told.try_iter().collect();
    let closes = told.iter().filter(|(kind, payload)| *kind == CLOSE && *payload == GOING_AWAY).count();
    assert_eq!(closes, 2, "{told:?}");
    assert!(told.contains(&(TEXT, b"to be continued".to_vec())), "{told:?}");
}
