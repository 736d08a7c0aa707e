//! Answers that come before the request has come whole: the client reads them, and the connection stays in order.

use crate::support::{Bed, SOON, Scripted, read_head, route_to};
use milecastle_settings::{Gateway as Settings, Size, Time};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, Target};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Far more than the buffers of a connection hold.
const MUCH: usize = 12 << 20;

/// A client that does not look at what comes back before it has sent everything, as most do.
fn send_then_read(addr: SocketAddr, parts: &[&[u8]]) -> String {
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    for part in parts {
        client.write_all(part).expect("everything can be sent");
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the answer can be read, and ends in order");
    String::from_utf8(answer).unwrap()
}

fn closes(answer: &str) -> bool {
    answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
}

fn refusing(change: impl FnOnce(&mut Settings)) -> (Echo, Bed) {
    let echo = Echo::start();
    let plugins = json!({ "plugins": { "witness": { "reply": 403 } } });
    let bed = Bed::with(route_to(&[echo.address()], plugins), change);
    (echo, bed)
}

#[test]
fn a_refused_body_is_dropped_and_the_connection_goes_on() {
    let (_echo, bed) = refusing(|_| {});
    let body = "b".repeat(1 << 20);
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    let known = format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let unknown = "POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let last = "GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let parts = [&known, &body, unknown, &chunk, &chunk, "0\r\n\r\n", last];
    let answers = send_then_read(bed.http, &parts.map(str::as_bytes));
    assert_eq!(answers.matches("HTTP/1.1 403 Forbidden").count(), 3, "{answers}");
    assert_eq!(answers.to_ascii_lowercase().matches("connection: close").count(), 1, "{answers}");
    assert_eq!(bed.totals().accepted, 1);
    assert_eq!(bed.totals().lingering_cut, 0);
    bed.wait_totals("no connection", |totals| totals.active == 0);
}

#[test]
fn a_body_too_long_to_be_dropped_ends_the_connection_behind_the_answer() {
    let (_echo, bed) = refusing(|_| {});
    let length = 1_u64 << 40;
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\nbegin")).await.unwrap();
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 403") && closes(&head), "{head}");
        client.read_exact(5).await.unwrap();
        // The other direction is closed, this one is still read.
        client.send(vec![b'x'; MUCH]).await.unwrap();
        client.finish_sending().await.unwrap();
        assert!(client.read_to_end().await.unwrap().is_empty());
    });
    bed.wait_totals("no connection", |totals| totals.active == 0);
    assert_eq!(bed.totals().lingering_cut, 0);
}

#[test]
fn a_client_that_waits_for_100_and_is_refused_need_not_send() {
    let (_echo, bed) = refusing(|_| {});
    let answer =
        send_then_read(bed.http, &[b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"]);
    assert!(answer.starts_with("HTTP/1.1 403") && closes(&answer), "{answer}");
}

#[test]
fn a_body_that_is_too_large_is_answered_so_that_the_client_reads_it() {
    let (_echo, bed) = refusing(|settings| settings.nginx_config.http.client_max_body_size = Size::bytes(1000));
    let much = vec![b'x'; MUCH];
    let known = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {MUCH}\r\n\r\n");
    let answer = send_then_read(bed.http, &[known.as_bytes(), &much]);
    assert!(answer.starts_with("HTTP/1.1 413") && closes(&answer), "{answer}");
    // Where it turns out only while the body comes.
    let echo = Echo::start();
    let bed = Bed::with(route_to(&[echo.address()], json!({})), |settings| {
        settings.nginx_config.http.client_max_body_size = Size::bytes(1000);
    });
    let chunk = format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{MUCH:x}\r\n");
    let answer = send_then_read(bed.http, &[chunk.as_bytes(), &much, b"\r\n0\r\n\r\n"]);
    assert!(answer.starts_with("HTTP/1.1 413") && closes(&answer), "{answer}");
}

#[test]
fn over_tls_the_answer_is_read_as_well() {
    let (echo, authority) = (Echo::start(), Authority::new("authority"));
    let identity = authority.issue(&["site.test"]);
    let mut objects = route_to(&[echo.address()], json!({}));
    let ssl = json!({ "snis": ["site.test"], "cert": identity.cert, "key": identity.key });
    objects.push(crate::support::object(milecastle_model::Kind::Ssl, "s", ssl));
    let bed = Bed::with(objects, |settings| settings.nginx_config.http.client_max_body_size = Size::bytes(1000));
    let site = Target::tls(bed.https, "site.test", &authority.pem());
    for target in [site.clone(), site.http2()] {
        let call = Call::post("/", vec![b'x'; MUCH]);
        let answer = bed.run(async { call.send(&mut target.connect().await.unwrap()).await });
        assert_eq!(answer.unwrap().status, 413);
    }
}

#[test]
fn what_is_malformed_is_answered_so_that_the_client_reads_it() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let much = vec![b'x'; MUCH];
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, begin, status) in [
        ("chunk size", format!("{chunked}zz\r\n"), 400),
        ("later chunk size", format!("{chunked}1\r\nx\r\nzz\r\n"), 400),
        ("two hosts", "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 100000000\r\n\r\n".into(), 400),
        ("no request", "\u{1}\u{2}\r\n\r\n".into(), 400),
        ("huge head", "GET / HTTP/1.1\r\nHost: h\r\nX: ".into(), 431),
    ] {
        let answer = send_then_read(bed.http, &[begin.as_bytes(), &much]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && closes(&answer), "{what}: {answer}");
    }
    assert!(echo.take().is_empty());
}

#[test]
fn a_slow_head_is_answered_so_that_the_client_reads_it() {
    let bed = Bed::with(vec![], |settings| settings.nginx_config.http.client_header_timeout = Time::millis(150));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHo").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 408"));
        client.send(vec![b'x'; MUCH]).await.unwrap();
        client.finish_sending().await.unwrap();
        assert!(client.read_to_end().await.unwrap().ends_with(b"</html>\n"));
    });
}

#[test]
fn where_connections_are_not_kept_the_answer_is_read_as_well() {
    let bed = Bed::with(vec![], |settings| settings.nginx_config.http.keepalive_timeout = Time::millis(0));
    let answer = send_then_read(bed.http, &[b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", &vec![b'x'; MUCH]]);
    assert!(answer.starts_with("HTTP/1.1 404") && closes(&answer), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
}

#[test]
fn lingering_has_its_limits() {
    // In bytes, behind an answer that ends the connection, and behind one that does not.
    let (_echo, bed) = refusing(|settings| {
        settings.limits.lingering_bytes = Size::kib(64);
        settings.timeouts.lingering_timeout = Time::secs(60);
        settings.timeouts.lingering_time = Time::secs(60);
    });
    for (round, framing) in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"].into_iter().enumerate() {
        let mut client = TcpStream::connect(bed.http).unwrap();
        client.write_all(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n3b9aca00\r\n").as_bytes()).unwrap();
        let cut = (0..10_000).find_map(|_| client.write_all(&[b'x'; 16 * 1024]).err());
        assert!(cut.is_some(), "{framing}");
        bed.wait_totals("no connection", |totals| totals.active == 0);
        assert_eq!(bed.totals().lingering_cut, round as u64 + 1, "{framing}");
    }
    // In time, as a whole and in silence.
    for (whole, silence, cut) in [(60_000, 100, 0), (100, 60_000, 1)] {
        let (_echo, bed) = refusing(|settings| {
            settings.limits.lingering_bytes = Size::bytes(0);
            settings.timeouts.lingering_time = Time::millis(whole);
            settings.timeouts.lingering_timeout = Time::millis(silence);
        });
        let mut client = TcpStream::connect(bed.http).unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        assert!(read_head(&mut client).is_some());
        bed.wait_totals("no connection", |totals| totals.active == 0);
        assert_eq!(bed.totals().lingering_cut, cut);
    }
}

#[test]
fn an_early_answer_of_the_upstream_is_read_by_a_client_that_is_still_sending() {
    // Answers when the head has come, and resets the connection as the rest of the body runs into it.
    let early = Scripted::new(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge").unwrap();
    });
    let bed = Bed::new(route_to(&[early.addr], json!({})));
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {MUCH}\r\n\r\n");
    for _ in 0..20 {
        let answer = send_then_read(bed.http, &[head.as_bytes(), &vec![b'x'; MUCH]]);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("large"), "{answer}");
    }
}

#[test]
fn an_upstream_that_gives_no_answer_is_502_to_a_client_that_is_still_sending() {
    for reset in [false, true] {
        let gone = Scripted::new(move |stream, _| {
            read_head(stream);
            if reset {
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        let bed = Bed::new(route_to(&[gone.addr], json!({})));
        let chunk = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{MUCH:x}\r\n"
        );
        let body = vec![b'x'; MUCH];
        let answer = send_then_read(bed.http, &[chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"]);
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
        assert!(answer.contains("<center><h1>502 Bad Gateway</h1></center>"), "{answer}");
        // Without a body there is nothing to wait for.
        let answer = bed.raw("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert!(answer.contains("<center><h1>502 Bad Gateway</h1></center>"), "{answer}");
    }
}
