//! §8: lists.

use crate::gateway::{Gateway, on_both};
use milecastle_settings::Time;

on_both!(
    s8_1_order_by_key_or_by_creation,
    s8_2_paging_needs_both_numbers,
    s8_3_page_sizes_and_pages,
    s8_4_total_counts_after_filtering,
    s8_5_filters,
    s8_6_children_are_hidden,
);

async fn ids(gw: &Gateway, path: &str) -> (u64, Vec<String>) {
    let answer = gw.send(&format!("GET {path}")).await;
    let body = answer.json().unwrap_or_else(|error| panic!("{path}: {error}"));
    let name = |item: &serde_json::Value| item["key"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    (body["total"].as_u64().unwrap(), body["list"].as_array().unwrap().iter().map(name).collect())
}

async fn check(gw: &Gateway, path: &str, expected: &[&str]) {
    assert_eq!(ids(gw, path).await.1, expected, "{path}");
}

async fn upstreams(gw: &Gateway, ids: &[&str]) {
    for id in ids {
        gw.done(&format!(r#"PUT /upstreams/{id} {{"nodes":{{}}}}"#)).await;
    }
}

async fn s8_1_order_by_key_or_by_creation(gw: Gateway) {
    upstreams(&gw, &["b", "a", "B", "10", "9"]).await;
    gw.done(r#"PUT /upstreams/b {"nodes":{},"retries":1}"#).await;
    check(&gw, "/upstreams", &["10", "9", "B", "a", "b"]).await;
    check(&gw, "/upstreams?page=1&page_size=10", &["b", "a", "B", "10", "9"]).await;
}

async fn s8_2_paging_needs_both_numbers(gw: Gateway) {
    upstreams(&gw, &["b", "a"]).await;
    for query in ["page=2", "page_size=10", "page=x&page_size=10", "page=2&page_size=x", "page=&page_size=10"] {
        check(&gw, &format!("/upstreams?{query}"), &["a", "b"]).await;
    }
}

async fn s8_3_page_sizes_and_pages(gw: Gateway) {
    for size in ["9", "501", "0", "-1"] {
        let answer = gw.send(&format!("GET /upstreams?page=1&page_size={size}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (400, "page_size must be between 10 and 500"));
    }
    let all: Vec<String> = (10..22).map(|n| n.to_string()).collect();
    upstreams(&gw, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(ids(&gw, "/upstreams?page=1&page_size=10").await, (12, all[..10].to_vec()));
    assert_eq!(ids(&gw, "/upstreams?page=2&page_size=10").await, (12, all[10..].to_vec()));
    assert_eq!(ids(&gw, "/upstreams?page=3&page_size=10").await, (12, vec![]));
    assert_eq!(ids(&gw, "/upstreams?page=-5&page_size=500").await, (12, all));
}

async fn s8_4_total_counts_after_filtering(gw: Gateway) {
    for n in 10..30 {
        let name = if n % 2 == 0 { "even" } else { "odd" };
        gw.done(&format!(r#"PUT /upstreams/{n} {{"nodes":{{}},"name":"{name}"}}"#)).await;
    }
    let (total, shown) = ids(&gw, "/upstreams?name=even&page=1&page_size=10").await;
    assert_eq!((total, shown.len()), (10, 10));
    assert_eq!(ids(&gw, "/upstreams?name=odd&page=2&page_size=10").await, (10, vec![]));
}

async fn s8_5_filters(gw: Gateway) {
    gw.done(r#"PUT /services/1 {"name":"s"}"#).await;
    gw.done(r#"PUT /upstreams/1 {"nodes":{}}"#).await;
    gw.done(r#"PUT /routes/1 {"uri":"/a","name":"alpha","labels":{"env":"prod"},"service_id":1}"#).await;
    gw.done(r#"PUT /routes/2 {"uris":["/b","/api/v1"],"service_id":"1","upstream_id":"1"}"#).await;
    gw.done(r#"PUT /routes/3 {"uri":"/api/v2","name":"beta","labels":{"":"x"},"plugins":{}}"#).await;
    for (query, expected) in [
        ("name=a$", &["1", "3"][..]),
        ("name=", &["1", "2", "3"]),
        ("name=%5Ealpha%24", &["1"]),
        ("name=(?=b)", &["3"]),
        ("label=env", &["1"]),
        ("label=prod", &[]),
        ("label=", &["1", "2", "3"]),
        ("uri=%5E/api/v%5Cd", &["2", "3"]),
        ("uri=/api&name=beta", &["3"]),
        ("filter=service_id%3D1", &["1", "2"]),
        ("filter=service_id%3D1%26upstream_id%3D1", &["2"]),
        ("filter=service_id%3D9%26service_id%3D1", &["1", "2"]),
        ("filter=desc%3Dx", &["1", "2", "3"]),
    ] {
        check(&gw, &format!("/routes?{query}"), expected).await;
    }
    check(&gw, "/services?filter=service_id%3D9", &["1"]).await;
    assert_eq!(gw.send("GET /routes?name=%5B").await.status, 400);
}

async fn s8_6_children_are_hidden(gw: Gateway) {
    gw.done(r#"PUT /consumers {"username":"jack"}"#).await;
    gw.done(r#"PUT /consumers {"username":"jacky"}"#).await;
    gw.done(r#"PUT /consumers/jack/credentials/c {"plugins":{"key-auth":{"key":"k"}}}"#).await;
    gw.done(r#"PUT /consumers/jacky/credentials/d {"plugins":{"key-auth":{"key":"l"}}}"#).await;
    assert_eq!(ids(&gw, "/consumers").await, (2, vec!["jack".into(), "jacky".into()]));
    assert_eq!(ids(&gw, "/consumers/jack/credentials").await, (1, vec!["c".into()]));
    gw.done("PUT /services/s {}").await;
    gw.done(r#"PUT /services/s/graphql_cost_decorations/d {"field_path":"a.b"}"#).await;
    assert_eq!(ids(&gw, "/services").await, (1, vec!["s".into()]));
}

#[tokio::test]
async fn s8_7_a_search_of_a_list_ends() {
    let gw = Gateway::configured(|settings| settings.admin.search_time = Time::millis(1)).await;
    // Each takes the engine a hundred thousand steps back and forth.
    let name = format!("{}b", "a".repeat(60));
    for n in 0..10 {
        gw.done(&format!(r#"PUT /upstreams/{n} {{"nodes":{{}},"name":"{name}"}}"#)).await;
    }
    let answer = gw.send(r"GET /upstreams?name=%5E((a%7Caa)%5C2?)%2B$").await;
    let text = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
    assert!(answer.status == 400 && text.contains("admin.search_time"), "{} {text}", answer.status);
    assert_eq!(ids(&gw, "/upstreams").await.0, 10, "a list without an expression is no search");
}
