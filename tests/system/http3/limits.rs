//! Clients that take nothing, send nothing more, or are too many, over HTTP/3.

use super::Site;
use super::client::Client;
use milecastle_testkit::eventually;
use milecastle_testkit::frames::{frame, kind};
use serde_json::json;
use std::io::{Read as _, Write as _, copy, sink};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_takes_is_given_up_and_others_go_on() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__SEND_TIMEOUT", "1s")]).await;
    let asked = json!({ "port": site.up.https.port(), "name": "localhost", "window": 65536 });
    let mut miser = Client::connect_with(asked, &site.authority.pem(), None);
    for count in 1..=3 {
        let answer = miser.request("/large/1000000", json!({}));
        assert_eq!((&answer["status"], &answer["reset"]), (&json!(200), &json!(0x10c)), "{answer}");
        assert!(answer["length"].as_u64().unwrap() <= 65536, "{answer}");
        eventually("it is counted", async || site.metric("http3_stuck_streams_total").await == count).await;
    }
    assert_eq!(miser.request("/", json!({}))["status"], 200, "the connection goes on");
    eventually("nothing is held", async || site.in_work().await == 0).await;
    site.stop().await;
}

/// Says more in advance than a thrifty client takes, and answers once it has the whole body.
fn hint_at_length(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0])?;
    write!(stream, "HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "x".repeat(16 * 1024))?;
    let (mut piece, mut tail) = ([0; 16 * 1024], Vec::<u8>::new());
    while !tail.ends_with(b"\r\n0\r\n\r\n") {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        tail.extend_from_slice(&piece[..read]);
        tail.drain(..tail.len().saturating_sub(7));
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
}

/// What is said in advance waits for the client's window; the request goes on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_that_nobody_takes_does_not_hold_up_its_request() {
    let site = Site::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap();
    let (tell, served) = channel();
    std::thread::spawn(move || tell.send(hint_at_length(listener.accept().unwrap().0)));
    let upstream = json!({ "nodes": { node.to_string(): 1 } });
    site.up.put("/routes/hints", json!({ "uri": "/hints", "upstream": upstream })).await;
    site.in_force("/routes/hints").await;
    let asked = json!({ "port": site.up.https.port(), "name": "localhost", "window": 4096 });
    let mut miser = Client::connect_with(asked, &site.authority.pem(), None);
    miser.ask(
        json!({ "do": "start", "authority": "localhost", "path": "/hints", "method": "POST", "size": 1024 * 1024 }),
    );
    served.recv_timeout(Duration::from_secs(30)).expect("the body arrives").unwrap();
    miser.ask(json!({ "do": "leave" }));
    eventually("nothing is held", async || site.in_work().await == 0).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_is_answered_in_time() {
    let site = Site::start(&[("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__CLIENT_BODY_TIMEOUT", "1s")]).await;
    let mut client = site.client();
    site.echo.take();
    for headers in [json!([["content-length", "5"]]), json!([])] {
        let asked =
            json!({ "do": "start", "authority": "localhost", "method": "POST", "open": true, "headers": headers });
        let started = client.ask(asked);
        let answer = client.ask(json!({ "do": "rest", "stream": started["stream"] }));
        assert_eq!(answer["status"], 408, "{headers}: {answer}");
    }
    assert!(site.echo.take().is_empty(), "no upstream gets the whole of it");
    assert_eq!(client.request("/", json!({}))["status"], 200);
    eventually("nothing is held", async || site.in_work().await == 0).await;
    site.stop().await;
}

/// An upstream of HTTP/2 that never opens a window again.
fn upstream_that_takes_little() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.write_all(&frame(kind::SETTINGS, 0, 0, b""))?;
                copy(&mut stream, &mut sink())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_reads_hold_up_no_other_one() {
    const STUCK: u64 = 8;
    /// Twice as much as a stream has room for.
    const SIZE: usize = 512 * 1024;
    let site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__UPSTREAM_HTTP2_SEND_BUFFER", "16k")]).await;
    let upstream = json!({ "scheme": "grpc", "nodes": { upstream_that_takes_little().to_string(): 1 } });
    site.up.put("/routes/stuck", json!({ "uri": "/stuck", "upstream": upstream })).await;
    site.in_force("/routes/stuck").await;
    let mut client = site.client();
    site.echo.take();
    for _ in 0..STUCK {
        client
            .ask(json!({ "do": "start", "authority": "localhost", "path": "/stuck", "method": "POST", "size": SIZE }));
    }
    eventually("all of them are under way", async || site.in_work().await == STUCK).await;
    let answer = client.request("/", json!({ "method": "POST", "size": SIZE }));
    assert_eq!(answer["status"], 200, "{answer}");
    assert_eq!(site.echo.take().pop().unwrap().body.len(), SIZE);
    eventually("the others are still there", async || site.in_work().await == STUCK).await;
    client.ask(json!({ "do": "leave" }));
    eventually("nothing is held", async || site.in_work().await == 0).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_holds_no_more_than_it_may_and_bodies_that_are_read_go_on() {
    /// As many as find room: seven eighths of 1280 KiB, but for 256 KiB, are 864 KiB.
    const STUCK: u64 = 3;
    const SIZE: usize = 512 * 1024;
    let site = Site::start(&[
        ("MILECASTLE__GATEWAY__LIMITS__UPSTREAM_HTTP2_SEND_BUFFER", "16k"),
        ("MILECASTLE__GATEWAY__LIMITS__HTTP3_CONNECTION_WINDOW", "1280k"),
    ])
    .await;
    let upstream = json!({ "scheme": "grpc", "nodes": { upstream_that_takes_little().to_string(): 1 } });
    site.up.put("/routes/stuck", json!({ "uri": "/stuck", "upstream": upstream })).await;
    site.in_force("/routes/stuck").await;
    let mut client = site.client();
    assert_eq!(client.greeting["window"], 1280 * 1024, "{}", client.greeting);
    site.echo.take();
    let stuck = json!({ "do": "start", "authority": "localhost", "path": "/stuck", "method": "POST", "size": SIZE });
    let first = client.ask(stuck.clone());
    for _ in 1..STUCK {
        client.ask(stuck.clone());
    }
    eventually("all of them are under way", async || site.in_work().await == STUCK).await;
    let refused = client.request("/", json!({ "method": "POST", "size": SIZE }));
    assert_eq!((&refused["status"], &refused["reset"]), (&json!(0), &json!(0x10b)), "{refused}");
    let hits = "limit_hits_total{limit=\"limits.http3_connection_window\"}";
    eventually("it is counted", async || site.metric(hits).await == 1).await;
    // Short ones find room beside them, more than a window of them one after the other.
    for _ in 0..40 {
        let short =
            json!({ "method": "POST", "size": 48 * 1024, "headers": [["content-length", (48 * 1024).to_string()]] });
        let answer = client.request("/", short);
        assert_eq!(answer["status"], 200, "{answer}");
    }
    assert_eq!(site.echo.take().len(), 40);
    client.ask(json!({ "do": "give_up", "stream": first["stream"] }));
    eventually("one is gone", async || site.in_work().await == STUCK - 1).await;
    eventually("what it held is free again", async || {
        client.request("/", json!({ "method": "POST", "size": SIZE }))["status"] == 200
    })
    .await;
    client.ask(json!({ "do": "leave" }));
    eventually("nothing is held", async || site.in_work().await == 0).await;
    site.stop().await;
}

/// With room for 55 long bodies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_body_take_no_room_however_late_their_streams_end() {
    const MANY: usize = 100;
    let site = Site::start(&[]).await;
    let mut client = site.client();
    for more in [
        json!({ "method": "GET" }),
        json!({ "method": "GET", "reserved": true }),
        json!({ "method": "POST", "headers": [["content-length", "0"]] }),
    ] {
        let mut asked = json!({ "do": "late", "authority": "localhost", "count": MANY });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(client.ask(asked)["statuses"], json!(vec![200; MANY]), "{more}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_beyond_the_connections_that_may_be_is_refused_until_one_has_left() {
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__CONNECTIONS", "2"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "1h"),
    ];
    let site = Site::start(&settings).await;
    // Those over TCP by which the site was looked at count until they are gone.
    let open = async || site.metric("nginx_http_current_connections{state=\"active\"}").await;
    eventually("nobody is there", async || open().await == 0).await;
    let mut clients = [site.client(), site.client()];
    for client in &mut clients {
        assert_eq!(client.request("/", json!({}))["status"], 200, "{}", client.greeting);
    }
    let refused = site.client();
    assert!(refused.greeting["refused"].is_string(), "{}", refused.greeting);
    eventually("it is counted", async || site.metric("http3_refused_total").await == 1).await;
    let [mut first, mut second] = clients;
    assert_eq!(second.request("/", json!({}))["status"], 200, "who was there before goes on");
    first.ask(json!({ "do": "leave" }));
    eventually("there is room", async || open().await == 1).await;
    assert_eq!(site.client().request("/", json!({}))["status"], 200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_wait_for_a_request_make_room_for_who_comes_again() {
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__CONNECTIONS", "1"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "100ms"),
    ];
    let site = Site::start(&settings).await;
    let open = async || site.metric("nginx_http_current_connections{state=\"active\"}").await;
    eventually("nobody is there", async || open().await == 0).await;
    let mut idle = site.client();
    assert_eq!(idle.request("/", json!({}))["status"], 200, "{}", idle.greeting);
    eventually("there is room", async || site.client().greeting["refused"].is_null()).await;
    assert!(site.metric("connections_evicted_total").await > 0);
    drop(idle);
    site.stop().await;
}
