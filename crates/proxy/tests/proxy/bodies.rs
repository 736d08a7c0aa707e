//! Bodies of every kind, both ways.

use crate::frames::{DATA, upstream};
use crate::support::{Bed, SOON, Scripted, object, read_head, route_to};
use bytes::Bytes;
use milecastle_model::Kind;
use milecastle_testkit::frames::{self, Frames};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo};
use serde_json::json;
use std::io::Write;
use std::sync::{Mutex, mpsc};

#[test]
fn request_bodies_arrive_whole() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    for size in [0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
        let body = vec![b'z'; size];
        assert_eq!(bed.call(Call::post("/large/1", body.clone())).status, 200);
        let got = echo.take().pop().unwrap();
        assert_eq!(got.header("content-length"), [size.to_string()]);
        assert!(got.body == body, "{size} bytes");
    }
}

#[test]
fn chunked_request_bodies_arrive_whole() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST /large/2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for piece in ["5\r\nhello\r\n", "1", "\r\n,\r\n", "6\r\n world\r\n0\r\n", "X-Trailer: 1\r\n\r\n"] {
            client.send(piece).await.unwrap();
        }
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
        client.read_exact(2).await.unwrap();
        // The connection is good for another request.
        client.send("POST /large/2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    });
    let got = echo.take();
    assert_eq!(&got[0].body[..], b"hello, world");
    assert_eq!(&got[1].body[..], b"");
    assert_eq!(got[0].header("transfer-encoding"), ["chunked"]);
}

#[test]
fn a_large_chunked_body_flows() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let piece = format!("{:x}\r\n{}\r\n", 50_000, "q".repeat(50_000));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST /large/2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..40 {
            client.send(&piece).await.unwrap();
        }
        client.send("0\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    });
    assert_eq!(echo.take()[0].body.len(), 2_000_000);
}

#[test]
fn a_client_may_wait_for_100() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 100"));
        client.send("ok").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    });
    let got = echo.take().pop().unwrap();
    assert_eq!(&got.body[..], b"ok");
    assert_eq!(got.header("expect"), [""; 0]);
}

#[test]
fn answer_bodies_arrive_whole() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    for target in ["/large/0", "/large/1", "/large/9000", "/large/5000000"] {
        for how in ["", "?chunked", "?eof", "?close"] {
            let answer = bed.get(&format!("{target}{how}"));
            assert_eq!(answer.status, 200);
            let size: usize = target.trim_start_matches("/large/").parse().unwrap();
            assert!(answer.body.len() == size && answer.body.iter().all(|byte| *byte == b'x'), "{target}{how}");
        }
    }
}

/// Bytes that show it if any are lost, doubled or swapped.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 251 + at % 251) as u8).collect()
}

#[test]
fn large_answers_arrive_whole_however_slowly_they_are_read() {
    const SIZE: usize = 12_000_000;
    let upstream = Scripted::new(|stream, _| {
        while read_head(stream).is_some() {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
            for piece in pattern(SIZE).chunks(70_001) {
                stream.write_all(piece).unwrap();
            }
        }
    });
    // With no pipe all are copied, with one the second and third are; the last case has one for each.
    for pipes in [0, 1, 8] {
        let bed = Bed::with(route_to(&[upstream.addr], json!({})), |settings| settings.limits.pipes = pipes);
        bed.run(async {
            let mut clients = Vec::new();
            for _ in 0..3 {
                let mut client = Raw::connect(bed.http).await.unwrap();
                client.send("GET /large/1 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
                assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
                clients.push(client);
            }
            let totals = bed.totals();
            assert_eq!((totals.in_flight, totals.answers_begun), (3, 3), "nobody has read an answer");
            for client in &mut clients {
                assert!(client.read_exact(SIZE).await.unwrap() == pattern(SIZE), "{pipes} pipes");
                client.send("GET /large/2 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
                client.read_head().await.unwrap();
                assert!(client.read_exact(SIZE).await.unwrap() == pattern(SIZE), "{pipes} pipes, once more");
            }
        });
        let lines = bed.lines(6);
        assert!(lines.iter().all(|line| line.body_bytes == SIZE as u64 && !line.client_gone), "{pipes} pipes");
    }
}

#[test]
fn a_large_answer_that_breaks_off_never_passes_for_whole() {
    let upstream = Scripted::new(|stream, _| {
        read_head(stream).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        stream.write_all(&pattern(500_000)).unwrap();
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /large/1 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().contains("1000000"));
        assert!(client.read_to_end().await.unwrap() == pattern(500_000));
    });
    let line = &bed.lines(1)[0];
    assert_eq!((line.body_bytes, line.client_gone), (500_000, false));
}

#[test]
fn an_upstream_that_stalls_in_a_large_answer_is_given_up() {
    let upstream = Scripted::new(|stream, _| {
        read_head(stream).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        stream.write_all(&pattern(500_000)).unwrap();
        // Until the gateway has had enough.
        read_head(stream);
    });
    let timeouts = json!({ "timeout": { "connect": 1, "send": 1, "read": 0.3 } });
    let bed = Bed::new(route_to(&[upstream.addr], timeouts));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /large/1 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        client.read_head().await.unwrap();
        assert!(client.read_to_end().await.unwrap() == pattern(500_000));
    });
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    for (answer, method, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", 200),
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET", 204),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n", "GET", 304),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", 200),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET", 200),
    ] {
        let upstream = Scripted::answering(answer, true);
        let bed = Bed::new(route_to(&[upstream.addr], json!({})));
        bed.run(async {
            let mut client = Raw::connect(bed.http).await.unwrap();
            for _ in 0..3 {
                client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")).await.unwrap();
                let head = client.read_head().await.unwrap();
                assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{answer:?}: {head}");
                let length = head.to_ascii_lowercase().contains("content-length: 5");
                assert_eq!(length, answer.contains(": 5"), "{head}");
            }
        });
        assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1, "{answer:?}");
        assert!(bed.lines(3).iter().all(|line| line.status == status && !line.client_gone));
    }
}

/// RFC 9110 §15.2, RFC 8297.
#[test]
fn early_hints_reach_the_client_before_the_answer() {
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let upstream = Scripted::new(move |stream, _| {
        while read_head(stream).is_some() {
            let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nServer: x\r\n\
                         Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 9\r\n\r\n";
            stream.write_all(hints.as_bytes()).unwrap();
            may_go_on.lock().unwrap().recv_timeout(SOON).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        }
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
            let hints = client.read_head().await.unwrap();
            assert_eq!(hints.trim_end(), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>");
            go_on.send(()).unwrap();
            assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200 "));
            assert_eq!(client.read_exact(2).await.unwrap(), b"hi");
        }
        let mut client = Frames::connect(bed.http, &[]).await.unwrap();
        let whole = frames::END_HEADERS | frames::END_STREAM;
        let get = frames::frame(frames::kind::HEADERS, whole, 1, &frames::request("GET", "/", "h"));
        client.send(get).await.unwrap();
        assert_eq!(client.status(1).await.unwrap(), Ok(103));
        go_on.send(()).unwrap();
        assert_eq!(client.status(1).await.unwrap(), Ok(200));
    });
    go_on.send(()).unwrap();
    let old = bed.raw("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200 ") && !old.contains("a.css"), "{old}");
    assert!(bed.lines(4).iter().all(|line| line.status == 200));
}

/// What comes with the answer goes with it, and a client that waits to be told to go on is.
#[test]
fn early_hints_stand_before_the_answer_and_beside_a_100() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let upstream = Scripted::new(move |stream, _| {
        let head = read_head(stream).unwrap();
        stream.write_all(hints.as_bytes()).unwrap();
        if head.starts_with("POST") {
            let mut body = [0; 5];
            std::io::Read::read_exact(stream, &mut body).unwrap();
        }
        stream.write_all(hints.as_bytes()).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    let answers = bed.raw("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let heads: Vec<_> = answers.split_inclusive("\r\n\r\n").map(|head| head.get(9..12).unwrap()).collect();
    assert_eq!(heads, ["103", "103", "204"], "{answers}");
    // A body of this length is not read before the upstream is asked.
    let little = |settings: &mut milecastle_settings::Gateway| {
        settings.limits.retry_body = milecastle_settings::Size::kib(0);
    };
    let bed = Bed::with(route_to(&[upstream.addr], json!({})), little);
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        let mut first = [client.read_head().await.unwrap(), client.read_head().await.unwrap()];
        first.sort_unstable();
        assert!(first[0].starts_with("HTTP/1.1 100 ") && first[1].starts_with("HTTP/1.1 103 "), "{first:?}");
        client.send("hello").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 103 "));
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 204 "));
    });
}

#[test]
fn trailers_reach_clients_that_take_them() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n";
    let upstream = Scripted::answering(answer, true);
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    let answer = bed.run(async {
        let mut connection = milecastle_testkit::Target::plain(bed.http).http2().connect().await.unwrap();
        Call::get("/").send(&mut connection).await.unwrap()
    });
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.trailers.get("x-sum").unwrap(), "7");
    assert!(!answer.trailers.contains_key("host"));
    let plain = bed.get("/");
    assert_eq!(plain.text(), "abc");
    let over_http1 = |fields: &str| bed.raw(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n"));
    let told = over_http1("TE: trailers\r\n");
    assert!(told.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{told}");
    let silent = over_http1("");
    assert!(silent.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{silent}");
}

#[test]
fn an_early_answer_reaches_the_client_while_it_still_sends() {
    let upstream = Scripted::new(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").unwrap();
        // The rest of the request is read and thrown away.
        std::io::copy(stream, &mut std::io::sink()).ok();
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nbegin").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(client.read_exact(5).await.unwrap(), b"early");
    });
}

#[test]
fn both_bodies_flow_at_once() {
    let upstream = Scripted::new(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        // Each piece is answered before the next is asked for.
        let mut piece = [0; 8];
        while std::io::Read::read_exact(stream, &mut piece).is_ok() && &piece[..1] != b"0" {
            stream.write_all(b"3\r\npig\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let bed = Bed::new(route_to(&[upstream.addr], json!({})));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
        for _ in 0..5 {
            client.send("3\r\ncow\r\n").await.unwrap();
            assert_eq!(client.read_exact(8).await.unwrap(), b"3\r\npig\r\n");
        }
    });
}

#[test]
fn bodies_beyond_the_cap_are_refused() {
    let echo = Echo::start();
    let bed = Bed::with(route_to(&[echo.address()], json!({})), |file| {
        file.nginx_config.http.client_max_body_size = milecastle_settings::Size::bytes(1000);
    });
    assert_eq!(bed.call(Call::post("/", vec![b'a'; 1000])).status, 200);
    assert_eq!(bed.call(Call::post("/", vec![b'a'; 1001])).status, 413);
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = format!("3e9\r\n{}\r\n0\r\n\r\n", "a".repeat(1001));
    assert!(bed.raw(format!("{chunked}{body}")).starts_with("HTTP/1.1 413"));
}

/// Of two uploads on one HTTP/2 connection the second completes, although nobody reads the first.
#[test]
fn an_upload_that_nobody_reads_holds_up_no_other() {
    let (seen, taken) = mpsc::channel();
    // It opens no window: what it takes is what the protocol gives a connection to begin with.
    let stuck = upstream(&[], move |frames, _| {
        while let Some(frame) = frames.next() {
            if frame.kind == DATA {
                seen.send(frame.payload.len()).ok();
            }
        }
    });
    let echo = Echo::start();
    let target = json!({ "scheme": "grpc", "nodes": { stuck.addr.to_string(): 1 } });
    let mut objects = route_to(&[echo.address()], json!({}));
    objects.push(object(Kind::Route, "stuck", json!({ "uri": "/stuck", "upstream": target })));
    let bed = Bed::new(objects);
    let body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let post = |path| http::Request::post(format!("http://a.test{path}")).body(()).unwrap();
    let (mut client, _unanswered) = bed.run(async {
        let stream = tokio::net::TcpStream::connect(bed.http).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut client = client.ready().await.unwrap();
        let (answer, mut upload) = client.send_request(post("/stuck"), false).unwrap();
        upload.send_data(body.clone(), true).unwrap();
        (client.ready().await.unwrap(), answer)
    });
    let mut left = 65_535;
    while left > 0 {
        left -= taken.recv_timeout(SOON).unwrap();
    }
    let status = bed.run(async {
        let (answer, mut upload) = client.send_request(post("/large/1"), false).unwrap();
        upload.send_data(body.clone(), true).unwrap();
        answer.await.unwrap().status()
    });
    assert_eq!(status, http::StatusCode::OK);
    assert_eq!(echo.take().pop().unwrap().body.len(), body.len());
}
