//! Each rule of the data plane's specifications (`docs/spec/routing.md` and its neighbours) through the real binary, in a test that
//! bears its number: rule 2 of §4.1 of `routing.md` in one whose name begins with `routing_4_1_2_` (`cargo xtask tidy` asks for them).
//!
//! The tests of a file share a gateway, and each has routes, hosts and paths of its own, named after its rule.

mod control;
mod routing;
mod stream;
mod tls;
mod upstream;

use milecastle_testkit::{Call, Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Mutex;

/// What tests that run at the same time share: made by the first that asks, and gone with the last that has it.
pub(crate) struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    pub(crate) async fn get(&self, make: impl AsyncFnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().await;
        if let Some(value) = known.upgrade() {
            return value;
        }
        let value = Arc::new(make().await);
        *known = Arc::downgrade(&value);
        value
    }
}

/// Waits until everything that was written so far is in force on all workers.
pub(crate) async fn in_force(up: &Up) {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    const HOST: &str = "step.test";
    let step = STEPS.fetch_add(1, Ordering::Relaxed);
    let target = format!("/step/{step}");
    // Found, and answered with 503: it has no upstream.
    let nothing = json!({ "proxy-rewrite": { "uri": "/" } });
    up.put(&format!("/routes/step-{step}"), json!({ "uri": target, "host": HOST, "plugins": nothing })).await;
    eventually("what was written is in force", async || {
        Call::get(&target).header("host", HOST).to(up.http).await.unwrap().status == 503
    })
    .await;
}

/// A gateway, and an upstream that tells what it got, which is the upstream `echo` of its configuration. Every answer has the header
/// `X-Route`, the id of the route that was found, `X-Nodes` and `X-Statuses`, what was tried and what came of it, and `X-Global`, as a
/// global rule runs for all requests.
pub(crate) struct Site {
    pub(crate) up: Up,
    pub(crate) echo: Echo,
}

impl Site {
    /// With these settings of the process, and of the gateway group (options of `milecastle group settings set`). Lines of the log
    /// that contain one of `announced` belong to the tests.
    pub(crate) async fn start(settings: &[(&str, &str)], group: &[&str], announced: &[&str]) -> Self {
        let mut up = Up::start_with(settings);
        if !group.is_empty() {
            up.set_group(group);
        }
        announced.iter().for_each(|text| up.process.announce(text));
        let site = Self { up, echo: Echo::start() };
        let headers = json!({ "set": { "X-Route": "$route_id", "X-Nodes": "$upstream_addr",
            "X-Statuses": "$upstream_status", "X-Global": "ran" } });
        let upstream = json!({ "nodes": { site.echo.address().to_string(): 1 } });
        let all = json!({ "plugins": { "response-rewrite": { "headers": headers } } });
        site.put([("/upstreams/echo", upstream), ("/global_rules/all", all)]).await;
        site
    }

    /// Writes objects in this order; the path of each is what follows `/apisix/admin`. When this returns, they are in force.
    pub(crate) async fn put(&self, objects: impl IntoIterator<Item = (impl AsRef<str>, Value)>) {
        for (path, body) in objects {
            self.up.put(path.as_ref(), body).await;
        }
        in_force(&self.up).await;
    }

    /// What the Admin API says to a write that it refuses with 400.
    pub(crate) async fn refusal(&self, path: &str, body: Value) -> String {
        let answer = self.up.admin("PUT", path, Some(&body)).await;
        assert_eq!(answer.status, 400, "PUT {path}: {}", answer.text());
        answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned()
    }

    /// Takes an object away although others refer to it.
    pub(crate) async fn delete(&self, path: &str) {
        let answer = self.up.admin("DELETE", &format!("{path}?force=true"), None).await;
        assert_eq!(answer.status, 200, "DELETE {path}: {}", answer.text());
        in_force(&self.up).await;
    }

    /// The id of the route that is found for a request, or the status of the answer if none is.
    pub(crate) async fn found(&self, call: Call) -> String {
        let answer = call.to(self.up.http).await.unwrap();
        let route = answer.header("x-route");
        if route.is_empty() { answer.status.to_string() } else { route }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A test that failed shows the whole log.
        if !std::thread::panicking() {
            let loud = self.up.process.unannounced();
            assert!(loud.is_empty(), "the gateway of these tests warned:\n{}", loud.join("\n"));
        }
    }
}

/// An object with the members of both; those of `more` count where both have one.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    object.as_object_mut().unwrap().extend(more);
    object
}
