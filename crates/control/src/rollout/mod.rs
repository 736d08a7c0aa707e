//! Progressive rollout: new revisions of a group go to canaries first, to the others after a soak time, and are taken back by
//! themselves where canaries do not bear them (`docs/rollout.md`).
//!
//! Where nodes may go stands in the database ([`milecastle_store::Gate`]); the publish that makes a revision closes the gate, and the
//! leader moves it on ([`look`]) by what [`course`] says. DP managers do what it says and decide nothing.

mod back;
mod course;
mod metrics;
mod policy;
mod verdict;

use milecastle_snapshot::Compiler;
use milecastle_store::{Actor, ActorKind, Node, Rollout, Step, Store, StoreError, Term};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use back::Back;
#[cfg(test)]
pub(crate) use course::Record;
pub(crate) use course::{Course, End, Outcome, Seen, Situation, Stage, stored};
pub use metrics::watch_rollouts;
pub(crate) use policy::{Policy, Strategy};

use crate::dpm::{Silence, Troubles, is_connected};
use crate::revisions::{Editor, Refused};
use crate::state::State;
use crate::traffic::Traffic;

/// What histories call whoever does it where nobody asked for it.
pub(crate) const NAME: &str = "rollout";

/// How often something is done anew at once because somebody has written to the group meanwhile.
pub(crate) const ATTEMPTS: usize = 16;

/// The fault of a step whose settings a node does not know.
const SETTINGS: &str = "settings";

/// The nodes that go ahead in the rollout that is on.
pub(crate) fn canaries_of(rollout: &Rollout) -> BTreeSet<String> {
    stored(rollout).0.map(|stage| stage.canaries).unwrap_or_default()
}

/// The policy of a group; `None`: it is of a version that knows more.
pub(crate) fn policy_of(rollout: &Rollout) -> Option<Policy> {
    match &rollout.policy {
        None => Some(Policy::default()),
        Some(policy) => Policy::deserialize(policy).ok(),
    }
}

/// As the store keeps it.
pub(crate) fn written(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("numbers, texts and maps by text have a JSON form")
}

/// Looks at all rollouts, as the leader of this term, and moves each on as far as it may go. `leading` is for how long it has led: before
/// nodes could have been heard of, none passes for gone.
pub(crate) async fn look(state: &State, compiler: &Arc<Compiler>, silence: Silence, term: Term<'_>, leading: Duration) {
    let offline_after = if leading < silence.offline_after { Duration::MAX } else { silence.offline_after };
    let silence = Silence { offline_after, ..silence };
    let rollouts = match state.store().rollout_list().await {
        Ok(rollouts) => rollouts,
        Err(error) => return tracing::debug!(%error, "rollouts are looked at later"),
    };
    let leader = Leader { state, compiler, silence, term };
    for rollout in rollouts.into_iter().filter(|rollout| rollout.staged || rollout.head.gate.is_some()) {
        let group = rollout.group.clone();
        if let Err(error) = leader.look_at(rollout).await {
            tracing::warn!(group, %error, "a rollout cannot go on now; trying again");
        }
    }
}

/// Whoever moves rollouts on where nobody asks for it.
struct Leader<'a> {
    state: &'a State,
    compiler: &'a Arc<Compiler>,
    silence: Silence,
    term: Term<'a>,
}

impl Leader<'_> {
    /// Moves a rollout on as far as it may go, if it may.
    async fn look_at(&self, mut rollout: Rollout) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            if self.go_on(&rollout).await? {
                return Ok(());
            }
            rollout = self.state.store().rollout_get(&rollout.group).await?;
        }
        tracing::info!(
            group = rollout.group,
            "a rollout waits: the group is written to without pause, or another replica leads"
        );
        Ok(())
    }

    /// The same, once. `false`: something has changed since the rollout was read, or the term of office is over.
    async fn go_on(&self, rollout: &Rollout) -> Result<bool, Refused> {
        let Self { state, compiler, silence, term } = *self;
        let (store, group) = (state.store(), &rollout.group);
        let Some(policy) = policy_of(rollout) else {
            tracing::debug!(group, "the policy of rollouts is of a later version, which has to lead");
            return Ok(true);
        };
        if rollout.head.gate.is_none() && !stored(rollout).1.is_note_due(&policy, store.now()) {
            return Ok(true);
        }
        let nodes = seen(store, silence, rollout).await?;
        let situation = situation(store, rollout, &policy, &nodes);
        let actor = Actor::new(ActorKind::System, NAME);
        match situation.course() {
            Course::Wait(_) => {}
            Course::Step { name, stage, record, advance } => {
                let told = (rollout.head.gate, stage.as_ref().map(|stage| &stage.canaries));
                let step = Step {
                    name,
                    version: rollout.version,
                    term: Some(term),
                    stage: stage.as_ref().map(written),
                    record: written(&record),
                    advance,
                };
                if !store.by(&actor).rollout_step(group, &step).await? {
                    return Ok(false);
                }
                if rollout.head.gate.is_some() {
                    tracing::info!(group, step = name, gate = ?told.0, canaries = ?told.1, "a rollout goes on");
                }
            }
            Course::Back(reason) => {
                let here = state.find(group).await?;
                let editor = Editor { acting: store.by(&actor), compiler, group: &here };
                let back = Back { editor, by: &actor.name, reason: &reason, term: Some(term) };
                let Some(published) = back.take(rollout, &situation).await? else { return Ok(false) };
                tracing::warn!(group, gate = ?rollout.head.gate, revision = published.revision, reason, "a rollout was taken back");
            }
        }
        Ok(true)
    }
}

/// All that the course of a rollout depends on.
pub(crate) fn situation<'a>(store: &Store, rollout: &Rollout, policy: &'a Policy, nodes: &'a [Seen]) -> Situation<'a> {
    let (stage, record) = stored(rollout);
    let (head, gate) = (rollout.head.revision, rollout.head.gate);
    Situation { now: store.now(), policy, head, gate, stage, record, nodes }
}

/// The nodes of a group that may talk to the control plane.
pub(crate) async fn seen(store: &Store, silence: Silence, rollout: &Rollout) -> Result<Vec<Seen>, StoreError> {
    let nodes = store.node_list(&rollout.group).await?;
    let now = store.now();
    Ok(nodes
        .into_iter()
        .filter(|node| node.welcome)
        .map(|node| see(node, &rollout.head.lineage, now, silence))
        .collect())
}

fn see(node: Node, lineage: &str, now: u64, silence: Silence) -> Seen {
    let connected = is_connected(&node, now, silence.lost_after);
    let maintained = node.maintenance.is_some() || node.group_maintenance.is_some();
    let is_recent = |at: u64| now.saturating_sub(at) < silence.offline_after.as_secs();
    let Some(report) = node.report else {
        // It has joined, and may be about to serve.
        return Seen {
            id: node.id,
            host: node.host,
            present: is_recent(node.joined_at),
            maintained,
            ..Seen::default()
        };
    };
    let troubles = Troubles::of(&report);
    let refused = troubles.refused.filter(|step| step.fault == SETTINGS).map(|step| step.revision);
    Seen {
        id: node.id,
        host: node.host,
        connected,
        present: is_recent(report.reported_at),
        maintained,
        boot: report.boot,
        revision: if report.lineage == lineage { report.revision } else { 0 },
        rejected: troubles.rejected_total,
        refused,
        traffic: report.traffic.and_then(|traffic| Traffic::deserialize(traffic).ok()),
    }
}
