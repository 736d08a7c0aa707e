//! The shapes of API7 Enterprise, as far as the backend `api7ee` of `adc` asks for them (`docs/spec/clients.md` §3), below [`BASE`].
//!
//! What must stay true: nothing is decided here. A request is put in the words of the Admin API and of `/api`, as whoever sent it,
//! and what they answer in the words of API7: who may do what, what is refused and what is written down is theirs alone.

mod shapes;

use crate::admin::AdminApi;
use crate::admin::body::BodyLimits;
use crate::admin::engine::{ATTEMPTS, BUSY};
use crate::admin::query::{Query, encode};
use crate::admin::{BASE as ADMIN, access, group_named};
use crate::listen::{Encrypted, Peer};
use crate::{RETRY_AFTER, STALE, once};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use milecastle_model::Kind;
use milecastle_settings::Peers;
use serde_json::{Map, Value, json};
use shapes::OWNER;
use std::net::IpAddr;
use std::sync::Arc;
use tower::Service;

/// Where it lives: what `adc` is told to be the server ends with it.
pub(crate) const BASE: &str = "/api7";

/// The version of API7 whose shapes these are. Clients ask it for what they may use.
const LEVEL: &str = "3.9.10";

/// What is said of other paths.
const NOTHING: &str = "there is nothing here: docs/spec/clients.md, section 3, lists all paths";

/// What the Admin API says of an object that is not there.
const NOT_THERE: &str = "Key not found";

/// What is said where only the database knows what there is to do.
const AWAY: &str = "the database is not available, and what it has cannot be known without it: try again";

/// Names under which schemas are asked for, and what the Admin API calls them.
const SCHEMAS: [(&str, &str); 6] = [
    ("route", "route"),
    ("service", "service"),
    ("stream_service", "service"),
    ("ssl", "ssl"),
    ("consumer", "consumer"),
    ("upstream", "upstream"),
];

/// Who answers.
pub(crate) struct Api7 {
    pub(crate) admin: Arc<AdminApi>,
    /// `/api`, without that prefix.
    pub(crate) api: Router,
    /// Peers that may use the Admin API here.
    pub(crate) allowed: Arc<[Peers]>,
    pub(crate) body_limits: BodyLimits,
}

type Site = Shared<Arc<Api7>>;

/// One request in the words of API7.
struct Ask<'a> {
    api7: &'a Api7,
    peer: IpAddr,
    head: &'a Parts,
    query: Query,
}

/// What the Admin API or `/api` has answered.
struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

/// What is no success.
type Refusal = Box<Told>;

/// How the methods of a path are answered.
type Methods = fn() -> MethodRouter<Arc<Api7>>;

/// What there is beside the paths of the Admin API, by path.
const BESIDE: [(&str, Methods); 3] =
    [("/api/version", || get(version)), ("/api/gateway_groups", || get(groups)), ("/api/schema/core", || get(schemas))];

/// All of it, to be nested under [`BASE`].
pub(crate) fn router(api7: Api7) -> Router {
    let routes = BESIDE.iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods()));
    routes.fallback(objects).with_state(Arc::new(api7))
}

/// The paths that there are beside those of the Admin API.
pub(crate) fn beside() -> Vec<String> {
    BESIDE.iter().map(|(path, _)| format!("{BASE}{path}")).collect()
}

/// `GET /api/version`: of whoever may ask here nothing else is asked.
async fn version(Shared(api7): Site, Extension(Peer(peer)): Extension<Peer>) -> Response {
    if !access::admits(&api7.allowed, peer) {
        return refused(StatusCode::FORBIDDEN, access::NOT_ON_DASHBOARD);
    }
    answer(StatusCode::OK, HeaderMap::new(), &json!({ "value": LEVEL }))
}

/// `GET /api/gateway_groups`: all of them, or the one of a name.
async fn groups(Shared(api7): Site, mut request: Request) -> Response {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let name = query.get("name").or_else(|| query.get("search")).unwrap_or_default();
    let key = query.get("api_key").map(|key| format!("&api_key={}", encode(key))).unwrap_or_default();
    let target = format!("/gateway_groups?name={}{key}", encode(name));
    *request.uri_mut() = target.parse().expect("a path, and an encoded value");
    match api7.api.clone().call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// `GET /api/schema/core`.
async fn schemas(Shared(api7): Site, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let ask = Ask { api7: &api7, peer, head: &head, query };
    let mut all = Map::new();
    for (name, kind) in SCHEMAS {
        let mut told = ask.admin(Method::GET, &format!("/schema/{kind}"), "", Bytes::new()).await;
        if !told.status.is_success() {
            return told.into_response();
        }
        shapes::take_defaults(&mut told.body);
        all.insert(name.to_owned(), told.body);
    }
    answer(StatusCode::OK, HeaderMap::new(), &json!({ "value": all }))
}

/// Whatever is asked of the Admin API.
async fn objects(Shared(api7): Site, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(path) = head.uri.path().strip_prefix(ADMIN) else {
        return refused(StatusCode::NOT_FOUND, NOTHING);
    };
    if let Some(refusal) = api7.admin.refusal(&api7.allowed, peer, &head).await {
        return refusal;
    }
    let body = match api7.body_limits.read(body).await {
        Ok(body) => body,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &format!("invalid request body: {error}")),
    };
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let ask = Ask { api7: &api7, peer, head: &head, query };
    ask.answer(&segments, body).await.unwrap_or_else(|told| told.into_response())
}

impl Ask<'_> {
    /// # Errors
    /// What else than success the Admin API answered.
    async fn answer(&self, segments: &[&str], body: Bytes) -> Result<Response, Refusal> {
        match (&self.head.method, segments) {
            (&Method::POST, ["configs", "validate"]) => self.validate(&body).await,
            (&Method::GET, ["plugin_metadata"]) => self.metadata().await,
            (&Method::GET, ["services", service, "upstreams"]) => {
                self.list(Kind::Upstream, "/upstreams", "", |body| shapes::owner(body) == Some(*service)).await
            }
            (&Method::GET, ["consumers", consumer, "credentials"]) => {
                let path = format!("/consumers/{consumer}/credentials");
                self.list(Kind::Credential, &path, "", |_| true).await
            }
            (&Method::GET, [collection]) => {
                let kind = known(collection)?;
                let of_service = self.query.get("service_id").map(of_service).unwrap_or_default();
                self.list(kind, &format!("/{collection}"), &of_service, |_| true).await
            }
            (&Method::PUT, ["services", service, "upstreams", id]) => {
                self.admin(Method::GET, &format!("/services/{service}"), "", Bytes::new()).await.done()?;
                self.put(Kind::Upstream, &format!("/upstreams/{id}"), &body, Some(*service)).await
            }
            (&Method::PUT, ["consumers", consumer, "credentials", id]) => {
                self.put(Kind::Credential, &format!("/consumers/{consumer}/credentials/{id}"), &body, None).await
            }
            (&Method::PUT, [collection, id]) => {
                self.put(known(collection)?, &format!("/{collection}/{id}"), &body, None).await
            }
            (&Method::DELETE, ["services", service, "upstreams", id]) => {
                let path = format!("/upstreams/{id}");
                let found = match self.admin(Method::GET, &path, "", Bytes::new()).await.fresh()? {
                    none if none.is_not_there() => return self.went_along(&format!("/services/{service}"), none).await,
                    found => found.done()?,
                };
                if found.body["value"]["labels"][OWNER] != **service {
                    return Err(Box::new(Told::of(StatusCode::NOT_FOUND, json!({ "message": NOT_THERE }))));
                }
                Ok(self.admin(Method::DELETE, &path, "", Bytes::new()).await.into_response())
            }
            (&Method::DELETE, ["services", service]) => self.delete_service(service).await,
            (&Method::DELETE, ["consumers", consumer, "credentials", id]) => {
                let path = format!("/consumers/{consumer}/credentials/{id}");
                match self.admin(Method::DELETE, &path, "", Bytes::new()).await {
                    none if none.is_not_there() => self.went_along(&format!("/consumers/{consumer}"), none).await,
                    told => Ok(told.into_response()),
                }
            }
            (&Method::DELETE, [collection, id]) => {
                known(collection)?;
                let path = format!("/{collection}/{id}");
                Ok(self.admin(Method::DELETE, &path, "", Bytes::new()).await.into_response())
            }
            _ => Err(Box::new(Told::error(StatusCode::NOT_FOUND, NOTHING))),
        }
    }

    /// Asks the Admin API in the name of the caller, about the gateway group that the request names.
    async fn admin(&self, method: Method, path: &str, more: &str, body: Bytes) -> Told {
        let uri = format!("{ADMIN}{path}?{}{}{more}", self.kept("gateway_group_id"), self.kept("api_key"));
        match self.request(method, &uri, body) {
            Ok(request) => Told::by(self.api7.admin.answer(&self.api7.allowed, self.peer, request).await).await,
            Err(error) => Told::error(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    /// Publishes edits as one change set, in the name of the caller, if the group is at the revision `base`; without one it is only
    /// said what they would do, and at which revision the group is.
    async fn change(&self, base: Option<u64>, edits: &[Value]) -> Told {
        let group = encode(group_named(&self.query, &self.head.headers));
        let how = if base.is_none() { "dry_run=true" } else { "" };
        let uri = format!("/gateway_groups/{group}/changes?{}{how}", self.kept("api_key"));
        let mut request = match self.request(Method::POST, &uri, json!({ "edits": edits }).to_string().into()) {
            Ok(request) => request,
            Err(error) => return Told::error(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let headers = request.headers_mut();
        // It is the caller's for what they have sent, which is another request.
        headers.remove(once::HEADER);
        headers.remove(header::IF_MATCH);
        if let Some(base) = base {
            let tag = HeaderValue::try_from(format!("\"{base}\"")).expect("a number in quotes");
            headers.insert(header::IF_MATCH, tag);
        }
        match self.api7.api.clone().call(request).await {
            Ok(response) => Told::by(response).await,
            Err(never) => match never {},
        }
    }

    /// An argument of the request, to be sent along.
    fn kept(&self, name: &str) -> String {
        self.query.get(name).map(|value| format!("{name}={}&", encode(value))).unwrap_or_default()
    }

    /// A request of whoever has sent this one.
    fn request(&self, method: Method, uri: &str, body: Bytes) -> Result<Request, http::Error> {
        let mut request = Request::builder().method(method).uri(uri).body(Body::from(body))?;
        request.headers_mut().clone_from(&self.head.headers);
        for about_the_body in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING] {
            request.headers_mut().remove(about_the_body);
        }
        request.extensions_mut().insert(Peer(self.peer));
        if let Some(encrypted) = self.head.extensions.get::<Encrypted>() {
            request.extensions_mut().insert(*encrypted);
        }
        Ok(request)
    }

    /// The objects of a collection that are wanted, without what the Admin API puts around them.
    async fn list(
        &self,
        kind: Kind,
        path: &str,
        more: &str,
        wanted: impl Fn(&Map<String, Value>) -> bool,
    ) -> Result<Response, Refusal> {
        let told = self.admin(Method::GET, path, more, Bytes::new()).await;
        // Of a consumer that there is not. Of a gateway group that there is not, the same is asked for its consumers.
        let nothing = told.status == StatusCode::NOT_FOUND
            && kind == Kind::Credential
            && self.admin(Method::GET, "/consumers", "", Bytes::new()).await.status.is_success();
        let told = if nothing { Told { status: StatusCode::OK, ..told } } else { told.done()? };
        let labels: Vec<(&str, &str)> =
            self.query.iter().filter_map(|(name, value)| Some((shapes::label(name)?, value))).collect();
        let chosen = |(mut body, revision): (Map<String, Value>, u64)| {
            (wanted(&body) && shapes::has_labels(&body, &labels)).then(|| {
                shapes::to_api7(kind, &mut body);
                if kind == Kind::Service {
                    shapes::give_version(&mut body, revision);
                }
                body
            })
        };
        let list: Vec<_> = entries(told.body).filter_map(chosen).collect();
        Ok(answer(told.status, told.headers, &json!({ "total": list.len(), "list": list })))
    }

    /// `GET /plugin_metadata`: all of it by plugin.
    async fn metadata(&self) -> Result<Response, Refusal> {
        let told = self.admin(Method::GET, "/plugin_metadata", "", Bytes::new()).await.done()?;
        let of =
            |mut body: Map<String, Value>| Some((body.shift_remove("id")?.as_str()?.to_owned(), Value::Object(body)));
        let all: Map<String, Value> = entries(told.body).filter_map(|(body, _)| of(body)).collect();
        Ok(answer(told.status, told.headers, &json!({ "value": all })))
    }

    /// Writes an object; of an upstream `owner` is the service that it belongs to.
    async fn put(&self, kind: Kind, path: &str, body: &Bytes, owner: Option<&str>) -> Result<Response, Refusal> {
        let mut object: Map<String, Value> = parsed(body)?;
        shapes::to_admin(kind, &mut object).map_err(|error| Box::new(Told::error(StatusCode::BAD_REQUEST, &error)))?;
        if let Some(owner) = owner {
            shapes::give_owner(&mut object, owner);
        }
        let told = self.admin(Method::PUT, path, "", text_of(&object)).await.done()?;
        let mut value = match told.body {
            Value::Object(mut answer) => answer.remove("value").and_then(object_of).unwrap_or_default(),
            _ => Map::new(),
        };
        shapes::to_api7(kind, &mut value);
        Ok(answer(told.status, told.headers, &json!({ "value": value })))
    }

    /// Deletes a service with its routes and upstreams in one revision, or nothing of it.
    async fn delete_service(&self, service: &str) -> Result<Response, Refusal> {
        for _ in 0..ATTEMPTS {
            // Before what there is: what is written after it makes this another revision.
            let base = self.change(None, &[]).await.changed()?.body["base"].as_u64();
            let base = base.expect("a change set is told with the revision that it was planned of");
            let found = self.admin(Method::GET, &format!("/services/{service}"), "", Bytes::new()).await.done()?;
            let edits = self.end_of(&found.body["value"]).await?;
            let told = self.change(Some(base), &edits).await;
            if told.status != StatusCode::PRECONDITION_FAILED {
                told.changed()?;
                let deleted = json!({ "key": found.body["key"], "deleted": "1" });
                return Ok(answer(StatusCode::OK, found.headers, &deleted));
            }
        }
        Err(Box::new(Told::unavailable(BUSY)))
    }

    /// The answer to the deletion of what is not there and belonged to `owner`: it is done where that is gone as well, and has taken it
    /// along. `adc` deletes first the one and then the other.
    async fn went_along(&self, owner: &str, none: Told) -> Result<Response, Refusal> {
        if self.admin(Method::GET, owner, "", Bytes::new()).await.fresh()?.is_not_there() {
            return Ok(answer(StatusCode::OK, none.headers, &json!({ "deleted": "0" })));
        }
        Err(Box::new(none))
    }

    /// The edits that take away a service and what belongs to it.
    async fn end_of(&self, service: &Value) -> Result<Vec<Value>, Refusal> {
        let id = service["id"].as_str().unwrap_or_default();
        let gone = |kind: Kind, id: &Value| json!({ "op": "delete", "kind": kind.name(), "id": id });
        let mut edits = vec![gone(Kind::Service, &service["id"])];
        for kind in [Kind::Route, Kind::StreamRoute] {
            let path = format!("/{}", kind.collection());
            let told = self.admin(Method::GET, &path, &of_service(id), Bytes::new()).await;
            // A group without TCP and UDP has no stream routes, and says so.
            let none = kind == Kind::StreamRoute && told.status == StatusCode::BAD_REQUEST;
            let routes = if none { Value::Null } else { told.done()?.body };
            edits.extend(entries(routes).map(|(route, _)| gone(kind, &route["id"])));
        }
        let upstreams = self.admin(Method::GET, "/upstreams", "", Bytes::new()).await.done()?;
        let own = entries(upstreams.body).filter(|(upstream, _)| shapes::owner(upstream) == Some(id));
        edits.extend(own.map(|(upstream, _)| gone(Kind::Upstream, &upstream["id"])));
        Ok(edits)
    }

    /// `POST /configs/validate`.
    async fn validate(&self, body: &Bytes) -> Result<Response, Refusal> {
        let mut collections: Map<String, Value> = parsed(body)?;
        let mut errors = Vec::new();
        for (name, items) in &mut collections {
            let Some(kind) = Kind::from_collection(name) else { continue };
            let items = items.as_array_mut().into_iter().flatten().enumerate();
            for (index, object) in items.filter_map(|(index, item)| Some((index, item.as_object_mut()?))) {
                shapes::name_global_rule(kind, object);
                if let Err(error) = shapes::to_admin(kind, object) {
                    let id = object.get("id");
                    errors.push(json!({ "resource_type": name, "resource_id": id, "index": index, "error": error }));
                }
            }
        }
        if !errors.is_empty() {
            let body = json!({ "error_msg": "Configuration validation failed", "errors": errors });
            return Err(Box::new(Told::of(StatusCode::BAD_REQUEST, body)));
        }
        Ok(self.admin(Method::POST, "/configs/validate", "", text_of(&collections)).await.into_response())
    }
}

impl Told {
    fn of(status: StatusCode, body: Value) -> Self {
        Self { status, headers: HeaderMap::new(), body }
    }

    fn error(status: StatusCode, message: &str) -> Self {
        Self::of(status, json!({ "error_msg": message }))
    }

    /// Nothing was done, and it may be asked for again.
    fn unavailable(message: &str) -> Self {
        let mut told = Self::error(StatusCode::SERVICE_UNAVAILABLE, message);
        told.headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
        told
    }

    /// What an answer says.
    async fn by(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        // The few texts that are no JSON are all refusals.
        let text = || json!({ "error_msg": String::from_utf8_lossy(&body).trim() });
        let told = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_else(|_| text()) };
        Self { status: head.status, headers: head.headers, body: told }
    }

    /// The answer of `/api` to a change set.
    ///
    /// # Errors
    /// Whatever is no success, as the Admin API would say it of a single write.
    fn changed(self) -> Result<Self, Refusal> {
        self.done().map_err(|mut refused| {
            let unfit = refused.body["code"] == "unfit_change_set";
            let message = if unfit { &refused.body["faults"][0]["message"] } else { &refused.body["message"] };
            refused.body = json!({ "error_msg": message });
            if unfit {
                refused.status = StatusCode::BAD_REQUEST;
            }
            refused
        })
    }

    /// Whether it says that an object is not there; a gateway group that is not is another matter.
    fn is_not_there(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.body["message"] == NOT_THERE
    }

    /// # Errors
    /// It is from memory, and what was written since may be missing: nothing is to be done by it.
    fn fresh(self) -> Result<Self, Refusal> {
        if self.headers.contains_key(STALE) { Err(Box::new(Self::unavailable(AWAY))) } else { Ok(self) }
    }

    /// # Errors
    /// Whatever is no success.
    fn done(self) -> Result<Self, Refusal> {
        if self.status.is_success() { Ok(self) } else { Err(Box::new(self)) }
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        answer(self.status, self.headers, &self.body)
    }
}

/// An answer with a body of its own, and what else the headers of another one say.
fn answer(status: StatusCode, headers: HeaderMap, body: &Value) -> Response {
    let mut response = Response::new(Body::from(if body.is_null() { String::new() } else { format!("{body}\n") }));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refused(status: StatusCode, message: &str) -> Response {
    Told::error(status, message).into_response()
}

/// The kind that a collection of API7 is.
fn known(collection: &str) -> Result<Kind, Refusal> {
    let missing = || Box::new(Told::error(StatusCode::NOT_FOUND, &format!("Unsupported resource type: {collection}")));
    Kind::from_collection(collection).filter(|kind| kind.parent().is_none()).ok_or_else(missing)
}

/// The argument by which a list shows what belongs to a service.
fn of_service(service: &str) -> String {
    format!("&filter={}", encode(&format!("service_id={}", encode(service))))
}

/// The objects in a list of the Admin API, each with the revision that has changed it last.
fn entries(list: Value) -> impl Iterator<Item = (Map<String, Value>, u64)> {
    let items = match list {
        Value::Object(mut members) => members.remove("list"),
        _ => None,
    };
    let items = match items {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    items.into_iter().filter_map(|item| match item {
        Value::Object(mut members) => {
            let revision = members.get("modifiedIndex").and_then(Value::as_u64).unwrap_or_default();
            Some((members.remove("value").and_then(object_of)?, revision))
        }
        _ => None,
    })
}

fn object_of(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

fn parsed(body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Box::new(Told::error(StatusCode::BAD_REQUEST, &format!("invalid request body: {error}"))))
}

fn text_of(object: &Map<String, Value>) -> Bytes {
    serde_json::to_vec(object).expect("a JSON object can be written as text").into()
}
