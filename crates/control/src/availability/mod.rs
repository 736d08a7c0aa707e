//! What is up and what is down (`docs/cluster-view.md`): whoever leads looks at the cluster as a whole, its replicas, its nodes and the
//! addresses that operators have given, and records what it has seen.
//!
//! What must stay true:
//! - What nobody has looked at is unknown, and neither up nor down.
//! - Nothing else waits for a probe; one that hangs ends with its time, and others are not late for it.
//! - A probe asks what an operator has named and nothing that it is led to; of an answer only its status is kept.

mod past;
mod probe;

pub(crate) use past::{History, gap, histories};
pub(crate) use probe::target;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use milecastle_store::{Member, Observation, Store, StoreError, Term, Watched};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::dpm::{NodeState, Nodes};
use crate::members::{LEADER, MemberSettings};

/// What is looked at.
pub(crate) mod kind {
    /// All of it: whether configuration can be changed and traffic be served in every group.
    pub(crate) const CLUSTER: &str = "cluster";
    /// A replica of the control plane, by its name.
    pub(crate) const MEMBER: &str = "member";
    /// A gateway node.
    pub(crate) const NODE: &str = "node";
    /// An address that an operator has given.
    pub(crate) const PROBE: &str = "probe";

    /// All of them.
    pub(crate) const ALL: [&str; 4] = [CLUSTER, MEMBER, NODE, PROBE];
}

/// Looks for as long as `epoch` names a term of office of this process, which is this member, for ever; `last` is what was seen at the
/// last look of such a term.
pub(crate) async fn look(
    store: Store,
    member: Arc<str>,
    settings: MemberSettings,
    mut epoch: watch::Receiver<Option<u64>>,
    last: watch::Sender<Option<Vec<Observation>>>,
) {
    let pause = settings.availability.look.get();
    // Not at once: of a cluster that starts, all parts have time to come.
    let mut tick = interval_at(Instant::now() + pause, pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let nodes = Nodes::new(store.clone(), "", &settings.members);
    loop {
        tick.tick().await;
        if epoch.borrow().is_none() {
            // What is told meanwhile is another's to see.
            last.send_replace(None);
        }
        let Ok(leads) = epoch.wait_for(Option::is_some).await.map(|epoch| *epoch) else { return };
        let Some(epoch) = leads else { continue };
        let term = Term { lease: LEADER, holder: &member, epoch };
        match look_once(&store, &nodes, term, &settings).await {
            Ok(seen) => drop(last.send_replace(Some(seen))),
            Err(error) => tracing::debug!(%error, "the history of availability has a gap here"),
        }
    }
}

async fn look_once(
    store: &Store,
    nodes: &Nodes,
    term: Term<'_>,
    settings: &MemberSettings,
) -> Result<Vec<Observation>, StoreError> {
    let availability = &settings.availability;
    let probes = store.probe_list().await?;
    let asked = join_all(probes.iter().map(|one| probe::ask(&one.url, availability))).await;
    let (heads, rollouts) = (store.watch().heads(), store.rollout_list().await?);
    let (members, nodes) = (store.member_list().await?, nodes.list_all(&heads, &rollouts.known).await?);
    let mut seen = of_members(&members, settings);
    seen.extend(nodes.iter().filter_map(|(group, node)| of_node(group, node)));
    seen.push(whole(&members, &nodes, settings));
    seen.extend(probes.into_iter().zip(asked).map(|(one, asked)| {
        let (is_up, detail) = asked.map_or_else(|fault| (false, fault), |status| (true, status));
        observed(kind::PROBE, "", &one.id, is_up, detail)
    }));
    let gap = gap(availability.look.get());
    store.availability_record(term, store.now(), &seen, gap, availability.keep.get()).await?;
    Ok(seen)
}

fn observed(kind: &str, group: &str, name: &str, is_up: bool, detail: impl Into<String>) -> Observation {
    let subject = Watched { kind: kind.to_owned(), group: group.to_owned(), name: name.to_owned() };
    Observation { subject, is_up, detail: detail.into() }
}

fn lives(member: &Member, settings: &MemberSettings) -> bool {
    member.outdated.is_none() && member.silence <= settings.members.lost_after.get()
}

/// Replicas by their names: a process that was started again is the same one.
fn of_members(members: &[Member], settings: &MemberSettings) -> Vec<Observation> {
    let mut up = BTreeMap::<&str, bool>::new();
    for member in members {
        *up.entry(&*member.told.host).or_default() |= lives(member, settings);
    }
    let seen = |(name, is_up)| observed(kind::MEMBER, "", name, is_up, if is_up { "alive" } else { "lost" });
    up.into_iter().map(seen).collect()
}

/// A node that may be there. One that an operator has taken out of service is none.
fn of_node(group: &str, node: &NodeState) -> Option<Observation> {
    let out_of_service = !node.welcome || node.maintenance.is_some() || node.group_maintenance.is_some();
    // How far a node that is up has come changes with each write: a span for each of that would be without end.
    let detail = if node.connected { "connected" } else { node.condition.name() };
    let seen = || observed(kind::NODE, group, &node.id, node.connected, detail);
    (!out_of_service).then(seen)
}

/// Whether configuration can be changed and reaches nodes, and each group that has nodes has one that is there.
fn whole(members: &[Member], nodes: &[(String, NodeState)], settings: &MemberSettings) -> Observation {
    let has =
        |role: &str| members.iter().any(|one| lives(one, settings) && one.told.roles.iter().any(|own| own == role));
    let mut groups = BTreeMap::<&str, bool>::new();
    for (group, node) in nodes {
        if of_node(group, node).is_some() {
            *groups.entry(group).or_default() |= node.connected;
        }
    }
    let deserted = groups.into_iter().find(|(_, is_served)| !is_served).map(|(group, _)| group);
    let (is_up, detail) = match deserted {
        _ if !has("dashboard") => (false, "no dashboard lives".to_owned()),
        _ if !has("dp-manager") => (false, "no DP manager lives".to_owned()),
        Some(group) => (false, format!("no node of gateway group {group} is connected")),
        None => (true, "up".to_owned()),
    };
    observed(kind::CLUSTER, "", "", is_up, detail)
}
