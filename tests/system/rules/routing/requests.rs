//! Normal forms of paths, outcomes, and the client's address (§7 to §9).

use super::{ANNOUNCED, by_host, finds, route, route_with, with};
use crate::rules::{Shared, Site};
use milecastle_testkit::raw::{self, Raw};
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};
use std::sync::Arc;

/// The gateway with everything switched on that changes how paths are read.
async fn with_options() -> Arc<Site> {
    static SITE: Shared<Site> = Shared::new();
    let settings = [
        ("MILECASTLE__GATEWAY__APISIX__MATCH_URI_ENCODED_SLASH", "true"),
        ("MILECASTLE__GATEWAY__APISIX__DELETE_URI_TAIL_SLASH", "true"),
        ("MILECASTLE__GATEWAY__APISIX__NORMALIZE_URI_LIKE_SERVLET", "true"),
    ];
    SITE.get(async || Site::start(&settings, &[], &ANNOUNCED).await).await
}

/// The target that the upstream got.
fn arrived(answer: &Answer) -> String {
    answer.json().unwrap()["target"].as_str().unwrap().to_owned()
}

/// A plugin that shows what was captured, and the variable `uri`.
fn shows() -> Value {
    json!({ "plugins": { "response-rewrite": { "headers": { "set": { "X-Seen": "${uri_param_tail ?? -} $uri" } } } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_1_matching_sees_the_normal_form() {
    let site = by_host().await;
    site.put(["71-plain - /t71/b/c", "71-utf8 - /t71/é"].map(route)).await;
    let table = [
        ("h.test /t71/./a/../b/c", "71-plain"),
        ("h.test //t71///b//c", "71-plain"),
        ("h.test /t71/%62/%63?d", "71-plain"),
        ("h.test /t71/%2e/a/%2E%2e/b/c", "71-plain"),
        ("h.test /t71/b/c/", "404"),
        ("h.test /t71/%C3%A9", "71-utf8"),
    ];
    finds(&site, &table).await;
    let with_fragment = "GET /t71/b/c#/t71/x HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n";
    let answer = raw::exchange(site.up.http, with_fragment).await.unwrap();
    assert!(answer.to_ascii_lowercase().contains("\r\nx-route: 71-plain\r\n"), "{answer}");
}

/// Where an upstream might read another path than the gateway has matched, it gets that one (docs/compatibility.md).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_2_the_upstream_gets_the_target_as_it_came() {
    let site = by_host().await;
    let rewrite = json!({ "plugins": { "proxy-rewrite": { "uri": "/else" } } });
    site.put([route("72-any - /t72/*"), route_with("72-rewritten - /t72/r", rewrite)]).await;
    for (sent, got) in [
        ("/t72/%61%20b?x=%2F&y", "/t72/%61%20b?x=%2F&y"),
        ("/t72/a;b=1,c/(d)?", "/t72/a;b=1,c/(d)?"),
        ("/t72/r", "/else"),
        ("/t72/x/../y?z=//", "/t72/y?z=//"),
        ("/t72//y", "/t72/y"),
        ("/t72/a%2Fb", "/t72/a/b"),
    ] {
        assert_eq!(arrived(&site.up.get(sent).await), got, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_3_an_encoded_slash_is_one_unless_it_is_matched() {
    let routes = || [route_with("73-encoded - /t73/a%2Fb", shows()), route_with("73-any - /t73/*tail", shows())];
    let seen = async |site: &Site, target: &str| {
        let answer = site.up.get(target).await;
        (answer.header("x-route"), answer.header("x-seen"))
    };
    let is = |route: &str, seen: &str| (route.to_owned(), seen.to_owned());
    let site = by_host().await;
    site.put(routes()).await;
    assert_eq!(seen(&site, "/t73/a%2Fb").await, is("73-any", "a/b /t73/a/b"));
    let site = with_options().await;
    site.put(routes()).await;
    for (target, route, captured) in [
        ("/t73/a%2Fb", "73-encoded", "- /t73/a/b"),
        ("/t73/a%2fb", "73-encoded", "- /t73/a/b"),
        ("/t73/a%2fc%20d", "73-any", "a%2Fc d /t73/a/c d"),
        // Where more than that was to do, rule 1 holds.
        ("/t73//a%2fb", "73-any", "a/b /t73/a/b"),
        ("/t73/x/../a%2fb", "73-any", "a/b /t73/a/b"),
        ("/t73/a/b", "73-any", "a/b /t73/a/b"),
    ] {
        assert_eq!(seen(&site, target).await, is(route, captured), "{target}");
    }
    assert_eq!(arrived(&site.up.get("/t73/a%2fb").await), "/t73/a%2fb");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_4_a_tail_slash_counts_unless_it_is_deleted() {
    let routes = ["74-bare - /t74/a", "74-root t74.test /", "74-rest t74.test /*"];
    let site = by_host().await;
    site.put(routes.map(route)).await;
    finds(&site, &[("h.test /t74/a", "74-bare"), ("h.test /t74/a/", "404"), ("t74.test /", "74-root")]).await;
    let site = with_options().await;
    site.put(routes.map(route)).await;
    site.put([route_with("74-shown - /t74/s", shows())]).await;
    let table = [
        ("h.test /t74/a", "74-bare"),
        ("h.test /t74/a/", "74-bare"),
        ("h.test /t74/a//", "74-bare"),
        ("t74.test /", "74-root"),
        ("t74.test /x/", "74-rest"),
    ];
    finds(&site, &table).await;
    let answer = site.up.get("/t74/s/?x").await;
    assert_eq!((answer.header("x-seen"), arrived(&answer)), ("- /t74/s".to_owned(), "/t74/s/?x".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_5_parameters_of_segments_are_dropped_where_asked_for() {
    let site = by_host().await;
    site.put([route("75-plain - /t75/a/b"), route("75-parameters - /t75/a;x=1/b")]).await;
    finds(&site, &[("h.test /t75/a;x=1/b", "75-parameters"), ("h.test /t75/a;x=2/b", "404")]).await;
    let site = with_options().await;
    site.put([route("75-plain - /t75/a/b"), route("75-tail - /t75/c")]).await;
    let table = [
        ("h.test /t75/a;x=1/b", "75-plain"),
        ("h.test /t75;v/a/b;y;z=2", "75-plain"),
        ("h.test /t75/c/;x", "75-tail"),
        ("h.test /t75/..;/t75/a/b", "400"),
        ("h.test /t75/.;x/a/b", "400"),
        ("h.test /t75/%2e%2E;/t75/a/b", "400"),
        ("h.test /t75/%2e;/a/b", "400"),
        ("h.test /t75/;x/a/b", "400"),
    ];
    finds(&site, &table).await;
    assert_eq!(arrived(&site.up.get("/t75/a;x=1/b?y;z").await), "/t75/a;x=1/b?y;z");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_7_6_what_has_no_normal_form_is_refused() {
    for site in [by_host().await, with_options().await] {
        site.put([route("76-any t76.test /*")]).await;
        for target in
            ["/%", "/%2", "/%zz", "/a%2g", "/..", "/../a", "/a/../../b", "/%2e%2e/a", "/a/..%2f..%2f../b", "/%00"]
        {
            let request = format!("GET {target} HTTP/1.1\r\nHost: t76.test\r\n\r\n");
            let answer = raw::exchange(site.up.http, request).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_8_answers_where_no_upstream_is_asked() {
    let site = by_host().await;
    let key = json!({ "key-auth": { "key": "t8" } });
    site.put([
        ("/plugin_configs/t8-gone", json!({ "plugins": { "proxy-rewrite": { "uri": "/x" } } })),
        ("/services/t8-gone", json!({})),
        ("/consumer_groups/t8-gone", json!({ "plugins": {} })),
        ("/consumers/t8", json!({ "username": "t8", "group_id": "t8-gone", "plugins": key })),
    ])
    .await;
    let mut bare = route_with("8-bare - /t8/bare", json!({ "plugins": { "proxy-rewrite": { "uri": "/x" } } }));
    bare.1.as_object_mut().unwrap().remove("upstream_id");
    site.put([
        route_with("8-config - /t8/config", json!({ "plugin_config_id": "t8-gone" })),
        route_with("8-service - /t8/service", json!({ "service_id": "t8-gone" })),
        route_with("8-group - /t8/group", json!({ "plugins": { "key-auth": {} } })),
        bare,
    ])
    .await;
    for gone in ["/plugin_configs/t8-gone", "/services/t8-gone", "/consumer_groups/t8-gone"] {
        site.delete(gone).await;
    }
    let none = site.up.get("/t8/none").await;
    assert_eq!((none.status, none.text()), (404, "{\"error_msg\":\"404 Route Not Found\"}\n".to_owned()));
    assert_eq!(none.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(none.header("x-global"), "ran", "global rules have run");
    for (target, status, page) in [
        ("/t8/config", 503, "<center><h1>503 Service Unavailable</h1></center>"),
        ("/t8/service", 404, "<center><h1>404 Not Found</h1></center>"),
        ("/t8/bare", 503, "<center><h1>503 Service Unavailable</h1></center>"),
        ("/t8/group", 503, "<center><h1>503 Service Unavailable</h1></center>"),
    ] {
        let answer = Call::get(target).header("apikey", "t8").to(site.up.http).await.unwrap();
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.text().contains(page), "{target}: {}", answer.text());
        assert!(answer.header("content-type").starts_with("text/html"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_8_plugins_run_phase_by_phase_global_rules_first() {
    let site = by_host().await;
    let here = json!({ "filter": [["uri", "~~", "^/t8-order/"]] });
    let limit = |count: u64, code: u16, header: &str| {
        json!({ "rules": [{ "count": count, "time_window": 3600, "key": "${consumer_name ?? nobody} $http_x_limit",
            "header_prefix": header }], "rejected_code": code })
    };
    let adds = |who: &str| json!({ "headers": { "add": { "X-Order": who } } });
    let global = json!({
        "proxy-rewrite": with(adds("global"), json!({ "_meta": here })),
        "limit-count": with(limit(2, 429, "global"), json!({ "_meta": here })),
    });
    let mut of_route = json!({ "key-auth": {}, "proxy-rewrite": adds("route"), "limit-count": limit(3, 503, "route") });
    // Rank orders plugins within a phase of an object, and nothing else.
    of_route["limit-count"]["_meta"] = json!({ "priority": 30_000 });
    let key = |name: &str| json!({ "username": name, "plugins": { "key-auth": { "key": name } } });
    site.put([
        ("/global_rules/t8-order".to_owned(), json!({ "plugins": global })),
        ("/consumers/t8_one".to_owned(), key("t8_one")),
        ("/consumers/t8_two".to_owned(), key("t8_two")),
        route_with("8-order - /t8-order/*", json!({ "plugins": of_route })),
    ])
    .await;
    let call = |key: &str| Call::get("/t8-order/x").header("apikey", key).header("x-limit", "1").to(site.up.http);
    // Who is refused in a phase is charged in no later one, not even by a global rule.
    for _ in 0..3 {
        let refused = call("nobody").await.unwrap();
        assert_eq!((refused.status, refused.header("x-global-ratelimit-limit")), (401, String::new()));
    }
    let first = call("t8_one").await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let seen: Vec<_> = first.json().unwrap()["headers"].as_array().unwrap().clone();
    let order: Vec<_> =
        seen.iter().filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case("x-order")).collect();
    assert_eq!(json!(order.iter().map(|field| &field[1]).collect::<Vec<_>>()), json!(["global", "route"]));
    let left =
        |answer: &Answer| ["global", "route"].map(|whose| answer.header(&format!("x-{whose}-ratelimit-remaining")));
    assert_eq!(left(&first), ["1", "2"]);
    assert_eq!(left(&call("t8_one").await.unwrap()), ["0", "1"]);
    // The global rule refuses before the route's plugin is asked, and both know the consumer.
    let third = call("t8_one").await.unwrap();
    assert_eq!((third.status, left(&third)), (429, ["0".to_owned(), String::new()]));
    assert_eq!(left(&call("t8_two").await.unwrap()), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_2_2_the_nearest_object_has_the_plugin() {
    let site = by_host().await;
    let says = |whose: &str| json!({ "response-rewrite": { "headers": { "set": { "X-Whose": whose } } } });
    let of_route = json!({ "service_id": "r22", "plugin_config_id": "r22" });
    let authenticates = |more: Value| json!({ "plugins": with(json!({ "key-auth": {} }), more) });
    let consumer = |plugins: Value| {
        let plugins = with(json!({ "key-auth": { "key": "r22" } }), plugins);
        ("/consumers/r22".to_owned(), json!({ "username": "r22", "group_id": "r22", "plugins": plugins }))
    };
    let group = |plugins: Value| ("/consumer_groups/r22".to_owned(), json!({ "plugins": plugins }));
    let config = |plugins: Value| ("/plugin_configs/r22".to_owned(), json!({ "plugins": plugins }));
    let route = |plugins: Value| route_with("22 - /r22", with(of_route.clone(), authenticates(plugins)));
    let service = ("/services/r22".to_owned(), json!({ "plugins": says("service") }));
    let (own, shared) = (route(says("route")), config(says("plugin_config")));
    site.put([service, shared, group(says("consumer_group")), own, consumer(says("consumer"))]).await;
    let whose = async || {
        let answer = Call::get("/r22").header("apikey", "r22").to(site.up.http).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-whose")
    };
    assert_eq!(whose().await, "consumer");
    // As each gives it up, the next has it.
    for (without, next) in [
        (consumer(json!({})), "consumer_group"),
        (group(json!({})), "route"),
        (route(json!({})), "plugin_config"),
        (config(json!({})), "service"),
    ] {
        site.put([without]).await;
        assert_eq!(whose().await, next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_5_the_upstream_is_told_who_asks_and_by_nobody_else() {
    let site = by_host().await;
    let consumer =
        json!({ "username": "r5", "labels": { "custom_id": "42" }, "plugins": { "key-auth": { "key": "r5" } } });
    site.put([
        ("/consumers/r5".to_owned(), consumer),
        ("/consumers/r5/credentials/one".to_owned(), json!({ "plugins": { "key-auth": { "key": "r5-one" } } })),
        route_with("5-known - /r5/known", json!({ "plugins": { "key-auth": {} } })),
        route("5-unknown - /r5/unknown"),
    ])
    .await;
    let told = async |target: &str, key: &str| {
        let call = Call::get(target).header("apikey", key);
        let forged = ["X-Consumer-Username", "X-Credential-Identifier", "X-Consumer-Custom-ID"];
        let call = forged.into_iter().fold(call, |call, name| call.header(name, "forged"));
        let answer = call.to(site.up.http).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let fields = answer.json().unwrap()["headers"].as_array().unwrap().clone();
        forged.map(|name| {
            let is = |field: &&Value| field[0].as_str().is_some_and(|field| field.eq_ignore_ascii_case(name));
            fields.iter().filter(is).map(|field| field[1].as_str().unwrap()).collect::<Vec<_>>().join(", ")
        })
    };
    assert_eq!(told("/r5/known", "r5").await, ["r5", "", "42"]);
    assert_eq!(told("/r5/known", "r5-one").await, ["r5", "one", "42"]);
    assert_eq!(told("/r5/unknown", "r5").await, ["", "", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_9_a_listed_peer_names_the_client() {
    let site = by_host().await;
    let seen = json!({ "plugins": { "response-rewrite": { "headers": { "set": { "X-Seen": "$remote_addr" } } } } });
    site.put([route_with("9-shown - /t9", seen)]).await;
    let from = async |peer: [u8; 4], fields: &str| {
        let mut connection = Raw::connect_from(peer.into(), site.up.http).await.unwrap();
        let request = format!("GET /t9 HTTP/1.1\r\nHost: h.test\r\n{fields}Connection: close\r\n\r\n");
        connection.send(request).await.unwrap();
        let head = connection.read_head().await.unwrap().to_ascii_lowercase();
        head.split_once("\r\nx-seen: ").unwrap().1.split("\r\n").next().unwrap().to_owned()
    };
    assert_eq!(from([127, 0, 0, 1], "X-Real-IP: 10.9.0.1\r\n").await, "10.9.0.1");
    assert_eq!(from([127, 0, 0, 1], "X-Forwarded-For: 10.9.0.1\r\n").await, "127.0.0.1");
    assert_eq!(from([127, 0, 0, 1], "").await, "127.0.0.1");
    assert_eq!(from([127, 0, 0, 2], "X-Real-IP: 10.9.0.1\r\n").await, "127.0.0.2");
}
