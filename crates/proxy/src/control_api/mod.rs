//! The control API: what this node has loaded, for operators on the machine (`docs/spec/control-api.md` §1).
//!
//! Read from the snapshot in force. There is no authentication, so nothing here changes the node and no secret is shown:
//! private keys and the attributes that plugins declare secret are masked.

mod defaults;
mod dump;
mod health;
mod schemas;
#[cfg(test)]
mod tests;

use crate::discovery::Discovery;
use crate::drain::{self, Drain};
use crate::health::UpstreamHealth;
use crate::side_http::{self, Answer, SideListener, SideServer, answer, json};
use http::header::ACCEPT;
use http::{Method, StatusCode};
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::Registry;
use milecastle_snapshot::Snapshot;
use milecastle_telemetry::metrics::{Counter, Handle};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What storage keys begin with, as tools of the field expect them.
pub(crate) const STORAGE_PREFIX: &str = "/apisix";

/// Answers of the control API.
pub(crate) struct ControlApi {
    snapshot: Box<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    upstream_health: Arc<UpstreamHealth>,
    discovery: Arc<Discovery>,
    drain: Arc<Drain>,
    /// The state directory, where processes are found that this one or one before it has replaced.
    dir: PathBuf,
}

/// What a request asks for; no request has a body that matters.
struct Ask {
    method: Method,
    path: String,
    html: bool,
}

impl ControlApi {
    /// `snapshot` gives the one in force.
    pub(crate) fn new(
        snapshot: impl Fn() -> Arc<Snapshot> + Send + Sync + 'static,
        upstream_health: Arc<UpstreamHealth>,
        discovery: Arc<Discovery>,
        drain: Arc<Drain>,
        dir: PathBuf,
    ) -> Self {
        Self { snapshot: Box::new(snapshot), upstream_health, discovery, drain, dir }
    }

    /// What this process has open, and those that it or one before it has replaced.
    async fn drain(&self) -> Value {
        json!({ "process": self.drain.census().await, "replaced": drain::predecessors(&self.dir).await })
    }

    fn answer(&self, ask: &Ask) -> Answer {
        let Some(path) = ask.path.strip_prefix("/v1/") else { return side_http::not_found() };
        let segments: Vec<&str> = path.split('/').collect();
        match (ask.method.as_str(), segments.as_slice()) {
            ("GET", ["schema"]) => json(StatusCode::OK, &schemas::all((self.snapshot)().compiler())),
            ("GET", ["routes"]) => self.list(Kind::Route),
            ("GET", ["route", id]) => self.one(Kind::Route, id),
            ("GET", ["services"]) => self.list(Kind::Service),
            ("GET", ["service", id]) => self.one(Kind::Service, id),
            ("GET", ["upstreams"]) => self.list(Kind::Upstream),
            ("GET", ["upstream", id]) => self.one(Kind::Upstream, id),
            ("GET", ["plugin_metadatas"]) => self.metadata_list(),
            ("GET", ["plugin_metadata", name]) => self.metadata(name),
            ("GET", ["healthcheck"]) => health::list(&(self.snapshot)(), &self.upstream_health, ask.html),
            ("GET", ["healthcheck", collection]) => self.health(collection, ""),
            ("GET", ["healthcheck", collection, id]) => self.health(collection, id),
            ("GET", ["discovery", registry, "dump"]) => {
                match self.discovery.dump(registry, (self.snapshot)().discovery()) {
                    Some(dump) => json(StatusCode::OK, &dump),
                    None => side_http::not_found(),
                }
            }
            ("GET", ["discovery", registry, "show_dump_file"]) => {
                match self.discovery.kept(registry, (self.snapshot)().discovery()) {
                    Some(Ok(kept)) => json(StatusCode::OK, &kept),
                    Some(Err(why)) => answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", why),
                    None => side_http::not_found(),
                }
            }
            // Memory is freed when its last user lets go: there is nothing to trigger.
            ("POST", ["gc"]) => answer(StatusCode::OK, "text/plain", ""),
            // The list of plugins is a setting of the gateway group and comes with the configuration.
            ("PUT", ["plugins", "reload"]) => answer(StatusCode::OK, "text/plain", "done"),
            _ => side_http::not_found(),
        }
    }

    fn list(&self, kind: Kind) -> Answer {
        let snapshot = (self.snapshot)();
        let registry = snapshot.compiler().registry();
        let all: Vec<Value> = snapshot.objects(kind).map(|object| dump::object(object, registry)).collect();
        json(StatusCode::OK, &Value::Array(all))
    }

    fn one(&self, kind: Kind, id: &str) -> Answer {
        let snapshot = (self.snapshot)();
        match snapshot.object(&Key::new(kind, id)) {
            Some(object) => json(StatusCode::OK, &dump::object(object, snapshot.compiler().registry())),
            None => error(StatusCode::NOT_FOUND, format!("{}[{id}] not found", kind.word())),
        }
    }

    fn health(&self, collection: &str, id: &str) -> Answer {
        health::one(&(self.snapshot)(), &self.upstream_health, collection, id)
    }

    fn metadata_list(&self) -> Answer {
        let snapshot = (self.snapshot)();
        let registry = snapshot.compiler().registry();
        let enabled = snapshot.objects(Kind::PluginMetadata).filter(|object| registry.get(&object.key.id).is_some());
        json(StatusCode::OK, &Value::Array(enabled.map(|object| metadata_value(object, registry)).collect()))
    }

    fn metadata(&self, name: &str) -> Answer {
        let snapshot = (self.snapshot)();
        match snapshot.object(&Key::new(Kind::PluginMetadata, name)) {
            Some(object) => json(StatusCode::OK, &metadata_value(object, snapshot.compiler().registry())),
            None => error(StatusCode::NOT_FOUND, format!("plugin metadata[{name}] not found")),
        }
    }
}

/// Serves the control API, with so many answers in the making at a time: each takes a thread, and a thread keeps about a MiB of
/// memory for some time, however many clients there are. `waited` counts those that had to wait for their turn.
pub(crate) fn serve(listener: SideListener, api: ControlApi, at_once: u32, waited: Handle<Counter>) -> SideServer {
    let (api, turns) = (Arc::new(api), Arc::new(Semaphore::new(at_once as usize)));
    SideServer::start(listener, move |request| {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let ask = Ask {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            html: accept.contains("text/html"),
        };
        let (api, turns, waited) = (api.clone(), turns.clone(), waited.clone());
        async move {
            if ask.method == Method::GET && ask.path == "/v1/drain" {
                return json(StatusCode::OK, &api.drain().await);
            }
            let _turn = match turns.try_acquire() {
                Ok(turn) => Ok(turn),
                Err(_) => {
                    waited.inc();
                    turns.acquire().await
                }
            };
            // A dump of a large configuration takes a while, which the tasks of this runtime should not wait for.
            let answered = tokio::task::spawn_blocking(move || api.answer(&ask)).await;
            answered.unwrap_or_else(|_| side_http::stock(StatusCode::INTERNAL_SERVER_ERROR))
        }
    })
}

/// A plugin's metadata as its object has it, with the plugin's name as `id`, secrets masked.
fn metadata_value(object: &Object, registry: &Registry) -> Value {
    let mut value = body_of(object);
    if let Some(def) = registry.built_in(&object.key.id) {
        def.mask(&mut value);
    }
    if let Value::Object(members) = &mut value {
        members.insert("id".to_owned(), object.key.own_id().into());
    }
    value
}

/// The object's body; `null` for one that is no JSON, which stands in quarantine.
fn body_of(object: &Object) -> Value {
    serde_json::from_slice(&object.body).unwrap_or_default()
}

/// The key under which the object is known to tools.
fn storage_key(key: &Key) -> String {
    format!("{STORAGE_PREFIX}{key}")
}

fn error(status: StatusCode, message: String) -> Answer {
    json(status, &json!({ "error_msg": message }))
}
