//! What of a request and its answer passes over HTTP/3, and what is told of it.

use super::Site;
use super::client::Client;
use milecastle_testkit::TempDir;
use milecastle_testkit::eventually;
use milecastle_testkit::frames::{END_HEADERS, END_STREAM, PREFACE, field, frame, kind};
use milecastle_testkit::tls::{Authority, Identity};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The bytes of an upstream's stream that begin an answer, its body, and trailers.
fn trailing_answer(stream: u32) -> Vec<u8> {
    let head = [field(b":status", b"200"), field(b"content-type", b"application/grpc")].concat();
    let trailers = [field(b"grpc-status", b"0"), field(b"x-last", b"2")].concat();
    [
        frame(kind::HEADERS, END_HEADERS, stream, &head),
        frame(kind::DATA, 0, stream, b"hello"),
        frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ]
    .concat()
}

/// Serves HTTP/2: answers each request with trailers, and tells of which frames it was.
fn serve_trailers(mut stream: TcpStream, tell: &Sender<Vec<u8>>) -> std::io::Result<()> {
    stream.read_exact(&mut vec![0; PREFACE.len()])?;
    stream.write_all(&frame(kind::SETTINGS, 0, 0, b""))?;
    let mut seen = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, of, flags, ..] = head;
        stream.read_exact(&mut vec![0; u32::from_be_bytes([0, a, b, c]) as usize])?;
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if matches!(of, kind::HEADERS | kind::DATA) {
            seen.push(of);
            if flags & END_STREAM != 0 {
                // The end of a body may be a frame of its own.
                seen.dedup();
                stream.write_all(&trailing_answer(number))?;
                // Nobody listens any more once the test is over.
                tell.send(std::mem::take(&mut seen)).ok();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways() {
    let site = Site::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node: SocketAddr = listener.local_addr().unwrap();
    let (tell, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tell = tell.clone();
            std::thread::spawn(move || serve_trailers(stream, &tell));
        }
    });
    let upstream = json!({ "scheme": "grpc", "nodes": { node.to_string(): 1 } });
    site.up.put("/routes/grpc", json!({ "uri": "/grpc/*", "upstream": upstream })).await;
    let mut client = site.client();
    let asked = |more: &[(&str, serde_json::Value)]| {
        let mut asked = json!({ "method": "POST", "body": "hello", "headers": [["te", "trailers"]] });
        asked.as_object_mut().unwrap().extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        asked
    };
    eventually("the route is in force", async || !client.request("/grpc/x", asked(&[]))["trailers"].is_null()).await;
    assert_eq!(seen.recv_timeout(SOON).unwrap(), [kind::HEADERS, kind::DATA]);
    let answer = client.request("/grpc/x", asked(&[("trailers", json!([["content-digest", "sha-256=:7:"]]))]));
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")), "{answer}");
    assert_eq!(answer["trailers"], json!({ "grpc-status": "0", "x-last": "2" }), "{answer}");
    let passed: Vec<_> = seen.try_iter().collect();
    assert_eq!(passed.last().unwrap(), &[kind::HEADERS, kind::DATA, kind::HEADERS], "the request's trailers pass");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_may_have_as_many_links_as_the_depth_says() {
    let site = Site::start(&[]).await;
    let root = Authority::new("clients");
    let between = root.issue_authority("between");
    let direct = root.issue(&["direct"]);
    let leaf = between.issue(&["leaf"]);
    let chained = Identity { cert: leaf.cert + &between.pem(), key: leaf.key };
    for (depth, name) in [(1, "one.test"), (2, "two.test")] {
        let ask = json!({ "client": { "ca": root.pem(), "depth": depth } });
        site.certificate(name, &site.authority.issue(&[name]), ask).await;
    }
    let (port, ca) = (site.up.https.port(), site.authority.pem());
    for (name, identity) in [("one.test", &direct), ("two.test", &direct), ("two.test", &chained)] {
        let mut client = Client::connect(port, name, &ca, Some(identity));
        assert_eq!(client.request("/", json!({ "authority": name }))["status"], 200, "{name}");
    }
    let mut client = Client::connect(port, "one.test", &ca, Some(&chained));
    if client.greeting["refused"].is_null() {
        // The client's part of the handshake is over before the gateway has seen its certificate.
        let over = client.ask(json!({ "do": "over" }));
        assert!(over["closed"].as_u64().is_some_and(|code| code >> 8 == 1), "an alert of TLS: {over}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_names_the_client() {
    for (trusted, address) in [("[127.0.0.1]", "203.0.113.7"), ("[192.0.2.1]", "127.0.0.1")] {
        let site = Site::start(&[("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__REAL_IP_FROM", trusted)]).await;
        let told = json!({ "response-rewrite": { "headers": { "set": { "x-client": "$remote_addr" } } } });
        site.route("told", "/told/*", told).await;
        let answer = site.client().request("/told/", json!({ "headers": [["x-real-ip", "203.0.113.7"]] }));
        assert_eq!(answer["headers"]["x-client"], address, "{answer}");
        assert_eq!(site.echo.received().pop().unwrap().header("x-real-ip"), [address]);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_of_requests_whatever_became_of_them() {
    let dir = TempDir::new();
    let file = dir.path().join("access.log");
    let format = "$server_protocol $http3 $ssl_server_name $scheme $host $request_method $uri $status $body_bytes_sent";
    let settings = [
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__ACCESS_LOG", file.to_str().unwrap()),
        ("MILECASTLE__GATEWAY__NGINX_CONFIG__HTTP__ACCESS_LOG_FORMAT", format),
    ];
    let site = Site::start(&settings).await;
    let mut client = site.client();
    client.request("/large/5000?a=b", json!({}));
    client.request("/status/404", json!({ "method": "HEAD" }));
    client.request("/", json!({ "headers": [["connection", "close"]] }));
    let started = client.ask(json!({ "do": "start", "authority": "localhost", "path": "/hang" }));
    eventually("the request is in work", async || site.in_work().await == 1).await;
    client.ask(json!({ "do": "give_up", "stream": started["stream"] }));
    let expected = [
        "HTTP/3.0 h3 localhost https localhost GET /large/5000 200 5000",
        "HTTP/3.0 h3 localhost https localhost HEAD /status/404 404 0",
        "HTTP/3.0 h3 localhost https localhost GET /hang 499 0",
    ];
    let lines =
        || -> Vec<String> { std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect() };
    eventually("each has its line", async || expected.iter().all(|line| lines().iter().any(|found| found == line)))
        .await;
    let lines = lines();
    let refused = lines.iter().filter(|line| line.contains(" 400 "));
    assert_eq!(refused.count(), 1, "one line for what is malformed: {lines:?}");
    site.stop().await;
}
