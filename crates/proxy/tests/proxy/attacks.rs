//! Clients and upstreams that are as slow, as talkative or as abrupt as the protocol lets them be, and a little more.

use crate::support::{Bed, SOON, Scripted, object, read_head, route_to};
use milecastle_model::Kind;
use milecastle_settings::{Gateway as Settings, Switch};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::tls::{Authority, client_config};
use milecastle_testkit::{Call, Echo};
use serde_json::json;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Three requests, with every kind of body.
const THREE: &str = "\r\nPOST /large/1?a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
    POST /large/1?b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"1\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n\
    GET /large/1?c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// A gateway to `upstream` that also speaks TLS, as `site.test`.
fn tls_bed(upstream: SocketAddr) -> (Bed, Authority) {
    tls_bed_with(upstream, |_| {})
}

fn tls_bed_with(upstream: SocketAddr, change: impl FnOnce(&mut Settings)) -> (Bed, Authority) {
    let authority = Authority::new("authority");
    let identity = authority.issue(&["site.test"]);
    let mut objects = route_to(&[upstream], json!({}));
    let ssl = json!({ "snis": ["site.test"], "cert": identity.cert, "key": identity.key });
    objects.push(object(Kind::Ssl, "s", ssl));
    (Bed::with(objects, change), authority)
}

async fn connect_tls(bed: &Bed, authority: &Authority) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(bed.https).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connector = TlsConnector::from(client_config(&authority.pem(), None, &["http/1.1"]));
    connector.connect("site.test".try_into().unwrap(), stream).await.unwrap()
}

/// Sends every byte by itself, and returns all answers.
async fn drip(mut connection: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
    for byte in text.bytes() {
        connection.write_all(&[byte]).await.unwrap();
        connection.flush().await.unwrap();
    }
    let mut answers = String::new();
    connection.read_to_string(&mut answers).await.unwrap();
    answers
}

fn check_three(echo: &Echo, answers: &str) {
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
    let received = echo.take();
    let bodies: Vec<_> = received.iter().map(|request| (request.target(), &request.body[..])).collect();
    let expected: [(String, &[u8]); 3] =
        [("/large/1?a".into(), b"hello"), ("/large/1?b".into(), b"abc0123456789"), ("/large/1?c".into(), b"")];
    assert_eq!(bodies, expected);
}

#[test]
fn requests_may_come_byte_by_byte() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let answers = bed.run(async {
        let stream = TcpStream::connect(bed.http).await.unwrap();
        stream.set_nodelay(true).unwrap();
        drip(stream, THREE).await
    });
    check_three(&echo, &answers);
}

#[test]
fn requests_may_come_in_tls_records_of_one_byte() {
    let echo = Echo::start();
    let (bed, authority) = tls_bed(echo.address());
    let answers = bed.run(async { drip(connect_tls(&bed, &authority).await, THREE).await });
    check_three(&echo, &answers);
}

#[test]
fn requests_may_come_in_one_tls_record() {
    let echo = Echo::start();
    let (bed, authority) = tls_bed(echo.address());
    let answers = bed.run(async {
        let mut stream = connect_tls(&bed, &authority).await;
        stream.write_all(THREE.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        answers
    });
    check_three(&echo, &answers);
}

/// The end of a TLS connection without close_notify may be an attacker's doing: no body ends with it.
#[test]
fn a_body_that_is_cut_off_under_tls_never_passes_for_whole() {
    let echo = Echo::start();
    let (bed, authority) = tls_bed(echo.address());
    for (head, part) in [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")] {
        bed.run(async {
            let mut stream = connect_tls(&bed, &authority).await;
            let request = format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n{part}");
            stream.write_all(request.as_bytes()).await.unwrap();
            milecastle_testkit::eventually("the request is in work", async || bed.totals().in_flight == 1).await;
            stream.get_mut().0.shutdown().await.unwrap();
            bed.wait_totals("the request has ended", |totals| totals.in_flight == 0 && totals.active == 0);
        });
    }
    assert!(echo.take().is_empty());
    assert_eq!(bed.lines(2).len(), 2);
}

/// Nobody can tell a client that has ended sending from one that has left, so it counts as gone by default.
#[test]
fn a_client_that_ends_sending_has_left() {
    let upstream = Scripted::new(|stream, _| while read_head(stream).is_some() {});
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /half HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        client.finish_sending().await.unwrap();
        assert!(client.read_to_end().await.unwrap().is_empty());
    });
    let line = &bed.lines(1)[0];
    assert_eq!((line.status, line.client_gone), (499, true));
    bed.wait_totals("no connection", |totals| totals.in_flight == 0 && totals.active == 0);
}

/// netcat and some probes end sending with their request, and wait for the answer.
#[test]
fn a_client_that_ends_sending_is_answered_where_that_is_asked_for() {
    let (go_on, may_go_on) = channel();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Scripted::new(move |stream, _| {
        while let Some(head) = read_head(stream) {
            if head.starts_with("GET /half ") {
                may_go_on.lock().unwrap().recv_timeout(SOON).unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        }
    });
    let answer = |settings: &mut Settings| {
        settings.nginx_config.http.proxy_ignore_client_abort = Switch(true);
    };
    let bed = Bed::with(route_to(&[upstream.addr], json!({})), answer);
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /half HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        client.finish_sending().await.unwrap();
        // The one worker has seen the end by the time at which it has served somebody else.
        assert_eq!(Call::get("/other").to(bed.http).await.unwrap().status, 200);
        go_on.send(()).unwrap();
        let said = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\nhi"), "{said}");
    });
    assert!(bed.lines(2).iter().all(|line| (line.status, line.client_gone) == (200, false)));
    bed.wait_totals("no connection", |totals| totals.in_flight == 0 && totals.active == 0);
}

/// Nothing more is to be read from such a client, so that reading does not show that it has left.
#[test]
fn a_client_that_ends_sending_and_then_resets_the_connection_has_left() {
    let upstream = Scripted::new(|stream, _| {
        while let Some(head) = read_head(stream) {
            if !head.starts_with("GET /half ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
            }
        }
    });
    let (bed, authority) = tls_bed_with(upstream.addr, |settings| {
        settings.nginx_config.http.proxy_ignore_client_abort = Switch(true);
    });
    bed.run(async {
        let request = b"GET /half HTTP/1.1\r\nHost: site.test\r\n\r\n";
        let mut plain = TcpStream::connect(bed.http).await.unwrap();
        plain.write_all(request).await.unwrap();
        plain.shutdown().await.unwrap();
        let mut tls = connect_tls(&bed, &authority).await;
        tls.write_all(request).await.unwrap();
        tls.shutdown().await.unwrap();
        milecastle_testkit::eventually("both are in work", async || bed.totals().in_flight == 2).await;
        // The one worker has seen both ends by the time at which it has served somebody else.
        assert_eq!(Call::get("/other").to(bed.http).await.unwrap().status, 200);
        plain.set_zero_linger().unwrap();
        tls.get_ref().0.set_zero_linger().unwrap();
    });
    let lines = bed.lines(3);
    let half = lines.iter().filter(|line| line.target == "/half");
    assert_eq!(half.map(|line| (line.status, line.client_gone)).collect::<Vec<_>>(), [(499, true); 2]);
}

#[test]
fn no_request_behind_a_refused_one_is_looked_at() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    for (refused, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX : 1\r\n\r\n", 400),
    ] {
        let behind = "GET /behind HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3);
        let answers = bed.raw(format!("{refused}{behind}"));
        assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    }
    assert!(echo.take().is_empty());
}

#[test]
fn chunk_extensions_have_their_limit() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
    let head = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(bed.raw(format!("{head}{}0\r\n\r\n", chunk.repeat(10))).starts_with("HTTP/1.1 200"));
    assert_eq!(&echo.take()[0].body[..], b"xxxxxxxxxx");
    assert!(bed.raw(format!("{head}{}0\r\n\r\n", chunk.repeat(100))).starts_with("HTTP/1.1 400"));
    assert!(echo.take().is_empty());
}

/// Answers that have no body by their kind, from an upstream that sends one.
#[test]
fn a_body_where_there_can_be_none_is_nobodys_answer() {
    for (method, status) in [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")] {
        let stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
        for later in [false, true] {
            let (go_on, told_to) = channel();
            let (written, has_written) = channel();
            let told_to = Mutex::new(told_to);
            let upstream = Scripted::new(move |stream, number| {
                while read_head(stream).is_some() {
                    if number > 0 {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine").unwrap();
                        continue;
                    }
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", stray.len());
                    if later {
                        stream.write_all(head.as_bytes()).unwrap();
                        told_to.lock().unwrap().recv().unwrap();
                        stream.write_all(stray.as_bytes()).unwrap();
                    } else {
                        stream.write_all(format!("{head}{stray}").as_bytes()).unwrap();
                    }
                    written.send(()).unwrap();
                }
            });
            let bed = Bed::new(route_to(&[upstream.addr], json!({})));
            bed.run(async {
                let mut client = Raw::connect(bed.http).await.unwrap();
                client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")).await.unwrap();
                assert!(client.read_head().await.unwrap().starts_with(&format!("HTTP/1.1 {status}")));
                go_on.send(()).unwrap();
                has_written.recv().unwrap();
                client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
                assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"), "{method} {status}");
                assert_eq!(client.read_exact(4).await.unwrap(), b"mine", "{method} {status}");
            });
            assert_eq!(upstream.connections.load(Ordering::SeqCst), 2);
        }
    }
}

/// nginx reads them, and old applications send them. The client reads lines that end as they must.
#[test]
fn answers_with_bare_line_feeds_are_written_anew() {
    let upstream = Scripted::new(|stream, _| {
        while read_head(stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\nX-A: 1\nX-B: 2\r\nX-C:3\nContent-Length: 2\n\nok").unwrap();
        }
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    let answer = bed.raw("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let head = head.to_ascii_lowercase();
    assert!(head.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "{head}");
    for field in ["x-a: 1", "x-b: 2", "x-c: 3", "content-length: 2"] {
        assert_eq!(head.split("\r\n").filter(|line| *line == field).count(), 1, "{head}");
    }
    assert_eq!(body, "ok");
}

#[test]
fn http10_connections_are_kept_where_the_client_asks_and_the_length_is_known() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        for _ in 0..2 {
            client.send("GET /large/3 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
            let head = client.read_head().await.unwrap().to_ascii_lowercase();
            assert!(head.starts_with("http/1.0 200") && head.contains("\r\nconnection: keep-alive\r\n"), "{head}");
            assert_eq!(client.read_exact(3).await.unwrap(), b"xxx");
        }
        // Of a body without a length only the end of the connection tells the end.
        client.send("GET /large/3000/chunked HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let head = client.read_head().await.unwrap().to_ascii_lowercase();
        assert!(head.contains("\r\nconnection: close\r\n") && !head.contains("transfer-encoding"), "{head}");
        assert_eq!(client.read_to_end().await.unwrap(), [b'x'; 3000]);
    });
}

#[test]
fn a_client_is_told_to_go_on_only_if_it_waits() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let chunked = "Transfer-Encoding: chunked";
    for (version, fields, told) in [
        ("1.1", "Content-Length: 2\r\nExpect: 100-continue", true),
        ("1.1", "Content-Length: 2\r\nexpect:100-CONTINUE", true),
        ("1.1", &format!("{chunked}\r\nExpect: 100-continue"), true),
        ("1.1", "Content-Length: 2", false),
        ("1.1", "Content-Length: 2\r\nExpect: 200-ok", false),
        ("1.0", "Content-Length: 2\r\nExpect: 100-continue", false),
        ("1.1", "Content-Length: 0\r\nExpect: 100-continue", false),
        ("1.1", "Expect: 100-continue", false),
    ] {
        let body = match fields {
            _ if fields.starts_with(chunked) => "2\r\nok\r\n0\r\n\r\n",
            _ if fields.contains("Length: 2") => "ok",
            _ => "",
        };
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            let head = format!("POST /large/1 HTTP/{version}\r\nHost: h\r\n{fields}\r\n\r\n");
            client.send(head).await.unwrap();
            if told {
                assert_eq!(client.read_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n", "{fields}");
            }
            client.send(body).await.unwrap();
            let head = client.read_head().await.unwrap();
            assert!(head.starts_with(&format!("HTTP/{version} 200")), "{version} {fields}: {head}");
        });
        let received = echo.take();
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].body.is_empty(), body.is_empty(), "{fields}");
    }
}

/// Thousands of requests in one go from a client that reads nothing: they wait where they are.
#[test]
fn a_client_that_asks_and_never_reads_is_not_read_either() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let requests = "GET /large/100000 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send(&requests).await.unwrap();
        let (mut arrived, mut looks) = (0, 0);
        milecastle_testkit::eventually("no further request arrives", async || {
            let before = std::mem::replace(&mut arrived, echo.received().len());
            looks = if arrived > 0 && arrived == before { looks + 1 } else { 0 };
            looks == 30
        })
        .await;
        assert!(arrived < 1000, "{arrived} requests");
    });
    bed.wait_totals("the client has left", |totals| totals.in_flight == 0 && totals.active == 0);
}
