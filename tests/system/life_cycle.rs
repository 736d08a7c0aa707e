//! Stopping, dying and starting again.

use milecastle_testkit::{Call, Echo, SOON, Target, eventually};
use milecastle_tests::Up;
use serde_json::json;

const SIGTERM: i32 = 15;

#[tokio::test]
async fn configuration_outlives_the_process_however_it_ends() {
    let echo = Echo::start();
    let up = Up::start();
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/a", "upstream": upstream })).await;
    let up = Up::start_in(up.stop());
    assert_eq!(up.get("/a").await.status, 200);
    up.put("/routes/2", json!({ "uri": "/b", "upstream": upstream })).await;
    let up = Up::start_in(up.kill());
    assert_eq!(up.get("/a").await.status, 200);
    // The node may have been killed before it had heard of this one.
    up.answers("/b", 200).await;
    assert_eq!(up.admin("GET", "/routes", None).await.json().unwrap()["total"], 2);
}

#[tokio::test]
async fn a_graceful_stop_ends_what_is_in_flight() {
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    assert_eq!(Call::get("/status").to(up.status).await.unwrap().status, 200);
    assert_eq!(Call::get("/status/ready").to(up.status).await.unwrap().status, 200);
    let mut slow = Target::plain(up.http).connect().await.unwrap();
    let mut idle = Target::plain(up.http).connect().await.unwrap();
    assert_eq!(Call::get("/").send(&mut idle).await.unwrap().status, 200);
    echo.take();
    let answer = tokio::spawn(async move { Call::get("/delay/1500").send(&mut slow).await });
    eventually("the slow request has reached the upstream", async || !echo.received().is_empty()).await;
    let stopping = tokio::task::spawn_blocking(move || drop(up.stop()));
    assert_eq!(answer.await.unwrap().unwrap().status, 200);
    stopping.await.unwrap();
    assert!(!idle.is_open(), "idle connections are closed");
}

#[tokio::test]
async fn a_stop_says_what_it_waits_for_and_a_second_signal_ends_it() {
    let (mut up, echo) = (
        Up::start_with(&[
            ("MILECASTLE__GATEWAY__SHUTDOWN__GRACE", "600ms"),
            ("MILECASTLE__GATEWAY__SHUTDOWN__DRAIN", "1h"),
        ]),
        Echo::start(),
    );
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    echo.take();
    let mut endless = Target::plain(up.http).connect().await.unwrap();
    let answer = tokio::spawn(async move { Call::get("/delay/600000").send(&mut endless).await });
    eventually("the request has reached the upstream", async || !echo.received().is_empty()).await;
    up.process.signal(SIGTERM);
    let says = |words: &'static str| move |line: &str| line.contains(words).then(|| line.to_owned());
    let grace = up.process.wait_for_line("its grace", SOON, says("for 600ms (shutdown.grace)"));
    assert!(grace.contains("connections=") && grace.contains("requests="), "{grace}");
    up.process.wait_for_line("its drain", SOON, says("for 1h at most (shutdown.drain)"));
    up.process.signal(SIGTERM);
    assert!(up.process.wait_for_end(SOON).success());
    up.process.wait_for_line("why", SOON, says("asked to stop again: ending at once"));
    assert!(answer.await.unwrap().is_err(), "the request was cut");
}

#[tokio::test]
async fn the_log_of_an_ordinary_life_holds_no_warning() {
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.answers("/", 200).await;
    assert_eq!(up.process.unannounced(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signal_opens_the_log_files_anew() {
    let (mut up, echo) = (Up::start(), Echo::start());
    let (log, moved) = (up.data.path().join("a.log"), up.data.path().join("a.log.1"));
    let logger = json!({ "file-logger": { "path": log.to_str().unwrap() } });
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/*", "upstream": upstream, "plugins": logger })).await;
    up.answers("/before", 200).await;
    eventually("the first line is written", async || log.exists()).await;
    std::fs::rename(&log, &moved).unwrap();
    const SIGUSR1: i32 = 10;
    up.process.signal(SIGUSR1);
    eventually("a new file appears", async || {
        up.get("/after").await;
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("/after"))
    })
    .await;
}
