//! Rollouts that do not go on by themselves, of which an operator is to know.

use std::collections::BTreeMap;

use milecastle_store::{Gate, Rollouts, Store, StoreError};

use super::course::{Course, Situation};
use super::{policy_of, seen, situation};
use crate::dpm::Silence;

/// Why a rollout does not go on, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stalled {
    /// `None` where it cannot be read.
    pub(crate) candidate: Option<u64>,
    pub(crate) reason: &'static str,
    pub(crate) advice: &'static str,
}

/// Those of all groups, by group. Nodes are read only of groups whose rollout takes longer than its policy takes for usual.
pub(crate) async fn stalled(
    store: &Store,
    silence: Silence,
    rollouts: &Rollouts,
) -> Result<BTreeMap<String, Stalled>, StoreError> {
    let mut stalled = BTreeMap::new();
    for rollout in &rollouts.known {
        let Some(Gate { candidate, .. }) = rollout.head.gate else { continue };
        let told = match policy_of(rollout) {
            None => Some(OF_ANOTHER_VERSION),
            Some(policy) if situation(store.now(), rollout, &policy, &[]).is_stalled() => {
                let nodes = store.node_list(&rollout.group).await?;
                let now = store.now();
                let nodes = seen(now, silence, rollout, nodes);
                why(&situation(now, rollout, &policy, &nodes))
            }
            Some(_) => None,
        };
        if let Some((reason, advice)) = told {
            stalled.insert(rollout.group.clone(), Stalled { candidate: Some(candidate), reason, advice });
        }
    }
    let (reason, advice) = UNREADABLE;
    let unreadable = Stalled { candidate: None, reason, advice };
    stalled.extend(rollouts.unreadable.iter().map(|group| (group.clone(), unreadable.clone())));
    Ok(stalled)
}

const OF_ANOTHER_VERSION: (&str, &str) = (
    "its policy, or how far it has come, is of a later version of the control plane than the replica that leads",
    "upgrade all replicas of the control plane",
);

const UNREADABLE: (&str, &str) = (
    "its row in the database cannot be read: it was written by something else, or is damaged",
    "restore the database from a backup, or set `policy` to `{}`, `stage` to NULL and `record` to `{}` in this row of table `rollout`",
);

/// Why a rollout does not go on, and what to do, if it does not by itself.
fn why(situation: &Situation<'_>) -> Option<(&'static str, &'static str)> {
    match situation.course() {
        Course::Wait(wait) => Some((wait.what(), wait.advice()?)),
        Course::Back(_) => Some((
            "it is to be taken back, and cannot be",
            "the log of the replica that leads says why; where its settings are of a later version, upgrade that replica",
        )),
        Course::Step { .. } => None,
    }
}
