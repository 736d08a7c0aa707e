//! Lists and watches of Endpoints and EndpointSlices (Kubernetes API concepts).

use super::server::{Asked, Body, Protocol, Server, whole};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// An API server.
pub struct Kubernetes {
    content: Mutex<Content>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Content {
    version: u64,
    /// Objects by collection, namespace and name.
    objects: BTreeMap<[String; 3], Value>,
    /// What has happened: version, collection, and the line of a watch.
    events: Vec<(u64, String, Value)>,
    /// The oldest version from which a watch can begin.
    oldest: u64,
    token: String,
}

impl Kubernetes {
    /// Starts an API server without objects, which asks for this bearer token.
    pub fn start(token: &str) -> Server<Self> {
        let content = Content { version: 100, oldest: 100, token: token.to_owned(), ..Content::default() };
        Server::run(Self { content: Mutex::new(content), changes: watch::Sender::new(0) })
    }

    /// Another token from now on.
    pub fn set_token(&self, token: &str) {
        token.clone_into(&mut self.content().token);
    }

    /// Writes an object of a collection (`endpoints`, `endpointslices`); its metadata have namespace and name.
    pub fn put(&self, collection: &str, mut object: Value) {
        let mut content = self.content();
        content.version += 1;
        let version = content.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let text = |name: &str| object["metadata"][name].as_str().expect("a name").to_owned();
        let key = [collection.to_owned(), text("namespace"), text("name")];
        let kind = if content.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        content.events.push((version, collection.to_owned(), json!({ "type": kind, "object": object })));
        drop(content);
        self.changes.send_replace(version);
    }

    /// Removes an object.
    pub fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let mut content = self.content();
        content.version += 1;
        let version = content.version;
        let mut object = content.objects.remove(&[collection, namespace, name].map(str::to_owned)).expect("an object");
        object["metadata"]["resourceVersion"] = version.to_string().into();
        content.events.push((version, collection.to_owned(), json!({ "type": "DELETED", "object": object })));
        drop(content);
        self.changes.send_replace(version);
    }

    /// Forgets what has happened so far: watches from before are gone.
    pub fn compact(&self) {
        let mut content = self.content();
        content.version += 1;
        content.oldest = content.version;
        content.events.clear();
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, collection: &str, asked: &Asked) -> Response<Body> {
        let given = asked.parameters();
        let content = self.content();
        let all: Vec<&Value> =
            content.objects.iter().filter(|(key, _)| key[0] == collection).map(|(_, object)| object).collect();
        let from: usize = given.get("continue").map_or(0, |from| from.parse().expect("our own mark"));
        // Pages of one object, whatever the client would take: so that every list has several.
        let next = from + 1;
        let metadata = json!({
            "resourceVersion": content.version.to_string(),
            "continue": if next < all.len() { next.to_string() } else { String::new() },
        });
        let page: Vec<&Value> = all.into_iter().skip(from).take(1).collect();
        whole(200, json!({ "kind": "List", "metadata": metadata, "items": page }).to_string())
    }

    /// The lines of a watch that are later than `version`; `None` if it is gone.
    fn since(&self, collection: &str, version: u64) -> Option<(Vec<Value>, u64)> {
        let content = self.content();
        let later = content.events.iter().filter(|(at, of, _)| *at > version && of == collection);
        (version >= content.oldest).then(|| (later.map(|(_, _, line)| line.clone()).collect(), content.version))
    }

    async fn watch(
        self: Arc<Self>,
        collection: String,
        mut version: u64,
        lines: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    ) {
        let send = async |value: Value| lines.send(Ok(Frame::data(format!("{value}\n").into()))).await.is_ok();
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let Some((later, now)) = self.since(&collection, version) else {
                let status = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version" });
                let _gone = send(json!({ "type": "ERROR", "object": status })).await;
                return;
            };
            for line in later {
                if !send(line).await {
                    return;
                }
            }
            version = now;
            let bookmark = json!({ "metadata": { "resourceVersion": version.to_string() } });
            if !send(json!({ "type": "BOOKMARK", "object": bookmark })).await || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Protocol for Kubernetes {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            if asked.header("authorization") != format!("Bearer {}", self.content().token) {
                return whole(401, json!({ "kind": "Status", "code": 401 }).to_string());
            }
            let collection = match asked.target.path() {
                "/api/v1/endpoints" => "endpoints",
                "/apis/discovery.k8s.io/v1/endpointslices" => "endpointslices",
                _ => return whole(404, json!({ "kind": "Status", "code": 404 }).to_string()),
            };
            let given = asked.parameters();
            if !given.contains_key("watch") {
                return self.list(collection, &asked);
            }
            let version = given.get("resourceVersion").and_then(|version| version.parse().ok()).expect("a version");
            let seconds = given.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).expect("a time limit");
            let (lines, body) = mpsc::channel(16);
            let watch = self.watch(collection.to_owned(), version, lines);
            tokio::spawn(tokio::time::timeout(Duration::from_secs(seconds), watch));
            let body = StreamBody::new(ReceiverStream::new(body)).boxed_unsync();
            Response::builder().header("content-type", "application/json").body(body).expect("no header to get wrong")
        })
    }
}
