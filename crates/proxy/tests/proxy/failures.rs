//! Upstreams that fail, and clients that leave.

use crate::support::{Bed, Line, Scripted, read_head, route_to};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, Target, nowhere};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// An upstream that takes requests and closes.
fn closing() -> Scripted {
    Scripted::new(|stream, _| drop(read_head(stream)))
}

fn silent() -> Scripted {
    Scripted::new(|stream, _| while read_head(stream).is_some() {})
}

fn bed(nodes: &[SocketAddr], upstream: Value) -> Bed {
    Bed::new(route_to(nodes, json!({ "upstream": upstream })))
}

#[test]
fn a_refused_connection_is_tried_elsewhere() {
    let echo = Echo::start();
    let bed = bed(&[nowhere(), echo.address()], json!({}));
    for _ in 0..4 {
        assert_eq!(bed.call(Call::post("/status/201", "body")).status, 201);
    }
    let lines = bed.lines(4);
    assert!(lines.iter().any(|line| line.attempts == [502, 201]));
    assert!(echo.take().iter().all(|got| &got.body[..] == b"body"));
}

#[test]
fn when_every_node_fails_the_statuses_are_told() {
    let bed = bed(&[nowhere(), nowhere()], json!({}));
    let answer = bed.get("/");
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("x-apisix-upstream-status"), "502, 502");
    assert!(answer.text().contains("502 Bad Gateway"));
    assert_eq!(bed.lines(1)[0].attempts, [502, 502]);
    let totals = bed.totals();
    assert_eq!((totals.upstream_connects, totals.upstream_connect_failures), (0, 2));
}

#[test]
fn who_made_a_5xx_is_counted() {
    let echo = Echo::start();
    let beds = [bed(&[echo.address()], json!({})), bed(&[nowhere()], json!({}))];
    for (bed, (status, of_upstream)) in beds.iter().zip([(503, 1), (502, 0)]) {
        assert_eq!(bed.get("/status/503").status, status);
        bed.wait_totals("it is counted", |totals| {
            (totals.responses_5xx, totals.responses_5xx_upstream) == (1, of_upstream)
        });
    }
}

#[test]
fn retries_are_as_many_as_configured() {
    let (a, b) = (closing(), closing());
    let bed_with = |retries: u32| bed(&[a.addr, b.addr], json!({ "retries": retries }));
    let attempts = |bed: &Bed| {
        assert_eq!(bed.get("/").status, 502);
        bed.lines(1)[0].attempts.len()
    };
    assert_eq!(attempts(&bed_with(0)), 1);
    assert_eq!(attempts(&bed_with(1)), 2);
    // More than there are nodes: each node once.
    assert_eq!(attempts(&bed_with(5)), 2);
}

#[test]
fn what_may_have_been_acted_on_is_not_sent_twice() {
    let (failing, echo) = (closing(), Echo::start());
    let bed = bed(&[failing.addr, echo.address()], json!({}));
    let mut statuses: Vec<u16> = (0..4).map(|_| bed.call(Call::post("/", "x")).status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    assert!((0..4).all(|_| bed.call(Call::put_json("/", &json!({}))).status == 200));
}

#[test]
fn statuses_of_the_upstream_are_no_failures() {
    let echo = Echo::start();
    let other = Echo::start();
    let bed = bed(&[echo.address(), other.address()], json!({}));
    let answer = bed.get("/status/503");
    assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (503, "503".into()));
    assert_eq!(echo.take().len() + other.take().len(), 1);
    assert_eq!(bed.get("/status/404").header("x-apisix-upstream-status"), "");
    let bed = Bed::with(route_to(&[echo.address()], json!({})), |file| {
        file.apisix.show_upstream_status_in_response_header = true;
    });
    assert_eq!(bed.get("/").header("x-apisix-upstream-status"), "200");
}

#[test]
fn silence_ends_in_504() {
    let silent = silent();
    let timeout = json!({ "connect": 5, "send": 5, "read": 0.2 });
    let bed = bed(&[silent.addr], json!({ "timeout": timeout }));
    assert_eq!(bed.get("/").status, 504);
    assert_eq!(bed.lines(1)[0].attempts, [504]);
    // The route's limits stand for the upstream's.
    let timeout = json!({ "connect": 60, "send": 60, "read": 60 });
    let quick = json!({ "connect": 5, "send": 5, "read": 0.2 });
    let bed = Bed::new(route_to(&[silent.addr], json!({ "timeout": quick, "upstream": { "timeout": timeout } })));
    assert_eq!(bed.get("/").status, 504);
}

#[test]
fn rule_5_6_no_retry_begins_after_the_retry_timeout() {
    let (silent, echo) = (silent(), Echo::start());
    let timeout = json!({ "connect": 5, "send": 5, "read": 0.25 });
    let attempts = |retry_timeout: Value| {
        let upstream = json!({ "type": "chash", "key": "arg_id", "timeout": timeout, "retry_timeout": retry_timeout });
        let bed = bed(&[silent.addr, echo.address()], upstream);
        // Some key has the silent node first.
        let statuses: Vec<u16> = (0..12).map(|n| bed.get(&format!("/?id={n}")).status).collect();
        let tried: std::collections::BTreeSet<Vec<u16>> = bed.lines(12).into_iter().map(|line| line.attempts).collect();
        (statuses.contains(&502), tried)
    };
    let over = (true, [vec![200], vec![504]].into());
    assert_eq!(attempts(json!(0.1)), over);
    for none in [json!(0), json!(60)] {
        assert_eq!(attempts(none), (false, [vec![200], vec![504, 200]].into()));
    }
}

#[test]
fn a_body_that_stalls_cuts_the_answer() {
    let stalling = Scripted::new(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegin").unwrap();
        read_head(stream);
    });
    let bed = bed(&[stalling.addr], json!({ "timeout": { "connect": 5, "send": 5, "read": 0.2 } }));
    let answer = bed.raw("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.ends_with("begin"), "{answer}");
    let line = &bed.lines(1)[0];
    assert_eq!((line.status, line.client_gone, line.body_bytes), (200, false, 5));
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let cut = Scripted::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"), false);
        let bed = bed(&[cut.addr], json!({}));
        assert!(bed.run(Call::get("/").to(bed.http)).is_err(), "{head}");
        assert_eq!(bed.lines(1)[0].status, 200);
    }
}

#[test]
fn what_breaks_off_passes_for_a_whole_answer_in_no_protocol() {
    let cut = Scripted::new(|stream, _| {
        while let Some(head) = read_head(stream) {
            let whole: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if head.starts_with("GET /whole") {
                stream.write_all(whole).unwrap();
            } else {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
                return;
            }
        }
    });
    let bed = bed(&[cut.addr], json!({}));
    // One stream is reset, the others of the connection are not touched.
    bed.run(async {
        let mut connection = Target::plain(bed.http).http2().connect().await.unwrap();
        let error = Call::get("/cut").send(&mut connection).await.unwrap_err();
        assert!(format!("{error:#}").contains("stream error received"), "{error:#}");
        assert_eq!(Call::get("/whole").send(&mut connection).await.unwrap().text(), "ok");
    });
    // A body without a length ends with the connection, so only a reset can say that it is not whole.
    let mut client = std::net::TcpStream::connect(bed.http).unwrap();
    client.write_all(b"GET /cut HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let error = client.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(bed.call(Call::get("/whole")).text(), "ok");
}

#[test]
fn garbage_is_502_and_is_not_tried_elsewhere() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let (a, b) = (Scripted::answering(garbage, false), Scripted::answering(garbage, false));
        let bed = bed(&[a.addr, b.addr], json!({}));
        assert_eq!(bed.get("/").status, 502, "{garbage:?}");
        assert_eq!(a.connections.load(Ordering::SeqCst) + b.connections.load(Ordering::SeqCst), 1, "{garbage:?}");
    }
}

#[test]
fn heads_of_upstreams_have_their_caps() {
    let head = |fields: usize, bytes: usize| {
        let many: String = (0..fields).map(|n| format!("X-{n}: 1\r\n")).collect();
        Scripted::answering(
            format!("HTTP/1.1 200 OK\r\n{many}X: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(bytes)),
            true,
        )
    };
    for (fields, bytes, status) in [(90, 60_000, 200), (198, 10, 200), (199, 10, 502), (1, 70_000, 502)] {
        let upstream = head(fields, bytes);
        let answer = bed(&[upstream.addr], json!({})).raw("GET / HTTP/1.0\r\n\r\n");
        assert!(answer.contains(&format!(" {status} ")), "{fields} fields, {bytes} bytes: {status}");
    }
}

#[test]
fn connections_are_kept_and_closed_ones_are_replaced() {
    // Closes every connection after two answers, without saying so.
    let twice = Scripted::new(|stream, _| {
        for _ in 0..2 {
            if read_head(stream).is_none() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let bed = bed(&[twice.addr], json!({}));
    for _ in 0..10 {
        assert_eq!(bed.get("/").status, 200);
    }
    assert_eq!(twice.connections.load(Ordering::SeqCst), 5);
    let totals = bed.totals();
    assert_eq!(totals.upstream_connects, 5);
    assert!(bed.lines(10).iter().all(|line| line.attempts == [200]));
}

#[test]
fn a_connection_that_dies_under_a_request_is_replaced_without_counting() {
    // Answers the first request of a connection, and closes when the second has come.
    let once = Scripted::new(|stream, number| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        let second = read_head(stream);
        if number > 0 && second.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let bed = bed(&[once.addr], json!({ "retries": 0 }));
    assert_eq!(bed.get("/").status, 200);
    assert_eq!(bed.get("/").status, 200);
    assert_eq!(bed.totals().pool_stale, 1);
    assert_eq!(bed.lines(2)[1].attempts, [200]);
}

#[test]
fn a_post_that_dies_with_a_kept_connection_is_502() {
    // Answers the first request of a connection, and closes when the second has come: it may have acted on it.
    let once = Scripted::new(|stream, _| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        read_head(stream);
    });
    let bed = bed(&[once.addr], json!({}));
    assert_eq!(bed.get("/").status, 200);
    let answer = bed.call(Call::post("/", ""));
    assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (502, "502".into()));
    assert!(answer.text().contains("<center><h1>502 Bad Gateway</h1></center>"), "{}", answer.text());
    assert_eq!(once.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_that_says_too_much_is_not_kept() {
    let chatty = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", true);
    let bed = bed(&[chatty.addr], json!({}));
    for _ in 0..3 {
        assert_eq!(bed.get("/").text(), "ok");
    }
    assert_eq!(chatty.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn keepalive_settings_of_the_upstream_hold() {
    let upstream = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true);
    let pool = json!({ "size": 5, "idle_timeout": 60, "requests": 2 });
    let bed = bed(&[upstream.addr], json!({ "keepalive_pool": pool }));
    for _ in 0..6 {
        assert_eq!(bed.get("/").status, 200);
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_client_that_leaves_is_logged_once_as_499() {
    let silent = silent();
    let bed = bed(&[silent.addr], json!({}));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("GET /left HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        milecastle_testkit::eventually("the request to be in work", async || bed.totals().in_flight == 1).await;
        assert_eq!(bed.totals().answers_begun, 0);
    });
    let expected = Line {
        target: "/left".into(),
        status: 499,
        client_gone: true,
        body_bytes: 0,
        attempts: vec![],
        client: "127.0.0.1".into(),
    };
    assert_eq!(bed.lines(1), [expected]);
    bed.wait_totals("nothing in work", |totals| totals.in_flight == 0 && totals.active == 0);
    assert_eq!(bed.totals().answers_begun, 1);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_is_logged_once() {
    let echo = Echo::start();
    let bed = bed(&[echo.address()], json!({}));
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nbegin").await.unwrap();
        milecastle_testkit::eventually("the request to be in work", async || bed.totals().in_flight == 1).await;
    });
    assert_eq!(bed.lines(1).len(), 1);
    bed.wait_totals("nothing in work", |totals| totals.in_flight == 0);
}
