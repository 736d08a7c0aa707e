//! Health of upstream nodes, through the gateway (`docs/spec/resources.md` §4, `docs/spec/upstream-balancing.md` §3).

use crate::support::{Bed, SOON, Scripted, object, read_head, route_to};
use milecastle_model::Kind;
use milecastle_testkit::echo::Received;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, TempDir, nowhere, wait_for_blocking};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// A gateway for everything to these nodes, with such checks.
fn bed(nodes: &[SocketAddr], checks: Value) -> Bed {
    Bed::new(route_to(nodes, json!({ "upstream": { "checks": checks } })))
}

/// Active checks in both directions, each second, that turn after one report.
fn quick(more: Value) -> Value {
    let mut active = json!({
        "healthy": { "interval": 1, "successes": 1 },
        "unhealthy": { "interval": 1, "http_failures": 1, "tcp_failures": 1, "timeouts": 1 },
    });
    active.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "active": active })
}

/// Observation of traffic alone; nothing is probed.
fn passive(more: Value) -> Value {
    json!({ "active": {}, "passive": more })
}

fn wait_unhealthy(bed: &Bed, count: u64) {
    wait_for_blocking("targets to turn", SOON, || (bed.health().unhealthy == count).then_some(()));
}

/// The names of the nodes that answer so many requests.
fn serving(bed: &Bed, requests: usize) -> BTreeSet<String> {
    let name = |_| bed.get("/").json().unwrap()["server"].as_str().unwrap().to_owned();
    (0..requests).map(name).collect()
}

/// The fields of a request, as they came.
fn fields(received: &Received) -> Vec<String> {
    received.headers.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn resources_4_4_4_what_has_had_traffic_is_probed_and_shown() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let checks = quick(json!({ "http_path": "/ping?x", "host": "check.test", "req_headers": ["X-Probe: yes"] }));
    let bed = bed(&[a.address(), b.address()], checks);
    let side = bed.side_servers();
    let control = side.control_addr().unwrap();
    let shown = |target: &str| bed.run(Call::get(target).to(control)).unwrap();
    let empty = json!([{ "name": "/apisix/upstreams/u", "type": "http", "nodes": [] }]);
    assert_eq!(shown("/v1/healthcheck").json().unwrap(), empty);
    let error = json!({ "error_msg": "no checker for upstreams[u]" });
    assert_eq!(shown("/v1/healthcheck/upstreams/u").json().unwrap(), error);
    assert_eq!(bed.get("/").status, 200);
    let node = |addr: SocketAddr| {
        json!({ "ip": "127.0.0.1", "port": addr.port(), "hostname": "check.test", "status": "healthy",
            "counter": { "success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0 } })
    };
    let mut addresses = [a.address(), b.address()];
    addresses.sort();
    let watched = json!({ "name": "/apisix/upstreams/u", "type": "http", "nodes": addresses.map(node) });
    assert_eq!(shown("/v1/healthcheck").json().unwrap(), json!([watched]));
    assert_eq!(shown("/v1/healthcheck/upstreams/u").json().unwrap(), watched);
    let probe = wait_for_blocking("a probe", SOON, || a.received().into_iter().find(|got| got.target() == "/ping?x"));
    assert_eq!(&probe.line[..], b"GET /ping?x HTTP/1.1");
    assert_eq!(fields(&probe), ["Connection: close", "X-Probe: yes", "Host: check.test"]);
}

#[test]
fn resources_4_4_1_the_pace_of_probes_is_that_of_the_state() {
    let (well, ill, late) = (Echo::named("well"), Echo::named("ill"), Echo::named("late"));
    ill.always(Some(503));
    let checks = json!({ "active": { "http_path": "/probe", "healthy": { "interval": 1 },
        "unhealthy": { "interval": 1000, "http_failures": 1, "http_statuses": [503] } } });
    let mut objects = route_to(&[well.address(), ill.address()], json!({ "upstream": { "checks": checks } }));
    let checks = json!({ "active": { "http_path": "/probe", "healthy": { "interval": 1000 } } });
    let upstream = json!({ "nodes": { late.address().to_string(): 1 }, "checks": checks });
    objects.push(object(Kind::Route, "late", json!({ "uri": "/late", "upstream": upstream })));
    let bed = Bed::new(objects);
    assert_eq!(bed.get("/late").status, 200);
    bed.get("/");
    let probes = |echo: &Echo| echo.received().iter().filter(|got| got.target() == "/probe").count();
    // The first made the one node unhealthy, and it is not due again while the other is each second.
    wait_for_blocking("probes", SOON, || (probes(&well) >= 3).then_some(()));
    assert_eq!((probes(&ill), bed.health().unhealthy), (1, 1));
    // Whose checker began before theirs is not probed before its interval is over.
    assert_eq!((probes(&late), bed.health().targets), (0, 3));
}

#[test]
fn resources_4_4_2_a_probe_is_what_the_checks_say_and_the_first_line_is_its_answer() {
    let echo = Echo::named("a");
    let more =
        json!({ "http_method": "POST", "http_path": "/probe", "http_req_body": "{}", "req_headers": ["X-A: b"] });
    let bed = bed(&[echo.address()], quick(more));
    bed.get("/");
    let probe = wait_for_blocking("a probe", SOON, || echo.received().into_iter().find(|got| got.target() == "/probe"));
    assert_eq!(&probe.line[..], b"POST /probe HTTP/1.1");
    assert_eq!(fields(&probe), ["Connection: close", "X-A: b", "Host: 127.0.0.1", "Content-Length: 2"]);
    assert_eq!(&probe.body[..], b"{}");
    // One that says no more than that line, and stays, is not waited for.
    let curt = Scripted::new(|stream, _| {
        while let Some(head) = read_head(stream) {
            let is_probe = head.starts_with("GET /probe ");
            let answer = if is_probe { "HTTP/1.1 503 x\r\n" } else { "HTTP/1.1 204 No Content\r\n\r\n" };
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let bed = self::bed(&[curt.addr], quick(json!({ "http_path": "/probe" })));
    let side = bed.side_servers();
    assert_eq!(bed.get("/").status, 204);
    wait_unhealthy(&bed, 1);
    let shown = bed.run(Call::get("/v1/healthcheck/upstreams/u").to(side.control_addr().unwrap())).unwrap();
    let counter = &shown.json().unwrap()["nodes"][0]["counter"];
    assert_eq!((&counter["http_failure"], &counter["timeout_failure"]), (&json!(1), &json!(0)));
}

#[test]
fn rule_3_1_an_unhealthy_node_gets_nothing_until_it_is_well_again() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let bed = bed(&[a.address(), b.address()], quick(json!({})));
    let side = bed.side_servers();
    let metric = |addr: SocketAddr| {
        let page = bed.run(Call::get("/apisix/prometheus/metrics").to(side.metrics_addr().unwrap())).unwrap().text();
        let port = addr.port();
        let name = format!("gw_upstream_status{{name=\"/apisix/upstreams/u\",ip=\"127.0.0.1\",port=\"{port}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    };
    let wait_metric = |addr: SocketAddr, value: &str| {
        wait_for_blocking("the metric", SOON, || (metric(addr).as_deref() == Some(value)).then_some(()));
    };
    assert_eq!(serving(&bed, 4), names(&["a", "b"]));
    wait_metric(a.address(), "1");
    a.always(Some(503));
    wait_unhealthy(&bed, 1);
    assert_eq!(serving(&bed, 6), names(&["b"]));
    wait_metric(a.address(), "0");
    wait_metric(b.address(), "1");
    a.always(None);
    wait_unhealthy(&bed, 0);
    assert_eq!(serving(&bed, 4), names(&["a", "b"]));
    wait_metric(a.address(), "1");
    assert_eq!(bed.totals().health_ignored, 0);
}

#[test]
fn connections_alone_are_checked_where_the_kind_is_tcp() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let at = [a.address(), b.address()];
    a.always(Some(503));
    let bed = bed(&at, quick(json!({ "type": "tcp" })));
    bed.get("/");
    let connected = || a.connections();
    let before = connected();
    wait_for_blocking("a probe", SOON, || (connected() > before + 1).then_some(()));
    assert_eq!(bed.health().unhealthy, 0, "no status is read");
    drop(a);
    wait_unhealthy(&bed, 1);
    assert_eq!(serving(&bed, 4), names(&["b"]));
    let _again = Echo::on("again", at[0]);
    wait_unhealthy(&bed, 0);
    assert_eq!(serving(&bed, 4), names(&["again", "b"]));
}

#[test]
fn certificates_are_verified_where_the_check_says_so() {
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let (good, bad) = (
        Echo::tls("good", &trusted.issue(&["good.test", "127.0.0.1"])),
        Echo::tls("bad", &other.issue(&["good.test", "127.0.0.1"])),
    );
    let dir = TempDir::new();
    let file = dir.write("ca.pem", trusted.pem());
    for (verify, unhealthy) in [(true, 1), (false, 0)] {
        let checks = quick(json!({ "type": "https", "https_verify_certificate": verify, "http_path": "/probe" }));
        let upstream =
            json!({ "checks": checks, "scheme": "https", "pass_host": "rewrite", "upstream_host": "good.test" });
        let objects = route_to(&[good.address(), bad.address()], json!({ "upstream": upstream }));
        let bed = Bed::with(objects, |file_of_node| {
            file_of_node.apisix.ssl.ssl_trusted_certificate = file.to_str().unwrap().to_owned();
        });
        good.take();
        assert_eq!(bed.get("/").status, 200);
        let probe =
            wait_for_blocking("a probe", SOON, || good.received().into_iter().find(|got| got.target() == "/probe"));
        assert_eq!(probe.header("host"), ["good.test"]);
        if unhealthy > 0 {
            wait_unhealthy(&bed, unhealthy);
            assert_eq!(serving(&bed, 4), names(&["good"]));
        } else {
            bad.take();
            wait_for_blocking("a probe", SOON, || bad.received().into_iter().find(|got| got.target() == "/probe"));
            assert_eq!(bed.health().unhealthy, 0);
        }
    }
}

#[test]
fn probes_that_get_no_answer_are_timeouts() {
    let silent = Scripted::new(|stream, _| while read_head(stream).is_some() {});
    let healthy = Echo::named("b");
    let bed = bed(&[silent.addr, healthy.address()], quick(json!({ "timeout": 0.1 })));
    let side = bed.side_servers();
    let (status, target) = (
        bed.run(async {
            // Either node will do to begin.
            let _begun = tokio::time::timeout(std::time::Duration::from_millis(100), Call::get("/").to(bed.http)).await;
            side.control_addr().unwrap()
        }),
        "/v1/healthcheck/upstreams/u",
    );
    wait_unhealthy(&bed, 1);
    let shown = bed.run(Call::get(target).to(status)).unwrap().json().unwrap();
    let of_silent = |node: &&Value| node["port"] == silent.addr.port();
    let node = shown["nodes"].as_array().unwrap().iter().find(of_silent).unwrap();
    assert_eq!((&node["status"], &node["counter"]["timeout_failure"]), (&json!("unhealthy"), &json!(1)));
    assert_eq!(serving(&bed, 4), names(&["b"]));
}

#[test]
fn resources_4_5_1_traffic_ejects_a_node_and_probes_bring_it_back() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let checks = json!({
        "active": { "http_path": "/status/200", "unhealthy": { "interval": 1 }, "healthy": { "successes": 1, "interval": 100 } },
        "passive": { "unhealthy": { "http_failures": 2, "http_statuses": [500] } },
    });
    let bed = bed(&[a.address(), b.address()], checks);
    a.always(Some(500));
    let statuses: Vec<u16> = (0..6).map(|_| bed.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 2, "{statuses:?}");
    assert_eq!(bed.health().unhealthy, 1);
    a.always(None);
    wait_unhealthy(&bed, 0);
    assert_eq!(serving(&bed, 4), names(&["a", "b"]));
}

#[test]
fn traffic_ejects_a_node_for_a_while_where_nothing_is_probed() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let unhealthy = json!({ "http_failures": 3, "fail_timeout": 2 });
    let bed = bed(&[a.address(), b.address()], passive(json!({ "unhealthy": unhealthy })));
    a.always(Some(500));
    (0..6).for_each(|_| drop(bed.get("/")));
    assert_eq!((a.take().len(), bed.health().unhealthy), (3, 1));
    // On trial, and out again by one more failure.
    wait_unhealthy(&bed, 0);
    let failed = (0..8).filter(|_| bed.get("/").status == 500).count();
    assert!((1..4).contains(&failed), "{failed}: every other one, were it not out again");
    a.always(None);
    wait_unhealthy(&bed, 0);
    assert_eq!(serving(&bed, 12), names(&["a", "b"]));
    assert_eq!(bed.health().unhealthy, 0);
}

#[test]
fn resources_4_5_1_other_statuses_and_absent_passive_checks_say_nothing() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    a.always(Some(500));
    let counted = |checks: Value| {
        let bed = bed(&[a.address(), b.address()], checks);
        (0..20).for_each(|_| drop(bed.get("/")));
        bed.health().unhealthy
    };
    assert_eq!(counted(json!({ "active": {} })), 0);
    assert_eq!(counted(passive(json!({ "unhealthy": { "http_failures": 1, "http_statuses": [503] } }))), 0);
    assert_eq!(counted(passive(json!({ "unhealthy": { "http_failures": 0, "http_statuses": [500] } }))), 0);
    assert_eq!(counted(passive(json!({ "unhealthy": { "http_failures": 1, "http_statuses": [500] } }))), 1);
}

#[test]
fn resources_4_5_2_failed_tries_count_even_without_passive_checks() {
    let echo = Echo::named("b");
    let dead = nowhere();
    let bed = bed(&[dead, echo.address()], json!({ "active": {} }));
    assert_eq!(serving(&bed, 12), names(&["b"]));
    let lines = bed.lines(12);
    let retried = lines.iter().filter(|line| line.attempts == [502, 200]).count();
    // The default of passive checks: two failed connections.
    assert_eq!((retried, bed.health().unhealthy), (2, 1));
    assert_eq!(bed.totals().retries, 2);
}

#[test]
fn resources_4_5_2_a_last_try_is_judged_by_its_status_alone() {
    let (dead, other) = (nowhere(), nowhere());
    let checks = passive(json!({ "unhealthy": { "tcp_failures": 1, "http_failures": 1, "http_statuses": [502] } }));
    let nodes = route_to(&[dead, other], json!({ "upstream": { "checks": checks, "retries": 0 } }));
    let bed = Bed::new(nodes);
    let side = bed.side_servers();
    (0..2).for_each(|_| assert_eq!(bed.get("/").status, 502));
    let shown = bed.run(Call::get("/v1/healthcheck/upstreams/u").to(side.control_addr().unwrap())).unwrap();
    for node in shown.json().unwrap()["nodes"].as_array().unwrap() {
        assert_eq!(node["counter"], json!({ "success": 0, "http_failure": 1, "tcp_failure": 0, "timeout_failure": 0 }));
    }
}

#[test]
fn rule_3_1_where_no_node_is_healthy_all_get_requests() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    [&a, &b].into_iter().for_each(|echo| echo.always(Some(503)));
    let bed = bed(&[a.address(), b.address()], passive(json!({ "unhealthy": { "http_failures": 1 } })));
    (0..2).for_each(|_| assert_eq!(bed.get("/").status, 503));
    assert_eq!((bed.health().unhealthy, bed.totals().health_ignored), (2, 0));
    assert_eq!(serving(&bed, 4), names(&["a", "b"]));
    assert_eq!(bed.totals().health_ignored, 4);
    let side = bed.side_servers();
    let page = bed.run(Call::get("/apisix/prometheus/metrics").to(side.metrics_addr().unwrap())).unwrap().text();
    assert!(page.lines().any(|line| line == "gw_upstream_health_ignored_total 4"), "{page}");
}

/// Which is rule 2 of §3 of `upstream-balancing.md` too: the lower tier serves while the higher has nobody.
#[test]
fn resources_4_3_6_balancers_of_every_kind_choose_anew_when_a_node_turns() {
    let (first, backup) = (Echo::named("first"), Echo::named("backup"));
    let node = |echo: &Echo, priority: i32| json!({ "host": "127.0.0.1", "port": echo.port(), "weight": 1, "priority": priority });
    for kind in ["roundrobin", "chash", "least_conn", "ewma"] {
        first.always(Some(503));
        let upstream = json!({ "type": kind, "key": "uri", "nodes": [node(&backup, -1), node(&first, 0)],
            "checks": passive(json!({ "unhealthy": { "http_failures": 1 } })) });
        let bed = Bed::new(vec![
            object(Kind::Upstream, "u", upstream),
            object(Kind::Route, "r", json!({ "uri": "/*", "upstream_id": "u" })),
        ]);
        assert_eq!(bed.get("/").status, 503, "{kind}");
        assert_eq!(serving(&bed, 3), names(&["backup"]), "{kind}");
    }
}

#[test]
fn rule_3_3_keys_of_healthy_nodes_stay_on_the_ring() {
    let echoes = [Echo::named("a"), Echo::named("b"), Echo::named("c")];
    let at: Vec<SocketAddr> = echoes.iter().map(Echo::address).collect();
    let upstream = json!({ "type": "chash", "key": "arg_id",
        "checks": passive(json!({ "unhealthy": { "http_failures": 1 } })) });
    let bed = Bed::new(route_to(&at, json!({ "upstream": upstream })));
    let node_of = |n: usize| bed.get(&format!("/?id={n}")).json().unwrap()["server"].as_str().unwrap().to_owned();
    let before: Vec<String> = (0..30).map(node_of).collect();
    echoes[0].always(Some(503));
    let of_a = before.iter().position(|name| name == "a").expect("a has keys");
    assert_eq!(bed.get(&format!("/?id={of_a}")).status, 503);
    let after: Vec<String> = (0..30).map(node_of).collect();
    for (n, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(after != "a" && (before == "a" || before == after), "key {n}: {before}, {after}");
    }
}

#[test]
fn rule_3_4_a_single_node_is_used_whatever_its_health() {
    let echo = Echo::named("a");
    let bed = bed(&[echo.address()], passive(json!({ "unhealthy": { "http_failures": 1 } })));
    echo.always(Some(503));
    bed.get("/");
    assert_eq!(bed.health().unhealthy, 1);
    echo.always(None);
    assert_eq!(serving(&bed, 2), names(&["a"]));
}

#[test]
fn resources_4_4_5_states_survive_changes_of_nodes_checks_and_the_rest() {
    let echoes = [Echo::named("a"), Echo::named("b"), Echo::named("c")];
    let at: Vec<SocketAddr> = echoes.iter().map(Echo::address).collect();
    let checks = passive(json!({ "unhealthy": { "http_failures": 1 } }));
    let objects = |nodes: &[SocketAddr], checks: &Value, more: Value| {
        let mut upstream = json!({ "checks": checks });
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route_to(nodes, json!({ "upstream": upstream }))
    };
    let mut bed = Bed::new(objects(&at[..2], &checks, json!({})));
    echoes[0].always(Some(503));
    (0..2).for_each(|_| drop(bed.get("/")));
    assert_eq!(bed.health().unhealthy, 1);
    echoes[0].always(None);
    let watched = |bed: &Bed, targets: u64, unhealthy: u64| {
        let figures = bed.health();
        (figures.targets == targets && figures.unhealthy == unhealthy).then_some(())
    };
    // Of something else, of the upstream's other attributes, of the checks, and of the nodes.
    let mut unrelated = objects(&at[..2], &checks, json!({}));
    unrelated.push(object(Kind::Route, "other", json!({ "uri": "/other", "upstream_id": "u" })));
    bed.publish(unrelated);
    assert_eq!(serving(&bed, 4), names(&["b"]));
    bed.publish(objects(&at[..2], &checks, json!({ "retries": 1 })));
    assert_eq!(serving(&bed, 4), names(&["b"]));
    bed.publish(objects(&at[..2], &passive(json!({ "unhealthy": { "http_failures": 9 } })), json!({})));
    assert_eq!(serving(&bed, 4), names(&["b"]));
    bed.publish(objects(&at, &checks, json!({})));
    wait_for_blocking("the new target", SOON, || watched(&bed, 3, 1));
    assert_eq!(serving(&bed, 6), names(&["b", "c"]));
    // With the checks the state goes.
    bed.publish(route_to(&at, json!({})));
    wait_for_blocking("the checker to end", SOON, || watched(&bed, 0, 0));
    assert_eq!(serving(&bed, 6), names(&["a", "b", "c"]));
    bed.publish(objects(&at, &checks, json!({})));
    assert_eq!(serving(&bed, 6), names(&["a", "b", "c"]));
    assert_eq!(bed.health().targets, 3);
    // And with the upstream.
    bed.publish(vec![]);
    wait_for_blocking("the checker to end", SOON, || watched(&bed, 0, 0));
}

#[test]
fn resources_4_4_4_probes_end_with_their_upstream() {
    let echo = Echo::named("a");
    let mut bed = bed(&[echo.address()], quick(json!({ "http_path": "/probe" })));
    bed.get("/");
    wait_for_blocking("a probe", SOON, || echo.received().into_iter().find(|got| got.target() == "/probe"));
    bed.publish(vec![]);
    wait_for_blocking("the checker to end", SOON, || (bed.health().targets == 0).then_some(()));
    wait_for_blocking("the last probe to end", SOON, || (echo.open_connections() <= 1).then_some(()));
    echo.take();
    // A second upstream is probed at the same pace: when it has been twice, the first would have been.
    let other = Echo::named("b");
    bed.publish(route_to(&[other.address()], json!({ "upstream": { "checks": quick(json!({})) } })));
    bed.get("/");
    wait_for_blocking("two probes", SOON, || (other.received().len() > 2).then_some(()));
    assert!(echo.received().is_empty());
}

#[test]
fn resources_4_4_3_the_host_of_a_probe() {
    let cases = [
        (
            "rewritten.test",
            "localhost",
            json!({ "pass_host": "rewrite", "upstream_host": "rewritten.test" }),
            "check.test",
        ),
        ("localhost", "localhost", json!({}), "check.test"),
        ("check.test", "127.0.0.1", json!({}), "check.test"),
        ("127.0.0.1", "127.0.0.1", json!({}), ""),
    ];
    let echoes = [Echo::start(), Echo::start(), Echo::start(), Echo::start()];
    let mut objects = Vec::new();
    for (n, ((_, host, more, own), echo)) in cases.iter().zip(&echoes).enumerate() {
        let own = if own.is_empty() { json!({}) } else { json!({ "host": own }) };
        let node = json!({ "host": host, "port": echo.port(), "weight": 1 });
        let mut upstream = json!({ "nodes": [node], "checks": quick(own) });
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        objects.push(object(Kind::Upstream, &n.to_string(), upstream));
        objects.push(object(
            Kind::Route,
            &n.to_string(),
            json!({ "uri": format!("/{n}"), "upstream_id": n.to_string() }),
        ));
    }
    let bed = Bed::new(objects);
    (0..cases.len()).for_each(|n| assert_eq!(bed.get(&format!("/{n}")).status, 200));
    for ((expected, ..), echo) in cases.iter().zip(&echoes) {
        // The path of probes is the default, which no request of this test has.
        let probe = wait_for_blocking("a probe", SOON, || echo.received().into_iter().find(|got| got.target() == "/"));
        assert_eq!(probe.header("host"), [*expected]);
    }
}

#[test]
fn inline_upstreams_have_checkers_of_their_own() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let upstream =
        |echo: &Echo| json!({ "nodes": { format!("127.0.0.1:{}", echo.port()): 1 }, "checks": { "active": {} } });
    let bed = Bed::new(vec![
        object(Kind::Service, "s", json!({ "upstream": upstream(&a) })),
        object(Kind::Route, "r", json!({ "uri": "/r", "upstream": upstream(&b) })),
        object(Kind::Route, "of-s", json!({ "uri": "/s", "service_id": "s" })),
    ]);
    let side = bed.side_servers();
    assert_eq!([bed.get("/r").status, bed.get("/s").status], [200, 200]);
    let shown = bed.run(Call::get("/v1/healthcheck").to(side.control_addr().unwrap())).unwrap().json().unwrap();
    let ports: Vec<(&str, &Value)> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), &check["nodes"][0]["port"]))
        .collect();
    assert_eq!(ports, [("/apisix/routes/r", &json!(b.port())), ("/apisix/services/s", &json!(a.port()))]);
}

#[test]
fn resources_4_4_4_health_checks_can_be_switched_off_for_the_node() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    a.always(Some(503));
    let checks = passive(json!({ "unhealthy": { "http_failures": 1 } }));
    let objects = route_to(&[a.address(), b.address()], json!({ "upstream": { "checks": checks } }));
    let bed = Bed::with(objects, |file| file.apisix.disable_upstream_healthcheck = true);
    let failed = (0..8).filter(|_| bed.get("/").status == 503).count();
    assert_eq!((failed, bed.health().targets), (4, 0));
}

#[test]
fn a_wrong_answer_to_a_probe_is_a_failure_of_http() {
    let odd = Scripted::new(|stream, _| {
        if let Some(head) = read_head(stream) {
            let answer: &[u8] = if head.starts_with("GET /probe") {
                b"SSH-2.0-OpenSSH\r\n"
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            };
            stream.write_all(answer).unwrap();
        }
    });
    let bed = bed(&[odd.addr], quick(json!({ "http_path": "/probe" })));
    let side = bed.side_servers();
    assert_eq!(bed.get("/").status, 204);
    wait_unhealthy(&bed, 1);
    let shown = bed.run(Call::get("/v1/healthcheck/upstreams/u").to(side.control_addr().unwrap())).unwrap();
    assert_eq!(shown.json().unwrap()["nodes"][0]["counter"]["http_failure"], 1);
    assert!(odd.connections.load(Ordering::SeqCst) > 1);
}

/// A gateway for everything to these nodes over TLS, which turn after one report of traffic.
fn over_tls(nodes: &[SocketAddr], more: Value) -> Bed {
    let checks = passive(json!({ "unhealthy": { "http_statuses": [502], "http_failures": 1, "tcp_failures": 1 } }));
    let mut upstream = json!({ "scheme": "https", "checks": checks });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Bed::new(route_to(nodes, json!({ "upstream": upstream })))
}

fn status_for(bed: &Bed, host: &str) -> u16 {
    bed.call(Call::get("/x").header("host", host)).status
}

#[test]
fn hosts_that_tls_has_no_names_for_take_no_node_out() {
    let authority = Authority::new("servers");
    let [a, b] = ["a", "b"].map(|name| Echo::tls(name, &authority.issue(&["known.test"])));
    let bed = over_tls(&[a.address(), b.address()], json!({}));
    for host in ["1", "a..b", "-a.test"] {
        assert_eq!(status_for(&bed, host), 200, "{host}");
    }
    assert_eq!(bed.health().unhealthy, 0);
    assert!(a.take().iter().chain(&b.take()).any(|got| got.header("host") == ["a..b"]));
}

/// The nodes close without an alert, as some servers do under a name that they do not know.
#[test]
fn failed_handshakes_count_where_the_name_is_not_the_clients() {
    for (host, naming, unhealthy) in [
        ("unknown.test", json!({}), 0),
        ("1", json!({}), 2),
        ("unknown.test", json!({ "pass_host": "node" }), 2),
        ("unknown.test", json!({ "pass_host": "rewrite", "upstream_host": "known.test" }), 2),
    ] {
        let nodes = [(); 2].map(|()| Scripted::new(|_, _| {}));
        let bed = over_tls(&nodes.map(|node| node.addr), naming);
        assert_eq!(status_for(&bed, host), 502);
        assert_eq!(bed.lines(1)[0].attempts, [502, 502]);
        wait_unhealthy(&bed, unhealthy);
    }
}

#[test]
fn hosts_that_nodes_have_no_certificate_for_take_no_node_out() {
    let (echo, authority) = (Echo::start(), Authority::new("servers"));
    let identity = authority.issue(&["known.test"]);
    let [a, b] = [(); 2].map(|()| {
        let ssl = json!({ "cert": identity.cert, "key": identity.key, "snis": ["known.test"] });
        Bed::new([route_to(&[echo.address()], json!({})), vec![object(Kind::Ssl, "s", ssl)]].concat())
    });
    let bed = over_tls(&[a.https, b.https], json!({}));
    for _ in 0..2 {
        assert_eq!(status_for(&bed, "unknown.test"), 502);
    }
    assert!(bed.lines(2).iter().all(|line| line.attempts == [502, 502]));
    assert_eq!(bed.health().unhealthy, 0);
    assert_eq!(status_for(&bed, "known.test"), 200);
}
