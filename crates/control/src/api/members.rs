//! The replicas of the control plane.

use std::collections::BTreeMap;

use axum::extract::State as Shared;
use http::StatusCode;
use milecastle_store::{Maintenance, Member};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Outcome, Site, json};
use crate::members::LEADER;
use crate::openapi::Doc;

/// A member as answers show it. Of a name of which no process runs there are only name, roles, state and maintenance.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "Member")]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    name: String,
    roles: Vec<String>,
    #[serde(flatten)]
    process: Option<Process>,
    /// `alive`, `lost`, `stopped` or `outdated`.
    state: &'static str,
    leads: bool,
    maintenance: Option<Maintenance>,
}

/// What is known of the process of a member.
#[derive(Serialize, JsonSchema)]
struct Process {
    address: String,
    version: String,
    started_at: u64,
    silence_ms: u64,
    /// The oldest release that may run, if this one may not.
    needs: Option<String>,
}

/// The members of the control plane, and which of them leads.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Members")]
struct Members {
    list: Vec<Shown>,
    total: usize,
    leader: Option<Leader>,
}

/// Who leads.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Leader")]
struct Leader {
    member: String,
    /// Its term of office.
    epoch: u64,
}

pub(super) const LIST: Doc = Doc::gives::<Members>("The processes of the control plane.");

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
    let mut shown: Vec<Shown> = Vec::new();
    for member in members.iter().filter(|member| !replaced(member)) {
        let leads = leader.as_ref().is_some_and(|lease| lease.holder == member.told.id);
        let state = match &member.outdated {
            Some(_) => "outdated",
            None if lost(member) => "lost",
            None => "alive",
        };
        let process = Process {
            address: member.told.address.clone(),
            version: member.told.version.clone(),
            started_at: member.started_at,
            silence_ms: u64::try_from(member.silence.as_millis()).unwrap_or(u64::MAX),
            needs: member.outdated.clone(),
        };
        shown.push(Shown {
            id: Some(member.told.id.clone()),
            name: member.told.host.clone(),
            roles: member.told.roles.clone(),
            process: Some(process),
            state,
            leads,
            maintenance: maintained.get(&member.told.host).cloned(),
        });
    }
    // Of those that do not run it must be seen too, or nobody would know why they take no work when they start.
    maintained.retain(|name, _| members.iter().all(|member| member.told.host != *name));
    shown.extend(maintained.into_iter().map(|(name, maintenance)| Shown {
        name,
        state: "stopped",
        maintenance: Some(maintenance),
        ..Shown::default()
    }));
    let leader = leader.map(|lease| Leader { member: lease.holder, epoch: lease.epoch });
    Ok(json(StatusCode::OK, &Members { total: shown.len(), list: shown, leader }))
}
