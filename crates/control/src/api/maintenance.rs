//! Maintenance of gateway groups, nodes and members of the control plane: `PUT` begins it, or gives it another reason;
//! `DELETE` ends it. It lasts until then, whatever starts anew.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_store::Maintenance;
use schemars::JsonSchema;
use serde::Deserialize;

use super::groups::done;
use super::nodes::missing;
use super::{Api, Failure, Outcome, Site, Who, json};
use crate::openapi::Doc;

/// Longest reason, in characters: it is shown by every probe.
const LONGEST: usize = 512;

/// What is given to begin it.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "MaintenanceGiven")]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// Why, for people.
    #[schemars(length(max = LONGEST))]
    reason: String,
}

/// What a request asks to be set.
async fn given(api: &Api, who: &Who, body: Body) -> Result<Maintenance, Failure> {
    let Given { reason } = api.body(body).await?;
    if reason.chars().count() > LONGEST {
        return Err(Failure::bad("invalid_body", format!("a reason has at most {LONGEST} characters")).at("/reason"));
    }
    Ok(Maintenance { reason, by: who.name.to_string(), since: api.clock.now() })
}

pub(super) const BEGIN_GROUP: Doc =
    Doc::gives::<Maintenance>("Takes all nodes of a gateway group out of service.").takes::<Given>();

/// `PUT /api/gateway_groups/{group}/maintenance`: of all of its nodes, those to come included.
pub(super) async fn begin_group(Shared(api): Site, who: Who, Path(group): Path<String>, body: Body) -> Outcome {
    let maintenance = given(&api, &who, body).await?;
    api.by(&who).group_maintain(&group, Some(&maintenance)).await?;
    tracing::info!(group, reason = maintenance.reason, by = maintenance.by, "maintenance of a gateway group begins");
    Ok(json(StatusCode::OK, &maintenance))
}

pub(super) const END_GROUP: Doc = Doc::done("Takes them back into service.");

/// `DELETE /api/gateway_groups/{group}/maintenance`: nodes that are in maintenance by themselves stay so.
pub(super) async fn end_group(Shared(api): Site, Extension(who): Who, Path(group): Path<String>) -> Outcome {
    api.by(&who).group_maintain(&group, None).await?;
    tracing::info!(group, by = who.name, "maintenance of a gateway group ends");
    Ok(done())
}

pub(super) const BEGIN_NODE: Doc = Doc::gives::<Maintenance>("Takes a node out of service.").takes::<Given>();

/// `PUT /api/gateway_groups/{group}/nodes/{node}/maintenance`.
pub(super) async fn begin_node(
    Shared(api): Site,
    who: Who,
    Path((group, node)): Path<(String, String)>,
    body: Body,
) -> Outcome {
    let maintenance = given(&api, &who, body).await?;
    if !api.by(&who).node_maintain(&group, &node, Some(&maintenance)).await? {
        return Err(missing(&group, &node));
    }
    tracing::info!(group, node, reason = maintenance.reason, by = maintenance.by, "maintenance of a node begins");
    Ok(json(StatusCode::OK, &maintenance))
}

pub(super) const END_NODE: Doc = Doc::done("Takes a node back into service.");

/// `DELETE /api/gateway_groups/{group}/nodes/{node}/maintenance`: that of its group, if there is one, goes on.
pub(super) async fn end_node(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, node)): Path<(String, String)>,
) -> Outcome {
    if !api.by(&who).node_maintain(&group, &node, None).await? {
        return Err(missing(&group, &node));
    }
    tracing::info!(group, node, by = who.name, "maintenance of a node ends");
    Ok(done())
}

pub(super) const BEGIN_MEMBER: Doc =
    Doc::gives::<Maintenance>("Takes the replicas of a name out of service.").takes::<Given>();

/// `PUT /api/members/{name}/maintenance`: of all members of that name, and of those that start later.
pub(super) async fn begin_member(Shared(api): Site, who: Who, Path(name): Path<String>, body: Body) -> Outcome {
    let maintenance = given(&api, &who, body).await?;
    let known = api.store().member_list().await?.iter().any(|member| member.told.host == name);
    if !known && api.store().member_maintenance(&name).await?.is_none() {
        let message = format!("no member is called `{name}`: `milecastle members` shows their names");
        return Err(Failure::missing("no_such_member", message));
    }
    api.by(&who).member_maintain(&name, Some(&maintenance)).await?;
    tracing::info!(name, reason = maintenance.reason, by = maintenance.by, "maintenance of a member begins");
    Ok(json(StatusCode::OK, &maintenance))
}

pub(super) const END_MEMBER: Doc = Doc::done("Takes them back into service.");

/// `DELETE /api/members/{name}/maintenance`.
pub(super) async fn end_member(Shared(api): Site, Extension(who): Who, Path(name): Path<String>) -> Outcome {
    api.by(&who).member_maintain(&name, None).await?;
    tracing::info!(name, by = who.name, "maintenance of a member ends");
    Ok(done())
}
