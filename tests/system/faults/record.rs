//! What makes a history of a run: the database's own record, and those who watch the nodes.

use super::fleet::{Fleet, NodeView, listed};
use super::load::Served;
use super::writer::{ROUTES, object, path, version_in};
use milecastle_testkit::Call;
use milecastle_testkit::history::{Change, Commit, History, Sight, Sighting, Span, Write};
use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_wire::{Digest, DigestKey};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::interval;

/// How often dashboards are asked.
const LOOK: Duration = Duration::from_millis(200);
/// How often each node is asked.
const ASK: Duration = Duration::from_millis(25);

/// All revisions of a group, as they stand in the database. What the configuration adds up to at each is computed here, from
/// the bodies that were written.
pub(super) fn commits(postgres: &Postgres, group: &str) -> Vec<Commit> {
    let ask = |sql: &str| postgres.query(sql).unwrap();
    let lineage = ask(&format!("SELECT lineage FROM gateway_group WHERE id = '{group}'"));
    let key = DigestKey::of_lineage(lineage.trim());
    let sets = ask(&format!("SELECT revision FROM change_set WHERE group_id = '{group}' ORDER BY revision"));
    let changes = ask(&format!(
        "SELECT revision, kind, id, convert_from(body, 'UTF8') FROM change \
         WHERE group_id = '{group}' ORDER BY revision, kind, id"
    ));
    let mut by_revision: BTreeMap<u64, Vec<(&str, &str, &str)>> =
        sets.lines().map(|revision| (revision.parse().unwrap(), Vec::new())).collect();
    for line in changes.lines() {
        let fields: Vec<&str> = line.splitn(4, '|').collect();
        let [revision, kind, id, body] = fields[..] else { panic!("{line}") };
        by_revision.get_mut(&revision.parse().unwrap()).expect("a change has its set").push((kind, id, body));
    }
    let (mut digest, mut held) = (Digest::default(), BTreeMap::new());
    let mut commits = Vec::new();
    for (revision, changes) in by_revision {
        for (kind, id, body) in &changes {
            if let Some(old) = held.remove(&(*kind, *id)) {
                digest -= old;
            }
            if !body.is_empty() {
                let item = key.item(kind, id, body.as_bytes());
                digest += item;
                held.insert((*kind, *id), item);
            }
        }
        let changes = changes.iter().map(|(_, id, body)| Change {
            object: object(id.parse().expect("routes have numbers")),
            version: (!body.is_empty()).then(|| version_in(&serde_json::from_str(body).unwrap()).unwrap()),
        });
        commits.push(Commit { revision, digest: digest.to_string(), changes: changes.collect() });
    }
    commits
}

/// Those who watch the nodes of a group.
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    watchers: JoinSet<Vec<Sighting>>,
}

impl Watch {
    /// Asks each dashboard for what the nodes have acknowledged, and each node by itself for routes. Moments count from `start`.
    pub(super) fn start(start: Instant, fleet: &Fleet, group: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let nodes: Vec<NodeView> = fleet.nodes.iter().filter(|node| node.group == group).map(|n| n.view()).collect();
        let mut watchers = JoinSet::new();
        for node in &nodes {
            watchers.spawn(served(start, node.clone(), over.clone()));
        }
        for dashboard in &fleet.dashboards {
            watchers.spawn(acknowledged(start, dashboard.address, group, nodes.clone(), over.clone()));
        }
        Self { over, watchers }
    }

    /// Ends them, and gives what they have seen.
    pub(super) async fn end(self) -> Vec<Sighting> {
        self.over.store(true, Ordering::Relaxed);
        self.watchers.join_all().await.into_iter().flatten().collect()
    }
}

/// One route after the other, again and again. What fails is no news here: nodes are killed.
async fn served(start: Instant, node: NodeView, over: Arc<AtomicBool>) -> Vec<Sighting> {
    let (mut seen, mut tick, mut routes) = (Vec::new(), interval(ASK), (0..ROUTES).cycle());
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        seen.extend(read(start, &node, routes.next().expect("there is no end")).await);
    }
    // Once more all of them, at rest.
    for route in 0..ROUTES {
        seen.extend(read(start, &node, route).await);
    }
    seen
}

/// What the node serves of a route; `None` if nobody knows which of its processes answered, or none did.
async fn read(start: Instant, node: &NodeView, route: usize) -> Option<Sighting> {
    let (process, begun) = (node.process()?, start.elapsed());
    let answer = Call::get(&path(route)).to(node.address).await.ok()?;
    let span = Span { begun, ended: start.elapsed() };
    if node.process() != Some(process) {
        return None;
    }
    let version = match answer.status {
        200 => Some(answer.header("x-version").parse().expect("routes name their version")),
        404 => None,
        _ => panic!("{} answered {answer:?}", node.name),
    };
    let sight = Sight::Served(Change { object: object(route), version });
    Some(Sighting { node: node.name.clone(), process, span, sight })
}

async fn acknowledged(
    start: Instant,
    dashboard: SocketAddr,
    group: &'static str,
    nodes: Vec<NodeView>,
    over: Arc<AtomicBool>,
) -> Vec<Sighting> {
    let (mut seen, mut tick) = (Vec::new(), interval(LOOK));
    // One more look after the end, which sees where they came to rest.
    let mut last = false;
    while !last {
        last = over.load(Ordering::Relaxed);
        tick.tick().await;
        let begun = start.elapsed();
        // While the database is away there is no list.
        let Some(list) = listed(dashboard, group).await else { continue };
        let span = Span { begun, ended: start.elapsed() };
        for listed in list {
            let Some(node) = nodes.iter().find(|node| listed["id"] == node.id.as_str()) else { continue };
            let (revision, digest) = (listed["revision"].as_u64(), listed["digest"].as_str().unwrap_or_default());
            if let Some(revision) = revision.filter(|_| !digest.is_empty()) {
                let sight = Sight::Acknowledged(revision, digest.to_owned());
                seen.push(Sighting { node: node.name.clone(), process: 0, span, sight });
            }
        }
    }
    seen
}

/// Puts a history together.
pub(super) fn history(fleet: &Fleet, group: &str, writes: Vec<Write>, sightings: Vec<Sighting>) -> History {
    History { writes, commits: commits(&fleet.postgres, group), sightings, journals: fleet.journals(group) }
}

/// What clients of a group were served, as sightings of its nodes, which are known by their ports.
pub(super) fn sightings(fleet: &Fleet, served: Vec<Served>) -> Vec<Sighting> {
    let names: BTreeMap<u16, &str> =
        fleet.nodes.iter().map(|node| (node.part.address.port(), node.part.name.as_str())).collect();
    let sighting = |Served { span, node, route, version }: Served| Sighting {
        node: names.get(&node).expect("a node of the cluster answers").to_string(),
        process: 0,
        span,
        sight: Sight::Served(Change { object: object(route), version: Some(version) }),
    };
    served.into_iter().map(sighting).collect()
}
