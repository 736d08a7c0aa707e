//! The compatible Admin API under `/apisix/admin`, checked in the order of `docs/spec/admin-api.md` §2.

pub(crate) mod access;
mod aside;
pub(crate) mod body;
mod configs;
mod declared;
mod describe;
mod endpoints;
pub(crate) mod engine;
pub(crate) mod judge;
pub(crate) mod kinds;
mod list;
pub(crate) mod private_keys;
pub(crate) mod query;
pub(crate) mod refusal;
mod reply;
mod search;
mod show;
mod target;
pub(crate) mod validate;
pub(crate) mod yaml;

use crate::callers::{Caller, Callers, Stranger};
use crate::clock::Clock;
use crate::dpm::Nodes;
use crate::efforts::Efforts;
use crate::once::{self, Repeats};
use crate::rights::{Place as Where, Principal, Resource};
use crate::state::{Seen, State};
use crate::terms::Terms;
use crate::waits::{Place, Waits};
use crate::{SERVER, STALE, staleness};
use aside::aside;
use axum::body::Body;
use body::BodyLimits;
use engine::{Call, Engine};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use milecastle_model::Kind;
use milecastle_settings::{Admin, Declarative, Peers, Time};
use milecastle_snapshot::{Compiler, STREAMS_OFF};
use milecastle_store::DEFAULT_GROUP;
use query::Query;
use reply::{Reply, Stamp};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use target::{Target, Typed};

pub(crate) use endpoints::{About, declared, documented};
pub(crate) use kinds::Rules;
pub(crate) use target::BASE;

/// The Admin API of a process, on however many listeners.
pub(crate) struct AdminApi {
    state: Arc<State>,
    nodes: Nodes,
    engine: Engine,
    callers: Arc<Callers>,
    key_required: bool,
    cors: bool,
    server: HeaderValue,
    body: BodyLimits,
    configs_body: BodyLimits,
    declarative: Declarative,
    max_wait: Duration,
    repeats: Arc<Repeats>,
    validations: Arc<Efforts>,
    waits: Waits,
}

/// A request that was let in, its body not yet read.
struct Admitted<'a> {
    method: &'a Method,
    query: Query,
    headers: &'a http::HeaderMap,
    caller: Caller,
}

impl AdminApi {
    #[expect(clippy::too_many_arguments, reason = "all that it stands on")]
    pub(crate) fn new(
        state: Arc<State>,
        nodes: Nodes,
        compiler: Arc<Compiler>,
        callers: Arc<Callers>,
        clock: Clock,
        settings: &Admin,
        waits: Waits,
        repeats: Arc<Repeats>,
        searches: Efforts,
        validations: Arc<Efforts>,
    ) -> Self {
        let max_read_wait = settings.max_read_wait.get();
        let engine = Engine { store: state.store().clone(), compiler, clock, max_read_wait, searches };
        Self {
            state,
            nodes,
            engine,
            callers,
            key_required: settings.admin_key_required,
            cors: settings.enable_admin_cors,
            server: match settings.server_header.as_str() {
                "" => HeaderValue::from_static(SERVER),
                other => HeaderValue::try_from(other).expect("settings are checked when they are loaded"),
            },
            body: BodyLimits::new(settings, settings.max_body),
            configs_body: BodyLimits::new(settings, settings.max_configs_body),
            declarative: settings.declarative,
            max_wait: settings.max_wait.get(),
            repeats,
            validations,
            waits,
        }
    }

    /// Answers a request that came from `peer` to a listener that admits `allowed`.
    pub(crate) async fn answer(&self, allowed: &[Peers], peer: IpAddr, request: Request<Body>) -> Response<Body> {
        if !access::admits(allowed, peer) {
            return self.finish(Reply::page(StatusCode::FORBIDDEN), false);
        }
        if request.method() == Method::OPTIONS {
            return if self.cors { self.preflight() } else { self.finish(Reply::page(StatusCode::NOT_FOUND), false) };
        }
        let (parts, body) = request.into_parts();
        let reply = match self.entered(peer, &parts).await {
            Err(refused) => *refused,
            Ok((target, admitted)) => {
                self.once(target, admitted, &parts.uri, body).await.unwrap_or_else(|refused| *refused)
            }
        };
        self.finish(reply, self.cors)
    }

    /// What [`Self::answer`] refuses a request with by its head alone; `None` if it would read the body.
    pub(crate) async fn refusal(&self, allowed: &[Peers], peer: IpAddr, head: &Parts) -> Option<Response<Body>> {
        if !access::admits(allowed, peer) {
            return Some(self.finish(Reply::page(StatusCode::FORBIDDEN), false));
        }
        let refused = self.entered(peer, head).await.err()?;
        Some(self.finish(*refused, self.cors))
    }

    /// Finds out what a request is about, and whether whoever sent it may.
    async fn entered<'a>(&self, peer: IpAddr, head: &'a Parts) -> Result<(Target, Admitted<'a>), Box<Reply>> {
        let Some(target) = Target::of(&head.method, head.uri.path(), self.declarative) else {
            return Err(Box::new(Reply::page(StatusCode::NOT_FOUND)));
        };
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let admitted = self.admitted(&target, peer, query, head).await?;
        Ok((target, admitted))
    }

    /// Finds out who sends the request and whether they may, or refuses it.
    async fn admitted<'a>(
        &self,
        target: &Target,
        peer: IpAddr,
        query: Query,
        head: &'a Parts,
    ) -> Result<Admitted<'a>, Box<Reply>> {
        let required = self.key_required && *target != Target::Probe;
        let principal = match self.callers.who(peer, &query, head).await {
            Ok(principal) => principal,
            Err(_) if !required => Principal::anonymous(),
            Err(Stranger::Nameless) => return Err(refusal::stranger("missing apikey")),
            Err(Stranger::Unknown) => return Err(refusal::stranger("wrong apikey")),
            Err(Stranger::ReadsOnly(_)) => return Err(refusal::stranger("invalid method for role viewer")),
            Err(Stranger::NoRole(why)) => return Err(refusal::no_role(&why)),
            Err(Stranger::Forged) => return Err(refusal::forged()),
            Err(Stranger::Unavailable(error)) => return Err(refusal::unavailable(&error)),
        };
        let caller = self.callers.caller(principal, peer, &head.headers);
        let admitted = Admitted { method: &head.method, query, headers: &head.headers, caller };
        if group_of(&admitted).contains('\0') {
            // No group is called so, and no database takes it.
            return Err(Box::new(refusal::unknown_group(group_of(&admitted))));
        }
        if let Some(need) = target.need(&head.method) {
            let allowed = admitted.caller.authorise(need, Where::Group(group_of(&admitted)));
            allowed.map_err(|refused| Box::new(refusal::not_allowed(&refused)))?;
        }
        Ok(admitted)
    }

    /// Serves a request; one that has an idempotency key and was done before is answered as it was then.
    async fn once(
        &self,
        target: Target,
        mut request: Admitted<'_>,
        uri: &Uri,
        body: Body,
    ) -> Result<Reply, Box<Reply>> {
        let unfit = |fault: once::Fault| refusal::key(&fault);
        let Some(key) = once::key_of(request.method, request.headers).map_err(|error| unfit(error.into()))? else {
            return Ok(Box::pin(self.served(target, request, body)).await);
        };
        let limits = if target == Target::Configs { &self.configs_body } else { &self.body };
        let body = limits.read(body).await?;
        let once = Arc::new(once::asked(key, request.method, uri, group_of(&request), &body));
        let (caller, by_handler) = (request.caller.clone(), matches!(target, Target::Typed(_)));
        let acting = caller.acting(&self.engine.store);
        let again = |answered| Reply { by_handler, ..Reply::again(answered) };
        if let Some(answered) = self.repeats.answered(acting, &once).await.map_err(unfit)? {
            return Ok(again(answered));
        }
        request.caller.once = Some(once.clone());
        let reply = Box::pin(self.served(target, request, Body::from(body))).await;
        if once.is_repeated() {
            // Somebody else has come with the same key meanwhile.
            let answered = self.repeats.answered(acting, &once).await.map_err(unfit)?;
            return Ok(answered.map_or(reply, again));
        }
        once::keep(acting, &once, reply.answered()).await;
        Ok(reply)
    }

    async fn served(&self, target: Target, request: Admitted<'_>, body: Body) -> Reply {
        match target {
            Target::Probe => Reply::empty(StatusCode::OK),
            Target::PluginNames => match self.compiler(&request).await {
                Ok((compiler, stale)) => Reply { stale, ..describe::plugin_names(&compiler, &request.query) },
                Err(refused) => *refused,
            },
            // The list of plugins is a setting of the gateway group and comes with the configuration.
            Target::PluginReload if request.method == Method::PUT => Reply::plain(StatusCode::OK, "done"),
            Target::PluginReload => {
                let method = request.method;
                let text = format!("please use PUT method to reload the plugins, {method} method is not allowed.");
                Reply::error(StatusCode::METHOD_NOT_ALLOWED, text)
            }
            Target::ValidateSchema(collection) => match self.body.read_json(body).await {
                Ok(given) => describe::validate(&collection, &given.unwrap_or(Value::Null)),
                Err(refused) => *refused,
            },
            Target::ValidateConfigs => self.validated(&request, body).await.unwrap_or_else(|refused| *refused),
            Target::Configs => self.configs(request, body).await.unwrap_or_else(|refused| *refused),
            Target::Typed(segments) => self.typed(&segments, request, body).await,
        }
    }

    /// What is said of a configuration that is not stored (§14).
    async fn validated(&self, request: &Admitted<'_>, body: Body) -> Result<Reply, Box<Reply>> {
        let yaml = request.headers.get(header::CONTENT_TYPE).is_some_and(validate::is_yaml);
        let text = self.body.read(body).await?;
        let (terms, seen) = self.terms(request).await?;
        let compiler = terms.compiler().clone();
        // Dropped with this future once the client has left.
        let asker = Arc::new(());
        let (caller, group) = (&request.caller, group_of(request));
        let effort = self.validations.of_a_caller(&asker, caller, Resource::Configuration, group).await?;
        aside(move || validate::configs(&compiler, &seen.image, &text, yaml, &effort)).await
    }

    /// The configuration of a group as a whole (§15).
    async fn configs(&self, request: Admitted<'_>, body: Body) -> Result<Reply, Box<Reply>> {
        let group = self.state.find(group_of(&request)).await.map_err(|error| refusal::unavailable(&error))?;
        let asks = |name| request.headers.get(name).is_some_and(validate::is_yaml);
        if *request.method == Method::HEAD {
            return self.engine.configs_head(&group).await;
        }
        if *request.method == Method::GET {
            return self.engine.configs_get(&group, asks(header::ACCEPT)).await;
        }
        let digest = request.headers.get("x-digest").and_then(|value| value.to_str().ok());
        let Some(digest) = digest.filter(|digest| !digest.is_empty()).map(str::to_owned) else {
            return Err(Box::new(Reply::bad("missing digest header")));
        };
        let wait = self.wait(&request.query)?;
        let _place = self.place(wait, &request.caller.name)?;
        let text = self.configs_body.read(body).await?;
        let yaml = asks(header::CONTENT_TYPE);
        let given = configs::Given { digest, text, yaml, caller: request.caller };
        let reply = self.engine.configs_put(&group, given).await?;
        Ok(self.with_receipt(reply, group.id(), wait).await)
    }

    /// How long a write waits for the nodes.
    fn wait(&self, query: &Query) -> Result<Option<Duration>, Box<Reply>> {
        match query.get("wait").map(|text| text.parse::<Time>()) {
            None => Ok(None),
            Some(Ok(wait)) => Ok(Some(wait.get().min(self.max_wait))),
            Some(Err(error)) => Err(Box::new(Reply::bad(format!("invalid argument wait: {error}")))),
        }
    }

    /// A place for a request that waits, if it does; taken before the write, so that whoever finds none need not wonder whether
    /// it was done.
    fn place(&self, wait: Option<Duration>, author: &str) -> Result<Option<Place>, Box<Reply>> {
        let place = wait.filter(|wait| !wait.is_zero()).map(|_| self.waits.enter(author)).transpose();
        place.map_err(|full| Box::new(refusal::no_place(&full)))
    }

    /// Steps 5 to 11.
    async fn typed(&self, segments: &[String], request: Admitted<'_>, body: Body) -> Reply {
        let Some(typed) = Typed::of(segments) else {
            let word = segments.first().map(String::as_str).unwrap_or_default();
            return Reply::error(StatusCode::NOT_FOUND, format!("Unsupported resource type: {word}"));
        };
        if matches!(&typed, Typed::Resource(place) if place.kind == Kind::StreamRoute) {
            match self.serves_streams(&request).await {
                Ok(true) => {}
                Ok(false) => return Reply::bad(STREAMS_OFF),
                Err(refused) => return *refused,
            }
        }
        if !matches!(typed, Typed::Resource(_)) && request.method != Method::GET {
            return Reply::error(StatusCode::NOT_FOUND, "not found");
        }
        let body = match self.body.read_json(body).await {
            Ok(body) => body,
            Err(refused) => return *refused,
        };
        let ttl = match request.query.get("ttl").map(seconds) {
            None => None,
            Some(Some(ttl)) => Some(ttl),
            Some(None) => return Reply::bad("invalid argument ttl: should be a number"),
        };
        let reply = match typed {
            Typed::Plugins(name) => match self.compiler(&request).await {
                Ok((compiler, stale)) => {
                    Reply { stale, ..describe::plugins(&compiler, name.as_deref(), &request.query) }
                }
                Err(refused) => *refused,
            },
            Typed::Schema(name) => describe::schema(name.as_deref().unwrap_or_default()),
            Typed::Resource(place) => {
                let wait = match self.wait(&request.query) {
                    Ok(wait) => wait,
                    Err(refused) => return *refused,
                };
                let _place = match self.place(wait, &request.caller.name) {
                    Ok(place) => place,
                    Err(refused) => return *refused,
                };
                let id = group_of(&request);
                match self.state.find(id).await {
                    Err(error) => *refusal::unavailable(&error),
                    Ok(group) => {
                        let Admitted { method, query, caller, .. } = request;
                        let (method, id) = (method.clone(), group.id().clone());
                        let reply = self.engine.answer(Call { method, place, query, body, ttl, caller, group }).await;
                        self.with_receipt(reply, &id, wait).await
                    }
                }
            }
        };
        Reply { by_handler: true, ..reply }
    }

    /// The compiler of the group that a request names, and how old its settings may be ([`Seen::stale`]).
    async fn compiler(&self, request: &Admitted<'_>) -> Result<(Compiler, Option<Duration>), Box<Reply>> {
        let (terms, seen) = self.terms(request).await?;
        Ok((terms.compiler().clone(), seen.stale))
    }

    /// What writes to the group that a request names are judged by, and what there is in it.
    async fn terms(&self, request: &Admitted<'_>) -> Result<(Terms, Seen), Box<Reply>> {
        let group = self.state.find(group_of(request)).await.map_err(|error| refusal::unavailable(&error))?;
        let seen = group.seen();
        let terms = Terms::of(&self.engine.compiler, &seen.image).map_err(|error| refusal::unreadable(&error))?;
        Ok((terms, seen))
    }

    /// Whether the group that a request names has stream routes; where it seems not to, the database is asked, which a read
    /// does without if need be.
    async fn serves_streams(&self, request: &Admitted<'_>) -> Result<bool, Box<Reply>> {
        if self.compiler(request).await?.0.streams().is_some() {
            return Ok(true);
        }
        let group = self.state.find(group_of(request)).await.map_err(|error| refusal::unavailable(&error))?;
        match *request.method == Method::GET {
            true => group.latest(self.engine.max_read_wait).await.map(drop),
            false => group.current().await.map(drop),
        }
        .map_err(|error| refusal::unavailable(&error))?;
        Ok(self.compiler(request).await?.0.streams().is_some())
    }

    /// The answer to a write, after waiting for the nodes if the client asked for it. However long they take, the write is
    /// done.
    async fn with_receipt(&self, reply: Reply, group: &str, wait: Option<Duration>) -> Reply {
        let (Some(wait), Some(revision)) = (wait, reply.revision) else { return reply };
        let receipt = match self.state.find(group).await {
            Ok(found) => {
                let image = found.image();
                self.nodes.wait_written(group, image.lineage(), revision, wait).await
            }
            // The write is done; of its group nothing is known any more but what is watched.
            Err(_) => self.nodes.wait_applied(group, revision, wait).await,
        };
        Reply { receipt: Some(receipt), ..reply }
    }

    fn preflight(&self) -> Response<Body> {
        let mut response = self.finish(Reply::empty_text(), true);
        let headers = response.headers_mut();
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        let methods = HeaderValue::from_static("POST, GET, PUT, OPTIONS, DELETE, PATCH");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
        response
    }

    /// The answer with the headers of §1.
    fn finish(&self, reply: Reply, cors: bool) -> Response<Body> {
        if reply.faults.len() > 1 {
            tracing::debug!(faults = reply.faults.len(), "the answer shows the first fault only");
        }
        let mut response = Response::new(Body::from(reply.body));
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        headers.insert(header::SERVER, self.server.clone());
        if reply.by_handler {
            headers.insert("x-api-version", HeaderValue::from_static("v3"));
        }
        if let Some(seconds) = reply.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(age) = reply.stale {
            headers.insert(STALE, staleness(age));
        }
        if let Some(receipt) = &reply.receipt {
            let value = HeaderValue::try_from(receipt.to_string()).expect("words and numbers");
            headers.insert("milecastle-receipt", value);
        }
        if let Some(Stamp { at, digest }) = &reply.stamp {
            headers.insert("x-last-modified", (*at).into());
            headers.insert("x-digest", HeaderValue::try_from(digest).expect("it came in a header"));
        }
        if reply.replayed {
            headers.insert(once::REPLAYED, HeaderValue::from_static("true"));
        }
        if cors {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
        }
        response
    }
}

/// The gateway group that a request names: by argument, by header, or none, which is the default one.
pub(crate) fn group_named<'a>(query: &'a Query, headers: &'a http::HeaderMap) -> &'a str {
    let found = ["gateway_group_id", "x-gateway-group-id"].iter().filter_map(|name| headers.get(*name));
    let header = found.filter_map(|value| value.to_str().ok()).next();
    query.get("gateway_group_id").or(header).unwrap_or(DEFAULT_GROUP)
}

fn group_of<'a>(request: &'a Admitted<'_>) -> &'a str {
    group_named(&request.query, request.headers)
}

/// A lifetime in whole seconds, rounded up; at least one.
fn seconds(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturating is right")]
    let whole = seconds.ceil() as u64;
    Some(whole)
}
