//! Changes of the configuration and the end of the node, as open sessions see them.

use super::{Gateway, connect, echo};
use milecastle_testkit::wait_for_blocking;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SIGTERM: i32 = 15;
const SESSIONS: usize = 50;

/// Says something on each connection; gives back those that were answered.
fn speak(sessions: &mut [TcpStream]) -> usize {
    let answered = |stream: &mut TcpStream| {
        stream.write_all(b"ping").ok()?;
        let mut said = [0; 4];
        stream.read_exact(&mut said).ok().filter(|()| &said == b"ping")
    };
    sessions.iter_mut().filter_map(answered).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_changes_cut_no_session() {
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    let echo = echo("");
    gateway.route("1", echo, json!({})).await;
    gateway.eventually_passes(at).await;
    let mut sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(at)).collect();
    assert_eq!(speak(&mut sessions), SESSIONS);
    for n in 0..200 {
        // The very route of the sessions among others, its upstream, its plugins; at last it goes.
        match n % 4 {
            0 => gateway.route("1", echo, json!({ "desc": format!("{n}") })).await,
            1 => gateway.route(&format!("other-{n}"), echo, json!({ "server_port": 1 })).await,
            2 => {
                let plugins = json!({ "ip-restriction": { "blacklist": ["127.0.0.1"] } });
                gateway.route("1", echo, json!({ "plugins": plugins })).await;
            }
            _ => gateway.route("1", milecastle_testkit::nowhere(), json!({})).await,
        }
        if n % 20 == 19 {
            assert_eq!(speak(&mut sessions), SESSIONS, "after change {n}");
        }
    }
    assert_eq!(gateway.up.admin("DELETE", "/stream_routes/1", None).await.status, 200);
    milecastle_testkit::eventually("new sessions find no route", async || {
        super::talk(at, b"x").unwrap_or_default().is_empty()
    })
    .await;
    assert_eq!(speak(&mut sessions), SESSIONS);
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_lets_its_sessions_end_first() {
    let mut gateway = Gateway::start(&[json!("127.0.0.1:0")], &[], &[("MILECASTLE__GATEWAY__SHUTDOWN__DRAIN", "60s")]);
    let at = gateway.at("TCP");
    gateway.route("1", echo(""), json!({})).await;
    gateway.eventually_passes(at).await;
    let mut sessions: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(at)).collect();
    assert_eq!(speak(&mut sessions), SESSIONS);
    gateway.up.process.signal(SIGTERM);
    wait_for_blocking("new connections are not taken any more", Duration::from_secs(30), || {
        std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)).is_err().then_some(())
    });
    assert_eq!(speak(&mut sessions), SESSIONS, "open sessions go on");
    assert!(gateway.up.process.is_running());
    drop(sessions);
    assert!(gateway.up.process.wait_for_end(Duration::from_secs(30)).success());
    assert!(!gateway.up.process.log().iter().any(|line| line.contains("were cut")));
}
