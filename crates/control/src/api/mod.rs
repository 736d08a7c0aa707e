//! Our own REST API under `/api`: gateway groups, their tokens, nodes and revisions, and the members of the control plane
//! (`docs/api.md`). Configuration itself is written and read by the compatible Admin API.
//!
//! What must stay true:
//! - Whoever may not use the Admin API on this listener may not use this one.
//! - No endpoint is served without the right that it takes ([`endpoints`]).
//! - Every refusal has one shape ([`Failure`]); a failure of ours has an id under which the log says more.
//! - No answer shows a secret, but the one that minted it, and the file of a group those that reads of the Admin API show too.

mod about;
mod api_tokens;
mod audit;
mod availability;
mod change_sets;
mod drafts;
mod endpoints;
mod events;
mod expected;
mod failure;
mod groups;
mod lineage;
mod links;
mod maintenance;
mod members;
mod metrics;
mod nodes;
mod oidc;
mod past;
mod probes;
mod repeat;
mod revisions;
mod roles;
mod rollout;
mod route_metrics;
mod session;
mod settings;
mod tokens;
mod transfer;
mod users;
mod warnings;

use crate::admin::access;
use crate::admin::body::BodyLimits;
use crate::admin::query::Query;
use crate::callers::{Caller, Callers, FORGED, Stranger};
use crate::dpm::Nodes;
use crate::efforts::Efforts;
use crate::listen::Peer;
use crate::oidc::{Provider, Tickets};
use crate::once::Repeats;
use crate::openapi;
use crate::revisions::Editor;
use crate::rights::Principal;
use crate::state::{Group, State};
use crate::waits::{Place, Waits};
use crate::{Clock, SERVER};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State as Shared};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
pub use endpoints::Declared;
pub(crate) use endpoints::{declared, documented};
pub(crate) use expected::FORM as EXPECTED;
use failure::{Failure, Outcome};
pub(crate) use failure::{Refusal, Starting};
use http::{HeaderValue, StatusCode, header};
use milecastle_settings::{Peers, Time};
use milecastle_snapshot::Compiler;
use milecastle_store::{Acting, DraftLimits, Store};
pub(crate) use revisions::told as revision_told;
pub(crate) use roles::is_name as is_role_name;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use users::is_name as is_account_name;

/// Where it lives.
pub(crate) const BASE: &str = "/api";

/// What the handlers share.
pub(crate) struct Api {
    pub(crate) state: Arc<State>,
    pub(crate) nodes: Nodes,
    /// Of the default settings of a group.
    pub(crate) compiler: Arc<Compiler>,
    pub(crate) callers: Arc<Callers>,
    /// Through which people log in, if the settings name one.
    pub(crate) provider: Option<Provider>,
    pub(crate) tickets: Tickets,
    pub(crate) clock: Clock,
    pub(crate) key_required: bool,
    pub(crate) body_limits: BodyLimits,
    /// Of what is taken as a whole: change sets, drafts, a group's file.
    pub(crate) large_body_limits: BodyLimits,
    pub(crate) draft_limits: DraftLimits,
    pub(crate) max_wait: Duration,
    /// How long a read waits for the database to say what is newest.
    pub(crate) max_read_wait: Duration,
    /// Repeated writes that wait for the answer to the first one.
    pub(crate) repeats: Arc<Repeats>,
    /// Change sets that are judged and not published.
    pub(crate) validations: Arc<Efforts>,
    pub(crate) waits: Waits,
    /// Places of streams of events.
    pub(crate) streams: Waits,
    pub(crate) events: crate::events::Shared,
    /// How often it is looked at what is up.
    pub(crate) look: Duration,
    /// Probes that there may be.
    pub(crate) most_probes: u64,
    /// Peers that may use it.
    pub(crate) allowed: Arc<[Peers]>,
}

type Site = Shared<Arc<Api>>;
type Who = Extension<Arc<Caller>>;

/// All of it, to be nested under [`BASE`].
pub(crate) fn router(api: Arc<Api>) -> Router {
    let routes = endpoints::router()
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take that method")
        })
        .fallback(|| async { Failure::missing("no_such_path", "there is nothing here; docs/api.md lists all paths") });
    routes.layer(middleware::from_fn_with_state(api.clone(), admit)).with_state(api)
}

/// Finds out whose request it is, or refuses it. What it takes is asked by each endpoint ([`endpoints`]).
async fn admit(Shared(api): Site, Extension(Peer(peer)): Extension<Peer>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let mut response = match entering(&api, peer, &head).await {
        Ok(principal) => {
            if let Some(principal) = principal {
                head.extensions.insert(Arc::new(api.callers.caller(principal, peer, &head.headers)));
                head.extensions.insert(api.clone());
            }
            next.run(Request::from_parts(head, body)).await
        }
        Err(failure) => failure.into_response(),
    };
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(SERVER));
    response
}

/// Whose request it is; `None` where nobody need be known.
async fn entering(
    api: &Api,
    peer: std::net::IpAddr,
    head: &http::request::Parts,
) -> Result<Option<Principal>, Failure> {
    if !access::admits(&api.allowed, peer) {
        return Err(Failure::new(StatusCode::FORBIDDEN, "address_not_allowed", access::NOT_ON_DASHBOARD));
    }
    if query_of(&head.uri).iter().any(|(_, value)| value.contains('\0')) {
        return Err(Failure::bad("invalid_argument", "an argument has no NUL in it"));
    }
    if endpoints::is_open(&head.method, head.uri.path()) {
        return Ok(None);
    }
    principal(api, peer, head).await.map(Some)
}

async fn principal(api: &Api, peer: std::net::IpAddr, head: &http::request::Parts) -> Result<Principal, Failure> {
    let query = query_of(&head.uri);
    let stranger = match api.callers.who(peer, &query, head).await {
        Ok(principal) => return Ok(principal),
        Err(stranger) => stranger,
    };
    Err(match stranger {
        Stranger::Nameless if !api.key_required => return Ok(Principal::anonymous()),
        Stranger::Nameless => {
            let message = "an Admin key or a token is needed, in the header X-API-KEY, or a session: POST /api/session";
            Failure::new(StatusCode::UNAUTHORIZED, "no_key", message)
        }
        Stranger::Unknown => Failure::new(
            StatusCode::UNAUTHORIZED,
            "wrong_key",
            "this is none of the Admin keys, and no token that is good",
        ),
        Stranger::NoRole(why) => Failure::new(StatusCode::FORBIDDEN, "no_role", why),
        Stranger::Forged => Failure::new(StatusCode::FORBIDDEN, "forged_request", FORGED),
        Stranger::ReadsOnly(name) => {
            Failure::new(StatusCode::FORBIDDEN, "read_only_key", format!("the key `{name}` may read only"))
        }
        Stranger::Unavailable(error) => error.into(),
    })
}

impl Api {
    fn store(&self) -> &Store {
        self.state.store()
    }

    /// The store in the hands of whoever calls.
    fn by<'a>(&'a self, who: &'a Caller) -> Acting<'a> {
        who.acting(self.store())
    }

    /// Whoever calls, as somebody who changes a group by whole change sets.
    fn editor<'a>(&'a self, who: &'a Caller, group: &'a Group) -> Editor<'a> {
        Editor { acting: self.by(who), compiler: &self.compiler, group, effort: None }
    }

    /// The body of a request; what it leaves out has its default, and what it should not have is refused.
    async fn body<T: DeserializeOwned + Default>(&self, body: Body) -> Result<T, Failure> {
        parsed(&self.body_limits.read(body).await?)
    }

    /// Whatever JSON there is, for who judges it by a schema; `null` of an empty body.
    async fn any_body(&self, body: Body) -> Result<Value, Failure> {
        value(&self.body_limits.read(body).await?)
    }

    /// The body of a request that holds many objects.
    async fn large_body<T: DeserializeOwned + Default>(&self, body: Body) -> Result<T, Failure> {
        parsed(&self.large_body_limits.read(body).await?)
    }

    /// How long the argument `wait` asks to wait; no longer than the settings allow, and not at all without it.
    fn wait(&self, query: &Query) -> Result<Duration, Failure> {
        match query.get("wait").map(str::parse::<Time>) {
            None => Ok(Duration::ZERO),
            Some(Ok(wait)) => Ok(wait.get().min(self.max_wait)),
            Some(Err(error)) => Err(Failure::bad("invalid_argument", format!("wait: {error}"))),
        }
    }

    /// A place for a request that waits so long, if it does at all.
    fn place(&self, who: &Principal, wait: Duration) -> Result<Option<Place>, Failure> {
        if wait.is_zero() { Ok(None) } else { Ok(Some(self.waits.enter(&who.name)?)) }
    }
}

/// What has these members; a list would pass for it that has them in their order.
fn parsed<T: DeserializeOwned + Default>(text: &[u8]) -> Result<T, Failure> {
    match text.trim_ascii_start().first() {
        Some(b'[') => Err(Failure::bad("invalid_body", "an object is expected, not a list")),
        _ => value(text),
    }
}

fn value<T: DeserializeOwned + Default>(text: &[u8]) -> Result<T, Failure> {
    if text.is_empty() {
        return Ok(T::default());
    }
    if has_nul(text) {
        return Err(Failure::bad("invalid_body", "a text has no NUL (\\u0000) in it"));
    }
    serde_json::from_slice(text).map_err(|error| Failure::bad("invalid_body", error.to_string()))
}

/// Whether a text of JSON spells a NUL, which PostgreSQL does not take.
fn has_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escaped = rest.get(at + 1..).unwrap_or_default();
        if escaped.starts_with(b"u0000") {
            return true;
        }
        rest = escaped.get(1..).unwrap_or_default();
    }
    false
}

/// The query of a request.
fn query_of(uri: &http::Uri) -> Query {
    Query::parse(uri.query().unwrap_or_default())
}

/// A JSON body, ended by a newline.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(body).expect("values made here have string keys and no failing serializers");
    text.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A list with its length, as all lists here are.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ListOf{T}")]
struct List<'a, T> {
    list: &'a [T],
    total: usize,
}

/// Answers with a [`List`].
fn list<T: Serialize>(items: &[T]) -> Response {
    json(StatusCode::OK, &List { list: items, total: items.len() })
}

/// A switch among the arguments: off without it.
fn flag(query: &Query, name: &str) -> Result<bool, Failure> {
    match query.get(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Failure::bad("invalid_argument", format!("{name}: expected true or false"))),
    }
}

/// A whole number among the arguments.
fn whole(query: &Query, name: &str) -> Result<Option<u64>, Failure> {
    match query.get(name).map(str::parse) {
        None => Ok(None),
        Some(Ok(number)) if number <= openapi::MOST => Ok(Some(number)),
        Some(_) => {
            let message = format!("{name}: expected a whole number of at most {}", openapi::MOST);
            Err(Failure::bad("invalid_argument", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nuls_are_found_where_they_are_spelt() {
        for (json, expected) in [
            (r#"{"a":"b"}"#, false),
            (r#"{"a":"\u0000"}"#, true),
            (r#"{"a":"\\u0000"}"#, false),
            (r#"{"a":"\\\u0000"}"#, true),
            (r#"{"a":"\u00001"}"#, true),
            (r#"{"a":"\u0001\"}"#, false),
        ] {
            assert_eq!(has_nul(json.as_bytes()), expected, "{json}");
        }
    }
}
