//! Plugins on the request path.

use crate::support::{Bed, Scripted, object, route_to};
use milecastle_model::Kind;
use milecastle_testkit::{Call, Echo, Target};
use serde_json::{Value, json};

fn bed(echo: &Echo, witness: Value) -> Bed {
    Bed::new(route_to(&[echo.address()], json!({ "plugins": { "witness": witness } })))
}

#[test]
fn a_plugin_may_end_the_request() {
    let echo = Echo::start();
    let answer = bed(&echo, json!({ "reply": 418, "header": "x-filtered: yes" })).get("/");
    assert_eq!((answer.status, answer.text()), (418, "ended".into()));
    assert_eq!(answer.header("x-filtered"), "yes");
    assert_eq!(answer.header("content-length"), "5");
    assert!(echo.take().is_empty());
}

#[test]
fn a_panic_is_one_requests_500() {
    let echo = Echo::start();
    for phase in ["access", "headers", "log"] {
        let bed = self::bed(&echo, json!({ "panic_in": phase }));
        for round in 1..=2 {
            let status = bed.get("/").status;
            assert_eq!(status, if phase == "log" { 200 } else { 500 }, "{phase}");
            bed.lines(round);
            assert_eq!(bed.panics("witness"), round as u64);
        }
    }
    // Head and body come in one piece here, so that nothing has been sent when the filter runs.
    let once = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true);
    let plugins = json!({ "plugins": { "witness": { "panic_in": "body" } } });
    let bed = Bed::new(route_to(&[once.addr], plugins));
    assert_eq!(bed.get("/").status, 500);
    assert_eq!(bed.lines(1)[0].status, 500);
    let bed = self::bed(&echo, json!({ "panic_in": "body" }));
    assert!(bed.run(Call::get("/large/500000").to(bed.http)).is_err());
    assert_eq!(bed.lines(1)[0].status, 200);
}

#[test]
fn after_a_panic_the_connection_and_the_worker_serve_on() {
    let echo = Echo::start();
    let mut objects = route_to(&[echo.address()], json!({}));
    let panics = json!({ "uri": "/panic", "upstream_id": "u", "plugins": { "witness": { "panic_in": "access" } } });
    objects.push(object(Kind::Route, "panic", panics));
    // One worker serves all of it.
    let bed = Bed::new(objects);
    bed.run(async {
        let mut slow = Target::plain(bed.http).connect().await.unwrap();
        let slow = tokio::spawn(async move { Call::get("/delay/300").send(&mut slow).await });
        milecastle_testkit::eventually("a request to be in work", async || bed.totals().in_flight == 1).await;
        let mut kept = Target::plain(bed.http).connect().await.unwrap();
        for _ in 0..3 {
            assert_eq!(Call::get("/panic").send(&mut kept).await.unwrap().status, 500);
            assert_eq!(Call::post("/fine", "body").send(&mut kept).await.unwrap().status, 200);
        }
        assert_eq!(Call::get("/fine").to(bed.http).await.unwrap().status, 200);
        assert_eq!(slow.await.unwrap().unwrap().status, 200);
    });
    assert_eq!((bed.totals().accepted, bed.panics("witness"), bed.totals().request_panics), (3, 3, 0));
}

#[test]
fn global_rules_run_for_every_request() {
    let echo = Echo::start();
    let mut objects = route_to(&[echo.address()], json!({ "uri": "/known" }));
    let plugins = json!({ "plugins": { "witness": { "header": "x-global: yes" } } });
    objects.push(object(Kind::GlobalRule, "g", plugins));
    let bed = Bed::new(objects);
    for (path, status) in [("/known", 200), ("/unknown", 404)] {
        let answer = bed.get(path);
        assert_eq!((answer.status, answer.header("x-global")), (status, "yes".into()));
    }
    let refusing = json!({ "plugins": { "witness": { "reply": 403 } } });
    let bed = Bed::new(vec![object(Kind::GlobalRule, "g", refusing)]);
    assert_eq!(bed.get("/unknown").status, 403);
}

#[test]
fn fields_that_are_asked_for_early_are_on_the_answer_whether_or_not_anybody_looks_at_it() {
    let answer = "HTTP/1.1 200 OK\r\nServer: s\r\nDate: d\r\nX-Brought: up\r\nX-Empty: \r\nContent-Length: 2\r\n\r\nhi";
    let upstream = Scripted::answering(answer, true);
    let usual = ["content-length: 2", "date: d", "server: Milecastle", "x-brought: up", "x-empty: "];
    let cases: [(&[&str], &[&str], Vec<&str>); 8] = [
        (&[], &[], usual.to_vec()),
        (&["x-set: 1", "x-set: 2"], &["x-set: 3"], [&usual[..], &["x-set: 2"]].concat()),
        (&[], &["x-set: 1", "x-brought: 1"], [&usual[..], &["x-set: 1"]].concat()),
        (&["x-brought: own"], &[], [&usual[..3], &["x-brought: own", "x-empty: "]].concat()),
        (&[], &["x-empty: own"], [&usual[..4], &["x-empty: own"]].concat()),
        (&["server: own"], &[], [&usual[..2], &["server: own"], &usual[3..]].concat()),
        (&["date: own"], &[], [&usual[..1], &["date: own"], &usual[2..]].concat()),
        (&["content-length: 9"], &[], usual.to_vec()),
    ];
    for (set, default, expected) in cases {
        let early = json!({ "set": set, "default": default });
        for plugins in [json!({ "early": early }), json!({ "early": early, "witness": {} })] {
            let bed = Bed::new(route_to(&[upstream.addr], json!({ "plugins": plugins })));
            for target in [Target::plain(bed.http), Target::plain(bed.http).http2()] {
                let answer = bed.run(async {
                    let mut connection = target.connect().await.unwrap();
                    Call::get("/").send(&mut connection).await.unwrap()
                });
                let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    format!("{name}: {}", value.to_str().unwrap())
                };
                let mut lines: Vec<String> = answer.headers.iter().map(line).collect();
                lines.sort();
                assert_eq!(
                    (lines, answer.text()),
                    (expected.iter().map(ToString::to_string).collect(), "hi".into()),
                    "{early}"
                );
            }
        }
    }
}

#[test]
fn a_plugin_reads_the_body_before_it_is_sent_on() {
    let echo = Echo::start();
    for (size, cap, seen) in
        [(0, 100, "none"), (50, 100, "50 false"), (100, 100, "100 false"), (3000, 10_000, "3000 false")]
    {
        let bed = bed(&echo, json!({ "whole": cap }));
        let body = vec![b'b'; size];
        let answer = bed.call(Call::post("/", body.clone()));
        assert_eq!(answer.header("x-seen"), seen);
        assert!(echo.take().pop().unwrap().body == body);
    }
    // Beyond the cap the plugin sees the beginning, and the upstream gets everything.
    let bed = bed(&echo, json!({ "whole": 1000 }));
    let body = vec![b'b'; 1_000_000];
    let answer = bed.call(Call::post("/large/1", body.clone()));
    assert!(answer.header("x-seen").ends_with(" true"));
    assert!(echo.take().pop().unwrap().body == body);
}

#[test]
fn a_body_filter_sees_every_piece_and_the_end() {
    let echo = Echo::start();
    let bed = bed(&echo, json!({ "brackets": true }));
    let once = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxxx", true);
    let plugins = json!({ "plugins": { "witness": { "brackets": true } } });
    let small = Bed::new(route_to(&[once.addr], plugins)).get("/");
    assert_eq!((small.text(), small.header("content-length")), ("[xxx].".into(), "6".into()));
    let large = bed.get("/large/300000").text();
    assert!(large.ends_with("[].") && large.starts_with("[xxx"));
    assert_eq!(large.matches('x').count(), 300_000);
    let head = bed.call(Call::new(http::Method::HEAD, "/large/3"));
    assert_eq!((head.status, head.body.len()), (200, 0));
}
