//! Every endpoint of `/api`, with the right that it takes.
//!
//! What must stay true: the router is made of this table and of nothing else, and a row has no way to leave out what it takes.

use axum::Router;
use axum::extract::{Extension, RawPathParams, Request, State as Shared};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode};
use std::sync::Arc;

use super::{Api, BASE, Failure, Who};
use super::{
    api_tokens, audit, drafts, groups, lineage, maintenance, members, nodes, past, revisions, roles, session, settings,
    tokens, transfer, users,
};
use crate::rights::{Need, Place, Refused, Resource as R};

/// Name of the parameter of a path that names the gateway group.
const GROUP: &str = "group";

/// Where one logs in.
const SESSION_PATH: &str = "/session";

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
    /// Nothing: it is how one comes to be known.
    Nothing,
    /// To be known: it is about the caller himself.
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
    *method == Method::POST && path == SESSION_PATH
}

/// Every endpoint with the right that it takes.
pub(crate) fn declared() -> Vec<Declared> {
    let shown = |endpoint: Endpoint| Declared {
        method: endpoint.method,
        path: format!("{BASE}{}", endpoint.path),
        right: match endpoint.takes {
            Takes::Right(need, _) => Some(need.to_string()),
            Takes::Known | Takes::Nothing => None,
        },
    };
    table().into_iter().map(shown).collect()
}

fn table() -> Vec<Endpoint> {
    let (cluster, anywhere, group) = (Scope::Cluster, Scope::Anywhere, Scope::Group);
    vec![
        get("/gateway_groups", R::Groups, anywhere, groups::list),
        post("/gateway_groups", R::Groups, cluster, groups::create),
        get("/gateway_groups/{group}", R::Groups, group, groups::show),
        patch("/gateway_groups/{group}", R::Groups, group, groups::update),
        delete("/gateway_groups/{group}", R::Groups, group, groups::delete),
        get("/gateway_groups/{group}/lineage", R::Lineage, group, lineage::show),
        post("/gateway_groups/{group}/lineage/confirm", R::Lineage, group, lineage::confirm),
        put("/gateway_groups/{group}/maintenance", R::Maintenance, group, maintenance::begin_group),
        delete("/gateway_groups/{group}/maintenance", R::Maintenance, group, maintenance::end_group),
        get("/gateway_groups/{group}/settings", R::Settings, group, settings::show),
        put("/gateway_groups/{group}/settings", R::Settings, group, settings::replace),
        patch("/gateway_groups/{group}/settings", R::Settings, group, settings::patch),
        get("/gateway_groups/{group}/tokens", R::JoinTokens, group, tokens::list),
        post("/gateway_groups/{group}/tokens", R::JoinTokens, group, tokens::create),
        delete("/gateway_groups/{group}/tokens/{token}", R::JoinTokens, group, tokens::revoke),
        get("/gateway_groups/{group}/nodes", R::Nodes, group, nodes::of_group),
        get("/gateway_groups/{group}/nodes/{node}", R::Nodes, group, nodes::show),
        delete("/gateway_groups/{group}/nodes/{node}", R::Nodes, group, nodes::delete),
        post("/gateway_groups/{group}/nodes/{node}/revoke", R::Nodes, group, nodes::revoke),
        put("/gateway_groups/{group}/nodes/{node}/maintenance", R::Maintenance, group, maintenance::begin_node),
        delete("/gateway_groups/{group}/nodes/{node}/maintenance", R::Maintenance, group, maintenance::end_node),
        get("/gateway_groups/{group}/revisions", R::Revisions, group, revisions::list),
        get("/gateway_groups/{group}/revisions/{revision}", R::Revisions, group, revisions::show),
        get("/gateway_groups/{group}/revisions/{revision}/receipt", R::Revisions, group, revisions::receipt),
        get("/gateway_groups/{group}/revisions/{revision}/objects", R::Configuration, group, past::objects),
        get("/gateway_groups/{group}/revisions/{revision}/diff/{other}", R::Configuration, group, past::diff),
        post("/gateway_groups/{group}/revisions/{revision}/rollback", R::Configuration, group, past::rollback),
        post("/gateway_groups/{group}/changes", R::ChangeSets, group, drafts::publish_edits),
        get("/gateway_groups/{group}/drafts", R::ChangeSets, group, drafts::list),
        post("/gateway_groups/{group}/drafts", R::ChangeSets, group, drafts::create),
        get("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::show),
        patch("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::update),
        delete("/gateway_groups/{group}/drafts/{draft}", R::ChangeSets, group, drafts::discard),
        post("/gateway_groups/{group}/drafts/{draft}/publish", R::ChangeSets, group, drafts::publish),
        get("/gateway_groups/{group}/export", R::Configuration, group, transfer::export),
        post("/gateway_groups/{group}/import", R::Configuration, group, transfer::import),
        post("/gateway_groups/{group}/promote", R::Configuration, group, transfer::promote),
        get("/changes", R::Revisions, anywhere, revisions::everywhere),
        get("/nodes", R::Nodes, anywhere, nodes::all),
        get("/members", R::Members, cluster, members::list),
        put("/members/{name}/maintenance", R::Maintenance, cluster, maintenance::begin_member),
        delete("/members/{name}/maintenance", R::Maintenance, cluster, maintenance::end_member),
        own(Method::POST, SESSION_PATH, Takes::Nothing, axum::routing::post(session::login)),
        own(Method::GET, SESSION_PATH, Takes::Known, axum::routing::get(session::show)),
        own(Method::DELETE, SESSION_PATH, Takes::Known, axum::routing::delete(session::logout)),
        own(Method::PUT, "/session/password", Takes::Known, axum::routing::put(session::change_password)),
        get("/users", R::Users, cluster, users::list),
        post("/users", R::Users, cluster, users::create),
        get("/users/{name}", R::Users, cluster, users::show),
        patch("/users/{name}", R::Users, cluster, users::update),
        delete("/users/{name}", R::Users, cluster, users::delete),
        get("/roles", R::Roles, anywhere, roles::list),
        get("/tokens", R::ApiTokens, cluster, api_tokens::list),
        post("/tokens", R::ApiTokens, cluster, api_tokens::create),
        delete("/tokens/{token}", R::ApiTokens, cluster, api_tokens::revoke),
        get("/audit", R::Audit, anywhere, audit::list),
        get("/audit/export", R::Audit, anywhere, audit::export),
        get("/audit/{entry}", R::Audit, anywhere, audit::show),
    ]
}

/// A row of what takes no right.
fn own(method: Method, path: &'static str, takes: Takes, serves: MethodRouter<Arc<Api>>) -> Endpoint {
    Endpoint { method, path, takes, serves }
}

/// Defines the functions that make the rows of the table: the method, and whether it reads or writes.
macro_rules! rows {
    ($($name:ident $method:ident $action:ident),+ $(,)?) => {$(
        fn $name<H, T>(path: &'static str, resource: R, scope: Scope, handler: H) -> Endpoint
        where
            H: Handler<T, Arc<Api>>,
            T: 'static,
        {
            let serves = on(MethodFilter::$method, handler);
            Endpoint { method: Method::$method, path, takes: Takes::Right(Need::$action(resource), scope), serves }
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
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let group = params.iter().find_map(|(name, value)| (name == GROUP).then_some(value)).unwrap_or_default();
    let place = match gate.scope {
        Scope::Group => Place::Group(group),
        Scope::Cluster => Place::Cluster,
        Scope::Anywhere => Place::Anywhere,
    };
    match who.authorise(gate.need, place) {
        Ok(()) => next.run(request).await,
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
    fn nobody_need_be_known_to_log_in_alone() {
        for Endpoint { method, path, takes, .. } in table() {
            assert_eq!(is_open(&method, path), takes == Takes::Nothing, "{method} {path}");
        }
    }
}
