//! Nodes: how they do, what alarms that is, and how far they have come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use milecastle_store::{Heads, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{days_left, topic};
use crate::dpm::{Condition, NodeState, Nodes};
use crate::events::news::News;
use crate::events::{alarm, kind};

/// What was told of a node.
#[derive(Serialize, Deserialize)]
struct Seen {
    state: String,
}

/// Up to which revision receipts were told.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Received {
    lineage: String,
    revision: u64,
}

/// Since when nodes are behind, by group and id, as far as this process has seen it.
#[derive(Default)]
pub(in crate::events) struct Lags(HashMap<(String, String), Instant>);

/// Faults that end only when an operator has decided.
const UNDECIDED: [&str; 2] = ["lineage", "backwards"];

/// Nodes of which another state is to be told than before. A connected node that is behind is so called only after that long: each
/// change makes all of them late for a moment.
pub(in crate::events) fn nodes(
    nodes: &[(String, NodeState)],
    heads: &Heads,
    (lags, patience): (&mut Lags, Duration),
    news: &mut News<'_>,
) {
    let now = Instant::now();
    let mut late = HashMap::new();
    let mut there = BTreeSet::new();
    for (group, node) in nodes {
        let subject = topic(kind::NODE, Some(group), &node.id);
        let before = news.before::<Seen>(&subject);
        there.insert(subject.clone());
        let mut state = node.condition.name();
        if node.condition == Condition::Late {
            let key = (group.clone(), node.id.clone());
            let since = lags.0.get(&key).copied().unwrap_or(now);
            late.insert(key, since);
            let was_well = [Condition::Healthy, Condition::Rejected].map(Condition::name);
            let well = before.as_ref().and_then(|before| was_well.into_iter().find(|well| **well == before.state));
            if let Some(well) = well.filter(|_| now.duration_since(since) < patience) {
                state = well;
            }
        }
        if before.as_ref().is_some_and(|before| before.state == state) {
            continue;
        }
        if !(before.is_none() && news.is_first()) {
            let head = heads.get(group).map(|head| head.revision);
            news.say(&subject, told(node, state, head, before.map(|before| before.state)));
        }
        news.remember(subject, &Seen { state: state.to_owned() });
    }
    lags.0 = late;
    for gone in news.topics(kind::NODE).filter(|topic| !there.contains(topic)) {
        let before = news.before::<Seen>(gone).map(|before| before.state);
        news.say(gone, json!({ "node": gone.subject, "state": "deleted", "before": before }));
        news.forget(gone);
    }
}

fn told(node: &NodeState, state: &str, head: Option<u64>, before: Option<String>) -> Value {
    json!({
        "node": node.id,
        "host": node.host,
        "version": node.version,
        "state": state,
        "before": before,
        "member": node.member,
        "revision": node.revision,
        "head": head,
        "rejected_total": node.troubles.rejected_total,
        "refused": node.troubles.refused,
    })
}

/// What of the nodes needs an operator. `days` are those of [`milecastle_settings::Events::certificate_days`].
pub(in crate::events) fn alarms_of_nodes(
    nodes: &[(String, NodeState)],
    (lags, patience): (&Lags, Duration),
    days: &[u64],
    news: &mut News<'_>,
) {
    let mut present = BTreeMap::new();
    for (group, node) in nodes.iter().filter(|(_, node)| node.welcome) {
        let mut raise = |alarm: &str, mut detail: Value| {
            detail["node"] = node.id.as_str().into();
            present.insert(of_node(group, alarm, &node.id), detail);
        };
        let since = lags.0.get(&(group.clone(), node.id.clone()));
        if since.is_some_and(|since| since.elapsed() >= patience) {
            raise(alarm::NODE_BEHIND, json!({}));
        }
        let out_of_service = node.maintenance.is_some() || node.group_maintenance.is_some();
        if matches!(node.condition, Condition::Lost | Condition::Offline) && node.heard_at.is_some() && !out_of_service
        {
            raise(alarm::NODE_LOST, json!({}));
        }
        let troubles = &node.troubles;
        if let Some(refused) = troubles.refused.as_ref().filter(|refused| UNDECIDED.contains(&&*refused.fault)) {
            raise(alarm::LINEAGE, json!({ "fault": refused.fault }));
        }
        if !troubles.alarms.is_empty() {
            raise(alarm::NODE, json!({ "texts": troubles.alarms }));
        }
        if let Some(ends) = troubles.certificate_ends
            && let Some(days) = days_left(ends, news.now(), days)
        {
            raise(alarm::NODE_CERTIFICATE, json!({ "days": days, "not_after": ends }));
        }
    }
    let of_others = [alarm::CERTIFICATE, alarm::ROLLOUT, alarm::UNAVAILABLE].map(|alarm| format!("{alarm}/"));
    news.alarms(present, |topic| !of_others.iter().any(|of_others| topic.subject.starts_with(of_others)));
}

fn of_node(group: &str, alarm: &str, node: &str) -> Topic {
    topic(kind::ALARM, Some(group), &format!("{alarm}/{node}"))
}

/// Groups of which every connected node has the newest revision in force or refused it, where that was not told yet.
pub(in crate::events) async fn receipts(
    live: &Nodes,
    nodes: &[(String, NodeState)],
    heads: &Heads,
    news: &mut News<'_>,
) {
    let connected: BTreeSet<&str> =
        nodes.iter().filter(|(_, node)| node.connected).map(|(group, _)| group.as_str()).collect();
    for (group, head) in connected.into_iter().filter_map(|group| heads.get_key_value(group)) {
        let topic = topic(kind::RECEIPT, Some(group), "");
        let now = Received { lineage: head.lineage.clone(), revision: head.revision };
        if head.revision == 0 || news.before::<Received>(&topic).is_some_and(|before| before == now) {
            continue;
        }
        let receipt = live.applied(group, head.revision).await;
        if receipt.settled && receipt.held == 0 && receipt.total > 0 {
            if !news.is_first() {
                let data = json!({
                    "revision": head.revision,
                    "applied": receipt.applied,
                    "total": receipt.total,
                    "rejected": receipt.rejected,
                });
                news.say(&topic, data);
            }
            news.remember(topic, &now);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dpm::{RefusedStep, Troubles};
    use milecastle_store::{Maintenance, Told};

    const PATIENCE: Duration = Duration::from_secs(60);
    const NOW: u64 = 1000;
    const DAY: u64 = 86_400;

    pub(in crate::events::sights) fn node(condition: Condition, troubles: Troubles) -> NodeState {
        NodeState {
            id: "n".to_owned(),
            host: "h".to_owned(),
            version: "1".to_owned(),
            boot: "b".to_owned(),
            joined_at: 1,
            welcome: true,
            maintenance: None,
            group_maintenance: None,
            address: None,
            connected: true,
            member: "m".to_owned(),
            canary: false,
            condition,
            heard_at: Some(NOW),
            lineage: None,
            revision: 0,
            digest: String::new(),
            troubles,
            figures: None,
        }
    }

    fn healthy() -> NodeState {
        node(Condition::Healthy, Troubles::default())
    }

    fn refused(fault: &str) -> NodeState {
        let refused = RefusedStep { fault: fault.to_owned(), detail: String::new(), revision: 3 };
        node(Condition::Rejected, Troubles { refused: Some(refused), ..Troubles::default() })
    }

    fn ends_in(seconds: u64) -> NodeState {
        node(Condition::Healthy, Troubles { certificate_ends: Some(NOW + seconds), ..Troubles::default() })
    }

    /// What is told of the alarms of this node, which is late for so long.
    fn step(told: &mut Told, node: &NodeState, late: Option<Duration>) -> Vec<Value> {
        let since = late.map(|late| Instant::now().checked_sub(late).expect("the machine runs for longer"));
        let lags = Lags(since.map(|since| (("g".to_owned(), node.id.clone()), since)).into_iter().collect());
        let mut news = News::new(told, NOW);
        alarms_of_nodes(&[("g".to_owned(), node.clone())], (&lags, PATIENCE), &[30, 7, 1], &mut news);
        let (events, states) = news.into_parts();
        told.remember(states);
        events.into_iter().map(|event| event.data).collect()
    }

    /// The alarm is raised of this node, once, and cleared when it is healthy again.
    fn check(node: &NodeState, late: Option<Duration>, mut expected: Value) {
        let mut told = Told::default();
        (expected["node"], expected["state"]) = (json!("n"), json!("raised"));
        assert_eq!(step(&mut told, node, late), [expected.clone()]);
        assert_eq!(step(&mut told, node, late), [0; 0], "{expected}");
        expected["state"] = json!("cleared");
        assert_eq!(step(&mut told, &healthy(), None), [expected]);
    }

    #[test]
    fn each_alarm_of_a_node_is_raised_and_cleared() {
        let late = node(Condition::Late, Troubles::default());
        check(&late, Some(PATIENCE), json!({ "alarm": "node_behind" }));
        check(&node(Condition::Lost, Troubles::default()), None, json!({ "alarm": "node_lost" }));
        for fault in UNDECIDED {
            check(&refused(fault), None, json!({ "alarm": "lineage", "fault": fault }));
        }
        let says = Troubles { alarms: vec!["the disk is full".to_owned()], ..Troubles::default() };
        check(&node(Condition::Healthy, says), None, json!({ "alarm": "node", "texts": ["the disk is full"] }));
        for (seconds, days) in [(30 * DAY, 30), (7 * DAY, 7), (DAY, 1), (0, 0)] {
            let expected = json!({ "alarm": "node_certificate", "days": days, "not_after": NOW + seconds });
            check(&ends_in(seconds), None, expected);
        }
    }

    #[test]
    fn what_needs_no_operator_is_no_alarm() {
        let none = |node: &NodeState, late| assert_eq!(step(&mut Told::default(), node, late), [0; 0], "{node:?}");
        none(&healthy(), None);
        none(&node(Condition::Late, Troubles::default()), Some(Duration::ZERO));
        none(&refused("digest"), None);
        none(&ends_in(31 * DAY), None);
        let lost = || node(Condition::Lost, Troubles::default());
        none(&NodeState { heard_at: None, ..lost() }, None);
        let maintenance = Maintenance { reason: String::new(), by: "ann".to_owned(), since: 1 };
        none(&NodeState { maintenance: Some(maintenance), ..lost() }, None);
        none(&NodeState { welcome: false, ..lost() }, None);
    }
}
