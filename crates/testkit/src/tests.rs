//! The kit itself: what it reports is what happened.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::tls::Authority;
use crate::*;

#[tokio::test]
async fn echo_tells_what_was_on_the_wire() {
    let echo = Echo::named("a");
    let mut raw = raw::Raw::connect(echo.address()).await.unwrap();
    raw.send("POST /p//x%2f?q HTTP/1.1\r\nhOsT: h\r\nX-A:  1 \r\nX-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n")
        .await
        .unwrap();
    let head = raw.read_head().await.unwrap();
    let length = head.split("Content-Length: ").nth(1).and_then(|l| l.trim().parse().ok()).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&raw.read_exact(length).await.unwrap()).unwrap();
    let headers = json!([["hOsT", "h"], ["X-A", "1"], ["X-a", "2"], ["Transfer-Encoding", "chunked"]]);
    assert_eq!(body["line"], "POST /p//x%2f?q HTTP/1.1");
    assert_eq!(body["headers"], headers);
    assert_eq!((&body["body"], &body["trailers"]), (&json!("abc"), &json!([["T", "v"]])));
    assert_eq!((&body["connection"], &body["request"], &body["server"]), (&json!(1), &json!(1), &json!("a")));
    // The same connection serves the next request.
    raw.send("GET /close HTTP/1.1\r\n\r\n").await.unwrap();
    let rest = raw.read_to_end().await.unwrap();
    assert!(String::from_utf8(rest).unwrap().contains("\"request\":2"));
    let received = echo.take();
    assert_eq!((received.len(), received[0].header("x-a")), (2, vec!["1".to_owned(), "2".into()]));
    assert!(echo.received().is_empty());
    eventually("the connection to close", async || echo.open_connections() == 0).await;
}

#[tokio::test]
async fn directives_shape_the_answer() {
    let echo = Echo::start();
    let get = async |target: &str| Call::get(target).to(echo.address()).await;
    assert_eq!(get("/x/status/503").await.unwrap().status, 503);
    assert_eq!(get("/?large=70000&chunked").await.unwrap().body.len(), 70_000);
    assert_eq!(get("/eof/large/10").await.unwrap().text(), "xxxxxxxxxx");
    assert_eq!(get("/header/X-A/1?header=X-A:2").await.unwrap().header("x-a"), "1, 2");
    assert_eq!(get("/status/204").await.unwrap().body.len(), 0);
    assert!(get("/reset").await.is_err());
    assert!(get("/cut").await.is_err());
    assert!(get("/cut/chunked").await.is_err());
    let hung = Call::get("/hang").within(Duration::from_millis(50)).to(echo.address()).await.unwrap_err();
    assert!(hung.to_string().contains("took too long"), "{hung}");
    let early = Call::post("/early", vec![0; 10]).to(echo.address()).await.unwrap();
    assert_eq!(early.json().unwrap()["body"], "");
    echo.always(Some(500));
    assert_eq!(get("/status/200").await.unwrap().status, 500);
    echo.always(None);
    assert_eq!(get("/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_is_kept_and_never_reopened() {
    let echo = Echo::start();
    let mut connection = Target::plain(echo.address()).connect().await.unwrap();
    for n in 1..=3 {
        let answer = Call::get("/").send(&mut connection).await.unwrap();
        assert_eq!(answer.json().unwrap()["request"], n);
    }
    let address = echo.address();
    drop(echo);
    assert!(Call::get("/").send(&mut connection).await.is_err());
    assert!(Target::plain(address).connect().await.is_err());
}

#[tokio::test]
async fn tls_with_a_name_and_an_authority() {
    let authority = Authority::new("test");
    let echo = Echo::tls("t", &authority.issue(&["a.example"]));
    let target = Target::tls(echo.address(), "a.example", &authority.pem());
    let mut connection = target.connect().await.unwrap();
    assert_eq!(connection.alpn.as_deref(), Some("http/1.1"));
    assert!(connection.server_certificate.is_some());
    assert_eq!(Call::get("/").send(&mut connection).await.unwrap().json().unwrap()["sni"], "a.example");
    assert!(Target::tls(echo.address(), "b.example", &authority.pem()).connect().await.is_err());
    assert!(Target::tls(echo.address(), "a.example", &Authority::new("other").pem()).connect().await.is_err());
}

#[test]
fn a_process_is_watched_and_ended() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready 17; echo '2026 WARN low' >&2; echo ' WARN known' >&2; exec sleep 600"]);
    let mut process = Process::start("sh", command);
    process.announce("known");
    let number = process.wait_for_line("readiness", SOON, |line| line.strip_prefix("ready ").map(str::to_owned));
    assert_eq!(number, "17");
    process.wait_for_line("the warnings", SOON, |line| line.contains("known").then_some(()));
    assert_eq!(process.unannounced(), ["2026 WARN low"]);
    assert!(process.is_running());
    process.kill();
    assert!(!process.is_running() && !process.wait_for_end(SOON).success());
}

#[test]
fn a_process_that_ends_early_is_not_waited_for() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo only; exit 3"]);
    let failed = std::thread::spawn(|| {
        Process::start("sh", command)
            .wait_for_line("readiness", Duration::from_secs(600), |line| line.contains("ready").then_some(()));
    });
    let message = *failed.join().unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "sh ended before it wrote readiness");
}

#[test]
fn ports_and_directories_are_ours_alone() {
    let (a, b) = (free_port(), free_port());
    assert_ne!(a, b);
    let dir = TempDir::new();
    let path = dir.write("f", "x");
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn nothing_listens_nowhere_and_nobody_gets_its_port() {
    let nowhere = crate::nowhere();
    assert_eq!(TcpStream::connect(nowhere).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(TcpListener::bind(nowhere).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_ne!(crate::nowhere(), nowhere);
}
