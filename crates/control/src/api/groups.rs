//! Gateway groups.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use milecastle_pki::NodeIdentity;
use milecastle_store::{DEFAULT_GROUP, Group, GroupUpdate, Maintenance, NewGroup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Failure, List, Outcome, Site, Who, flag, json, query_of};
use crate::openapi::{Doc, NAME, Param};
use crate::rights::{Need, Place, Resource};

/// A group as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "GatewayGroup")]
struct Shown {
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
    maintenance: Option<Maintenance>,
    revision: u64,
    lineage: String,
    created_at: u64,
}

/// What is given to make a group.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "GatewayGroupNew", extend("required" = ["id"]))]
#[serde(deny_unknown_fields, default)]
struct New {
    #[schemars(regex(pattern = NAME))]
    id: String,
    /// The id without it.
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// What is given to change one. Its id does not change.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "GatewayGroupUpdate")]
#[serde(deny_unknown_fields)]
struct Update {
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<Group> for Shown {
    fn from(group: Group) -> Self {
        let Group { id, name, labels, maintenance, lineage, revision, created_at, .. } = group;
        Self { id, name, labels, maintenance, revision, lineage, created_at }
    }
}

pub(super) const LIST: Doc =
    Doc::gives::<List<'static, Shown>>("The gateway groups.").query(&[Param::text("name", "Only those of this name.")]);

/// `GET /api/gateway_groups`: all that whoever asks may see, or those of the name that `name` says.
pub(super) async fn list(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let seen = |group: &Group| who.rights.allow(Need::read(Resource::Groups), Place::Group(&group.id));
    let named = |group: &Group| query.get("name").filter(|name| !name.is_empty()).is_none_or(|name| group.name == name);
    let groups = api.store().group_list().await?;
    let shown: Vec<Shown> = groups.into_iter().filter(|group| named(group) && seen(group)).map(Shown::from).collect();
    Ok(super::list(&shown))
}

pub(super) const CREATE: Doc = Doc::makes::<Shown>("Makes a gateway group.").needs::<New>().refuses(&[409]);

/// `POST /api/gateway_groups`.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, body: Body) -> Outcome {
    let New { id, name, labels } = api.body(body).await?;
    // What can stand in the certificates of its nodes.
    NodeIdentity::new(id.as_str(), "any").map_err(|error| Failure::bad("invalid_id", error.to_string()).at("/id"))?;
    let name = name.unwrap_or_else(|| id.clone());
    let new = NewGroup { name, labels: labels.unwrap_or_default(), ..NewGroup::named(id) };
    let group = api.by(&who).group_create(&new).await?;
    // Whoever made it may use it here at once.
    api.state.find(&group.id).await?;
    tracing::info!(group = group.id, by = who.name, "gateway group created");
    Ok(json(StatusCode::CREATED, &Shown::from(group)))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("A gateway group.");

/// `GET /api/gateway_groups/{group}`.
pub(super) async fn show(Shared(api): Site, Path(id): Path<String>) -> Outcome {
    Ok(json(StatusCode::OK, &Shown::from(api.store().group_get(&id).await?)))
}

pub(super) const UPDATE: Doc = Doc::gives::<Shown>("Changes name and labels of a gateway group.").takes::<Update>();

/// `PATCH /api/gateway_groups/{group}`: name and labels.
pub(super) async fn update(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, body: Body) -> Outcome {
    let Update { name, labels } = api.body(body).await?;
    let update = GroupUpdate { name, labels };
    let group = api.by(&who).group_update(&id, &update).await?;
    tracing::info!(group = id, by = who.name, "gateway group changed");
    Ok(json(StatusCode::OK, &Shown::from(group)))
}

pub(super) const DELETE: Doc = Doc::done("Deletes a gateway group.")
    .query(&[Param::flag("force", "Also with objects and nodes.")])
    .refuses(&[409]);

/// `DELETE /api/gateway_groups/{group}`: one without objects and nodes, or with `force=true` any but the default one.
pub(super) async fn delete(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, uri: Uri) -> Outcome {
    let force = flag(&query_of(&uri), "force")?;
    if id == DEFAULT_GROUP {
        let message = "the default group stays: requests that name no group mean it";
        return Err(Failure::conflict("default_group", message));
    }
    api.by(&who).group_delete(&id, force).await?;
    tracing::info!(group = id, force, by = who.name, "gateway group deleted");
    Ok(done())
}

/// 204.
pub(super) fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
