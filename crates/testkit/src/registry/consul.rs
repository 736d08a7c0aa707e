//! Consul's health endpoint and its key/value store, with blocking queries (Consul HTTP API, "Health", "KV Store" and "Blocking
//! Queries").

use super::server::{Asked, Body, Protocol, Server, decoded, whole};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A Consul agent.
pub struct Consul {
    /// Address, and whether its checks pass.
    services: Mutex<BTreeMap<String, Vec<(SocketAddr, bool)>>>,
    keys: Mutex<BTreeMap<String, String>>,
    index: watch::Sender<u64>,
    token: Option<String>,
    hides: AtomicBool,
}

impl Consul {
    /// Starts an agent without services and keys, which asks for this token if there is one.
    pub fn start(token: Option<&str>) -> Server<Self> {
        let token = token.map(str::to_owned);
        Server::run(Self {
            services: Mutex::default(),
            keys: Mutex::default(),
            index: watch::Sender::new(10),
            token,
            hides: AtomicBool::default(),
        })
    }

    /// Says what instances a service has, and which of them pass their checks.
    pub fn set(&self, service: &str, instances: &[(SocketAddr, bool)]) {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), instances.to_vec());
        self.index.send_modify(|index| *index += 1);
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value.to_owned());
        self.index.send_modify(|index| *index += 1);
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.index.send_modify(|index| *index += 1);
    }

    /// Takes from tokens the right to read services and keys, or gives it back.
    pub fn hide(&self, hides: bool) {
        self.hides.store(hides, Ordering::Relaxed);
        self.index.send_modify(|index| *index += 1);
    }

    /// Begins to count anew, as a restored cluster does.
    pub fn reset_index(&self) {
        self.index.send_replace(1);
    }

    /// What there is, once the index is another one than the question names; `None`: 404.
    async fn answer_later(&self, asked: &Asked, there_is: impl FnOnce() -> Option<Vec<Value>>) -> Response<Body> {
        if self.token.as_deref().is_some_and(|token| asked.header("x-consul-token") != token) {
            return whole(403, "Permission denied");
        }
        let parameters = asked.parameters();
        let mut index = self.index.subscribe();
        if let Some(known) = parameters.get("index").and_then(|known| known.parse::<u64>().ok()) {
            let wait = parameters.get("wait").and_then(|wait| wait.strip_suffix('s')?.parse().ok()).unwrap_or(300);
            // An index beyond what there is does not wait.
            let later = index.wait_for(|index| *index != known);
            drop(tokio::time::timeout(Duration::from_secs(wait), later).await);
        }
        let (index, hides) = (*index.borrow(), self.hides.load(Ordering::Relaxed));
        let mut answer = match there_is() {
            Some(_) if hides => whole(200, "[]"),
            Some(list) => whole(200, Value::from(list).to_string()),
            None => whole(404, ""),
        };
        answer.headers_mut().insert("x-consul-index", index.into());
        if hides {
            answer.headers_mut().insert("x-consul-results-filtered-by-acls", HeaderValue::from_static("true"));
        }
        answer
    }

    fn health(&self, service: &str, passing: bool) -> Vec<Value> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let instances = services.get(service).into_iter().flatten().filter(|(_, passes)| *passes || !passing);
        instances.map(|(address, passes)| entry(service, *address, *passes)).collect()
    }

    fn below(&self, prefix: &str) -> Option<Vec<Value>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let below = keys.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, value)| pair(key, value));
        Some(below.collect::<Vec<_>>()).filter(|below| !below.is_empty())
    }
}

fn pair(key: &str, value: &str) -> Value {
    let value = if value.is_empty() { Value::Null } else { STANDARD.encode(value).into() };
    json!({ "LockIndex": 0, "Key": key, "Flags": 0, "Value": value, "CreateIndex": 5, "ModifyIndex": 5 })
}

fn entry(service: &str, address: SocketAddr, passes: bool) -> Value {
    let id = format!("{service}-{}", address.port());
    let status = if passes { "passing" } else { "critical" };
    json!({
        "Node": { "ID": "n", "Node": "node-1", "Address": "192.0.2.1", "Datacenter": "dc1", "Meta": {} },
        "Service": { "ID": id, "Service": service, "Tags": [], "Address": address.ip().to_string(), "Meta": null,
            "Port": address.port(), "Weights": { "Passing": 1, "Warning": 1 }, "EnableTagOverride": false },
        "Checks": [{ "Node": "node-1", "CheckID": "c", "Name": "c", "Status": status, "ServiceID": id }],
    })
}

impl Protocol for Consul {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            let (path, parameters) = (decoded(asked.target.path()), asked.parameters());
            if let Some(service) = path.strip_prefix("/v1/health/service/") {
                self.answer_later(&asked, || Some(self.health(service, parameters.contains_key("passing")))).await
            } else if let Some(prefix) = path.strip_prefix("/v1/kv/").filter(|_| parameters.contains_key("recurse")) {
                self.answer_later(&asked, || self.below(prefix)).await
            } else {
                whole(404, "Invalid URL path")
            }
        })
    }
}
