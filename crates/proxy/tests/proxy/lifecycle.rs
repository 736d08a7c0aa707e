//! Connections: limits on time and size, tunnels, and the end of the node.

use crate::support::{Bed, Scripted, read_head, route_to};
use milecastle_settings::Time;
use milecastle_testkit::raw::Raw;
use serde_json::json;
use std::io::{Read, Write};

#[test]
fn a_head_that_comes_too_slowly_is_408() {
    let bed = Bed::with(vec![], |file| file.nginx_config.http.client_header_timeout = Time::millis(150));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 404"));
        client.read_until(b"\n").await.unwrap();
        client.send("GET / HTTP/1.1\r\nHo").await.unwrap();
        let end = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert!(end.starts_with("HTTP/1.1 408"), "{end}");
        // One that says nothing at all is closed without a word.
        let mut silent = Raw::connect(bed.http).await.unwrap();
        assert!(silent.read_to_end().await.unwrap().is_empty());
    });
    assert_eq!(bed.totals().slow_heads, 1);
    bed.wait_totals("no connection", |totals| totals.active == 0 && totals.reading == 0 && totals.waiting == 0);
}

#[test]
fn an_idle_connection_is_closed() {
    let bed = Bed::with(vec![], |file| file.nginx_config.http.keepalive_timeout = Time::millis(150));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let all = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert!(all.starts_with("HTTP/1.1 404") && all.ends_with("Not Found\"}\n"), "{all}");
    });
    let bed = Bed::with(vec![], |file| file.nginx_config.http.keepalive_timeout = Time::millis(0));
    let all = bed.raw("GET / HTTP/1.1\r\nHost: h\r\n\r\n").to_ascii_lowercase();
    assert!(all.contains("connection: close"), "{all}");
}

#[test]
fn a_huge_head_is_431() {
    let bed = Bed::new(vec![]);
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert!(bed.raw(long).starts_with("HTTP/1.1 431"));
    let many: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(bed.raw(format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n")).starts_with("HTTP/1.1 431"));
}

#[test]
fn a_websocket_becomes_a_tunnel_where_the_route_allows_it() {
    let upstream = Scripted::new(|stream, _| {
        let head = read_head(stream).unwrap().to_ascii_lowercase();
        if !head.contains("upgrade: websocket") || !head.contains("connection: upgrade") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            return;
        }
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
            .unwrap();
        let mut piece = [0; 4];
        while stream.read_exact(&mut piece).is_ok() {
            piece.reverse();
            stream.write_all(&piece).unwrap();
        }
    });
    let ask = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearl";
    let bed = Bed::new(route_to(&[upstream.addr], json!({ "enable_websocket": true })));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send(ask).await.unwrap();
        let head = client.read_head().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
        assert_eq!(client.read_exact(9).await.unwrap(), b"firstlrae");
        client.send("abcd").await.unwrap();
        assert_eq!(client.read_exact(4).await.unwrap(), b"dcba");
        let totals = bed.totals();
        assert_eq!((totals.in_flight, totals.answers_begun), (1, 1));
    });
    let line = &bed.lines(1)[0];
    assert_eq!((line.status, line.client_gone), (101, false));
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    assert!(bed.raw(ask.replace("\r\n\r\nearl", "\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0")).contains("200 OK"));
}

#[test]
fn a_tunnel_through_which_nothing_passes_any_more_ends_though_its_upstream_has_more_to_say() {
    let upstream = Scripted::new(|stream, _| {
        read_head(stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        // More than all buffers on the way hold.
        while stream.write_all(&[0x82; 1 << 16]).is_ok() {}
    });
    let more = json!({ "enable_websocket": true, "timeout": { "connect": 5, "send": 0.2, "read": 0.2 } });
    let bed = Bed::new(route_to(&[upstream.addr], more));
    let client = bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 101"));
        client
    });
    assert_eq!(bed.lines(1)[0].status, 101);
    bed.wait_totals("no tunnel", |totals| totals.tunnels == 0);
    drop(client);
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let error = milecastle_proxy::probe(addr, "apisix.node_listen").unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("apisix.node_listen"), "{error}");
    drop(holder);
    milecastle_proxy::probe(addr, "apisix.node_listen").unwrap();
}
