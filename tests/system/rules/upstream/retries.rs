//! Retries and what is answered in the end (§5).

use super::{Scripted, in_order, nodes, received, route_to, server, site, tried, with};
use crate::rules::Site;
use http::Method;
use milecastle_testkit::raw::{self, Raw};
use milecastle_testkit::{Answer, Call, Echo, eventually, nowhere};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

/// The status of the answer, and those of all tries.
fn outcome(answer: &Answer) -> (u16, String) {
    (answer.status, answer.header("x-statuses"))
}

fn is(status: u16, tries: &str) -> (u16, String) {
    (status, tries.to_owned())
}

/// Milliseconds of patience with an upstream; a second to connect.
fn patience(read: u32) -> Value {
    json!({ "timeout": { "connect": 1, "send": 5, "read": f64::from(read) / 1000.0 } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_1_one_try_more_than_retries_or_one_for_each_node() {
    let site = site().await;
    let dead = || in_order(&[nowhere(), nowhere(), nowhere()]);
    for (retries, tries) in
        [(json!({}), "502, 502, 502"), (json!({ "retries": 1 }), "502, 502"), (json!({ "retries": 0 }), "502")]
    {
        site.put([route_to("u51", with(json!({ "nodes": dead() }), retries))]).await;
        let answer = site.up.get("/u51/x").await;
        assert_eq!(outcome(&answer), is(502, tries));
        assert_eq!(answer.header("x-apisix-upstream-status"), tries);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_2_failures_before_the_answers_head_are_retried() {
    let (site, echo) = (site().await, Echo::named("good"));
    let half = Scripted::saying("HTTP/1.1 200 OK\r\nContent-Le");
    let (closing, silent) = (Scripted::closing(), Scripted::silent());
    for (first, status) in [(nowhere(), 502), (closing.address, 502), (half.address, 502), (silent.address, 504)] {
        let upstream = with(json!({ "nodes": in_order(&[first, echo.address()]) }), patience(300));
        site.put([route_to("u52", upstream)]).await;
        let answer = site.up.get("/u52/x").await;
        assert_eq!((server(&answer), outcome(&answer)), ("good".to_owned(), is(200, &format!("{status}, 200"))));
    }
    // A handshake that fails is one.
    let plain = crate::stream::server(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let identity = milecastle_testkit::tls::Authority::new("u52").issue(&["u52.test"]);
    let secure = Echo::tls("secure", &identity);
    let upstream = json!({ "scheme": "https", "nodes": in_order(&[plain, secure.address()]) });
    site.put([route_to("u52", upstream)]).await;
    assert_eq!(outcome(&site.up.get("/u52/x").await), is(200, "502, 200"));
    // Nothing is once something of the answer has been sent to the client.
    let cut = Scripted::saying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    site.put([route_to("u52", json!({ "nodes": in_order(&[cut.address, echo.address()]) }))]).await;
    echo.take();
    assert!(Call::get("/u52/x").to(site.up.http).await.is_err(), "the answer is cut");
    assert_eq!((cut.requests(), echo.take().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_2_failures_while_sending_are_retried() {
    let settings = [("MILECASTLE__GATEWAY__LIMITS__RETRY_BODY", "64m")];
    let site = Site::start(&settings, &[], &["an upstream node gave no answer"]).await;
    let echo = Echo::named("good");
    // More than the system takes in for an upstream that reads nothing of it.
    let body = "y".repeat(32 << 20);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let stuck = Scripted::new(move |_, _| {
        assert!(held.lock().unwrap().recv().is_err(), "it is held until the test lets go");
        Err(std::io::ErrorKind::Other.into())
    });
    let closing = Scripted::closing();
    // Longer than a busy machine keeps the other node from reading.
    let limits = json!({ "timeout": { "connect": 5, "send": 1, "read": 3600 } });
    for (first, status, said) in
        [(closing.address, 502, "sending the request failed"), (stuck.address, 504, "sending the request stalled")]
    {
        let upstream = with(json!({ "nodes": in_order(&[first, echo.address()]) }), limits.clone());
        site.put([route_to("u52-sending", upstream)]).await;
        let answer = site.call(Call::new(Method::PUT, "/u52-sending/x").body(body.clone())).await;
        assert_eq!(outcome(&answer), is(200, &format!("{status}, 200")));
        let [got] = &echo.take()[..] else { panic!("one request came") };
        assert!(got.body == body, "it came whole");
        assert!(site.up.process.log().iter().any(|line| line.contains(said)), "{said}");
    }
    drop(hold);
}

/// Reads each request to the end of its body, and closes.
fn reading() -> Scripted {
    Scripted::new(|stream, head| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        let mut named = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        match named.next() {
            Some((_, length)) => {
                std::io::copy(&mut stream.take(length.parse().unwrap()), &mut std::io::sink())?;
            }
            None => {
                let (mut got, mut piece) = (Vec::new(), [0; 4096]);
                while !got.ends_with(b"\r\n0\r\n\r\n") {
                    let read = stream.read(&mut piece)?;
                    if read == 0 {
                        break;
                    }
                    got.extend_from_slice(&piece[..read]);
                }
            }
        }
        Err(std::io::ErrorKind::Other.into())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_2_a_body_is_sent_again_up_to_the_limit() {
    const LIMIT: usize = 64 << 10;
    let (site, echo, reading) = (site().await, Echo::named("good"), reading());
    site.put([route_to("u52-body", json!({ "nodes": in_order(&[reading.address, echo.address()]) }))]).await;
    let series = "apisix_limit_hits_total{limit=\"limits.retry_body\"}";
    let hits = async || site.up.metric(series).await.expect("it is shown");
    let before = hits().await;
    for (length, status, tries) in [(LIMIT, 200, "502, 200"), (LIMIT + 1, 502, "502")] {
        let body = "y".repeat(length);
        let answer = site.call(Call::new(Method::PUT, "/u52-body/x").body(body.clone())).await;
        assert_eq!(outcome(&answer), is(status, tries), "{length} bytes");
        // The same of a length that nobody has said.
        let head = "PUT /u52-body/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
        let request = format!("{head}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
        let answer = raw::exchange(site.up.http, request).await.unwrap().to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{length} bytes: {answer}");
        assert!(answer.contains(&format!("\r\nx-statuses: {tries}\r\n")), "{length} bytes: {answer}");
        let got = echo.take();
        assert_eq!(got.len(), if status == 200 { 2 } else { 0 });
        assert!(got.iter().all(|got| got.body == body), "it came whole");
    }
    assert_eq!(reading.requests(), 4);
    eventually("what was not sent again is counted", async || hits().await >= before + 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_3_what_may_not_be_repeated_is_retried_only_while_connecting() {
    let (site, echo, closing) = (site().await, Echo::named("good"), Scripted::closing());
    site.put([
        route_to("u53", json!({ "nodes": in_order(&[closing.address, echo.address()]) })),
        route_to("u53-dead", json!({ "nodes": in_order(&[nowhere(), echo.address()]) })),
    ])
    .await;
    for method in ["POST", "LOCK", "PATCH"] {
        let call = |rule: &str| site.call(Call::new(method.parse().unwrap(), &format!("/{rule}/x")).body("text"));
        assert_eq!(outcome(&call("u53").await), is(502, "502"), "{method}");
        assert_eq!(outcome(&call("u53-dead").await), is(200, "502, 200"), "{method}");
    }
    assert!(echo.take().iter().all(|got| got.body == "text"));
    for method in ["PUT", "DELETE", "OPTIONS"] {
        let answer = site.call(Call::new(method.parse().unwrap(), "/u53/x").body("text")).await;
        assert_eq!(outcome(&answer), is(200, "502, 200"), "{method}");
    }
    assert!(echo.take().iter().all(|got| got.body == "text"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_4_answers_are_not_retried_whatever_they_say() {
    let (site, echo) = (site().await, Echo::named("other"));
    for status in [500, 502, 503, 504] {
        let failing = Echo::start();
        failing.always(Some(status));
        site.put([route_to("u54", json!({ "nodes": in_order(&[failing.address(), echo.address()]) }))]).await;
        let answer = site.up.get("/u54/x").await;
        assert_eq!(outcome(&answer), is(status, &status.to_string()));
        assert_eq!(answer.header("x-apisix-upstream-status"), status.to_string());
    }
    for malformed in
        ["HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n\r\n"]
    {
        let upstream = Scripted::saying(malformed);
        site.put([route_to("u54", json!({ "nodes": in_order(&[upstream.address, echo.address()]) }))]).await;
        assert_eq!(outcome(&site.up.get("/u54/x").await), is(502, "502"), "{malformed:?}");
    }
    assert!(echo.received().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_5_retries_end_when_every_node_was_tried() {
    let site = site().await;
    let upstream = json!({ "nodes": nodes(&[nowhere(), nowhere()]), "retries": 10 });
    site.put([route_to("u55", upstream)]).await;
    let answer = site.up.get("/u55/x").await;
    assert_eq!(outcome(&answer), is(502, "502, 502"));
    let tried = tried(&answer);
    assert_ne!(tried[0], tried[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_6_no_retry_begins_after_the_deadline() {
    let (site, echo, silent) = (site().await, Echo::named("late"), Scripted::silent());
    let upstream = |limit: Value| {
        let upstream = with(json!({ "nodes": in_order(&[silent.address, echo.address()]) }), patience(300));
        route_to("u56", with(upstream, json!({ "retry_timeout": limit })))
    };
    site.put([upstream(json!(0.1))]).await;
    assert_eq!(outcome(&site.up.get("/u56/x").await), is(502, "504"));
    for none in [json!(0), json!(60)] {
        site.put([upstream(none)]).await;
        assert_eq!(outcome(&site.up.get("/u56/x").await), is(200, "504, 200"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_7_the_host_of_a_retry_is_that_of_its_node() {
    let (site, echo) = (site().await, Echo::start());
    let upstream = json!({ "nodes": in_order(&[nowhere(), echo.address()]), "pass_host": "node" });
    site.put([route_to("u57", upstream)]).await;
    assert_eq!(received(&site.up.get("/u57/x").await, "host"), [echo.address().to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_7_hooks_before_a_node_is_asked_run_again_for_each_try() {
    let settings = [("MILECASTLE__GATEWAY__APISIX__TRACING", "true")];
    let announced = ["an upstream node gave no answer", "a batch could not be delivered"];
    let site = Site::start(&settings, &[], &announced).await;
    let (told, heard) = std::sync::mpsc::channel();
    // The hook of this plugin tells each node its own place in the trace.
    let failing = Scripted::new(move |_, head| {
        let line = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap_or_default();
        drop(told.send(line.to_owned()));
        Err(std::io::ErrorKind::Other.into())
    });
    let echo = Echo::start();
    let (path, route) = route_to("u57", json!({ "nodes": in_order(&[failing.address, echo.address()]) }));
    let traced = json!({ "plugins": { "opentelemetry": { "sampler": { "name": "always_on" } } } });
    let collector = json!({ "collector": { "address": failing.address.to_string() } });
    site.put([("/plugin_metadata/opentelemetry".to_owned(), collector), (path, with(route, traced))]).await;
    let answer = site.up.get("/u57/x").await;
    assert_eq!(outcome(&answer), is(200, "502, 200"));
    let [second] = &received(&answer, "traceparent")[..] else { panic!("{}", answer.text()) };
    let first = heard.recv().unwrap();
    let parts = |text: &str| text.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (parts(&first), parts(second));
    assert_eq!((first.len(), &first[1]), (4, &second[1]), "one trace");
    assert_ne!(first[2], second[2], "a try each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_8_each_failed_try_is_reported_to_health() {
    let (site, echo, dead, silent) = (site().await, Echo::start(), nowhere(), Scripted::silent());
    let all = in_order(&[dead, silent.address, echo.address()]);
    // Without thresholds of its own for traffic the defaults hold: two failures of the network, seven timeouts.
    let upstream = with(json!({ "nodes": all, "checks": { "active": {} } }), patience(100));
    site.put([route_to("u58", upstream)]).await;
    let seen = async || {
        let shown = Call::get("/v1/healthcheck/routes/u58").to(site.up.control).await.unwrap().json().unwrap();
        let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
        let of = |port: u16| nodes.iter().find(|node| node["port"] == port).cloned().unwrap_or_default();
        let (dead, silent) = (of(dead.port()), of(silent.address.port()));
        (dead["status"].clone(), dead["counter"]["tcp_failure"].clone(), silent["counter"]["timeout_failure"].clone())
    };
    assert_eq!(site.up.get("/u58/x").await.status, 200);
    eventually("one of each", async || seen().await == (json!("mostly_healthy"), json!(1), json!(1))).await;
    assert_eq!(site.up.get("/u58/x").await.status, 200);
    eventually("two of each", async || seen().await == (json!("unhealthy"), json!(2), json!(2))).await;
    let answer = site.up.get("/u58/x").await;
    assert_eq!(outcome(&answer), is(200, "504, 200"), "the dead node is out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_5_the_last_failure_decides_what_is_answered() {
    let site = site().await;
    let (closing, silent) = (Scripted::closing(), Scripted::silent());
    let garbage = Scripted::saying("HTTP/1.1 abc OK\r\n\r\n");
    let dead = nowhere();
    for (all, status, tries) in [
        (vec![dead], 502, "502"),
        (vec![closing.address], 502, "502"),
        (vec![garbage.address], 502, "502"),
        (vec![silent.address], 504, "504"),
        (vec![silent.address, dead], 502, "504, 502"),
        (vec![dead, silent.address], 504, "502, 504"),
    ] {
        site.put([route_to("u5", with(json!({ "nodes": in_order(&all) }), patience(300)))]).await;
        let answer = site.up.get("/u5/x").await;
        assert_eq!(outcome(&answer), is(status, tries));
        assert_eq!(answer.header("x-apisix-upstream-status"), tries);
        assert!(answer.text().contains(&format!("<center><h1>{status} ")), "{}", answer.text());
    }
    // After the head there is nothing to answer with any more: the connection breaks off.
    let cut = Scripted::saying("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    site.put([route_to("u5", json!({ "nodes": in_order(&[cut.address]) }))]).await;
    let answer = raw::exchange(site.up.http, "GET /u5/x HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\npart"), "{answer}");
    // A client that has gone is logged as 499, and counted so.
    let metrics = json!({ "plugins": { "prometheus": {} } });
    let (path, route) = route_to("u5-gone", json!({ "nodes": in_order(&[silent.address]) }));
    site.put([(path, with(route, metrics))]).await;
    let mut client = Raw::connect(site.up.http).await.unwrap();
    let before = silent.requests();
    client.send("GET /u5-gone/x HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    eventually("the request is with the upstream", async || silent.requests() > before).await;
    drop(client);
    eventually("it is logged", async || {
        let page = Call::get("/apisix/prometheus/metrics").to(site.up.prometheus).await.unwrap().text();
        page.lines().any(|line| line.contains(r#"code="499",route="u5-gone""#))
    })
    .await;
}
