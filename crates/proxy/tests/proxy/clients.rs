//! The protocols that clients speak.

use crate::support::{Bed, route_to};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, Target};
use serde_json::json;

#[test]
fn http2_by_prior_knowledge() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    bed.run(async {
        let mut connection = Target::plain(bed.http).http2().connect().await.unwrap();
        for _ in 0..3 {
            let answer = Call::get("/large/300000").send(&mut connection).await.unwrap();
            assert_eq!((answer.version, answer.body.len()), (http::Version::HTTP_2, 300_000));
        }
        let answer = Call::post("/", vec![b'p'; 200_000]).send(&mut connection).await.unwrap();
        assert_eq!(answer.status, 200);
    });
    let got = echo.take();
    assert_eq!(got[3].body.len(), 200_000);
    assert_eq!(got[0].header("host"), [bed.http.to_string()]);
    bed.wait_totals("nothing in work", |totals| totals.in_flight == 0 && totals.active == 0);
}

#[test]
fn workers_have_as_many_connections_as_one_another() {
    let bed = Bed::with(vec![], |file| file.workers = 2);
    let mut connections = Vec::new();
    for _ in 0..8 {
        let connection = bed.run(async {
            let mut connection = Target::plain(bed.http).http2().connect().await.unwrap();
            assert_eq!(Call::get("/").send(&mut connection).await.unwrap().status, 404);
            connection
        });
        connections.push(connection);
    }
    assert_eq!(bed.open_by_worker(), [4, 4]);
    drop(connections);
    bed.wait_totals("all are gone", |totals| totals.active == 0);
}

#[test]
fn http2_is_off_where_the_listener_says_so() {
    let bed = Bed::with(vec![], |file| file.apisix.enable_http2 = false);
    bed.run(async {
        let opened = Target::plain(bed.http).http2().connect().await;
        let answered = match opened {
            Ok(mut connection) => Call::get("/").send(&mut connection).await.is_ok(),
            Err(_) => false,
        };
        assert!(!answered);
    });
    assert_eq!(bed.get("/").status, 404);
}

#[test]
fn a_preface_may_come_in_pieces() {
    let bed = Bed::new(vec![]);
    bed.run(async {
        let mut client = Raw::connect(bed.http).await.unwrap();
        for piece in ["PRI * HT", "TP/2.0\r\n\r\nSM", "\r\n\r\n"] {
            client.send(piece).await.unwrap();
        }
        client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // The server's own SETTINGS frame.
        assert_eq!(client.read_exact(9).await.unwrap()[3], 4);
        // What only begins like a preface is HTTP/1.1.
        let mut client = Raw::connect(bed.http).await.unwrap();
        for piece in ["P", "OST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"] {
            client.send(piece).await.unwrap();
        }
        assert!(client.read_head().await.unwrap().starts_with("HTTP/1.1 404"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let requests: String = (1..=5)
        .map(|n| {
            format!("GET /large/{n} HTTP/1.1\r\nHost: h\r\n{}\r\n", if n == 5 { "Connection: close\r\n" } else { "" })
        })
        .collect();
    let answers = bed.raw(requests);
    let bodies: Vec<usize> =
        answers.split("HTTP/1.1 200 OK").skip(1).map(|answer| answer.split("\r\n\r\n").nth(1).unwrap().len()).collect();
    assert_eq!(bodies, [1, 2, 3, 4, 5]);
}
