//! Every endpoint of `/api`, with the right that it takes.
//!
//! What must stay true: the router is made of this table and of nothing else, and a row has no way to leave its right out.

use axum::Router;
use axum::extract::{Extension, RawPathParams, Request, State as Shared};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode};
use std::sync::Arc;

use super::{Api, BASE, Failure, Who};
use super::{api_tokens, groups, lineage, maintenance, members, nodes, revisions, roles, settings, tokens};
use crate::rights::{Missing, Need, Place, Resource as R};

/// Name of the parameter of a path that names the gateway group.
const GROUP: &str = "group";

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

/// One endpoint.
struct Endpoint {
    method: Method,
    /// Below [`BASE`], with parameters in braces.
    path: &'static str,
    need: Need,
    scope: Scope,
    serves: MethodRouter<Arc<Api>>,
}

/// An endpoint as others see it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters in braces.
    pub path: String,
    /// The right that it takes, as `write routes`; `None`: to be known is enough.
    pub right: Option<String>,
}

/// The router, each endpoint behind its right.
pub(super) fn router() -> Router<Arc<Api>> {
    table().into_iter().fold(Router::new(), |router, endpoint| {
        let gate = Gate { need: endpoint.need, scope: endpoint.scope };
        router.route(endpoint.path, endpoint.serves.route_layer(middleware::from_fn_with_state(gate, pass)))
    })
}

/// Every endpoint with the right that it takes.
pub(crate) fn declared() -> Vec<Declared> {
    let shown = |endpoint: Endpoint| Declared {
        method: endpoint.method,
        path: format!("{BASE}{}", endpoint.path),
        right: Some(endpoint.need.to_string()),
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
        get("/nodes", R::Nodes, anywhere, nodes::all),
        get("/members", R::Members, cluster, members::list),
        put("/members/{name}/maintenance", R::Maintenance, cluster, maintenance::begin_member),
        delete("/members/{name}/maintenance", R::Maintenance, cluster, maintenance::end_member),
        get("/roles", R::Roles, anywhere, roles::list),
        get("/tokens", R::ApiTokens, cluster, api_tokens::list),
        post("/tokens", R::ApiTokens, cluster, api_tokens::create),
        delete("/tokens/{token}", R::ApiTokens, cluster, api_tokens::revoke),
    ]
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
            Endpoint { method: Method::$method, path, need: Need::$action(resource), scope, serves }
        }
    )+};
}
rows!(get GET read, post POST write, put PUT write, patch PATCH write, delete DELETE write);

/// What an endpoint asks of whoever calls it.
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
        Err(missing) => Failure::from(missing).into_response(),
    }
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        let right = serde_json::json!({
            "action": missing.action.name(),
            "resource": missing.resource.name(),
            "group": missing.group,
        });
        Self::new(StatusCode::FORBIDDEN, "not_allowed", missing.to_string()).with("missing", right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_in_a_group_is_asked_where_the_path_names_one() {
        for Endpoint { path, scope, .. } in table() {
            assert_eq!(path.contains("{group}"), scope == Scope::Group, "{path}");
        }
    }
}
