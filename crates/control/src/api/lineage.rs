//! After a database was restored or replaced: whether the nodes may take over what it holds.
//!
//! A node that holds revisions which the database does not know keeps them and raises an alarm, for whatever the database
//! lost may be what serves. An operator looks ([`show`]) and confirms ([`confirm`]); then the lineages that the nodes stand in
//! are declared over, and every node takes the database's state.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_store::Group;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Api, Failure, Outcome, Site, Who, json};
use crate::openapi::Doc;

/// What nodes hold that the database does not know: by lineage the greatest revision, and the nodes.
type Unknown = BTreeMap<String, (u64, Vec<String>)>;

/// Where a group stands, and what it does not know.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Lineage")]
struct Shown {
    group: String,
    lineage: String,
    revision: u64,
    /// Lineages that are over.
    supersedes: Vec<String>,
    unknown: Vec<Branch>,
}

/// What nodes hold of a lineage.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UnknownLineage")]
struct Branch {
    lineage: String,
    /// The greatest one.
    revision: u64,
    nodes: Vec<String>,
}

/// What is given to confirm.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "LineageGiven")]
#[serde(deny_unknown_fields, default)]
pub(super) struct Given {
    /// Lineages to declare over; without it, all that nodes were found in.
    lineages: Option<Vec<String>>,
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("What nodes hold that the database does not know.");

/// `GET /api/gateway_groups/{group}/lineage`.
pub(super) async fn show(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    let group = api.store().group_get(&group).await?;
    let unknown = unknown(&api, &group).await?;
    Ok(json(StatusCode::OK, &shown(group, unknown)))
}

pub(super) const CONFIRM: Doc =
    Doc::gives::<Shown>("Has the nodes take over what the database holds.").takes::<Given>().refuses(&[409]);

/// `POST /api/gateway_groups/{group}/lineage/confirm`.
pub(super) async fn confirm(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, body: Body) -> Outcome {
    let given: Given = api.body(body).await?;
    let group = api.store().group_get(&id).await?;
    let unknown = unknown(&api, &group).await?;
    let over = given.lineages.unwrap_or_else(|| unknown.keys().cloned().collect());
    if over.is_empty() {
        let message = "no node holds anything that the database does not know: there is nothing to confirm";
        return Err(Failure::conflict("nothing_to_confirm", message));
    }
    let anew = over.contains(&group.lineage);
    let group = api.by(&who).group_supersede(&id, &over, anew).await?;
    tracing::warn!(group = id, lineages = ?over, by = who.name, "the nodes take over what the database holds");
    Ok(json(StatusCode::OK, &shown(group, Unknown::new())))
}

fn shown(group: Group, unknown: Unknown) -> Shown {
    let unknown = unknown.into_iter().map(|(lineage, (revision, nodes))| Branch { lineage, revision, nodes }).collect();
    let Group { id, lineage, revision, supersedes, .. } = group;
    Shown { group: id, lineage, revision, supersedes, unknown }
}

/// Looks through what the nodes last said.
async fn unknown(api: &Api, group: &Group) -> Result<Unknown, Failure> {
    let mut unknown = Unknown::new();
    let over = &group.supersedes;
    for node in api.nodes.list(&group.id).await? {
        let Some(lineage) = node.lineage.filter(|lineage| !over.contains(lineage)) else { continue };
        // The database may have gone on past the node since it was set back: then the node's word tells.
        let refuses = node.troubles.refused.is_some_and(|refused| refused.fault == "backwards");
        if lineage != group.lineage || node.revision > group.revision || refuses {
            let (revision, nodes) = unknown.entry(lineage).or_default();
            *revision = node.revision.max(*revision);
            nodes.push(node.id);
        }
    }
    Ok(unknown)
}
