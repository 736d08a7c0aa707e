//! The replicas of the control plane.

use axum::extract::State as Shared;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Outcome, Site, json};
use crate::members::LEADER;

/// `GET /api/members`: those that fell silent included, until they are forgotten.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let leader = api.store().lease_get(LEADER).await?.filter(|lease| !lease.left.is_zero());
    let members = api.store().member_list().await?;
    let shown = members.iter().map(|member| {
        let leads = leader.as_ref().is_some_and(|lease| lease.holder == member.told.id);
        let state = if member.silence > api.nodes.lost_after() { "lost" } else { "alive" };
        json!({
            "id": member.told.id,
            "name": member.told.host,
            "roles": member.told.roles,
            "address": member.told.address,
            "version": member.told.version,
            "started_at": member.started_at,
            "silence_ms": u64::try_from(member.silence.as_millis()).unwrap_or(u64::MAX),
            "state": state,
            "leads": leads,
        })
    });
    let shown: Vec<Value> = shown.collect();
    let leader = leader.map(|lease| json!({ "member": lease.holder, "epoch": lease.epoch }));
    Ok(json(StatusCode::OK, &json!({ "list": shown, "total": shown.len(), "leader": leader })))
}
