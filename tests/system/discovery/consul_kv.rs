//! The registry `consul_kv`.

use super::{dump, fails, route, served_by, serving, up};
use milecastle_testkit::registry::{Consul, Server};
use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};

/// The key of an instance of `web`.
fn key(echo: &Echo) -> String {
    format!("upstreams/web/{}", echo.address())
}

/// Asks for `web` of this agent.
async fn asking(consul: &Server<Consul>) -> (Up, String) {
    let up = up(&json!({ "consul_kv": { "servers": [consul.url()], "token": "a secret" } }));
    let service = format!("{}/v1/kv/upstreams/web/", consul.url());
    route(&up, "consul_kv", &service, json!({})).await;
    (up, service)
}

/// How the registry's service stands.
async fn state(up: &Up, service: &str) -> Value {
    dump(up, "consul_kv").await["state"][service].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_consul_kv_keys_come_and_go_without_a_failed_request() {
    let consul = Consul::start(Some("a secret"));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let (key_a, key_b) = (key(&a), key(&b));
    consul.put(&key_a, r#"{"weight": 2, "max_fails": 2, "fail_timeout": 1}"#);
    consul.put("upstreams/web/v2/127.0.0.1:1", "{}");
    let (up, service) = asking(&consul).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    consul.put(&key_b, "{}");
    served_by(&up, &["a", "b"]).await;
    // Whoever watches it has found it unhealthy; when nobody sends to it any more, it can go.
    consul.put(&key_a, r#"{"check_status": false}"#);
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    let shown = json!({ &service: [{ "host": "127.0.0.1", "port": b.port(), "weight": 1 }] });
    assert_eq!(dump(&up, "consul_kv").await["services"], shown);
    let kept = async || Call::get("/v1/discovery/consul_kv/show_dump_file").to(up.control).await.unwrap();
    eventually("the disk to keep it", async || {
        let kept = kept().await;
        kept.status == 200 && kept.json().unwrap()["services"] == shown
    })
    .await;
    let questions = consul.asked();
    assert!(questions.len() < 10, "questions wait for changes: there were {}", questions.len());
    assert!(questions.iter().skip(1).all(|asked| asked.parameters()["wait"] == "60s"));
    assert!(up.process.log().iter().all(|line| !line.contains("a secret")), "no log shows the token");
    // Without any key below it there is no such service.
    for key in [&*key_a, &*key_b, "upstreams/web/v2/127.0.0.1:1"] {
        consul.delete(key);
    }
    up.answers("/", 503).await;
    consul.put(&key_b, "{}");
    up.answers("/", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_instance_is_said_once_and_the_others_serve() {
    let mut consul = Consul::start(Some("a secret"));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    consul.put(&key(&a), "{}");
    consul.put("upstreams/web/here", "{}");
    let (up, service) = asking(&consul).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    let why = "\"upstreams/web/here\": expected host:port behind the service's name";
    assert_eq!(state(&up, &service).await["passed_over"], why);
    // The next answer has it too.
    consul.put(&key(&b), "{}");
    served_by(&up, &["a", "b"]).await;
    consul.delete("upstreams/web/here");
    eventually("nothing to be passed over", async || state(&up, &service).await["passed_over"].is_null()).await;
    let said = up.process.log().into_iter().filter(|line| line.contains("and is passed over")).count();
    assert_eq!(said, 1, "it is said once");
    // Whoever breaks every key has not said that there are none, nor does a token that may not read them any more.
    let keys = [key(&a), key(&b)];
    keys.iter().for_each(|key| consul.put(key, "none"));
    fails(&up, "consul_kv", &service, true).await;
    assert!(!serving(&up, 10).await.is_empty());
    keys.iter().for_each(|key| consul.put(key, "{}"));
    served_by(&up, &["a", "b"]).await;
    fails(&up, "consul_kv", &service, false).await;
    consul.hide(true);
    fails(&up, "consul_kv", &service, true).await;
    assert_eq!(serving(&up, 10).await.len(), 2);
    consul.stop();
    fails(&up, "consul_kv", &service, true).await;
    assert_eq!(serving(&up, 10).await.len(), 2);
}
