//! Plain TCP.

use super::{Gateway, SOON, connect, echo, server, talk};
use milecastle_testkit::{free_port, nowhere};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_ways_and_so_does_each_end() {
    let gateway = Gateway::start(&[json!("127.0.0.1:0"), json!("127.0.0.1:0")], &[], &[]);
    let (one, two) = (gateway.all("TCP")[0], gateway.all("TCP")[1]);
    // Answers only when it has read all there is: the client's end of sending has come through, and its reading goes on.
    let counts = server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    });
    // Ends sending at once, and goes on reading.
    let (said, heard) = std::sync::mpsc::channel();
    let ends = server(move |mut stream| {
        stream.write_all(b"all I have to say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        said.send(all).unwrap();
    });
    gateway.route("1", counts, json!({ "server_port": one.port() })).await;
    gateway.route("2", ends, json!({ "server_port": two.port() })).await;
    gateway.eventually_passes(one).await;
    gateway.eventually_passes(two).await;
    assert_eq!(talk(one, &vec![7; 3 << 20]).unwrap(), b"3145728 bytes");
    let mut stream = connect(two);
    let mut first = Vec::new();
    stream.read_to_end(&mut first).unwrap();
    assert_eq!(first, b"all I have to say");
    stream.write_all(b"and I go on").unwrap();
    drop(stream);
    let mut words = std::iter::from_fn(|| heard.recv_timeout(SOON).ok());
    assert!(words.any(|words| words == b"and I go on"));
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_passes_unchanged_at_once_both_ways() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    gateway.route("1", echo("E"), json!({})).await;
    gateway.eventually_passes(at).await;
    let sent: Vec<u8> = (0..32_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stream = connect(at);
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got[0] == b'E' && got[1..] == sent, "{} bytes came back of {}", got.len(), sent.len());
    let listen = format!("listen_addr=\"{at}\"");
    let series = format!("apisix_stream_bandwidth{{{listen},type=\"egress\",side=\"upstream\"}}");
    milecastle_testkit::eventually("the bytes are counted", async || {
        gateway.metric(&series).await.is_some_and(|bytes| bytes >= sent.len() as f64)
    })
    .await;
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_5_a_session_that_cannot_be_passed_on_is_closed_without_a_word() {
    let mut gateway = Gateway::plain();
    gateway.up.process.announce("could not be connected");
    let at = gateway.at("TCP");
    assert_eq!(talk(at, b"hello").unwrap_or_default(), b"", "there is no route");
    gateway.route("1", echo("other port"), json!({ "server_port": 1 })).await;
    gateway.route("2", nowhere(), json!({ "server_port": at.port() })).await;
    let failures = "apisix_upstream_connect_failures_total";
    milecastle_testkit::eventually("the route is tried", async || {
        assert_eq!(talk(at, b"hello").unwrap_or_default(), b"");
        gateway.metric(failures).await.is_some_and(|count| count > 0.0)
    })
    .await;
    let unrouted = gateway.metric("apisix_stream_unrouted_total").await.unwrap();
    assert!(unrouted >= 1.0);
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_4_connecting_is_tried_at_the_next_node() {
    let mut gateway = Gateway::plain();
    gateway.up.process.announce("could not be connected");
    let at = gateway.at("TCP");
    let nodes = json!([
        { "host": "127.0.0.1", "port": nowhere().port(), "weight": 1, "priority": 1 },
        { "host": "127.0.0.1", "port": echo("backup:").port(), "weight": 1, "priority": 0 },
    ]);
    gateway.up.put("/upstreams/u", json!({ "nodes": nodes, "scheme": "tcp" })).await;
    gateway.up.put("/services/s", json!({ "upstream_id": "u" })).await;
    gateway.up.put("/stream_routes/1", json!({ "service_id": "s" })).await;
    gateway.eventually_passes(at).await;
    assert_eq!(talk(at, b"hello").unwrap(), b"backup:hello");
    gateway.up.put("/upstreams/u", json!({ "nodes": nodes, "scheme": "tcp", "retries": 0 })).await;
    milecastle_testkit::eventually("no other node is tried", async || {
        talk(at, b"hello").unwrap_or_default().is_empty()
    })
    .await;
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_breaks_off_is_told_to_the_other_by_a_reset() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    // Closes on unread bytes, which resets.
    let breaks = server(|mut stream| {
        stream.write_all(b"half an answ").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    });
    gateway.route("1", breaks, json!({})).await;
    let mut told = None;
    milecastle_testkit::eventually("a session with the upstream", async || {
        let mut stream = connect(at);
        if stream.read_exact(&mut [0; 12]).is_err() {
            return false;
        }
        stream.write_all(&[1; 64]).unwrap();
        told = Some(stream.read(&mut [0; 1]));
        true
    })
    .await;
    let error = told.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_ends_and_one_that_speaks_does_not() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    let limits = json!({ "connect": 5, "send": 0.4, "read": 0.4 });
    let body = json!({ "upstream": { "nodes": { echo("").to_string(): 1 }, "timeout": limits } });
    gateway.up.put("/stream_routes/1", body).await;
    gateway.eventually_passes(at).await;
    let (mut silent, mut speaking) = (connect(at), connect(at));
    let reading = std::thread::spawn(move || silent.read(&mut [0; 1]));
    // As long as the other one lasts, and three times its limit at least.
    let began = std::time::Instant::now();
    while !reading.is_finished() || began.elapsed().as_millis() < 1_200 {
        speaking.write_all(b"x").unwrap();
        speaking.read_exact(&mut [0; 1]).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(reading.join().unwrap().unwrap(), 0);
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_is_taken_out_and_comes_back() {
    let mut gateway = Gateway::plain();
    gateway.up.process.announce("is unhealthy");
    gateway.up.process.announce("could not be connected");
    let (at, down) = (gateway.at("TCP"), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let active = json!({ "type": "tcp", "healthy": { "interval": 1, "successes": 1 },
        "unhealthy": { "interval": 1, "tcp_failures": 1 } });
    let nodes = json!({ down.to_string(): 1, echo("up:").to_string(): 1 });
    let upstream = json!({ "nodes": nodes, "scheme": "tcp", "retries": 0, "checks": { "active": active } });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    gateway.eventually_passes(at).await;
    let status = |port: u16, status: &'static str| {
        let control = gateway.up.control;
        async move {
            let target = "/v1/healthcheck/stream_routes/1";
            let shown = milecastle_testkit::Call::get(target).to(control).await.unwrap().json().unwrap();
            let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
            nodes.iter().any(|node| node["port"] == port && node["status"] == status)
        }
    };
    milecastle_testkit::eventually("the node is taken out", async || status(down.port(), "unhealthy").await).await;
    assert!((0..20).all(|_| talk(at, b"x").is_ok_and(|said| said == b"up:x")));
    let back = std::net::TcpListener::bind(down).unwrap();
    std::thread::spawn(move || {
        for mut stream in back.incoming().map_while(Result::ok) {
            let mut all = Vec::new();
            drop(stream.read_to_end(&mut all));
            drop(stream.write_all(b"back"));
        }
    });
    milecastle_testkit::eventually("it comes back", async || {
        (0..4).any(|_| talk(at, b"x").is_ok_and(|said| said == b"back"))
    })
    .await;
    gateway.up.stop();
}
