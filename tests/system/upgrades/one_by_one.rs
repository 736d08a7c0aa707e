//! One upgrade, and what happens to each kind of connection; and upgrades that come to nothing.

use super::site::{START, Site};
use crate::full_disks::SmallDisk;
use crate::tunnels::{open_at, say};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Target, eventually};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// Sends a datagram and hears it back.
fn ping(client: &UdpSocket, text: &[u8]) {
    client.send(text).unwrap();
    let mut room = [0; 64];
    let read = client.recv(&mut room).unwrap();
    assert_eq!(&room[..read], text);
}

async fn back(client: &mut Raw, text: &str) {
    client.send(text).await.unwrap();
    assert_eq!(client.read_exact(text.len()).await.unwrap(), text.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_open_goes_on_and_the_process_ends_with_the_last_of_it() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    let mut tunnel = open_at(site.http).await;
    say(&mut tunnel, b"before").await;
    let mut session = Raw::connect(site.tcp).await.unwrap();
    back(&mut session, "before").await;
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.connect(site.udp).unwrap();
    datagrams.set_read_timeout(Some(START)).unwrap();
    ping(&datagrams, b"before");
    let mut kept = Raw::connect(site.http).await.unwrap();
    kept.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(kept.read_head().await.unwrap().starts_with("HTTP/1.1 200"));
    let plain = || Target::plain(site.http);
    let long: Vec<_> = [plain(), plain().http2(), site.tls(), site.tls().http2()]
        .map(|target| {
            tokio::spawn(async move { Call::get("/long").within(START).send(&mut target.connect().await?).await })
        })
        .into();
    let uses = json!({ "idle": 1, "request": 2, "http2": 2, "tunnel": 1, "tcp": 1 });
    eventually("the census sees them all", async || site.census().await["process"]["connections"] == uses).await;
    let census = site.census().await;
    let own = census["process"].clone();
    assert_eq!((&own["stage"], &own["seconds_left"]), (&json!("serving"), &json!(null)));
    assert_eq!(own["http2_streams"], 2);
    assert_eq!(own["routes"], json!({ "ws": 1, "tcp": 1 }));
    assert_eq!((own["pid"].as_u64().unwrap(), &census["replaced"]), (u64::from(first.id()), &json!([])));

    let second = site.next("gateway 1");
    // The first may still take a connection that came before it let the port go.
    eventually("the second is asked", async || site.census().await["process"]["pid"] == second.id()).await;
    let census = site.census().await;
    let replaced = &census["replaced"][0];
    assert_eq!((&replaced["pid"], &replaced["stage"]), (&json!(first.id()), &json!("replaced")));
    assert!(replaced["seconds_left"].as_u64().is_some_and(|left| left > 3_000), "{replaced}");
    assert_eq!(replaced["connections"], uses);
    // What is open speaks on; what is new is the other's.
    say(&mut tunnel, b"after").await;
    back(&mut session, "after").await;
    ping(&datagrams, b"after");
    assert_eq!(Call::get("/status").to(site.status).await.unwrap().status, 200);
    site.put_answer("new", "").await;
    site.answers("/new", 202).await;
    for target in [plain().http2(), site.tls(), site.tls().http2()] {
        let answer = Call::get("/new").send(&mut target.connect().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 202, "a new connection of each kind is served as it is configured now");
    }
    // A kept connection reads that it ends with its next answer.
    kept.read_until(b"\n").await.ok();
    kept.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let head = kept.read_head().await.unwrap().to_ascii_lowercase();
    assert!(head.contains("connection: close"), "{head}");
    drop(kept);
    site.long.end();
    for answer in long {
        let answer = answer.await.unwrap().unwrap();
        assert!(answer.status == 200 && answer.text().starts_with("begin.") && answer.text().ends_with("end"));
    }
    assert!(first.is_running());
    drop((tunnel, session));
    let status = tokio::task::spawn_blocking(move || {
        let status = first.wait_for_end(START);
        assert_eq!(first.unannounced(), Vec::<String>::new());
        status
    });
    assert!(status.await.unwrap().success());
    assert_eq!(site.census().await["replaced"], json!([]));
    second.stop(START);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_take_over_changes_nothing() {
    let site = Site::new("upgrade: { ready_timeout: 3s }\n").await;
    let nobody = site.process("nobody before", &["--upgrade"]).wait_for_end(START);
    assert_eq!(nobody.code(), Some(1), "there is nobody to take over from");
    let mut first = site.first().await;
    first.announce("did not take over");
    let mut tunnel = open_at(site.http).await;
    // One that finds a port taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::read_to_string(&site.config).unwrap();
    let port = taken.local_addr().unwrap().port();
    let another = format!("node_listen: [{{ ip: 127.0.0.1, port: {port} }}, ");
    std::fs::write(&site.config, file.replace("node_listen: [", &another)).unwrap();
    let mut fails = site.process("finds a port taken", &["--upgrade"]);
    assert_eq!(fails.wait_for_end(START).code(), Some(1));
    assert!(fails.log().iter().any(|line| line.contains("is in use by another process")), "{:?}", fails.log());
    std::fs::write(&site.config, file).unwrap();
    // One that is never ready.
    let socket = site.up.data.path().join("second-gateway/upgrade.sock");
    let mut slow = UnixStream::connect(socket).unwrap();
    let ask = json!({ "message": "take", "protocol": 1, "version": "0" }).to_string();
    slow.write_all(&u32::try_from(ask.len()).unwrap().to_le_bytes()).unwrap();
    slow.write_all(ask.as_bytes()).unwrap();
    slow.set_read_timeout(Some(START)).unwrap();
    let mut said = Vec::new();
    slow.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("\"refused\"") && said.contains("upgrade.ready_timeout"), "{said}");
    // The process is as it was: it serves, hears of changes, and can be replaced.
    say(&mut tunnel, b"still here").await;
    site.put_answer("new", "").await;
    site.answers("/new", 202).await;
    site.replace(first, tunnel, "/new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_disk_nobody_takes_over_with_less_than_is_in_force() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let site = Site::new("").await;
    let state = disk.dir.path().join("state");
    std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
    std::os::unix::fs::symlink(&state, site.up.data.path().join("second-gateway")).unwrap();
    let mut first = site.first().await;
    for expected in ["cannot be kept on disk", "the access log cannot be written", "did not take over"] {
        first.announce(expected);
    }
    disk.fill();
    // The page that the file ends in still takes a few.
    for n in 0..40 {
        site.put_answer(&format!("n{n}"), "").await;
    }
    site.answers("/n39", 202).await;
    let mut fails = site.process("would begin with less", &["--upgrade"]);
    assert_eq!(fails.wait_for_end(START).code(), Some(1));
    assert!(fails.log().iter().any(|line| line.contains("cannot be written to state.dir")), "{:?}", fails.log());
    // The process is as it was.
    site.put_answer("later", "").await;
    site.answers("/later", 202).await;
    disk.clear();
    let second = site.next("gateway 1");
    for target in ["/n39", "/later"] {
        assert_eq!(site.get(target).await.status, 202);
    }
    assert!(first.wait_for_end(START).success());
    assert_eq!(first.unannounced(), Vec::<String>::new());
    second.stop(START);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_has_the_process_start_its_successor() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    let mut tunnel = open_at(site.http).await;
    site.signal(&mut first);
    let pid = async || site.census().await["process"]["pid"].as_u64().unwrap();
    let before = u64::from(first.id());
    eventually("another process serves", async || pid().await != before).await;
    say(&mut tunnel, b"after").await;
    let second = i32::try_from(pid().await).unwrap();
    // The one that was replaced hurries once it is told to.
    first.announce("connections were cut");
    first.signal(15);
    let hurry = "have 10s (shutdown.drain)";
    first.wait_for_line(hurry, START, |line| line.contains(hurry).then_some(()));
    let left = site.census().await["replaced"][0]["seconds_left"].as_u64().unwrap();
    assert!(left <= 10, "{left}");
    drop(tunnel);
    // Its log is the successor's as well, which ends last.
    stop(second);
    let status = tokio::task::spawn_blocking(move || {
        let status = first.wait_for_end(START);
        assert_eq!(first.unannounced(), Vec::<String>::new());
        status
    });
    assert!(status.await.unwrap().success());
}

/// Tells a process to stop that is no child of the test.
fn stop(process: i32) {
    assert!(Command::new("kill").arg(process.to_string()).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_control_plane_the_successor_has_what_was_in_force() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    for n in 0..20 {
        site.put_answer(&n.to_string(), "").await;
    }
    site.answers("/19", 202).await;
    first.announce("configuration stream");
    let Site { up, http, .. } = site;
    // The gateways' file is in the directory that this gives back.
    let data = up.stop();
    let config = data.path().join("gateway.yaml");
    let args = ["gateway", "-c", config.to_str().unwrap(), "--upgrade"];
    let mut second = milecastle_testkit::Process::milecastle("gateway 1", &args, &[("MILECASTLE_LOG", "info")]);
    second.announce("configuration stream");
    second.wait_for_line("ready", START, |line| line.contains(" ready revision=").then_some(()));
    assert!(first.wait_for_end(START).success());
    assert_eq!(Call::get("/19").to(http).await.unwrap().status, 202);
    assert_eq!(first.unannounced(), Vec::<String>::new());
    second.stop(Duration::from_secs(30));
}

/// Signal to open log files anew.
const USR1: i32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_replaced_opens_its_log_files_anew() {
    let site = Site::new("").await;
    let mut first = site.first().await;
    let tunnel = open_at(site.http).await;
    let second = site.next("gateway 1");
    let log = site.up.data.path().join("second-gateway/logs/access.log");
    std::fs::rename(&log, log.with_extension("moved")).unwrap();
    first.signal(USR1);
    eventually("the file is made anew", async || log.exists()).await;
    drop(tunnel);
    assert!(first.wait_for_end(START).success());
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.contains("GET /ws") && lines.lines().count() == 1, "{lines}");
    second.stop(START);
}
