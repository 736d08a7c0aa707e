//! The end of the node: what clients have under way is answered.

use crate::support::{Bed, SOON, route_to};
use milecastle_settings::{Gateway as Settings, Time};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Echo, Target, came_too_late};
use serde_json::json;
use std::net::TcpStream;
use std::time::Duration;

const GET: &str = "GET /large/1 HTTP/1.1\r\nHost: h\r\n\r\n";

fn bed(echo: &Echo, change: impl FnOnce(&mut Settings)) -> Bed {
    Bed::with(route_to(&[echo.address()], json!({})), change)
}

/// Sends a request and reads the answer; whether it says that the connection ends.
async fn get(client: &mut Raw) -> bool {
    client.send(GET).await.unwrap();
    let head = client.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    client.read_exact(1).await.unwrap();
    head.contains("\r\nconnection: close\r\n")
}

/// Asks again and again on a kept connection, until an answer says that it ends. Then the node is ending.
async fn until_told(client: &mut Raw) {
    while !get(client).await {}
    assert!(client.read_to_end().await.unwrap().is_empty());
}

#[test]
fn draining_ends_idle_connections_and_waits_for_requests() {
    let echo = Echo::start();
    let mut bed = Bed::new(route_to(&[echo.address()], json!({})));
    let address = bed.http;
    let (mut idle, mut busy) = bed.run(async {
        let mut idle = Raw::connect(address).await.unwrap();
        idle.send("GET /large/1 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        idle.read_head().await.unwrap();
        idle.read_exact(1).await.unwrap();
        let mut busy = Raw::connect(address).await.unwrap();
        busy.send("GET /large/2/delay/300 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        milecastle_testkit::eventually("the request to arrive", async || echo.received().len() == 2).await;
        (idle, busy)
    });
    let drained = bed.start_drain(SOON);
    bed.run(async {
        assert!(idle.read_to_end().await.unwrap().is_empty());
        let answer = String::from_utf8(busy.read_to_end().await.unwrap()).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with("xx"));
        assert!(drained.await.unwrap());
        assert!(Raw::connect(address).await.is_err());
    });
    assert!(bed.lines(2).iter().all(|line| line.status == 200 && !line.client_gone));
}

#[test]
fn draining_cuts_what_does_not_end() {
    let echo = Echo::start();
    let mut bed = Bed::new(route_to(&[echo.address()], json!({})));
    let mut stuck = bed.run(async {
        let mut stuck = Raw::connect(bed.http).await.unwrap();
        stuck.send("GET /hang HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        milecastle_testkit::eventually("the request to arrive", async || echo.received().len() == 1).await;
        stuck
    });
    let drained = bed.start_drain(Duration::from_millis(100));
    bed.run(async {
        assert!(!drained.await.unwrap());
        assert!(stuck.read_to_end().await.unwrap().is_empty());
    });
    assert_eq!(bed.lines(1)[0].status, 499);
}

#[test]
fn an_idle_node_drains() {
    assert!(Bed::new(vec![]).drain(SOON));
}

#[test]
fn a_request_that_is_sent_before_the_end_was_announced_is_answered() {
    let echo = Echo::start();
    let mut bed = bed(&echo, |settings| settings.shutdown.last_call = Time::secs(2));
    let address = bed.http;
    let connect = async || Raw::connect(address).await.unwrap();
    let (mut told, mut kept, mut new) = bed.run(async {
        let (told, mut kept) = (connect().await, connect().await);
        assert!(!get(&mut kept).await);
        // Nothing has been said on this one.
        let new = connect().await;
        milecastle_testkit::eventually("three connections", async || bed.totals().active == 3).await;
        (told, kept, new)
    });
    let drained = bed.start_drain(SOON);
    bed.run(async {
        until_told(&mut told).await;
        for client in [&mut kept, &mut new] {
            assert!(get(client).await);
            assert!(client.read_to_end().await.unwrap().is_empty());
        }
        assert!(drained.await.unwrap());
    });
    assert!(bed.lines(echo.take().len()).iter().all(|line| line.status == 200 && !line.client_gone));
}

#[test]
fn connections_in_the_queue_are_served_and_new_ones_not_let_in() {
    const WAITING: usize = 50;
    let echo = Echo::start();
    let mut bed = bed(&echo, |settings| {
        settings.limits.connections = 1;
        settings.timeouts.connection_place = Time::secs(3600);
        settings.shutdown.last_call = Time::secs(1);
    });
    let address = bed.http;
    let (mut told, mut waiting) = bed.run(async {
        let mut told = Raw::connect(address).await.unwrap();
        assert!(!get(&mut told).await);
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            let mut client = Raw::connect(address).await.unwrap();
            client.send(GET).await.unwrap();
            waiting.push(client);
        }
        (told, waiting)
    });
    assert_eq!(bed.totals().accepted, 1);
    let drained = bed.start_drain(SOON);
    bed.run(async {
        until_told(&mut told).await;
        // Whether the gateway is still there or not, who comes now finds the door closed.
        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err());
        for client in &mut waiting {
            let answer = String::from_utf8(client.read_to_end().await.unwrap()).unwrap().to_ascii_lowercase();
            assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        }
        assert!(drained.await.unwrap());
    });
}

#[test]
fn http2_streams_end_and_no_new_ones_are_lost() {
    let echo = Echo::start();
    let mut bed = bed(&echo, |_| {});
    let address = bed.http;
    let (mut slow, mut steady) = bed.run(async {
        let target = Target::plain(address).http2();
        (target.connect().await.unwrap(), target.connect().await.unwrap())
    });
    let mut answer = None;
    bed.run(async {
        answer = Some(tokio::spawn(async move { Call::get("/large/3/delay/700").send(&mut slow).await }));
        milecastle_testkit::eventually("the request to arrive", async || echo.received().len() == 1).await;
    });
    let drained = bed.start_drain(SOON);
    bed.run(async {
        let mut answered = 0;
        while steady.is_open() {
            match Call::get("/large/1").send(&mut steady).await {
                Ok(answer) => assert_eq!(answer.status, 200),
                Err(error) => assert!(came_too_late(&error), "{error:#} after {answered} answers"),
            }
            answered += 1;
        }
        assert_eq!(answer.unwrap().await.unwrap().unwrap().body.len(), 3);
        assert!(drained.await.unwrap());
    });
}
