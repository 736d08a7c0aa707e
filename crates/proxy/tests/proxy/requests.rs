//! What reaches the upstream, and what is answered without one.

use crate::support::{Bed, object, route_to};
use milecastle_model::Kind;
use milecastle_testkit::{Answer, Call, Echo};
use serde_json::{Value, json};

/// All values of a header as the upstream received it.
fn received(answer: &Answer, name: &str) -> Vec<String> {
    let json: Value = answer.json().unwrap();
    let pairs = json["headers"].as_array().unwrap().clone();
    let named = pairs.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

fn target(answer: &Answer) -> String {
    answer.json().unwrap()["target"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_arrives_with_its_forwarding_headers() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let answer = bed.call(
        Call::get("/a%20b?x=1&y=%2F")
            .header("host", "Example.com:8443")
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-proto", "https")
            .header("forwarded", "for=1.2.3.4")
            .header("te", "trailers")
            .header("keep-alive", "5")
            .header("x_under_score", "kept")
            .header("x-consumer-username", "root")
            .header("x_credential_identifier", "root"),
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("server"), "Milecastle");
    assert_eq!(target(&answer), "/a%20b?x=1&y=%2F");
    for (name, values) in [
        ("host", vec!["Example.com:8443"]),
        ("x-real-ip", vec!["127.0.0.1"]),
        ("x-forwarded-for", vec!["1.2.3.4, 127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["Example.com:8443"]),
        ("x-forwarded-port", vec!["8443"]),
        ("x_under_score", vec!["kept"]),
        ("forwarded", vec![]),
        ("te", vec![]),
        ("keep-alive", vec![]),
        ("connection", vec![]),
        ("content-length", vec![]),
        ("x-consumer-username", vec![]),
        ("x_credential_identifier", vec![]),
    ] {
        assert_eq!(received(&answer, name), values, "{name}");
    }
    let answer = bed.call(Call::get("/").header("host", "plain"));
    assert_eq!(received(&answer, "x-forwarded-port"), [bed.http.port().to_string()]);
}

#[test]
fn believed_peers_keep_what_they_say() {
    let echo = Echo::start();
    let call = || {
        Call::get("/")
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "outer")
            .header("x-forwarded-port", "443")
    };
    let trusting = |peers: &str| {
        let peers = vec![peers.parse().unwrap()];
        Bed::with(route_to(&[echo.address()], json!({})), |file| file.apisix.trusted_addresses = Some(peers))
    };
    let answer = trusting("127.0.0.0/8").call(call());
    assert_eq!(received(&answer, "x-forwarded-for"), ["1.2.3.4, 127.0.0.1"]);
    assert_eq!(received(&answer, "x-forwarded-proto"), ["https"]);
    assert_eq!(received(&answer, "x-forwarded-host"), ["outer"]);
    assert_eq!(received(&answer, "x-forwarded-port"), ["443"]);
    let answer = trusting("10.0.0.0/8").call(call());
    assert_eq!(received(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received(&answer, "x-forwarded-proto"), ["http"]);
}

#[test]
fn the_real_address_comes_from_believed_peers() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let answer = bed.call(Call::get("/").header("x-real-ip", "9.8.7.6"));
    assert_eq!(received(&answer, "x-real-ip"), ["9.8.7.6"]);
    assert_eq!(received(&answer, "x-forwarded-for"), ["9.8.7.6"]);
    assert_eq!(bed.lines(1)[0].client, "9.8.7.6");
    let bed = Bed::with(route_to(&[echo.address()], json!({})), |file| {
        file.nginx_config.http.real_ip_from = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let answer = bed.call(Call::get("/").header("x-real-ip", "9.8.7.6"));
    assert_eq!(received(&answer, "x-real-ip"), ["127.0.0.1"]);
}

#[test]
fn the_real_address_is_what_the_believed_peer_adds() {
    let echo = Echo::start();
    let client = |recursive: &str, lines: &[&str]| {
        let bed = Bed::with(route_to(&[echo.address()], json!({})), |file| {
            let http = &mut file.nginx_config.http;
            http.real_ip_header = "X-Forwarded-For".to_owned();
            http.real_ip_from = vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
            http.real_ip_recursive = serde_json::from_value(json!(recursive)).unwrap();
        });
        let call = lines.iter().fold(Call::get("/"), |call, line| call.header("x-forwarded-for", line));
        received(&bed.call(call), "x-real-ip").concat()
    };
    assert_eq!(client("off", &["6.6.6.6, 9.8.7.6"]), "9.8.7.6");
    // Balancers add a line of their own to what the client sent.
    assert_eq!(client("off", &["6.6.6.6", "9.8.7.6"]), "9.8.7.6");
    assert_eq!(client("on", &["6.6.6.6", "9.8.7.6", "10.0.0.1, 10.0.0.2"]), "9.8.7.6");
    assert_eq!(client("on", &["6.6.6.6", "10.0.0.1"]), "6.6.6.6");
    // Whatever stands before what is no address does not count.
    assert_eq!(client("on", &["6.6.6.6", "unknown"]), "127.0.0.1");
    assert_eq!(client("off", &["6.6.6.6", ""]), "127.0.0.1");
}

#[test]
fn the_host_follows_pass_host() {
    let echo = Echo::start();
    let host = |upstream: Value| {
        let bed = Bed::new(route_to(&[echo.address()], json!({ "upstream": upstream })));
        received(&bed.call(Call::get("/").header("host", "client:1")), "host")
    };
    assert_eq!(host(json!({ "pass_host": "pass" })), ["client:1"]);
    assert_eq!(host(json!({ "pass_host": "node" })), [echo.address().to_string()]);
    assert_eq!(host(json!({ "pass_host": "rewrite", "upstream_host": "other.example" })), ["other.example"]);
}

#[test]
fn names_of_nodes_are_resolved() {
    let echo = Echo::start();
    let node = json!([{ "host": "localhost", "port": echo.port(), "weight": 1 }]);
    let bed = Bed::new(route_to(&[], json!({ "upstream": { "nodes": node, "pass_host": "node" } })));
    for _ in 0..3 {
        assert_eq!(received(&bed.get("/"), "host"), [format!("localhost:{}", echo.port())]);
    }
    let node = json!([{ "host": "no-such-name.invalid", "port": 1, "weight": 1 }]);
    let bed = Bed::new(route_to(&[], json!({ "upstream": { "nodes": node } })));
    assert_eq!(bed.get("/").status, 503);
}

#[test]
fn an_ambiguous_target_is_sent_in_its_canonical_form_or_refused() {
    let echo = Echo::start();
    let objects = || route_to(&[echo.address()], json!({}));
    let bed = Bed::new(objects());
    for (sent, arrived) in [
        ("/a/../b?q=/../", "/b?q=/../"),
        ("/a//b", "/a/b"),
        ("/a%2Fb", "/a/b"),
        ("/a%5Cb", "/a%5Cb"),
        ("/%C3%A9", "/%C3%A9"),
    ] {
        let answer = bed.raw(format!("GET {sent} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let last = echo.take().pop().unwrap().target();
        assert_eq!(last.to_ascii_lowercase(), arrived.to_ascii_lowercase(), "{sent}");
    }
    for sent in ["/../a", "/%", "/%00"] {
        assert_eq!(bed.get(sent).status, 400, "{sent}");
    }
    let bed = Bed::with(objects(), |file| file.ambiguous_path = milecastle_settings::AmbiguousPath::Reject);
    assert_eq!(bed.get("/a//b").status, 400);
    assert_eq!(bed.get("/a%20b").status, 200);
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_refused() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1 \n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let closing = head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let answer = bed.raw(closing);
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{head:?}: {answer}");
    }
    assert!(echo.take().is_empty());
    assert!(bed.raw("GET / HTTP/1.0\r\n\r\n").contains(" 200 OK"));
    let absolute = bed.raw("GET http://inner/x HTTP/1.1\r\nHost: outer\r\nConnection: close\r\n\r\n");
    assert!(absolute.contains(" 200 OK"));
    assert_eq!(echo.take().pop().unwrap().header("host"), ["inner"]);
}

#[test]
fn a_length_beside_chunked_is_refused_and_ends_the_connection() {
    let echo = Echo::start();
    let bed = Bed::new(route_to(&[echo.address()], json!({})));
    let (length, chunked) = ("Content-Length: 6", "Transfer-Encoding: chunked");
    for fields in [[length, chunked], [chunked, length], ["Content-Length: 0", chunked], [chunked, "Content-Length: x"]]
    {
        let head = format!("POST /first HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fields.join("\r\n"));
        let answer = bed.raw(format!("{head}3\r\nabc\r\n0\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
        assert!(echo.take().is_empty(), "{fields:?}");
    }
    assert_eq!(bed.lines(4).len(), 4, "each is in the log");
}

#[test]
fn answers_without_an_upstream() {
    let echo = Echo::start();
    let node = json!({ echo.address().to_string(): 1 });
    let upstream = |more: Value| {
        let mut upstream = json!({ "nodes": node });
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        upstream
    };
    let bed = Bed::new(vec![
        object(Kind::Route, "nothing", json!({ "uri": "/nothing" })),
        object(Kind::Route, "dangling", json!({ "uri": "/dangling", "upstream_id": "gone" })),
        object(Kind::Route, "service", json!({ "uri": "/service", "service_id": "gone" })),
        object(Kind::Route, "config", json!({ "uri": "/config", "plugin_config_id": "gone" })),
        object(Kind::Route, "empty", json!({ "uri": "/empty", "upstream": { "nodes": {} } })),
        object(Kind::Route, "kind", json!({ "uri": "/kind", "upstream": upstream(json!({ "type": "odd" })) })),
        object(Kind::Route, "works", json!({ "uri": "/works", "upstream": upstream(json!({})) })),
    ]);
    for (path, status) in [
        ("/nothing", 503),
        ("/dangling", 502),
        ("/service", 404),
        ("/config", 503),
        ("/empty", 503),
        ("/kind", 502),
        ("/works", 200),
        ("/unknown", 404),
    ] {
        let answer = bed.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("server"), "Milecastle");
    }
    let unknown = bed.get("/unknown");
    assert_eq!(unknown.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
    assert_eq!(unknown.header("content-type"), "text/plain; charset=utf-8");
    assert!(bed.get("/service").text().contains("404 Not Found"));
}

#[test]
fn a_publication_is_seen_by_the_next_request() {
    let echo = Echo::start();
    let mut bed = Bed::new(vec![]);
    for round in 0..50 {
        assert_eq!(bed.get("/").status, 404, "{round}");
        bed.publish(route_to(&[echo.address()], json!({})));
        assert_eq!(bed.get("/").status, 200, "{round}");
        bed.publish(vec![]);
    }
}

#[test]
fn an_idle_worker_keeps_no_old_snapshot() {
    let mut bed = Bed::new(vec![]);
    assert_eq!(bed.get("/").status, 404);
    let old = std::sync::Arc::downgrade(&bed.current().load());
    bed.publish(vec![]);
    milecastle_testkit::wait_for_blocking("the old snapshot to go", crate::support::SOON, || {
        old.upgrade().is_none().then_some(())
    });
}

#[test]
fn nodes_take_turns_by_weight() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let nodes = json!({ a.address().to_string(): 3, b.address().to_string(): 1 });
    let bed = Bed::new(route_to(&[], json!({ "upstream": { "nodes": nodes } })));
    for _ in 0..40 {
        assert_eq!(bed.get("/").status, 200);
    }
    assert_eq!((a.take().len(), b.take().len()), (30, 10));
}
