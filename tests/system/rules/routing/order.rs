//! Which of several routes is found (§4, §10).

use super::{by_host, by_path, finds, route, route_with, with_parameters};
use milecastle_testkit::Call;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_1_1_exact_paths_come_first_whatever_the_priority() {
    for site in [by_host().await, by_path().await] {
        site.put(["411-prefix - /t411/* 100", "411-exact - /t411/b", "411-low - /t411/b -5"].map(route)).await;
        finds(&site, &[("h.test /t411/b", "411-exact"), ("h.test /t411/c", "411-prefix")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_1_2_then_prefixes_the_longest_first() {
    for site in [by_host().await, by_path().await] {
        let more = json!({ "uris": ["/t412/m/*", "/t412/a/n"] });
        let mut several = route_with("412-several - /", more);
        several.1.as_object_mut().unwrap().remove("uri");
        let routes = ["412-short - /t412* 100", "412-middle - /t412/a/* 50", "412-long - /t412/a/b*"];
        site.put(routes.map(route).into_iter().chain([several])).await;
        let table = [
            ("h.test /t412/a/bc", "412-long"),
            ("h.test /t412/a/b/c", "412-long"),
            ("h.test /t412/a/c", "412-middle"),
            ("h.test /t412/a", "412-short"),
            ("h.test /t4123", "412-short"),
            // Each pattern of a route stands for itself.
            ("h.test /t412/m/x", "412-several"),
            ("h.test /t412/a/n", "412-several"),
        ];
        finds(&site, &table).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_1_3_a_candidate_that_fails_does_not_end_the_search() {
    let post = json!({ "methods": ["POST"] });
    for site in [by_host().await, by_path().await] {
        site.put([
            route_with("413-exact - /t413/x 9", post.clone()),
            route_with("413-rank - /t413/x", json!({ "vars": [["arg_a", "==", "1"]] })),
            route_with("413-prefix - /t413/*", post.clone()),
            route("413-shorter - /t413*"),
        ])
        .await;
        finds(&site, &[("h.test /t413/x?a=1", "413-rank"), ("h.test /t413/x", "413-shorter")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_2_1_a_route_is_in_the_group_of_each_of_its_hosts() {
    let site = by_host().await;
    let hosts = json!({ "hosts": ["a.t421.test", "*.b.t421.test"] });
    // In its group the path comes first, so it wins there, and nowhere else.
    let more = ["421-a a.t421.test /t421/*", "421-b *.b.t421.test /t421/*", "421-none - /t421/*"];
    site.put(more.map(route).into_iter().chain([route_with("421-both - /t421/x", hosts)])).await;
    let table = [
        ("a.t421.test /t421/x", "421-both"),
        ("x.b.t421.test /t421/x", "421-both"),
        ("a.t421.test /t421/y", "421-a"),
        ("x.b.t421.test /t421/y", "421-b"),
        ("c.t421.test /t421/x", "421-none"),
    ];
    finds(&site, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_2_2_exact_hosts_then_the_longest_wildcard_then_none() {
    let site = by_host().await;
    let routes = [
        "422-none - /t422/x 100",
        "422-wide *.t422.test /t422/* 50",
        "422-narrow *.b.t422.test /t422/*",
        "422-exact a.b.t422.test /*",
        "422-bare *t422.test /t422/*",
    ];
    site.put(routes.map(route)).await;
    let table = [
        ("a.b.t422.test /t422/x", "422-exact"),
        ("c.b.t422.test /t422/x", "422-narrow"),
        ("c.d.b.t422.test /t422/x", "422-narrow"),
        ("b.t422.test /t422/x", "422-wide"),
        ("t422.test /t422/x", "422-bare"),
        ("h.test /t422/x", "422-none"),
    ];
    finds(&site, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_2_3_the_next_group_is_tried_where_no_route_matches_completely() {
    let site = by_host().await;
    site.put([
        route_with("423-exact a.b.t423.test /t423/*", json!({ "methods": ["POST"] })),
        route("423-narrow *.b.t423.test /t423/y"),
        route_with("423-wide *.t423.test /t423/*", json!({ "vars": [["arg_a", "==", "1"]] })),
        route("423-none - /t423/*"),
    ])
    .await;
    let table = [
        ("a.b.t423.test /t423/y", "423-narrow"),
        ("a.b.t423.test /t423/x?a=1", "423-wide"),
        ("a.b.t423.test /t423/x", "423-none"),
    ];
    finds(&site, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_3_1_the_higher_priority_wins() {
    for site in [by_host().await, by_path().await] {
        let routes =
            ["431-a - /t431/x -1", "431-b - /t431/x", "431-c - /t431/x 7", "431-d - /t431/* 1", "431-e - /t431/* 2"];
        site.put(routes.map(route)).await;
        finds(&site, &[("h.test /t431/x", "431-c"), ("h.test /t431/y", "431-e")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_3_2_then_the_longer_pattern() {
    let site = with_parameters().await;
    site.put(["432-a - /t432/*", "432-b - /t432/:id/x", "432-c - /t432/:id", "432-d - /t432/:id/y -1"].map(route))
        .await;
    let table = [
        ("h.test /t432/7/x", "432-b"),
        ("h.test /t432/7", "432-c"),
        // Priority counts before length.
        ("h.test /t432/7/y", "432-a"),
    ];
    finds(&site, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_4_3_3_then_the_smaller_id_whenever_it_was_written() {
    for site in [by_host().await, by_path().await] {
        site.put(["433-b - /t433/x", "433-a - /t433/x", "433-c - /t433/x", "433-a0 - /t433/x"].map(route)).await;
        finds(&site, &[("h.test /t433/x", "433-a")]).await;
        // An update changes nothing about that.
        site.put([route_with("433-a - /t433/x", json!({ "desc": "again" }))]).await;
        finds(&site, &[("h.test /t433/x", "433-a")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_10_worked_examples() {
    let site = by_host().await;
    let only_get = route_with("10-6a - /t10/6/x", json!({ "methods": ["GET"] }));
    let routes = [
        "10-1a - /t10/1/a/* 100",
        "10-1b - /t10/1/a/b 0",
        "10-2a - /t10/2/* 100",
        "10-2b - /t10/2/a/* 0",
        "10-3a - /t10/3/a/* 1",
        "10-3b - /t10/3/a/* 5",
        "10-4a *.foo.t10.test /x 9",
        "10-4b a.foo.t10.test /* 0",
        "10-5a a.bar.t10.test /y",
        "10-5b *.bar.t10.test /*",
        "10-5c - /t10/5",
        "10-6b - /t10/6/*",
    ];
    site.put(routes.map(route).into_iter().chain([only_get])).await;
    let table = [
        ("h.test /t10/1/a/b", "10-1b"),
        ("h.test /t10/2/a/x", "10-2b"),
        ("h.test /t10/3/a/x", "10-3b"),
        ("a.foo.t10.test /x", "10-4b"),
        ("a.bar.t10.test /t10/5", "10-5b"),
    ];
    finds(&site, &table).await;
    assert_eq!(site.found(Call::post("/t10/6/x", "")).await, "10-6b");
    let site = by_path().await;
    site.put(["10-7a *.foo.t10.test /t10/x 9", "10-7b a.foo.t10.test /t10/* 0"].map(route)).await;
    finds(&site, &[("a.foo.t10.test /t10/x", "10-7a")]).await;
    let site = with_parameters().await;
    site.put(["10-8a - /t10/u/:id", "10-8b - /t10/u/*"].map(route)).await;
    finds(&site, &[("h.test /t10/u/7", "10-8a")]).await;
}
