//! Conditions of candidates (§5).

use super::{by_host, by_path, finds, route, route_with};
use crate::rules::in_force;
use milecastle_testkit::Call;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_1_methods() {
    let site = by_host().await;
    site.put([
        route_with("51-listed - /t51/listed", json!({ "methods": ["GET", "PURGE"] })),
        route_with("51-empty - /t51/empty", json!({ "methods": [] })),
        route("51-absent - /t51/absent"),
    ])
    .await;
    for (method, path, expected) in [
        ("GET", "listed", "51-listed"),
        ("PURGE", "listed", "51-listed"),
        ("POST", "listed", "404"),
        // Methods beyond the ten of routes are never in a list.
        ("BREW", "listed", "404"),
        ("PROPFIND", "empty", "51-empty"),
        ("BREW", "absent", "51-absent"),
        ("DELETE", "absent", "51-absent"),
    ] {
        let call = Call::new(method.parse().unwrap(), &format!("/t51/{path}"));
        assert_eq!(site.found(call).await, expected, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_2_addresses_of_clients() {
    let site = by_host().await;
    site.put([
        route_with("52-one - /t52/*", json!({ "remote_addr": "10.52.0.1" })),
        route_with("52-several - /t52/*", json!({ "remote_addrs": ["10.52.1.0/24", "2001:db8::/32", "10.52.2.2"] })),
        route_with("52-wide - /t52/*", json!({ "remote_addr": "10.52.2.0/23", "priority": -1 })),
    ])
    .await;
    for (client, expected) in [
        ("10.52.0.1", "52-one"),
        ("10.52.0.2", "404"),
        ("10.52.1.255", "52-several"),
        ("2001:db8::52", "52-several"),
        ("2001:db9::52", "404"),
        ("10.52.2.2", "52-several"),
        ("10.52.3.1", "52-wide"),
        ("10.52.4.1", "404"),
    ] {
        assert_eq!(site.found(Call::get("/t52/x").header("x-real-ip", client)).await, expected, "{client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_3_hosts() {
    let site = by_path().await;
    let several = route_with("53-several - /t53/several", json!({ "hosts": ["b.t53.test", "*.c.t53.test"] }));
    let routes = [
        "53-exact Foo.t53.test /t53/exact",
        "53-below *.foo.t53.test /t53/below",
        "53-bare *foo.t53.test /t53/bare",
        "53-any * /t53/any",
        "53-port foo.t53.test:8443 /t53/port",
        "53-wild *.t53.test:8443 /t53/wild",
    ];
    site.put(routes.map(route).into_iter().chain([several])).await;
    let table = [
        ("foo.t53.test /t53/exact", "53-exact"),
        ("FOO.t53.test:81 /t53/exact", "53-exact"),
        ("a.foo.t53.test /t53/exact", "404"),
        ("a.foo.t53.test /t53/below", "53-below"),
        ("a.b.foo.t53.test /t53/below", "53-below"),
        ("foo.t53.test /t53/below", "404"),
        ("foo.t53.test /t53/bare", "53-bare"),
        ("xfoo.t53.test /t53/bare", "53-bare"),
        ("foo.t53.test.evil /t53/bare", "404"),
        ("other.test /t53/any", "53-any"),
        ("foo.t53.test:8443 /t53/port", "53-port"),
        ("foo.t53.test:8444 /t53/port", "404"),
        ("foo.t53.test /t53/port", "404"),
        ("a.t53.test:8443 /t53/wild", "53-wild"),
        ("a.t53.test /t53/wild", "404"),
        ("b.t53.test /t53/several", "53-several"),
        ("x.c.t53.test /t53/several", "53-several"),
        ("d.t53.test /t53/several", "404"),
    ];
    finds(&site, &table).await;
    // Where hosts come first, they are matched without port, so one with a port is never found.
    let site = by_host().await;
    site.put([route("53-port foo.t53.test:8443 /t53/port")]).await;
    finds(&site, &[("foo.t53.test:8443 /t53/port", "404"), ("foo.t53.test /t53/port", "404")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_4_an_expression_must_be_true() {
    let site = by_host().await;
    let vars = json!({ "vars": [["arg_a", "==", "1"], ["http_x_b", "~~", "^b"]] });
    site.put([route_with("54-true - /t54/x", vars), route("54-else - /t54/*")]).await;
    for (target, header, expected) in
        [("/t54/x?a=1", "bc", "54-true"), ("/t54/x?a=1", "cb", "54-else"), ("/t54/x", "bc", "54-else")]
    {
        assert_eq!(site.found(Call::get(target).header("x-b", header)).await, expected, "{target} {header}");
    }
}

/// No Lua is run, so that a route which needs it is refused, and never served without (docs/compatibility.md).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_5_a_filter_function_is_refused() {
    let site = by_host().await;
    let (path, body) =
        route_with("55-filter - /t55", json!({ "filter_func": "function(vars) return vars['arg_a'] == '1' end" }));
    let said = site.refusal(&path, body).await;
    assert!(said.contains("filter_func"), "{said}");
    in_force(&site.up).await;
    finds(&site, &[("h.test /t55?a=1", "404")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_5_6_the_full_pattern_is_a_condition_like_others() {
    let site = by_host().await;
    let post = json!({ "methods": ["POST"] });
    site.put([route("56-pattern - /t56/*/c 9"), route_with("56-method - /t56/*/d 9", post), route("56-else - /t56/*")])
        .await;
    finds(&site, &[("h.test /t56/b/c", "56-pattern"), ("h.test /t56/b/d", "56-else"), ("h.test /t56/b/e", "56-else")])
        .await;
}
