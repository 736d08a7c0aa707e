//! Every endpoint of `/api`, with the right that it takes.
//!
//! What must stay true: the router and the OpenAPI document are made of this table and of nothing else, and a row has no way to
//! leave out what it takes, or what there is to say of it.

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Extension, RawPathParams, Request, State as Shared};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode};
use milecastle_model::Kind;
use std::sync::Arc;

use super::{Api, BASE, Failure, Who};
use super::{
    about, api_tokens, audit, availability, drafts, events, groups, lineage, links, maintenance, members, metrics,
    nodes, oidc, past, probes, repeat, revisions, roles, rollout, route_metrics, session, settings, tokens, transfer,
    users, warnings,
};
use crate::openapi::Doc;
use crate::rights::{Need, Place, Refused, Resource as R};

/// Name of the parameter of a path that names the gateway group.
const GROUP: &str = "group";

/// Where one logs in.
const SESSION_PATH: &str = "/session";

/// Where one learns how one may log in.
const METHODS_PATH: &str = "/session/methods";

/// Where a login through a provider begins, where it ends, and where browsers go to be logged out there too.
const OIDC_PATH: &str = "/session/oidc";
const CALLBACK_PATH: &str = "/session/oidc/callback";
const LEAVE_PATH: &str = "/session/oidc/logout";

/// Where the version is.
const VERSION_PATH: &str = "/version";

/// Where the right of an endpoint must be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In the gateway group that the path names.
    Group,
    /// On the cluster as a whole.
    Cluster,
    /// In any group: the handler leaves out what may not be seen.
    Anywhere,
}

/// What an endpoint takes of whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing: it is how one comes to be known, or says what probes may know.
    Nothing,
    /// To be known: it is about the caller alone.
    Known,
    /// A right.
    Right(Need, Scope),
}

/// One endpoint.
struct Endpoint {
    method: Method,
    /// Below [`BASE`], with parameters in braces.
    path: &'static str,
    takes: Takes,
    serves: MethodRouter<Arc<Api>>,
    doc: Doc,
}

/// An endpoint as others see it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters in braces.
    pub path: String,
    /// The right that it takes, as `write routes`; `None`: it shows and changes nothing but what is the caller's own.
    pub right: Option<String>,
    /// Whether nobody need be known to call it.
    pub open: bool,
}

/// The router, each endpoint behind its right.
pub(super) fn router() -> Router<Arc<Api>> {
    table().into_iter().fold(Router::new(), |router, endpoint| {
        let serves = match endpoint.takes {
            Takes::Right(need, scope) => {
                endpoint.serves.route_layer(middleware::from_fn_with_state(Gate { need, scope }, pass))
            }
            // Whoever is not known has no `Who`, without which a handler that needs it answers 500.
            Takes::Known | Takes::Nothing => endpoint.serves,
        };
        router.route(endpoint.path, serves)
    })
}

/// Whether nobody need be known to call this, below [`BASE`].
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    let seen = [VERSION_PATH, METHODS_PATH, OIDC_PATH, CALLBACK_PATH, LEAVE_PATH];
    (*method == Method::POST && path == SESSION_PATH) || (*method == Method::GET && seen.contains(&path))
}

/// Every endpoint with the right that it takes.
pub(crate) fn declared() -> Vec<Declared> {
    documented().into_iter().map(|(declared, _)| declared).collect()
}

/// The same with what each says of itself.
pub(crate) fn documented() -> Vec<(Declared, Doc)> {
    let shown = |endpoint: Endpoint| {
        let right = match endpoint.takes {
            Takes::Right(need, _) => Some(need.to_string()),
            Takes::Known | Takes::Nothing => None,
        };
        let (path, open) = (format!("{BASE}{}", endpoint.path), endpoint.takes == Takes::Nothing);
        (Declared { method: endpoint.method, path, right, open }, endpoint.doc)
    };
    table().into_iter().map(shown).collect()
}

fn table() -> Vec<Endpoint> {
    let (cluster, anywhere, group) = (Scope::Cluster, Scope::Anywhere, Scope::Group);
    vec![
        get("/gateway_groups", R::Groups, anywhere, groups::list, groups::LIST),
        post("/gateway_groups", R::Groups, cluster, groups::create, groups::CREATE),
        get("/gateway_groups/{group}", R::Groups, group, groups::show, groups::SHOW),
        patch("/gateway_groups/{group}", R::Groups, group, groups::update, groups::UPDATE),
        delete("/gateway_groups/{group}", R::Groups, group, groups::delete, groups::DELETE),
        get("/gateway_groups/{group}/lineage", R::Lineage, group, lineage::show, lineage::SHOW),
        post("/gateway_groups/{group}/lineage/confirm", R::Lineage, group, lineage::confirm, lineage::CONFIRM),
        put(
            "/gateway_groups/{group}/maintenance",
            R::Maintenance,
            group,
            maintenance::begin_group,
            maintenance::BEGIN_GROUP,
        ),
        delete(
            "/gateway_groups/{group}/maintenance",
            R::Maintenance,
            group,
            maintenance::end_group,
            maintenance::END_GROUP,
        ),
        get("/gateway_groups/{group}/settings", R::Settings, group, settings::show, settings::SHOW),
        put("/gateway_groups/{group}/settings", R::Settings, group, settings::replace, settings::REPLACE),
        patch("/gateway_groups/{group}/settings", R::Settings, group, settings::patch, settings::PATCH),
        get("/gateway_groups/{group}/rollout", R::Rollout, group, rollout::show, rollout::SHOW),
        put("/gateway_groups/{group}/rollout", R::Rollout, group, rollout::replace, rollout::REPLACE),
        patch("/gateway_groups/{group}/rollout", R::Rollout, group, rollout::patch, rollout::PATCH),
        post("/gateway_groups/{group}/rollout/pause", R::Rollout, group, rollout::pause, rollout::PAUSE),
        post("/gateway_groups/{group}/rollout/resume", R::Rollout, group, rollout::resume, rollout::RESUME),
        post("/gateway_groups/{group}/rollout/promote", R::Rollout, group, rollout::promote, rollout::PROMOTE),
        post("/gateway_groups/{group}/rollout/abort", R::Rollout, group, rollout::abort, rollout::ABORT),
        get("/gateway_groups/{group}/tokens", R::JoinTokens, group, tokens::list, tokens::LIST),
        post("/gateway_groups/{group}/tokens", R::JoinTokens, group, tokens::create, tokens::CREATE),
        delete("/gateway_groups/{group}/tokens/{token}", R::JoinTokens, group, tokens::revoke, tokens::REVOKE),
        get("/gateway_groups/{group}/nodes", R::Nodes, group, nodes::of_group, nodes::OF_GROUP),
        get("/gateway_groups/{group}/nodes/{node}", R::Nodes, group, nodes::show, nodes::SHOW),
        delete("/gateway_groups/{group}/nodes/{node}", R::Nodes, group, nodes::delete, nodes::DELETE),
        post("/gateway_groups/{group}/nodes/{node}/revoke", R::Nodes, group, nodes::revoke, nodes::REVOKE),
        put(
            "/gateway_groups/{group}/nodes/{node}/maintenance",
            R::Maintenance,
            group,
            maintenance::begin_node,
            maintenance::BEGIN_NODE,
        ),
        delete(
            "/gateway_groups/{group}/nodes/{node}/maintenance",
            R::Maintenance,
            group,
            maintenance::end_node,
            maintenance::END_NODE,
        ),
        get("/gateway_groups/{group}/revisions", R::Revisions, group, revisions::list, revisions::LIST),
        get("/gateway_groups/{group}/revisions/{revision}", R::Revisions, group, revisions::show, revisions::SHOW),
        get(
            "/gateway_groups/{group}/revisions/{revision}/receipt",
            R::Revisions,
            group,
            revisions::receipt,
            revisions::RECEIPT,
        ),
        get(
            "/gateway_groups/{group}/revisions/{revision}/objects",
            R::Configuration,
            group,
            past::objects,
            past::OBJECTS,
        ),
        get(
            "/gateway_groups/{group}/revisions/{revision}/diff/{other}",
            R::Configuration,
            group,
            past::diff,
            past::DIFF,
        ),
        post(
            "/gateway_groups/{group}/revisions/{revision}/rollback",
            R::Configuration,
            group,
            past::rollback,
            past::ROLLBACK,
        ),
        post("/gateway_groups/{group}/changes", R::ChangeSets, group, drafts::publish_edits, drafts::PUBLISH_EDITS),
        get("/gateway_groups/{group}/drafts", R::ChangeSets, group, drafts::list, drafts::LIST),
        post("/gateway_groups/{group}/drafts", R::ChangeSets, group, drafts::create, drafts::CREATE),
        get("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::show, drafts::SHOW),
        patch("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::update, drafts::UPDATE),
        delete("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::discard, drafts::DISCARD),
        post("/gateway_groups/{group}/drafts/{draft}/publish", R::ChangeSets, group, drafts::publish, drafts::PUBLISH),
        get("/gateway_groups/{group}/export", R::Configuration, group, transfer::export, transfer::EXPORT),
        post("/gateway_groups/{group}/import", R::Configuration, group, transfer::import, transfer::IMPORT),
        post("/gateway_groups/{group}/promote", R::Configuration, group, transfer::promote, transfer::PROMOTE),
        get("/changes", R::Revisions, anywhere, revisions::everywhere, revisions::EVERYWHERE),
        get("/nodes", R::Nodes, anywhere, nodes::all, nodes::ALL),
        get("/metrics", R::Nodes, anywhere, metrics::chart, metrics::CHART),
        get("/metrics/routes", R::Objects(Kind::Route), anywhere, route_metrics::chart, route_metrics::CHART),
        get("/metrics/top_routes", R::Objects(Kind::Route), anywhere, route_metrics::top, route_metrics::TOP),
        get("/warnings", R::Nodes, anywhere, warnings::list, warnings::LIST),
        get("/events", R::Events, anywhere, events::follow, events::FOLLOW),
        get("/alarms", R::Events, anywhere, events::alarms, events::ALARMS),
        get("/members", R::Members, cluster, members::list, members::LIST),
        put(
            "/members/{name}/maintenance",
            R::Maintenance,
            cluster,
            maintenance::begin_member,
            maintenance::BEGIN_MEMBER,
        ),
        delete(
            "/members/{name}/maintenance",
            R::Maintenance,
            cluster,
            maintenance::end_member,
            maintenance::END_MEMBER,
        ),
        get("/links", R::Links, cluster, links::list, links::LIST),
        get("/links/{link}", R::Links, cluster, links::show, links::SHOW),
        put("/links/{link}", R::Links, cluster, links::put, links::PUT),
        delete("/links/{link}", R::Links, cluster, links::delete, links::DELETE),
        get("/availability", R::Nodes, anywhere, availability::list, availability::LIST),
        get("/probes", R::Probes, cluster, probes::list, probes::LIST),
        get("/probes/{probe}", R::Probes, cluster, probes::show, probes::SHOW),
        put("/probes/{probe}", R::Probes, cluster, probes::put, probes::PUT),
        delete("/probes/{probe}", R::Probes, cluster, probes::delete, probes::DELETE),
        own(Method::GET, VERSION_PATH, Takes::Nothing, axum::routing::get(about::version), about::VERSION),
        own(Method::GET, "/openapi.json", Takes::Known, axum::routing::get(about::openapi), about::OPENAPI),
        own(Method::POST, SESSION_PATH, Takes::Nothing, axum::routing::post(session::login), session::LOGIN),
        own(Method::GET, METHODS_PATH, Takes::Nothing, axum::routing::get(oidc::methods), oidc::METHODS),
        own(Method::GET, OIDC_PATH, Takes::Nothing, axum::routing::get(oidc::begin), oidc::BEGIN),
        own(Method::GET, CALLBACK_PATH, Takes::Nothing, axum::routing::get(oidc::finish), oidc::FINISH),
        own(Method::GET, LEAVE_PATH, Takes::Nothing, axum::routing::get(oidc::leave), oidc::LEAVE),
        own(Method::GET, SESSION_PATH, Takes::Known, axum::routing::get(session::show), session::SHOW),
        own(Method::DELETE, SESSION_PATH, Takes::Known, axum::routing::delete(session::logout), session::LOGOUT),
        own(
            Method::PUT,
            "/session/password",
            Takes::Known,
            axum::routing::put(session::change_password),
            session::CHANGE_PASSWORD,
        ),
        get("/users", R::Users, cluster, users::list, users::LIST),
        post("/users", R::Users, cluster, users::create, users::CREATE),
        get("/users/{name}", R::Users, cluster, users::show, users::SHOW),
        patch("/users/{name}", R::Users, cluster, users::update, users::UPDATE),
        delete("/users/{name}", R::Users, cluster, users::delete, users::DELETE),
        get("/roles", R::Roles, anywhere, roles::list, roles::LIST),
        post("/roles", R::Roles, cluster, roles::create, roles::CREATE),
        get("/roles/{name}", R::Roles, anywhere, roles::show, roles::SHOW),
        patch("/roles/{name}", R::Roles, cluster, roles::update, roles::UPDATE),
        delete("/roles/{name}", R::Roles, cluster, roles::delete, roles::DELETE),
        get("/tokens", R::ApiTokens, cluster, api_tokens::list, api_tokens::LIST),
        post("/tokens", R::ApiTokens, cluster, api_tokens::create, api_tokens::CREATE),
        delete("/tokens/{token}", R::ApiTokens, cluster, api_tokens::revoke, api_tokens::REVOKE),
        get("/audit", R::Audit, anywhere, audit::list, audit::LIST),
        get("/audit/export", R::Audit, anywhere, audit::export, audit::EXPORT),
        get("/audit/{entry}", R::Audit, anywhere, audit::show, audit::SHOW),
    ]
}

/// A row of what takes no right.
fn own(method: Method, path: &'static str, takes: Takes, serves: MethodRouter<Arc<Api>>, doc: Doc) -> Endpoint {
    Endpoint { method, path, takes, serves, doc }
}

/// Defines the functions that make the rows of the table: the method, and whether it reads or writes.
macro_rules! rows {
    ($($name:ident $method:ident $action:ident),+ $(,)?) => {$(
        fn $name<H, T>(path: &'static str, resource: R, scope: Scope, handler: H, doc: Doc) -> Endpoint
        where
            H: Handler<T, Arc<Api>>,
            T: 'static,
        {
            let serves = on(MethodFilter::$method, handler);
            Endpoint { method: Method::$method, path, takes: Takes::Right(Need::$action(resource), scope), serves, doc }
        }
    )+};
}
rows!(get GET read, post POST write, put PUT write, patch PATCH write, delete DELETE write);

/// A right that is asked for.
#[derive(Debug, Clone, Copy)]
struct Gate {
    need: Need,
    scope: Scope,
}

/// Lets a call pass to its handler, or refuses it.
async fn pass(
    Shared(gate): Shared<Gate>,
    Extension(who): Who,
    Extension(api): Extension<Arc<Api>>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let params = match params {
        Ok(params) => params,
        Err(error) => return Failure::bad("invalid_path", error.body_text()).into_response(),
    };
    // No name has it, and no database takes it.
    if params.iter().any(|(_, value)| value.contains('\0')) {
        return Failure::bad("invalid_path", "a path has no NUL in it").into_response();
    }
    let group = params.iter().find_map(|(name, value)| (name == GROUP).then_some(value)).unwrap_or_default();
    let place = match gate.scope {
        Scope::Group => Place::Group(group),
        Scope::Cluster => Place::Cluster,
        Scope::Anywhere => Place::Anywhere,
    };
    match who.authorise(gate.need, place) {
        Ok(()) => repeat::once(&api, &who, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(refused) => Failure::from(refused).into_response(),
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::PasswordChange => Self::new(StatusCode::FORBIDDEN, "password_change_required", message),
            Refused::Missing(missing) => {
                let right = serde_json::json!({
                    "action": missing.action.name(),
                    "resource": missing.resource.name(),
                    "group": missing.group,
                });
                Self::new(StatusCode::FORBIDDEN, "not_allowed", message).with("missing", right)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_in_a_group_is_asked_where_the_path_names_one() {
        for Endpoint { path, takes, .. } in table() {
            let in_group = matches!(takes, Takes::Right(_, Scope::Group));
            assert_eq!(path.contains("{group}"), in_group, "{path}");
        }
    }

    #[test]
    fn nobody_need_be_known_where_the_table_says_so_alone() {
        for Endpoint { method, path, takes, .. } in table() {
            assert_eq!(is_open(&method, path), takes == Takes::Nothing, "{method} {path}");
        }
    }
}
