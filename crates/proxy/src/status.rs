//! `/status` and `/status/ready`: what the load balancer in front asks (`docs/spec/control-api.md` §2).
//!
//! Any method, any sub-path. Answered from what is in memory, apart from the workers: a probe each second costs nothing, and a
//! busy worker does not fail it.

use crate::side_http::{Answer, SideListener, SideServer, json};
use http::StatusCode;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Whether this node may receive traffic. Shared by workers, config stream and signal handling.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// Why an operator has taken it out of service.
    maintenance: RwLock<Option<String>>,
    /// One flag for each worker: it has begun to serve a configuration.
    loaded: Box<[AtomicBool]>,
}

impl Health {
    /// A node that has no configuration yet.
    pub fn new(workers: usize) -> Self {
        Self {
            draining: AtomicBool::new(false),
            maintenance: RwLock::default(),
            loaded: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// A worker serves a configuration from now on.
    pub fn worker_loaded(&self, worker: usize) {
        if let Some(flag) = self.loaded.get(worker) {
            flag.store(true, Ordering::Release);
        }
    }

    /// The node is about to stop: load balancers should send no more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// An operator takes the node out of service, for this reason, or with `None` back into it.
    pub fn maintain(&self, reason: Option<String>) {
        *self.maintenance.write().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why an operator has taken the node out of service, if one has.
    fn maintenance(&self) -> Option<String> {
        let reason = self.maintenance.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(if reason.is_empty() { "maintenance".to_owned() } else { format!("maintenance: {reason}") })
    }

    /// Why the node is not ready; `None` if every worker serves a configuration.
    ///
    /// It does not go back to not-ready when the control plane is away.
    pub fn not_ready(&self) -> Option<String> {
        let waiting = self.loaded.iter().position(|flag| !flag.load(Ordering::Acquire))?;
        Some(format!("worker id: {waiting} has not received configuration"))
    }

    fn answer(&self, path: &str) -> Answer {
        let not_ready = self.not_ready();
        let why = if path.trim_end_matches('/') == "/status/ready" {
            not_ready
        } else if self.is_draining() {
            Some("draining".to_owned())
        } else {
            self.maintenance().or(not_ready)
        };
        match why {
            None => json(StatusCode::OK, &json!({ "status": "ok" })),
            Some(why) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "error", "error": why })),
        }
    }
}

/// Serves the status listener.
pub(crate) fn serve(listener: SideListener, health: Arc<Health>) -> SideServer {
    SideServer::start(listener, move |request| {
        let path = request.uri().path();
        let known = path == "/status" || path.starts_with("/status/");
        std::future::ready(if known { health.answer(path) } else { crate::side_http::not_found() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::Call;
    use serde_json::Value;

    #[test]
    fn a_node_is_ready_when_every_worker_serves() {
        let health = Health::new(2);
        assert_eq!(health.answer("/status").status(), 503);
        health.worker_loaded(1);
        assert_eq!(health.not_ready().as_deref(), Some("worker id: 0 has not received configuration"));
        health.worker_loaded(0);
        assert_eq!(health.answer("/status").status(), 200);
        assert_eq!(health.answer("/status/ready").status(), 200);
        health.maintain(Some(String::new()));
        assert_eq!(health.maintenance().as_deref(), Some("maintenance"));
        assert_eq!(health.answer("/status").status(), 503);
        assert_eq!(health.answer("/status/ready").status(), 200);
        health.maintain(None);
        assert_eq!(health.answer("/status").status(), 200);
        health.drain();
        assert_eq!(health.answer("/status/anything").status(), 503);
        assert_eq!(health.answer("/status/ready/").status(), 200);
    }

    #[tokio::test]
    async fn probes_are_answered_over_http() {
        let health = Arc::new(Health::new(1));
        let server = serve(SideListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(), health.clone());
        let addr = server.local_addr();
        let check = async |call: Call, status: u16, body: Value| {
            let answer = call.to(addr).await.unwrap();
            assert_eq!((answer.status, answer.json().unwrap()), (status, body));
            assert_eq!(answer.header("content-type"), "application/json");
        };
        let ok = json!({ "status": "ok" });
        let waits = json!({ "status": "error", "error": "worker id: 0 has not received configuration" });
        check(Call::get("/status"), 503, waits.clone()).await;
        check(Call::get("/status/ready"), 503, waits).await;
        health.worker_loaded(0);
        check(Call::get("/status"), 200, ok.clone()).await;
        check(Call::get("/status/ready?x=1"), 200, ok.clone()).await;
        check(Call::post("/status/any/thing", "body"), 200, ok.clone()).await;
        health.maintain(Some("a new disk".to_owned()));
        let maintained = json!({ "status": "error", "error": "maintenance: a new disk" });
        check(Call::get("/status"), 503, maintained).await;
        health.drain();
        check(Call::get("/status"), 503, json!({ "status": "error", "error": "draining" })).await;
        check(Call::get("/status/ready"), 200, ok).await;
        for target in ["/", "/statuses", "/other"] {
            assert_eq!(Call::get(target).to(addr).await.unwrap().status, 404, "{target}");
        }
    }
}
