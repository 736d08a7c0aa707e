//! Gateway nodes.

use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_store::Maintenance;
use schemars::JsonSchema;
use serde::Serialize;

use super::groups::done;
use super::{Failure, List, Outcome, Site, Who, json};
use crate::admin::query::Query;
use crate::callers::Caller;
use crate::dpm::{Figures, NodeState, RefusedStep, RejectedObject};
use crate::openapi::Doc;
use crate::rights::{Groups, Need, Place, Resource};

/// A node as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Node")]
struct Shown {
    id: String,
    group: String,
    /// `healthy`, `late`, `rejected`, `lost`, `offline` or `revoked`.
    state: &'static str,
    host: String,
    version: String,
    boot: String,
    joined_at: u64,
    heard_at: Option<u64>,
    connected: bool,
    member: String,
    address: Option<String>,
    lineage: Option<String>,
    revision: u64,
    /// The newest revision of its group.
    head: u64,
    /// Whether it goes ahead of others in the rollout that is on.
    canary: bool,
    digest: String,
    rejected: Vec<RejectedObject>,
    rejected_total: u32,
    refused: Option<RefusedStep>,
    alarms: Vec<String>,
    maintenance: Option<Maintenance>,
    group_maintenance: Option<Maintenance>,
    in_maintenance: bool,
    figures: Option<ShownFigures>,
}

/// What a node counted since its process started.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NodeFigures")]
struct ShownFigures {
    uptime_ms: u64,
    requests: u64,
    responses_5xx: u64,
    /// Those of them that an upstream answered; `null` of a node whose version does not tell.
    responses_5xx_upstream: Option<u64>,
    /// The time within which 99 of 100 requests were over.
    p99_ms: Option<u64>,
    cpu_ms: u64,
    connections: u64,
    resident_bytes: u64,
    upstream_targets: u64,
    unhealthy_targets: u64,
    certificate_not_after: i64,
}

impl From<Figures> for ShownFigures {
    fn from(figures: Figures) -> Self {
        let Figures { requests, responses_5xx, connections, resident_bytes, upstream_targets, .. } = figures;
        Self {
            uptime_ms: u64::try_from(figures.uptime.as_millis()).unwrap_or(u64::MAX),
            requests,
            responses_5xx,
            responses_5xx_upstream: figures.traffic.map(|traffic| traffic.upstream_5xx),
            p99_ms: figures.traffic.and_then(|traffic| traffic.p99_ms()),
            cpu_ms: u64::try_from(figures.cpu.as_millis()).unwrap_or(u64::MAX),
            connections,
            resident_bytes,
            upstream_targets,
            unhealthy_targets: figures.unhealthy_targets,
            certificate_not_after: figures.certificate_not_after,
        }
    }
}

/// A node of a group whose newest revision is `head`.
fn shown(group: &str, head: u64, node: NodeState) -> Shown {
    Shown {
        id: node.id,
        group: group.to_owned(),
        state: node.condition.name(),
        host: node.host,
        version: node.version,
        boot: node.boot,
        joined_at: node.joined_at,
        heard_at: node.heard_at,
        connected: node.connected,
        member: node.member,
        address: node.address.map(|address| address.to_string()),
        lineage: node.lineage,
        revision: node.revision,
        head,
        canary: node.canary,
        digest: node.digest,
        rejected: node.troubles.rejected,
        rejected_total: node.troubles.rejected_total,
        refused: node.troubles.refused,
        alarms: node.troubles.alarms,
        maintenance: node.maintenance,
        group_maintenance: node.group_maintenance,
        in_maintenance: node.troubles.maintained,
        figures: node.figures.map(ShownFigures::from),
    }
}

pub(super) const OF_GROUP: Doc = Doc::gives::<List<'static, Shown>>("The nodes of a gateway group.");

/// `GET /api/gateway_groups/{group}/nodes`.
pub(super) async fn of_group(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    let head = api.store().head(&group).await?.revision;
    let nodes = api.nodes.list(&group).await?.into_iter();
    Ok(super::list(&nodes.map(|node| shown(&group, head, node)).collect::<Vec<_>>()))
}

pub(super) const ALL: Doc = Doc::gives::<List<'static, Shown>>("The nodes of all gateway groups.");

/// `GET /api/nodes`: of all groups of which whoever asks may see them.
pub(super) async fn all(Shared(api): Site, Extension(who): Who) -> Outcome {
    let (heads, rollouts) = (api.store().head_list().await?, api.store().rollout_list().await?);
    let seen = |group: &str| who.rights.allow(Need::read(Resource::Nodes), Place::Group(group));
    let nodes = api.nodes.list_all(&heads, &rollouts.known).await?.into_iter().filter(|(group, _)| seen(group));
    let all = nodes.filter_map(|(group, node)| Some(shown(&group, heads.get(&group)?.revision, node)));
    Ok(super::list(&all.collect::<Vec<_>>()))
}

/// Of which groups what nodes say is asked for: of the one that the argument `group` names, or of those in which whoever asks may see
/// what it is about; `None`: of all.
pub(super) fn groups_asked(about: Resource, query: &Query, who: &Caller) -> Result<Option<Vec<String>>, Failure> {
    let need = Need::read(about);
    if let Some(group) = query.get("group").filter(|group| !group.is_empty()) {
        who.authorise(need, Place::Group(group))?;
        return Ok(Some(vec![group.to_owned()]));
    }
    Ok(match who.rights.groups(need) {
        Groups::All => None,
        Groups::Named(groups) => Some(groups.into_iter().collect()),
    })
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("A node.");

/// `GET /api/gateway_groups/{group}/nodes/{node}`.
pub(super) async fn show(Shared(api): Site, Path((group, id)): Path<(String, String)>) -> Outcome {
    let head = api.store().head(&group).await?.revision;
    match api.nodes.get(&group, &id).await? {
        Some(node) => Ok(json(StatusCode::OK, &shown(&group, head, node))),
        None => Err(missing(&group, &id)),
    }
}

pub(super) const DELETE: Doc = Doc::done("Forgets a node; with a good token it may join again.");

/// `DELETE /api/gateway_groups/{group}/nodes/{node}`: forgets it and ends its stream. With a good token it may join again.
pub(super) async fn delete(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, node)): Path<(String, String)>,
) -> Outcome {
    if !api.by(&who).node_delete(&group, &node).await? {
        return Err(missing(&group, &node));
    }
    tracing::info!(group, node, by = who.name, "node deleted");
    Ok(done())
}

pub(super) const REVOKE: Doc = Doc::done("Cuts a node off and keeps it out.");

/// `POST /api/gateway_groups/{group}/nodes/{node}/revoke`: ends its stream and keeps it out until it is deleted.
pub(super) async fn revoke(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, node)): Path<(String, String)>,
) -> Outcome {
    if !api.by(&who).node_revoke(&group, &node).await? {
        let message = format!("group `{group}` has no node `{node}` that is not revoked yet");
        return Err(Failure::missing("no_such_node", message));
    }
    tracing::info!(group, node, by = who.name, "node revoked");
    Ok(done())
}

pub(super) fn missing(group: &str, node: &str) -> Failure {
    Failure::missing("no_such_node", format!("group `{group}` has no node `{node}`"))
}
