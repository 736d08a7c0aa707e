//! Gateway nodes.

use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use serde_json::{Value, json};

use super::groups::done;
use super::{Api, Failure, Outcome, Site, Who, json};
use crate::dpm::NodeState;
use crate::rights::{Need, Place, Resource};

/// A node as answers show it. `head` is the newest revision of its group.
fn shown(group: &str, head: u64, node: &NodeState) -> Value {
    let figures = node.figures.map(|figures| {
        json!({
            "uptime_ms": u64::try_from(figures.uptime.as_millis()).unwrap_or(u64::MAX),
            "requests": figures.requests,
            "responses_5xx": figures.responses_5xx,
            "responses_5xx_upstream": figures.traffic.map(|traffic| traffic.upstream_5xx),
            "p99_ms": figures.traffic.and_then(|traffic| traffic.p99_ms()),
            "cpu_ms": u64::try_from(figures.cpu.as_millis()).unwrap_or(u64::MAX),
            "connections": figures.connections,
            "resident_bytes": figures.resident_bytes,
            "upstream_targets": figures.upstream_targets,
            "unhealthy_targets": figures.unhealthy_targets,
            "certificate_not_after": figures.certificate_not_after,
        })
    });
    json!({
        "id": node.id,
        "group": group,
        "state": node.condition.name(),
        "host": node.host,
        "version": node.version,
        "boot": node.boot,
        "joined_at": node.joined_at,
        "heard_at": node.heard_at,
        "connected": node.connected,
        "member": node.member,
        "address": node.address,
        "lineage": node.lineage,
        "revision": node.revision,
        "head": head,
        "digest": node.digest,
        "rejected": node.troubles.rejected,
        "rejected_total": node.troubles.rejected_total,
        "refused": node.troubles.refused,
        "alarms": node.troubles.alarms,
        "maintenance": node.maintenance,
        "group_maintenance": node.group_maintenance,
        "in_maintenance": node.troubles.maintained,
        "figures": figures,
    })
}

async fn listed(api: &Api, group: &str) -> Result<Vec<Value>, Failure> {
    let head = api.store().head(group).await?.revision;
    Ok(api.nodes.list(group).await?.iter().map(|node| shown(group, head, node)).collect())
}

/// `GET /api/gateway_groups/{group}/nodes`.
pub(super) async fn of_group(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    Ok(super::list(&listed(&api, &group).await?))
}

/// `GET /api/nodes`: of all groups of which whoever asks may see them.
pub(super) async fn all(Shared(api): Site, Extension(who): Who) -> Outcome {
    let mut all = Vec::new();
    for group in api.store().group_list().await? {
        if !who.rights.allow(Need::read(Resource::Nodes), Place::Group(&group.id)) {
            continue;
        }
        all.append(&mut listed(&api, &group.id).await?);
    }
    Ok(super::list(&all))
}

/// `GET /api/gateway_groups/{group}/nodes/{node}`.
pub(super) async fn show(Shared(api): Site, Path((group, id)): Path<(String, String)>) -> Outcome {
    let head = api.store().head(&group).await?.revision;
    match api.nodes.get(&group, &id).await? {
        Some(node) => Ok(json(StatusCode::OK, &shown(&group, head, &node))),
        None => Err(missing(&group, &id)),
    }
}

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
