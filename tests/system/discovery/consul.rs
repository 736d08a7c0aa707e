//! The registry `consul`.

use super::{addresses, dump, fails, measured, route, served_by, serving, up};
use milecastle_testkit::registry::{Consul, Fault};
use milecastle_testkit::{Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Changes of instances, each of which the gateway comes to know.
const CHANGES: usize = 10;

fn passing(echoes: &[&Echo]) -> Vec<(SocketAddr, bool)> {
    addresses(echoes).into_iter().map(|address| (address, true)).collect()
}

fn settings(url: &str) -> Value {
    json!({ "consul": { "servers": [url], "token": "a secret" } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_14_consul_instances_come_and_go_without_a_failed_request() {
    let consul = Consul::start(Some("a secret"));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    consul.set("web", &passing(&[&a]));
    let up = up(&settings(&consul.url()));
    route(&up, "consul", "web", json!({})).await;
    up.answers("/", 200).await;
    served_by(&up, &["a"]).await;
    consul.set("web", &passing(&[&a, &b]));
    served_by(&up, &["a", "b"]).await;
    // A critical instance is not asked; when nobody sends to it any more, it can go.
    consul.set("web", &[(a.address(), false), (b.address(), true)]);
    served_by(&up, &["b"]).await;
    drop(a);
    assert_eq!(serving(&up, 20).await.len(), 1);
    let shown = json!([{ "host": "127.0.0.1", "port": b.port(), "weight": 1 }]);
    assert_eq!(dump(&up, "consul").await["services"], json!({ "web": shown }));
    measured(&up, "discovery_instances", "consul", "web", |instances| instances == 1.0).await;
    let questions = consul.asked();
    assert!(questions.len() < 10, "questions wait for changes: there were {}", questions.len());
    assert!(questions.iter().skip(1).all(|asked| asked.parameters()["wait"] == "60s"));
    assert!(up.process.log().iter().all(|line| !line.contains("a secret")), "no log shows the token");
    consul.set("web", &[]);
    up.answers("/", 503).await;
    consul.set("web", &passing(&[&b]));
    up.answers("/", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_registry_its_last_answer_is_used() {
    let mut consul = Consul::start(Some("a secret"));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    consul.set("web", &passing(&[&a]));
    let mut settings = settings(&consul.url());
    // Silence is a failure only after the time that the agent may wait for a change.
    settings["consul"]["timeout"] = json!({ "read": 500, "wait": 1 });
    let up = up(&settings);
    route(&up, "consul", "web", json!({})).await;
    up.answers("/", 200).await;
    consul.stop();
    fails(&up, "consul", "web", true).await;
    assert_eq!(serving(&up, 10).await.len(), 1);
    measured(&up, "discovery_age_seconds", "consul", "web", |age| age > 0.0).await;
    consul.start();
    fails(&up, "consul", "web", false).await;
    for fault in [Fault::Garbage, Fault::Long(10 << 20), Fault::Status(500), Fault::Silence] {
        consul.fail(Some(fault));
        // The question that waits for a change ends with one.
        consul.set("web", &passing(&[&a]));
        fails(&up, "consul", "web", true).await;
        assert_eq!(serving(&up, 10).await.len(), 1, "{fault:?}");
        consul.fail(None);
        fails(&up, "consul", "web", false).await;
    }
    measured(&up, "discovery_failures_total", "consul", "web", |failures| failures >= 5.0).await;
    // A cluster that was restored counts from the beginning.
    consul.reset_index();
    consul.set("web", &passing(&[&b]));
    served_by(&up, &["b"]).await;
    let said = up.process.log().into_iter().filter(|line| line.contains("the registry fails")).count();
    assert_eq!(said, 5, "each failure is said once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_while_the_registry_is_away_uses_what_was_known() {
    let mut consul = Consul::start(Some("a secret"));
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    consul.set("web", &passing(&[&a]));
    let discovery = super::quick(&settings(&consul.url()));
    let variables = [("MILECASTLE__GATEWAY__DISCOVERY", discovery.as_str())];
    let up = Up::start_with(&variables);
    route(&up, "consul", "web", json!({})).await;
    up.answers("/", 200).await;
    let file = up.data.path().join("data/gateway/instances.json");
    eventually("the file", async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("127.0.0.1"))).await;
    consul.stop();
    let up = Up::start_in_with(up.kill(), &variables);
    assert_eq!(serving(&up, 10).await.len(), 1);
    consul.set("web", &passing(&[&b]));
    consul.start();
    served_by(&up, &["b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_instances_leave_health_and_balancing_of_the_others_alone() {
    let consul = Consul::start(Some("a secret"));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Echo::named);
    consul.set("web", &passing(&[&a, &b]));
    let up = up(&settings(&consul.url()));
    let side = |more: &str| json!({ "interval": 1, more: 1 });
    let active = json!({ "healthy": side("successes"), "unhealthy": side("http_failures") });
    route(&up, "consul", "web", json!({ "checks": { "active": active } })).await;
    up.answers("/", 200).await;
    a.always(Some(500));
    served_by_healthy(&up, &["b"]).await;
    // A page that shows so many instances was made after the route had taken effect.
    let instances = async |number: f64| {
        measured(&up, "discovery_instances", "consul", "web", |instances| instances == number).await;
        up.metric("apisix_config_published_total").await.unwrap()
    };
    let published = instances(2.0).await;
    let (three, four) = ([&a, &b, &c], [&a, &b, &c, &d]);
    for n in 1..=CHANGES {
        let now: &[&Echo] = if n % 2 == 0 { &three } else { &four };
        consul.set("web", &passing(now));
        eventually("the change to be known", async || {
            dump(&up, "consul").await["services"]["web"].as_array().map(Vec::len) == Some(now.len())
        })
        .await;
    }
    served_by(&up, &["b", "c"]).await;
    assert_eq!(instances(3.0).await, published, "no change of instances builds the configuration anew");
    a.always(None);
    served_by(&up, &["a", "b", "c"]).await;
}

/// Waits until exactly these nodes answer, whatever others have answered before.
async fn served_by_healthy(up: &Up, names: &[&str]) {
    eventually("the unhealthy node to be left alone", async || {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let answer = up.get("/").await;
            seen.insert(
                answer.json().ok().and_then(|json| Some(json["server"].as_str()?.to_owned())).unwrap_or_default(),
            );
            if answer.status != 200 {
                return false;
            }
        }
        seen.iter().map(String::as_str).eq(names.iter().copied())
    })
    .await;
}
