//! The replicas of the control plane.

use std::collections::BTreeMap;

use axum::extract::State as Shared;
use http::StatusCode;
use milecastle_store::Member;
use serde_json::{Value, json};

use super::{Outcome, Site, json};
use crate::members::LEADER;

/// `GET /api/members`: those that fell silent or are too old for the database's schema included, until they are forgotten or others have taken their place; and names in
/// maintenance of which no process runs. While the database takes no heartbeats, who lives is not known: 503.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    api.store().takes_writes()?;
    let leader = api.store().lease_get(LEADER).await?.filter(|lease| !lease.left.is_zero());
    let members = api.store().member_list().await?;
    let mut maintained: BTreeMap<_, _> = api.store().member_maintenance_list().await?.into_iter().collect();
    let lost = |member: &Member| member.silence > api.nodes.lost_after();
    let replaced = |gone: &Member| {
        let has_its_place = |member: &Member| {
            member.told.host == gone.told.host && gone.told.roles.iter().all(|role| member.told.roles.contains(role))
        };
        lost(gone) && members.iter().any(|member| member.silence < gone.silence && has_its_place(member))
    };
    let mut shown: Vec<Value> = Vec::new();
    for member in members.iter().filter(|member| !replaced(member)) {
        let leads = leader.as_ref().is_some_and(|lease| lease.holder == member.told.id);
        let state = match &member.outdated {
            Some(_) => "outdated",
            None if lost(member) => "lost",
            None => "alive",
        };
        shown.push(json!({
            "id": member.told.id,
            "name": member.told.host,
            "roles": member.told.roles,
            "address": member.told.address,
            "version": member.told.version,
            "started_at": member.started_at,
            "silence_ms": u64::try_from(member.silence.as_millis()).unwrap_or(u64::MAX),
            "state": state,
            "needs": member.outdated,
            "leads": leads,
            "maintenance": maintained.get(&member.told.host),
        }));
    }
    // Of those that do not run it must be seen too, or nobody would know why they take no work when they start.
    maintained.retain(|name, _| members.iter().all(|member| member.told.host != *name));
    shown.extend(maintained.iter().map(|(name, maintenance)| {
        json!({ "name": name, "roles": [], "state": "stopped", "leads": false, "maintenance": maintenance })
    }));
    let leader = leader.map(|lease| json!({ "member": lease.holder, "epoch": lease.epoch }));
    Ok(json(StatusCode::OK, &json!({ "list": shown, "total": shown.len(), "leader": leader })))
}
