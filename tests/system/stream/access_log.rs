//! The access log of sessions (`docs/stream.md`).

use super::{Gateway, SOON, connect, echo, talk};
use milecastle_testkit::{eventually, nowhere};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

const ENABLE: &str = "MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ENABLE_ACCESS_LOG";
const FORMAT: &str = "MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG_FORMAT";
const ESCAPE: &str = "MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG_FORMAT_ESCAPE";
const FILE: &str = "MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG";

/// A gateway that logs to a file which goes with it.
fn logging(settings: &[(&str, &str)]) -> (Gateway, PathBuf, milecastle_testkit::TempDir) {
    let dir = milecastle_testkit::TempDir::new();
    let file = dir.path().join("sessions.log");
    let own = [(ENABLE, "true"), (FILE, file.to_str().unwrap())];
    let gateway = Gateway::start(&[json!("127.0.0.1:0")], &[json!("127.0.0.1:0")], &[&own, settings].concat());
    (gateway, file, dir)
}

/// Waits for a line that fits.
async fn line(file: &Path, what: &str, fits: impl Fn(&str) -> bool) -> String {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    eventually(what, async || read().lines().any(&fits)).await;
    read().lines().find(|line| fits(line)).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_6_1_a_line_tells_of_each_session_whatever_became_of_it() {
    let (gateway, file, _dir) = logging(&[]);
    let at = gateway.at("TCP");
    assert!(talk(at, b"").unwrap_or_default().is_empty());
    // nginx_config.stream.access_log_format as it comes: client, time, protocol, status, bytes to and from the client, time.
    let unrouted = line(&file, "a session without a route", |line| line.contains(" TCP 403 ")).await;
    assert!(unrouted.starts_with("127.0.0.1 [") && unrouted.contains("] TCP 403 0 0 "), "{unrouted}");
    gateway.route("1", echo("served: "), json!({ "server_port": at.port() })).await;
    gateway.eventually_passes(at).await;
    assert_eq!(talk(at, b"hello").unwrap(), b"served: hello");
    line(&file, "a session that was served", |line| line.contains("] TCP 200 13 5 ")).await;
    gateway.route("1", nowhere(), json!({ "server_port": at.port() })).await;
    eventually("the node cannot be reached", async || talk(at, b"x").unwrap_or_default().is_empty()).await;
    line(&file, "a session without a node", |line| line.contains("] TCP 502 0 0 ")).await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_made_room_is_told_from_one_whose_client_left() {
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__CONNECTIONS", "1"),
        ("MILECASTLE__GATEWAY__TIMEOUTS__CONNECTION_PLACE", "100ms"),
    ];
    let (gateway, file, _dir) = logging(&settings);
    let at = gateway.at("TCP");
    gateway.route("1", echo("served: "), json!({ "server_port": at.port() })).await;
    gateway.eventually_passes(at).await;
    let _silent = connect(at);
    assert_eq!(talk(at, b"hello").unwrap(), b"served: hello");
    line(&file, "the session whose client said nothing", |line| line.contains("] TCP 503 0 0 ")).await;
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_json_if_the_format_is() {
    let format = r#"{"route":"$route_id","name":"$route_name","proto":"$protocol","port":$server_port,"up":"$upstream_addr","got":$bytes_received,"host":"$hostname"}"#;
    let (gateway, file, _dir) = logging(&[(FORMAT, format), (ESCAPE, "json")]);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let node = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 64];
        while let Ok((read, from)) = server.recv_from(&mut room) {
            server.send_to(&room[..read], from).unwrap();
        }
    });
    let at = gateway.at("UDP");
    let upstream = json!({ "nodes": { node.to_string(): 1 }, "timeout": { "connect": 5, "send": 0.2, "read": 0.2 } });
    let route = json!({ "server_port": at.port(), "name": "a \"quoted\" name", "upstream": upstream });
    gateway.up.put("/stream_routes/7", route).await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(at).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    eventually("a datagram comes back", async || {
        client.send(b"hello").unwrap();
        client.recv(&mut [0; 64]).is_ok()
    })
    .await;
    // It ends by its own silence.
    let said = line(&file, "the session with a route", |line| line.contains(r#""route":"7""#)).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["name"], &said["proto"]), (&json!("a \"quoted\" name"), &json!("UDP")));
    assert_eq!((said["port"].as_u64(), &said["up"]), (Some(at.port().into()), &json!(node.to_string())));
    assert!(said["got"].as_u64().is_some_and(|got| got >= 5 && got % 5 == 0), "{said}");
    assert!(said["host"].as_str().is_some_and(|host| !host.is_empty()), "{said}");
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_logged_is_on_the_disk_when_the_process_has_ended() {
    let (mut gateway, file, _dir) = logging(&[]);
    let at = gateway.at("TCP");
    gateway.route("1", echo(""), json!({})).await;
    gateway.eventually_passes(at).await;
    for _ in 0..50 {
        assert_eq!(talk(at, b"last").unwrap(), b"last");
    }
    gateway.up.process.signal(15);
    assert!(gateway.up.process.wait_for_end(SOON).success());
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("] TCP 200 4 4 ")).count(), 50, "{lines}");
}
