//! Variables (§6.4).

use super::{Site, by_host, route_with};
use milecastle_testkit::Call;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_4_variables_of_the_request() {
    let site = by_host().await;
    let port = site.up.http.port().to_string();
    let table = [
        ("uri", "/t64/var"),
        ("request_uri", "/t64/var?a=1%202&b=&a=3"),
        ("real_request_uri", "/t64/./v%61r?a=1%202&b=&a=3"),
        ("args", "a=1%202&b=&a=3"),
        ("query_string", "a=1%202&b=&a=3"),
        ("is_args", "?"),
        ("host", "v.t64.test"),
        ("http_host", "V.t64.test:81"),
        ("scheme", "http"),
        ("request_method", "POST"),
        ("method", "POST"),
        ("server_addr", "127.0.0.1"),
        ("server_port", &*port),
        ("server_name", "_"),
        ("remote_addr", "10.64.0.1"),
        ("realip_remote_addr", "127.0.0.1"),
        ("content_type", "text/plain"),
        ("http_x_a_b", "value"),
        ("http_X_A_B", "value"),
        ("arg_a", "1 2"),
        ("arg_A", "none"),
        ("arg_b", ""),
        ("cookie_c", "v"),
        ("cookie_C", "none"),
        ("route_id", "64-shows"),
        ("route_name", "named"),
        ("service_id", "t64"),
        ("service_name", "of t64"),
        ("consumer_name", "none"),
        ("balancer_ip", "127.0.0.1"),
        ("nonsense", "none"),
    ];
    // By number, as names of headers are alike in small letters and in capitals.
    let shows = |(n, (name, _)): (usize, &(&str, &str))| (format!("X-Seen-{n}"), json!(format!("${{{name} ?? none}}")));
    let mut headers: serde_json::Map<String, Value> = table.iter().enumerate().map(shows).collect();
    for name in ["remote_port", "request_length", "balancer_port"] {
        headers.insert(format!("X-Seen-{}", name.replace('_', "-")), json!(format!("${name}")));
    }
    let more = json!({ "name": "named", "service_id": "t64",
        "plugins": { "response-rewrite": { "headers": { "set": headers } } } });
    site.put([("/services/t64", json!({ "name": "of t64" }))]).await;
    site.put([route_with("64-shows - /t64/var", more)]).await;
    let call = Call::post("/t64/./v%61r?a=1%202&b=&a=3", "body").header("host", "V.t64.test:81");
    let call = call.header("x-real-ip", "10.64.0.1").header("content-type", "text/plain").header("x-a-b", "value");
    let answer = call.header("cookie", "b=1; c=v").to(site.up.http).await.unwrap();
    for (n, (name, expected)) in table.iter().enumerate() {
        assert_eq!(answer.header(&format!("X-Seen-{n}")), *expected, "{name}");
    }
    assert!(answer.header("x-seen-remote-port").parse::<u16>().is_ok());
    assert_eq!(answer.header("x-seen-balancer-port"), site.echo.port().to_string());
    assert!(answer.header("x-seen-request-length").parse::<u64>().unwrap() > 100);
}

/// Asserts which of the routes with these conditions a request finds: the one with the number that is given, or none.
async fn chooses(site: &Site, rule: &str, conditions: &[Value], calls: &[(Call, Option<usize>)]) {
    let route = |(n, vars): (usize, &Value)| {
        route_with(&format!("{rule}-{n} - /{rule}"), json!({ "vars": vars, "priority": -(n as i64) }))
    };
    site.put(conditions.iter().enumerate().map(route)).await;
    for (call, expected) in calls {
        let expected = expected.map_or_else(|| "404".to_owned(), |n| format!("{rule}-{n}"));
        assert_eq!(site.found(call.clone()).await, expected, "{call:?}");
    }
}

fn post(rule: &str, kind: &str, body: impl Into<String>) -> Call {
    Call::post(&format!("/{rule}"), body.into()).header("content-type", kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_4_fields_of_bodies() {
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json; charset=utf-8";
    let conditions = [
        json!([["post_arg_f", "==", "1"]]),
        json!([["post_arg.a.b", "==", "x"]]),
        json!([["post_arg.n", "==", 5]]),
        json!([["post_arg.items[*].id", "has", 7]]),
        json!([["post_arg.p", "==", "of a part"]]),
        json!([["post_arg.q", "==", "y"]]),
    ];
    let rule = "64-body";
    let post = |kind: &str, body: &str| post(rule, kind, body);
    let part = "--b\r\nContent-Disposition: form-data; name=\"p\"\r\n\r\nof a part\r\n--b--\r\n";
    let calls = [
        (post(FORM, "e=0&f=1&f=2"), Some(0)),
        (post(FORM, "f=2&f=1"), None),
        (post(JSON, r#"{"f":"1"}"#), None),
        (post("text/plain", "f=1"), None),
        (post(JSON, r#"{"a":{"b":"x"}}"#), Some(1)),
        (post(JSON, r#"{"a":"x"}"#), None),
        (post(JSON, r#"{"n":5}"#), Some(2)),
        (post(JSON, r#"{"items":[{"id":6},{"id":7}]}"#), Some(3)),
        (post(JSON, r#"{"items":[{"id":6},{"id":"7"}]}"#), None),
        (post(JSON, r#"{"n":5"#), None),
        (post("multipart/form-data; boundary=b", part), Some(4)),
        (post(FORM, "q=y"), Some(5)),
        // Beyond the cap there is no field (`limits.matched_body`, 1 MiB).
        (post(FORM, &format!("q=y&r={}", "x".repeat(2 << 20))), None),
    ];
    chooses(&*by_host().await, rule, &conditions, &calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_4_the_first_operation_of_a_graphql_document() {
    let conditions = [
        json!([["graphql_operation", "==", "mutation"]]),
        json!([["graphql_name", "==", "Q"]]),
        json!([["graphql_root_fields", "has", "owner"]]),
    ];
    let rule = "64-graphql";
    let get = |document: &str| Call::get(&format!("/{rule}?query={document}"));
    let post = |kind: &str, body: &str| post(rule, kind, body);
    let calls = [
        (get("mutation%20M%20%7Bx%7D"), Some(0)),
        (get("query%20Q%20%7Bx%7D%20mutation%20M%20%7By%7D"), Some(1)),
        (get("%7Brepo%20owner%20%7Bname%7D%7D"), Some(2)),
        (get("%7Brepo%20%7Bowner%7D%7D"), None),
        (post("application/json", r#"{"query":"query Q { x }"}"#), Some(1)),
        (post("application/json", "query Q { x }"), None),
        // Any other type is no matter: the body is the document.
        (post("application/graphql", "query Q { x }"), Some(1)),
        (post("text/plain", "query Q { x }"), Some(1)),
        (Call::post(&format!("/{rule}"), "query Q { x }"), Some(1)),
        (Call::new("PUT".parse().unwrap(), &format!("/{rule}")).body("query Q { x }"), None),
        (post("text/plain", &format!("query Q {{ x }} # {}", "x".repeat(2 << 20))), None),
    ];
    chooses(&*by_host().await, rule, &conditions, &calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_6_4_what_comes_after_the_match_is_absent_during_it() {
    let names = ["route_id", "route_name", "service_id", "service_name", "consumer_name", "consumer_group_id"];
    let absent = names.into_iter().chain(["balancer_ip", "balancer_port"]).map(|name| json!([name, "==", null]));
    let conditions = [Value::Array(absent.collect())];
    chooses(&*by_host().await, "64-later", &conditions, &[(Call::get("/64-later"), Some(0))]).await;
}
