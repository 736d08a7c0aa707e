//! Those who mean harm at the HTTP listeners beside the traffic: Admin API, probes, metrics, control API. Whatever they do,
//! others are answered, and the process neither ends nor swells.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bystanders::{Bystanders, Door, LONG, Watched};
use milecastle_testkit::raw::exchange;
use milecastle_testkit::{Call, Echo};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica, Up, free, full};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a flood may cost of memory while it lasts.
const FLOOD_BYTES: u64 = 300 << 20;

const JSON: &str = "application/json";

/// Levels of a deep body.
const LEVELS: usize = 100_000;

/// Begins a head of `length` bytes and never ends it. What is not taken is not sent.
async fn half_head(address: SocketAddr, length: usize) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(length));
    // Refused in the middle is as good as read to the end.
    drop(timeout(LONG, connection.write_all(head.as_bytes())).await.expect("what is sent is read or refused"));
    connection
}

/// Asks again and again over one connection, and reads nothing, until no more is taken.
async fn deaf(door: Door) -> TcpStream {
    let mut connection = TcpStream::connect(door.address).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", door.target).repeat(2000);
    drop(timeout(Duration::from_secs(2), connection.write_all(request.as_bytes())).await);
    connection
}

/// Says that a gibibyte comes, and sends it until it is refused.
async fn huge(door: Door) {
    let mut connection = TcpStream::connect(door.address).await.unwrap();
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", door.target, 1 << 30);
    let _refused = connection.write_all(head.as_bytes()).await;
    let piece = vec![b'a'; 1 << 20];
    let (mut reading, mut writing) = connection.into_split();
    let send = async { while writing.write_all(&piece).await.is_ok() {} };
    let read = async { reading.read_to_end(&mut Vec::new()).await };
    tokio::select! {
        () = send => {}
        _answered = read => {}
    }
}

/// All of them, one after the other, so that each can be told from the next by what it costs.
async fn flood(door: Door, watched: &mut Watched<'_>, connections: usize) {
    let when = |what: &str| format!("{what} at {}", door.name);
    for _ in 0..connections {
        drop(TcpStream::connect(door.address).await.unwrap());
    }
    watched.unharmed(&when("connections that come and go"));

    // Every other one goes on as long as it is let, the rest stop where a head may still go on.
    let heads: JoinSet<_> =
        (0..connections).map(|n| half_head(door.address, if n % 2 == 0 { 400_000 } else { 10_000 })).collect();
    let held = heads.join_all().await;
    watched.unharmed(&when("beside heads that do not end"));
    drop(held);

    let deaf: JoinSet<_> = (0..100).map(|_| deaf(door)).collect();
    let held = deaf.join_all().await;
    watched.unharmed(&when("beside those who read no answer"));
    drop(held);

    (0..8).map(|_| huge(door)).collect::<JoinSet<_>>().join_all().await;
    watched.unharmed(&when("after bodies of a gibibyte"));

    let fields: String = (0..10_000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = exchange(door.address, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_at_the_listeners_of_the_control_plane_harm_nobody() {
    let cluster = Cluster::new();
    let (mut control, mut manager) = (cluster.control("one"), cluster.dp_manager("two", free()));
    control.ready().await;
    manager.ready().await;
    let doors = [
        Door { name: "the dashboard", address: control.http, target: "/apisix/admin/routes", status: 200 },
        Door { name: "the probes of a DP manager", address: manager.http, target: "/readyz", status: 200 },
    ];
    let bystanders = Bystanders::start(&doors);
    let mut watched = Watched::new([&mut control.process, &mut manager.process], FLOOD_BYTES);
    for door in doors {
        flood(door, &mut watched, if full() { 4500 } else { 1200 }).await;
    }
    bystanders.end("beside floods").await;
    tokio::task::spawn_blocking(move || (control.stop(), manager.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_at_the_listeners_beside_the_traffic_harm_nobody() {
    // A caller on a busy machine may take longer than usual to say what it wants, once it is let in.
    let (mut up, echo) = (Up::start_with(&[("MILECASTLE__GATEWAY__TIMEOUTS__SIDE_PLACE", "1s")]), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    let doors = [
        Door { name: "/status", address: up.status, target: "/status", status: 200 },
        Door { name: "the control API", address: up.control, target: "/v1/routes", status: 200 },
        Door { name: "metrics", address: up.prometheus, target: "/apisix/prometheus/metrics", status: 200 },
        Door { name: "the Admin API on its own port", address: up.admin, target: "/apisix/admin/routes", status: 200 },
    ];
    let traffic = Door { name: "traffic", address: up.http, target: "/", status: 200 };
    let bystanders = Bystanders::start(&[&doors[..], &[traffic]].concat());
    let mut watched = Watched::new([&mut up.process], FLOOD_BYTES);
    for door in doors {
        flood(door, &mut watched, 600).await;
    }
    bystanders.end("beside floods").await;
    tokio::task::spawn_blocking(move || up.stop()).await.unwrap();
}

/// Sends a body of this media type with the Admin key; status and text of the answer.
async fn sent(control: &Replica, method: &str, path: &str, kind: &str, body: Vec<u8>) -> (u16, String) {
    let call = Call::new(method.parse().unwrap(), path).header("X-API-KEY", ADMIN_KEY).header("X-Digest", "1");
    let call = call.header("Content-Type", kind).body(body).within(LONG);
    let answer = call.to(control.http).await.unwrap();
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_huge_bodies_are_refused_and_store_nothing() {
    let cluster = Cluster::new();
    let mut control = cluster.control("one");
    control.ready().await;
    let doors = [Door { name: "the dashboard", address: control.http, target: "/apisix/admin/routes", status: 200 }];
    let bystanders = Bystanders::start(&doors);
    let places = [
        ("PUT", "/apisix/admin/routes/1"),
        ("POST", "/apisix/admin/schema/validate/routes"),
        ("POST", "/apisix/admin/configs/validate"),
        ("POST", "/api/gateway_groups"),
        ("POST", "/api/gateway_groups/default/tokens"),
        ("PUT", "/api/gateway_groups/default/settings"),
    ];
    for (method, path) in places {
        let objects = [r#"{"plugins":"#.repeat(LEVELS), "1".to_owned(), "}".repeat(LEVELS)].concat();
        for deep in [objects, ["[".repeat(LEVELS), "]".repeat(LEVELS)].concat(), "[".repeat(LEVELS)] {
            let (status, text) = sent(&control, method, path, JSON, deep.into()).await;
            assert_eq!(status, 400, "{method} {path}: {text}");
        }
        let (status, text) = sent(&control, method, path, JSON, vec![b' '; 60 << 20]).await;
        let expected = match path.starts_with("/api/") {
            true => (413, "the body of the request is larger than the 1572864 bytes that are taken"),
            false => (400, "request size 62914560 is greater than the maximum size 1572864 allowed"),
        };
        assert!(status == expected.0 && text.contains(expected.1), "{method} {path}: {status} {text}");
    }
    for (method, path) in [("PUT", "/apisix/admin/configs"), ("POST", "/apisix/admin/configs/validate")] {
        for level in ["[", "- ", "{a: ", "? "] {
            let (status, text) = sent(&control, method, path, "application/yaml", level.repeat(LEVELS).into()).await;
            assert_eq!(status, 400, "{method} {path} {level}: {text}");
        }
        let (status, text) = sent(&control, method, path, JSON, "[".repeat(LEVELS).into()).await;
        assert_eq!(status, 400, "{method} {path}: {text}");
    }
    // What takes long to build rather than long to read.
    let matching = |pattern: String| json!({ "uri": "/a", "vars": [["uri", "~~", pattern]], "upstream": { "nodes": { "127.0.0.1:1": 1 } } });
    for pattern in ["((a{1000}){1000}){1000}".to_owned(), ["(".repeat(LEVELS), ")".repeat(LEVELS)].concat()] {
        let body = matching(pattern).to_string().into();
        let (status, text) = sent(&control, "PUT", "/apisix/admin/routes/1", JSON, body).await;
        assert_eq!(status, 400, "{text}");
    }
    bystanders.end("beside bodies").await;
    let routes: Value = control.get("/apisix/admin/routes").await.json().unwrap();
    assert_eq!(routes["total"], 0);
    Watched::new([&mut control.process], FLOOD_BYTES).unharmed("after all");
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}
