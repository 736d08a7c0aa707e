//! Modes, what goes into a match, and patterns of paths (§1 to §3).

use super::{by_host, by_path, finds, route, route_with, with_parameters};
use milecastle_testkit::{Call, eventually, raw};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_1_the_mode_says_what_comes_first_and_whether_paths_have_parameters() {
    let first = by_host().await;
    for (site, by_both, parameter) in [
        (first.clone(), "1-exact", "404"),
        (by_path().await, "1-wide", "404"),
        (with_parameters().await, "1-wide", "1-parameter"),
    ] {
        let off = route_with("1-off - /t1/off", json!({ "status": 0 }));
        let routes = ["1-wide *.t1.test /x 9", "1-exact a.t1.test /*", "1-parameter - /t1/p/:id", "1-on - /t1/*"];
        site.put(routes.map(route).into_iter().chain([off])).await;
        finds(&site, &[("a.t1.test /x", by_both), ("h.test /t1/off", "1-on"), ("h.test /t1/p/:id", "1-parameter")])
            .await;
        let found = site.found(Call::get("/t1/p/7").header("host", "h.test")).await;
        assert_eq!(found, if parameter == "404" { "1-on" } else { parameter });
    }
    // The index follows routes and services.
    let site = first;
    let service = |host: &str| ("/services/t1", json!({ "hosts": [host] }));
    site.put([service("before.t1.test")]).await;
    site.put([route_with("1-service - /t1/s", json!({ "service_id": "t1" }))]).await;
    finds(&site, &[("before.t1.test /t1/s", "1-service"), ("after.t1.test /t1/s", "1-on")]).await;
    site.put([service("after.t1.test")]).await;
    finds(&site, &[("before.t1.test /t1/s", "1-on"), ("after.t1.test /t1/s", "1-service")]).await;
    site.put([route("1-wide *.t1.test /y")]).await;
    finds(&site, &[("b.t1.test /x", "404"), ("b.t1.test /y", "1-wide")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_2_what_a_request_is_matched_by() {
    let site = by_host().await;
    site.put([("/services/t2", json!({ "hosts": ["Service.t2.test"] })), ("/services/t2-gone", json!({}))]).await;
    site.put([
        route("2-path - /t2/a"),
        route("2-host A.t2.TEST /*"),
        route_with("2-method - /t2/m", json!({ "methods": ["PUT"] })),
        route_with("2-address - /t2/r", json!({ "remote_addr": "10.2.0.1" })),
        route_with("2-variable - /t2/v", json!({ "vars": [["arg_a", "==", "1"]] })),
        route_with("2-own own.t2.test /t2/s", json!({ "service_id": "t2" })),
        route_with("2-inherited - /t2/s", json!({ "service_id": "t2" })),
        route_with("2-orphan - /t2/orphan", json!({ "service_id": "t2-gone" })),
    ])
    .await;
    site.delete("/services/t2-gone").await;
    finds(
        &site,
        &[
            // The path is decoded, and ends before the query; the host is in lower case, without port.
            ("h.test /t2/%61?/t2/b", "2-path"),
            ("a.T2.test:81 /any", "2-host"),
            ("h.test /t2/m", "404"),
            ("h.test /t2/r", "404"),
            ("h.test /t2/v?a=1", "2-variable"),
            // Hosts are those of the route, else those of its service, else none.
            ("own.t2.test /t2/s", "2-own"),
            ("service.t2.test /t2/s", "2-inherited"),
            ("h.test /t2/s", "404"),
            // Without its service it has no hosts, is found, and answered with 404.
            ("h.test /t2/orphan", "2-orphan"),
        ],
    )
    .await;
    assert_eq!(site.up.get("/t2/orphan").await.status, 404);
    let put = Call::new("PUT".parse().unwrap(), "/t2/m");
    assert_eq!(site.found(put).await, "2-method");
    assert_eq!(site.found(Call::get("/t2/r").header("x-real-ip", "10.2.0.1")).await, "2-address");
    let nameless = raw::exchange(site.up.http, "GET /t2/a HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(nameless.to_ascii_lowercase().contains("\r\nx-route: 2-path\r\n"), "{nameless}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_patterns_of_paths() {
    let routes = [
        "3-exact - /t3/a/b",
        "3-start - /t3/s*",
        "3-below - /t3/d/*",
        "3-inner - /t3/e/*/c",
        "3-named - /t3/n/*tail",
        "3-all t3.test /*",
    ];
    let table = [
        ("h.test /t3/a/b", "3-exact"),
        ("h.test /t3/A/b", "404"),
        ("h.test /t3/a/b/", "404"),
        ("h.test /t3/s", "3-start"),
        ("h.test /t3/sbc", "3-start"),
        ("h.test /t3/s/b", "3-start"),
        ("h.test /t3/d/", "3-below"),
        ("h.test /t3/d/x/y", "3-below"),
        ("h.test /t3/d", "404"),
        ("h.test /t3/e/b/c", "3-inner"),
        ("h.test /t3/e/x/y/c", "3-inner"),
        ("h.test /t3/e/b/d", "404"),
        ("h.test /t3/n/x/y", "3-named"),
        ("t3.test /", "3-all"),
        ("t3.test /any/thing", "3-all"),
    ];
    for site in [by_host().await, with_parameters().await] {
        site.put(routes.map(route)).await;
        finds(&site, &table).await;
    }
    let site = with_parameters().await;
    site.put(["3-parameter - /t3/u/:id/x", "3-mixed - /t3/m/:id/*"].map(route)).await;
    let table = [
        ("h.test /t3/u/7/x", "3-parameter"),
        ("h.test /t3/u/7/8/x", "404"),
        ("h.test /t3/u//x", "404"),
        ("h.test /t3/m/7/a/b", "3-mixed"),
        ("h.test /t3/m/7", "404"),
    ];
    finds(&site, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_1_a_prefix_ends_at_the_first_colon_or_star() {
    // Priority decides among the same prefix, and among nothing else.
    let routes = ["31-low - /t31/:id", "31-high - /t31/* 5", "31-longer - /t31/a/* -5"];
    let site = with_parameters().await;
    site.put(routes.map(route)).await;
    finds(&site, &[("h.test /t31/7", "31-high"), ("h.test /t31/a/b", "31-longer")]).await;
    // Elsewhere a colon is a character, and a path with one is exact.
    for site in [by_host().await, by_path().await] {
        site.put(routes.map(route)).await;
        finds(&site, &[("h.test /t31/:id", "31-low"), ("h.test /t31/7", "31-high")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_2_the_full_check_covers_the_whole_path() {
    let inner = ["32-inner - /t32/s/*/c", "32-slash - /t32/t/*/c/"];
    let in_both = [
        ("h.test /t32/s/b/c", "32-inner"),
        ("h.test /t32/s/b/c/", "404"),
        ("h.test /t32/s/b/cd", "404"),
        ("h.test /t32/s/b/c/d", "404"),
        ("h.test /t32/t/b/c", "404"),
        ("h.test /t32/t/b/c/", "32-slash"),
    ];
    for site in [by_host().await, with_parameters().await] {
        site.put(inner.map(route)).await;
        finds(&site, &in_both).await;
    }
    let site = with_parameters().await;
    site.put(["32-parameter - /t32/u/:id/x", "32-end - /t32/v/:id/"].map(route)).await;
    let table = [
        ("h.test /t32/u/7/x", "32-parameter"),
        ("h.test /t32/u/7/x/", "404"),
        ("h.test /t32/u/7/xy", "404"),
        ("h.test /t32/v/7/", "32-end"),
        ("h.test /t32/v/7", "404"),
    ];
    finds(&site, &table).await;
}

/// A plugin that shows a text with variables in the answer's header `X-Seen`.
fn shows(template: &str) -> serde_json::Value {
    json!({ "plugins": { "response-rewrite": { "headers": { "set": { "X-Seen": template } } } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_3_a_star_inside_a_segment_captures_nothing() {
    let site = with_parameters().await;
    let tail = "${uri_param_:ext ?? none} ${uri_param_name ?? none}";
    let at = |line: &str| route_with(line, shows(tail));
    site.put([at("33-pure - /t33/foo*"), at("33-named - /t33/bar*name"), at("33-segment - /t33/baz/*")]).await;
    for (target, seen) in [
        ("/t33/foo/x", "none none"),
        ("/t33/fool", "none none"),
        ("/t33/barx", "none none"),
        ("/t33/baz/x/y", "x/y none"),
    ] {
        let answer = site.up.get(target).await;
        assert_eq!((answer.status, &*answer.header("x-seen")), (200, seen), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_4_captures_are_variables_and_the_pattern_is_recorded() {
    let site = with_parameters().await;
    let seen = shows("${uri_param_id ?? none}|${uri_param_rest ?? none}|${uri_param_:ext ?? none}");
    site.put([route_with("34-parameters - /t34/:id/*rest", seen.clone()), route_with("34-bare - /t34b/*", seen)]).await;
    for (target, seen) in [("/t34/7/a/b", "7|a/b|none"), ("/t34/7%20x/", "7 x||none"), ("/t34b/a/b", "none|none|a/b")] {
        assert_eq!(site.up.get(target).await.header("x-seen"), seen, "{target}");
    }
    // The host pattern keeps its form.
    let site = by_host().await;
    site.put([route_with("34-recorded *.t34.test /t34/*tail", json!({ "plugins": { "prometheus": {} } }))]).await;
    finds(&site, &[("a.t34.test /t34/x", "34-recorded")]).await;
    let labels = r#"route="34-recorded",matched_uri="/t34/*tail",matched_host="*.t34.test""#;
    eventually("the metric", async || {
        let page = Call::get("/apisix/prometheus/metrics").to(site.up.prometheus).await.unwrap().text();
        page.contains(labels)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_3_5_characters_of_regular_expressions_mean_themselves() {
    let routes = ["35-plus - /t35/a+b/*/c", "35-dot - /t35/d.e/*/(f)"];
    let table = [
        ("h.test /t35/a+b/x/c", "35-plus"),
        ("h.test /t35/aab/x/c", "404"),
        ("h.test /t35/d.e/x/(f)", "35-dot"),
        ("h.test /t35/dxe/x/(f)", "404"),
        ("h.test /t35/d.e/x/f", "404"),
    ];
    for site in [by_host().await, with_parameters().await] {
        site.put(routes.map(route)).await;
        finds(&site, &table).await;
    }
    let site = with_parameters().await;
    site.put([route("35-parameter - /t35/p/:id/[a-z]")]).await;
    finds(&site, &[("h.test /t35/p/7/[a-z]", "35-parameter"), ("h.test /t35/p/7/b", "404")]).await;
}
