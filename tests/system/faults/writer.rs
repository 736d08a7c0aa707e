//! Writers: routes that say in every answer which route, which version of it and which node it comes from.

use fastrand::Rng;
use milecastle_testkit::history::{Change, Outcome, Span, Write};
use milecastle_testkit::{Answer, Call, Target};
use milecastle_tests::ADMIN_KEY;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::interval;

/// Routes of a group that writers write and clients ask for.
pub(super) const ROUTES: usize = 100;

/// How long an answer to a write may take before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all writers of a test share.
pub(super) struct Desk {
    start: Instant,
    upstream: SocketAddr,
    versions: AtomicU64,
    over: AtomicBool,
    attempts: AtomicUsize,
}

impl Desk {
    /// Moments count from `start`.
    pub(super) fn new(start: Instant, upstream: SocketAddr) -> Arc<Self> {
        let (versions, over, attempts) = (AtomicU64::new(0), AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { start, upstream, versions, over, attempts })
    }

    /// How many writes were tried so far.
    pub(super) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Has all writers come to their end.
    pub(super) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The route's next form.
    fn route(&self, route: usize) -> (u64, Value) {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let headers =
            json!({ "X-Route": route.to_string(), "X-Version": version.to_string(), "X-Node": "$server_port" });
        let body = json!({
            "uri": path(route),
            "upstream": { "nodes": { self.upstream.to_string(): 1 } },
            "plugins": { "response-rewrite": { "headers": { "set": headers } } },
        });
        (version, body)
    }
}

/// The version in the body of a route, as [`Desk`] writes them.
pub(super) fn version_in(body: &Value) -> Option<u64> {
    body.pointer("/plugins/response-rewrite/headers/set/X-Version")?.as_str()?.parse().ok()
}

/// Where a route is served.
pub(super) fn path(route: usize) -> String {
    format!("/r/{route}")
}

/// The name of a route in histories.
pub(super) fn object(route: usize) -> String {
    format!("routes/{route}")
}

/// Writes to one group, one write after the other.
pub(super) struct Writer {
    desk: Arc<Desk>,
    group: &'static str,
    dashboards: Vec<SocketAddr>,
    rng: Rng,
    /// Of ten writes so many delete.
    deletes: u8,
    /// How many nodes the group has; if it is known, every other write waits for all of them.
    nodes: Option<usize>,
    log: Vec<Write>,
}

impl Writer {
    /// One that sends each write to any of these.
    pub(super) fn new(desk: &Arc<Desk>, group: &'static str, dashboards: &[SocketAddr], seed: u64) -> Self {
        let (desk, dashboards) = (desk.clone(), dashboards.to_vec());
        Self { desk, group, dashboards, rng: Rng::with_seed(seed), deletes: 0, nodes: None, log: Vec::new() }
    }

    /// Lets it delete routes too.
    pub(super) fn deleting(mut self) -> Self {
        self.deletes = 2;
        self
    }

    /// Has every other write wait for its receipt. The group has so many nodes.
    pub(super) fn waiting_for(mut self, nodes: usize) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Makes every route once. Each must be taken.
    pub(super) async fn fill(&mut self) {
        for route in 0..ROUTES {
            let (outcome, _) = self.put(route).await;
            assert_eq!(outcome, Outcome::Done, "route {route} of group {}", self.group);
        }
    }

    /// Writes at this pace until the desk closes, and gives all that it wrote.
    pub(super) fn run(mut self, pace: Duration) -> JoinHandle<Vec<Write>> {
        tokio::spawn(async move {
            let mut tick = interval(pace);
            while !self.desk.over.load(Ordering::Relaxed) {
                tick.tick().await;
                let route = self.rng.usize(..ROUTES);
                if self.rng.u8(..10) < self.deletes {
                    self.delete(route).await;
                } else {
                    self.put(route).await;
                }
                self.desk.attempts.fetch_add(1, Ordering::Relaxed);
            }
            self.log
        })
    }

    /// Gives a route a version of its own; what nobody knows the outcome of is not written again.
    pub(super) async fn put(&mut self, route: usize) -> (Outcome, u64) {
        let (version, body) = self.desk.route(route);
        (self.send("PUT", route, body.to_string(), Some(version)).await, version)
    }

    /// Removes a route.
    pub(super) async fn delete(&mut self, route: usize) -> Outcome {
        self.send("DELETE", route, String::new(), None).await
    }

    /// All that it wrote so far.
    pub(super) fn log(&self) -> &[Write] {
        &self.log
    }

    async fn send(&mut self, method: &str, route: usize, body: String, version: Option<u64>) -> Outcome {
        let dashboard = *self.rng.choice(&self.dashboards).expect("there is one");
        let mut path = format!("/apisix/admin/routes/{route}?gateway_group_id={}", self.group);
        if self.nodes.is_some() && self.rng.bool() {
            path += "&wait=1s";
        }
        let call = Call::new(method.parse().unwrap(), &path).header("X-API-KEY", ADMIN_KEY).body(body);
        let begun = self.desk.start.elapsed();
        let mut connection = Target::plain(dashboard).connect().await;
        let answer = match &mut connection {
            Ok(connection) => Some(call.within(PATIENCE).send(connection).await),
            Err(_) => None,
        };
        let ended = self.desk.start.elapsed();
        let all = self.nodes.map(|nodes| format!("applied {nodes}/{nodes}"));
        let receipt = |answer: &Answer| Some(answer.header("milecastle-receipt"));
        let applied_by_all = all.is_some() && answer.as_ref().and_then(|answer| receipt(answer.as_ref().ok()?)) == all;
        let outcome = match answer {
            Some(Ok(answer)) if answer.status < 300 => Outcome::Done,
            Some(Ok(answer)) if answer.status < 500 => Outcome::Refused,
            // Also of an error nobody knows whether it came before the commit or after it.
            Some(Ok(_) | Err(_)) => Outcome::Unknown,
            // Nothing was sent.
            None => Outcome::Refused,
        };
        let changes = vec![Change { object: object(route), version }];
        self.log.push(Write { span: Span { begun, ended }, changes, outcome, applied_by_all });
        outcome
    }
}
