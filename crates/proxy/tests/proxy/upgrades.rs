//! Requests that ask for more than an answer: upgrades, CONNECT, TRACE.

use crate::support::{Bed, SOON, Scripted, read_head, route_to};
use milecastle_model::Object;
use milecastle_testkit::Echo;
use milecastle_testkit::raw::Raw;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

/// An upstream that switches to whatever it is asked for, and answers 200 otherwise; with the heads it has received.
fn obliging(switched_to: &'static str) -> (Scripted, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    let upstream = Scripted::new(move |stream, _| {
        while let Some(head) = read_head(stream) {
            let asked = head.to_ascii_lowercase().contains("\r\nupgrade:");
            seen.lock().unwrap().push(head);
            if asked {
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {switched_to}\r\n\r\n"
                );
                drop(stream.write_all(head.as_bytes()));
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    (upstream, heads)
}

#[test]
fn no_protocol_but_websocket_is_asked_for_without_the_plugin() {
    let (upstream, heads) = obliging("websocket");
    let bed = Bed::new(route_to(&[upstream.addr], json!({ "enable_websocket": true })));
    let settings = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for request in [
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\n{settings}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{settings}\r\n"),
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websockets\r\n\r\n".into(),
        // Upgrade means nothing unless Connection names it (RFC 9110 §7.8).
        "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n".into(),
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx".into(),
    ] {
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send(&request).await.unwrap();
            assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"), "{request}");
            // It has been an ordinary request on an ordinary connection.
            client.send("GET /next HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"), "{request}");
        });
        for head in heads.lock().unwrap().drain(..) {
            let head = head.to_ascii_lowercase();
            for field in ["\r\nupgrade:", "\r\nconnection:", "\r\nhttp2-settings:"] {
                assert!(!head.contains(field), "{request}\n{head}");
            }
        }
    }
}

#[test]
fn of_several_protocols_only_websocket_is_asked_for_without_the_plugin() {
    let ask = "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c, WebSocket\r\n\
               HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let (upstream, heads) = obliging("WebSocket");
    let bed = Bed::new(route_to(&[upstream.addr], json!({ "enable_websocket": true })));
    assert!(bed.raw(ask).starts_with("HTTP/1.1 101"));
    let head = heads.lock().unwrap().pop().unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\nconnection: upgrade\r\n"), "{head}");
    assert!(!head.contains("h2c") && !head.contains("http2-settings"), "{head}");
    // An upstream that switches to something else is not believed.
    let (upstream, _) = obliging("h2c");
    let bed = Bed::new(route_to(&[upstream.addr], json!({ "enable_websocket": true })));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send(ask).await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 502"));
    });
}

/// A route on which a plugin allows these protocols, and that has no WebSocket of its own.
fn allowing(names: &[&str], upstream: &Scripted) -> Vec<Object> {
    route_to(&[upstream.addr], json!({ "plugins": { "witness": { "upgrades": names } } }))
}

#[test]
fn what_a_plugin_names_is_asked_for_where_the_client_asks_for_it() {
    let (upstream, heads) = obliging("spdy/3.1");
    let bed = Bed::new(allowing(&["SPDY/3.1", "tcp", "websocket"], &upstream));
    for (method, asked, expected) in [
        ("POST", "spdy/3.1", "SPDY/3.1"),
        ("GET", "h2c, SPDY/3.1", "SPDY/3.1"),
        ("PROPFIND", "tcp\r\nUpgrade: TLS/1.0, SPDY/3.1", "tcp, SPDY/3.1"),
        ("GET", "WebSocket, SPDY/3.1", "websocket, SPDY/3.1"),
        // A WebSocket begins with a GET.
        ("POST", "WebSocket, SPDY/3.1", "SPDY/3.1"),
    ] {
        let ask = format!("{method} / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {asked}\r\n\r\n");
        assert!(bed.raw(ask).starts_with("HTTP/1.1 101"), "{asked}");
        let head = heads.lock().unwrap().pop().unwrap();
        assert!(head.contains(&format!("\r\nUpgrade: {expected}\r\nConnection: Upgrade\r\n")), "{asked}: {head}");
    }
    for (line, asked) in [
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        ("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: SPDY/3\r\n\r\n"),
        ("GET / HTTP/1.1", "Upgrade: tcp\r\n\r\n"),
        ("GET / HTTP/1.0", "Connection: Upgrade, keep-alive\r\nUpgrade: tcp\r\n\r\n"),
        ("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        // Where the body ends is not known before it has.
        ("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: tcp\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send(format!("{line}\r\nHost: h\r\n{asked}")).await.unwrap();
            assert!(client.read_head().await.unwrap().contains(" 200 OK\r\n"), "{line} {asked}");
        });
        let seen: Vec<String> = heads.lock().unwrap().drain(..).collect();
        assert!(seen[0].starts_with(line.split(' ').next().unwrap()), "{seen:?}");
        for head in seen {
            let head = head.to_ascii_lowercase();
            assert!(!head.contains("\r\nupgrade:") && !head.contains("\r\nconnection:"), "{line} {asked}: {head}");
        }
    }
}

#[test]
fn another_protocol_than_those_asked_for_is_502() {
    // One that is allowed, but not asked for; one that is neither; and more than one.
    for switched_to in ["tcp", "h2c", "SPDY/3.1, tcp"] {
        let (upstream, _) = obliging(switched_to);
        let bed = Bed::new(allowing(&["SPDY/3.1", "tcp"], &upstream));
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n").await.unwrap();
            assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 502"), "{switched_to}");
        });
    }
}

const ASK_TCP: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

#[test]
fn a_101_that_does_not_say_what_it_changes_to_is_502_and_no_other_node_is_asked() {
    for said in [
        "HTTP/1.1 101 Go\r\nUpgrade: tcp\r\n\r\n",
        "HTTP/1.1 101 Go\r\nConnection: keep-alive\r\nUpgrade: tcp\r\n\r\n",
        "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.0 101 Go\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Go\r\nUpgrade: tcp\r\n\r\n",
    ] {
        let (tell, told) = mpsc::channel();
        let [a, b] = [tell.clone(), tell].map(|tell| {
            Scripted::new(move |stream, _| {
                read_head(stream).unwrap();
                stream.write_all(said.as_bytes()).unwrap();
                // Until the gateway closes.
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest));
                tell.send(rest).unwrap();
            })
        });
        let bed = Bed::new(route_to(&[a.addr, b.addr], json!({ "plugins": { "witness": { "upgrades": ["tcp"] } } })));
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send([ASK_TCP, "GET /unseen"].concat()).await.unwrap();
            let mut head = client.read_head().await.unwrap();
            if said.contains("103") {
                assert!(head.starts_with("HTTP/1.1 103"), "{head}");
                head = client.read_head().await.unwrap();
            }
            assert!(head.starts_with("HTTP/1.1 502"), "{said}: {head}");
        });
        assert_eq!(told.recv_timeout(SOON).unwrap(), b"", "{said}");
        assert_eq!(bed.lines(1)[0].attempts, [502], "{said}");
        assert_eq!(bed.totals().tunnels, 0, "{said}");
    }
}

#[test]
fn clients_learn_what_the_upstream_has_changed_to_whatever_plugins_set() {
    for set in ["Upgrade: h2c", "Connection: close"] {
        let (upstream, _) = obliging("TCP");
        let more = json!({ "plugins": { "witness": { "upgrades": ["tcp"], "header": set } } });
        let bed = Bed::new(route_to(&[upstream.addr], more));
        let answer = bed.raw(ASK_TCP).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{set}: {answer}");
        assert!(
            answer.contains("\r\nupgrade: tcp\r\n") && answer.contains("\r\nconnection: upgrade\r\n"),
            "{set}: {answer}"
        );
        assert_eq!(
            answer.matches("\r\nupgrade:").count() + answer.matches("\r\nconnection:").count(),
            2,
            "{set}: {answer}"
        );
    }
}

#[test]
fn a_101_of_which_a_plugin_makes_another_answer_opens_no_tunnel() {
    let (tell, told) = mpsc::channel();
    let upstream = Scripted::new(move |stream, _| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst").unwrap();
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
        tell.send(rest).unwrap();
    });
    let more = json!({ "plugins": { "witness": { "upgrades": ["tcp"], "status": 418 } } });
    let bed = Bed::new(route_to(&[upstream.addr], more));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        // The connection goes on.
        for _ in 0..2 {
            client.send(ASK_TCP).await.unwrap();
            let head = client.read_head().await.unwrap().to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 418 ") && head.contains("\r\ncontent-length: 0\r\n"), "{head}");
            assert!(!head.contains("\r\nupgrade:") && !head.contains("\r\nconnection:"), "{head}");
        }
    });
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(SOON).unwrap(), b"");
    }
    assert_eq!(bed.lines(2).iter().map(|line| line.status).collect::<Vec<_>>(), [418, 418]);
    bed.wait_totals("no request", |totals| totals.in_flight == 0 && totals.tunnels == 0);
}

#[test]
fn a_tunnel_whose_client_has_left_before_it_opened_is_let_go() {
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let (tell, told) = mpsc::channel();
    let upstream = Scripted::new(move |stream, _| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        drop(stream.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"));
        drop(stream.read_to_end(&mut Vec::new()));
        tell.send(()).unwrap();
    });
    let bed = Bed::new(allowing(&["tcp"], &upstream));
    let mut client = TcpStream::connect(bed.http).unwrap();
    // While there is something behind the request, nobody looks whether the client is still there.
    client.write_all([ASK_TCP, "early"].concat().as_bytes()).unwrap();
    assert_eq!(client.peek(&mut [0]).unwrap(), 1);
    // It has not read what it was sent, so this is a reset, and the 101 cannot be sent.
    drop(client);
    go_on.send(()).unwrap();
    told.recv_timeout(SOON).unwrap();
    bed.wait_totals("no request", |totals| totals.in_flight == 0 && totals.tunnels == 0);
    bed.lines(1);
}

const ASK_WITH_BODY: &str = "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: ";

#[test]
fn a_body_arrives_before_the_tunnel_begins() {
    // What the client sends right behind its request; in a WebSocket it would end that.
    const EARLY: &[u8] = b"\x88\x80early";
    let upstream = Scripted::new(|stream, _| {
        let head = read_head(stream).unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).unwrap();
        assert!(head.contains("\r\nUpgrade: tcp\r\n") && head.contains("\r\nContent-Length: 4\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        drop(stream.write_all(&rest));
    });
    let bed = Bed::new(allowing(&["tcp"], &upstream));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send([format!("{ASK_WITH_BODY}4\r\n\r\nbody").as_bytes(), EARLY].concat()).await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 101 "));
        assert_eq!(client.read_exact(4).await.unwrap(), b"body");
        assert_eq!(bed.totals().tunnels, 1);
        // One direction may end before the other.
        client.finish_sending().await.unwrap();
        assert_eq!(client.read_to_end().await.unwrap(), EARLY);
    });
    assert_eq!(bed.lines(1)[0].status, 101);
    bed.wait_totals("no tunnel", |totals| totals.tunnels == 0);
}

#[test]
fn a_client_that_waits_for_100_reads_it_before_the_101() {
    let upstream = Scripted::new(|stream, _| {
        let head = read_head(stream).unwrap().to_ascii_lowercase();
        assert!(head.contains("\r\nupgrade: tcp\r\n") && !head.contains("\r\nexpect:"), "{head}");
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
    });
    let bed = Bed::new(allowing(&["tcp"], &upstream));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send(format!("{ASK_WITH_BODY}4\r\nExpect: 100-continue\r\n\r\n")).await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 100 "));
        client.send("body").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 101 "));
    });
}

#[test]
fn a_body_that_is_not_sent_whole_ends_in_no_tunnel() {
    const MUCH: usize = 16 << 20;
    let (done, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Scripted::new(move |stream, _| {
        let asked = read_head(stream).unwrap().contains("\r\nUpgrade: tcp\r\n");
        let answer = match asked {
            true => "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
        // It reads nothing of the body.
        wait.lock().unwrap().recv().ok();
    });
    // Read whole by the gateway, it may be asked for; longer than that, it may not.
    for (kept, status) in [(MUCH, 502), (MUCH - 1, 200)] {
        let bed = Bed::with(allowing(&["tcp"], &upstream), |settings| {
            settings.limits.retry_body = milecastle_settings::Size::bytes(kept as u64);
        });
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send(format!("{ASK_WITH_BODY}{MUCH}\r\n\r\n")).await.unwrap();
            if status == 502 {
                client.send(vec![b'x'; MUCH]).await.unwrap();
            }
            let head = client.read_head().await.unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        });
    }
    drop(done);
}

#[test]
fn connect_and_trace_are_refused() {
    let (upstream, heads) = obliging("websocket");
    let bed = Bed::new(route_to(&[upstream.addr], json!({ "enable_websocket": true })));
    for (line, status) in [
        ("CONNECT / HTTP/1.1", 400),
        ("CONNECT /path HTTP/1.1", 400),
        ("CONNECT h:80 HTTP/1.1", 400),
        ("CONNECT h:80 HTTP/1.0", 400),
        ("CONNECT http://h/ HTTP/1.1", 400),
        ("CONNECT * HTTP/1.1", 400),
        ("TRACE / HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 400),
    ] {
        // The connection is closed, so what stands behind is never a request, nor passed on.
        let answer = bed.raw(format!("{line}\r\nHost: h:80\r\n\r\nGET /behind HTTP/1.1\r\nHost: h\r\n\r\n"));
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!(" {status} ")), "{line}: {answer}");
        assert!(
            line.ends_with("1.0") || head.to_ascii_lowercase().contains("\r\nconnection: close"),
            "{line}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{line}: {answer}");
    }
    assert!(heads.lock().unwrap().is_empty());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

/// A header field, neither indexed nor compressed (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn connect_over_http2_is_refused_also_in_its_extended_form() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({ "enable_websocket": true })));
    let plain = [field(":method", "CONNECT"), field(":authority", "h:80")].concat();
    let extended = [
        field(":method", "CONNECT"),
        field(":protocol", "websocket"),
        field(":scheme", "http"),
        field(":path", "/"),
        field(":authority", "h"),
    ]
    .concat();
    let trace =
        [field(":method", "TRACE"), field(":scheme", "http"), field(":path", "/"), field(":authority", "h")].concat();
    for (what, block, status) in
        [("plain", plain, Some("400")), ("extended", extended, None), ("trace", trace, Some("405"))]
    {
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            client.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
            // END_HEADERS; the stream stays open for the tunnel's bytes.
            client.send(frame(HEADERS, 4, 1, &block)).await.unwrap();
            loop {
                let head = client.read_exact(9).await.unwrap();
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let payload = client.read_exact(length).await.unwrap();
                if head[8] != 1 {
                    continue;
                }
                match (head[3], status) {
                    (HEADERS, Some(status)) => {
                        // 400 has an entry of HPACK's own; 405 is written out, Huffman-coded or not.
                        let as_is = payload.windows(3).any(|window| window == status.as_bytes());
                        let entry = payload[0] == 0x8c && status == "400";
                        let coded = payload.windows(2).any(|window| window == [0x68, 0x0d]) && status == "405";
                        assert!(as_is || entry || coded, "{what}: {payload:x?}");
                    }
                    (RST_STREAM, None) => {}
                    other => panic!("{what}: frame {other:?}"),
                }
                break;
            }
        });
    }
    assert!(echo.take().is_empty());
}
