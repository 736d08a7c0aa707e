//! What a new user does first.

use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, Target, eventually};
use milecastle_tests::Up;
use serde_json::json;

fn upstream(echo: &Echo) -> serde_json::Value {
    json!({ "nodes": { echo.address().to_string(): 1 } })
}

#[tokio::test]
async fn a_route_put_is_a_route_served() {
    let (up, echo) = (Up::start(), Echo::start());
    assert_eq!(up.get("/hello").await.status, 404);
    assert_eq!(up.get("/hello").await.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
    let answer = up.put("/routes/1", json!({ "uri": "/hello", "upstream": upstream(&echo) })).await;
    assert_eq!(answer.status, 201);
    up.answers("/hello?a=1", 200).await;
    let received = echo.take().pop().unwrap();
    assert_eq!(received.target(), "/hello?a=1");
    assert_eq!(received.header("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(received.header("x-forwarded-proto"), ["http"]);
    assert_eq!(received.header("host"), [up.http.to_string()]);
}

#[tokio::test]
async fn key_auth_lets_only_the_key_in() {
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/consumers/amy", json!({ "username": "amy", "plugins": { "key-auth": { "key": "sesame" } } })).await;
    up.put("/routes/1", json!({ "uri": "/*", "plugins": { "key-auth": {} }, "upstream": upstream(&echo) })).await;
    up.answers("/", 401).await;
    let refused = up.get("/").await;
    assert_eq!(refused.text(), "{\"message\":\"Missing API key in request\"}\n");
    assert_eq!(refused.header("www-authenticate"), "apikey realm=\"key\"");
    let with = |key: &str| Call::get("/").header("apikey", key).header("x-consumer-username", "mallory").to(up.http);
    assert_eq!(with("wrong").await.unwrap().status, 401);
    assert_eq!(with("sesame").await.unwrap().status, 200);
    assert_eq!(echo.take().pop().unwrap().header("x-consumer-username"), ["amy"]);
}

#[tokio::test]
async fn no_access_log_shows_a_key() {
    let (up, echo) = (Up::start(), Echo::start());
    up.put("/consumers/amy", json!({ "username": "amy", "plugins": { "key-auth": { "key": "sesame" } } })).await;
    up.put("/routes/1", json!({ "uri": "/*", "plugins": { "key-auth": {} }, "upstream": upstream(&echo) })).await;
    up.answers("/?apikey=sesame&a=1", 200).await;
    assert_eq!(echo.take().pop().unwrap().target(), "/?apikey=sesame&a=1");
    let log = up.data.path().join("data/gateway/logs/access.log");
    eventually("the line is written", async || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"GET /?apikey=***&a=1 HTTP/1.1\" 200"))
    })
    .await;
    // Before route and key were in force, nothing had said that this argument is a secret.
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.lines().filter(|line| line.contains("sesame")).all(|line| line.contains(" 404 ")), "{text}");
}

#[tokio::test]
async fn a_certificate_put_is_served_by_its_name_at_once() {
    let (up, echo) = (Up::start(), Echo::start());
    let authority = Authority::new("test");
    up.put("/routes/1", json!({ "uri": "/*", "upstream": upstream(&echo) })).await;
    let site = Target::tls(up.https, "site.test", &authority.pem());
    assert!(site.connect().await.is_err(), "no certificate is ever served for an unknown name");
    let identity = authority.issue(&["site.test"]);
    up.put("/ssls/1", json!({ "sni": "site.test", "cert": identity.cert, "key": identity.key })).await;
    eventually("the certificate is served", async || site.connect().await.is_ok()).await;
    let mut connection = site.connect().await.unwrap();
    assert_eq!(Call::get("/secure").send(&mut connection).await.unwrap().status, 200);
    assert_eq!(echo.take().pop().unwrap().header("x-forwarded-proto"), ["https"]);
    let mut connection = site.clone().http2().connect().await.unwrap();
    assert_eq!(connection.alpn.as_deref(), Some("h2"));
    assert_eq!(Call::get("/secure").send(&mut connection).await.unwrap().status, 200);
    assert!(Target::tls(up.https, "other.test", &authority.pem()).connect().await.is_err());
}

#[tokio::test]
async fn every_plugin_of_the_first_set_does_its_work_on_one_route() {
    let (up, echo) = (Up::start(), Echo::start());
    let log = up.data.path().join("requests.log");
    up.put("/consumers/amy", json!({ "username": "amy", "plugins": { "key-auth": { "key": "sesame" } } })).await;
    up.put(
        "/routes/1",
        json!({
            "uri": "/api/*",
            "upstream": upstream(&echo),
            "plugins": {
                "key-auth": { "hide_credentials": true },
                "ip-restriction": { "whitelist": ["127.0.0.0/8"] },
                "limit-count": { "count": 2, "time_window": 60, "rejected_code": 429, "key": "consumer_name" },
                "proxy-rewrite": { "regex_uri": ["^/api/(.*)", "/v2/$1"], "headers": { "set": { "X-Who": "$consumer_name" } } },
                "response-rewrite": { "headers": { "set": { "X-Answer": "$status" } } },
                "request-id": {},
                "prometheus": {},
                "file-logger": { "path": log.to_str().unwrap() },
            },
        }),
    )
    .await;
    up.answers("/api/a", 401).await;
    let call = || Call::get("/api/a?x=1").header("apikey", "sesame").to(up.http);
    let first = call().await.unwrap();
    assert_eq!((first.status, first.header("x-answer")), (200, "200".into()));
    assert_eq!(first.header("x-ratelimit-remaining"), "1");
    let received = echo.take().pop().unwrap();
    assert_eq!(received.target(), "/v2/a?x=1");
    assert_eq!(received.header("x-who"), ["amy"]);
    assert_eq!(received.header("apikey"), Vec::<String>::new());
    assert_eq!(received.header("x-request-id"), [first.header("x-request-id")]);
    assert_eq!(call().await.unwrap().status, 200);
    let limited = call().await.unwrap();
    assert_eq!((limited.status, limited.header("x-answer")), (429, "429".into()));
    eventually("the log has a line for each request", async || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.lines().filter(|line| line.contains("/api/a?x=1")).count() == 3)
    })
    .await;
    eventually("the metrics count by status", async || {
        let page = Call::get("/apisix/prometheus/metrics").to(up.prometheus).await.unwrap().text();
        page.lines().any(|line| line.contains("apisix_http_status{code=\"429\",route=\"1\"") && line.ends_with(" 1"))
    })
    .await;
}
