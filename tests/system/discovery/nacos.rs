//! The registry `nacos`.

use super::{dump, fails, route, served_by, serving, up};
use milecastle_testkit::Echo;
use milecastle_testkit::registry::{Fault, Nacos};
use serde_json::{Value, json};

fn instance(echo: &Echo, more: Value) -> Value {
    let mut instance = json!({ "ip": "127.0.0.1", "port": echo.port() });
    instance.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    instance
}

fn settings(url: &str, prefix: &str) -> Value {
    let url = url.replace("http://", "http://nacos:s%40cret@");
    json!({ "nacos": { "host": [url], "prefix": prefix, "fetch_interval": 1, "timeout": { "send": 500, "read": 500 } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_nacos_usable_instances_of_namespace_and_group_are_followed() {
    let nacos = Nacos::start(Some(("nacos", "s@cret")));
    let (a, b, c) = (Echo::named("a"), Echo::named("b"), Echo::named("c"));
    nacos.set("public", "DEFAULT_GROUP", "web", &[instance(&c, json!({}))]);
    let v1 = |version: &str| json!({ "metadata": { "version": version } });
    nacos.set("prod", "g", "web", &[instance(&a, v1("1")), instance(&b, v1("2"))]);
    let up = up(&settings(&nacos.url(), "/nacos/v1/"));
    let arguments = json!({ "namespace_id": "prod", "group_name": "g" });
    route(&up, "nacos", "web", json!({ "discovery_args": arguments })).await;
    up.answers("/", 200).await;
    served_by(&up, &["a", "b"]).await;
    // Taken out by its operator first, then ended.
    nacos.set("prod", "g", "web", &[instance(&a, json!({ "enabled": false })), instance(&b, v1("2"))]);
    served_by(&up, &["b"]).await;
    nacos.set("prod", "g", "web", &[instance(&a, json!({ "healthy": false })), instance(&b, v1("2"))]);
    nacos.revoke();
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    let shown = json!([{ "host": "127.0.0.1", "port": b.port(), "weight": 1 }]);
    assert_eq!(dump(&up, "nacos").await["services"], json!({ "prod/g/web": shown }));
    let arguments = json!({ "namespace_id": "prod", "group_name": "g", "metadata": { "version": "3" } });
    route(&up, "nacos", "web", json!({ "discovery_args": arguments })).await;
    up.answers("/", 503).await;
    route(&up, "nacos", "web", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["c"]).await;
    let log = up.process.log();
    assert!(log.iter().all(|line| !line.contains("s@cret") && !line.contains("s%40cret")), "no log shows the password");
    let targets: Vec<String> = nacos.asked().iter().map(|asked| asked.target.to_string()).collect();
    assert!(targets.iter().all(|target| !target.contains("cret")), "the password is in no URL: {targets:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_version_is_spoken_and_failures_take_nothing_away() {
    let mut nacos = Nacos::start(Some(("nacos", "s@cret")));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    nacos.set("public", "DEFAULT_GROUP", "web", &[instance(&a, json!({}))]);
    let up = up(&settings(&nacos.url(), "/nacos/v2/"));
    route(&up, "nacos", "web", json!({})).await;
    up.answers("/", 200).await;
    for fault in [Fault::Garbage, Fault::Long(10 << 20), Fault::Status(500), Fault::Silence] {
        nacos.fail(Some(fault));
        fails(&up, "nacos", "web", true).await;
        assert_eq!(serving(&up, 10).await.len(), 1, "{fault:?}");
        nacos.fail(None);
        fails(&up, "nacos", "web", false).await;
    }
    nacos.stop();
    fails(&up, "nacos", "web", true).await;
    assert_eq!(serving(&up, 10).await.len(), 1);
    nacos.set("public", "DEFAULT_GROUP", "web", &[instance(&b, json!({}))]);
    nacos.start();
    served_by(&up, &["b"]).await;
}
