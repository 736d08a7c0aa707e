//! The nodes that have a stream here.

mod rivals;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milecastle_store::{Node, NodeReport, Store};
use milecastle_wire::pb;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::super::head::Position;
use super::receipt::{Stand, Standing};
use super::routes::Routes;
use super::warnings::{Bounds, Origin, Warnings};
use super::{Figures, REMOTE_LIFE, RefusedStep, RejectedObject, Troubles};
use crate::traffic::Traffic;
use rivals::Rivals;

/// Longest text of a node that is kept, in bytes.
const LONGEST: usize = 512;

/// Rejected objects of a node that are kept.
const REJECTED: usize = 100;

/// Alarms of a node that are kept.
const ALARMS: usize = 16;

/// How often the store hears that a node is there although it has no news.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Why a stream is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dpm) enum End {
    /// The node or its token was revoked, or the node deleted.
    Unwelcome,
    /// The group was deleted.
    NoGroup,
    /// The node opened another stream.
    Replaced,
    /// An earlier process with its identity lives, and has a stream to another replica.
    Later,
}

/// All nodes with a stream here.
pub(super) struct Live {
    /// Tells the time.
    store: Store,
    groups: Mutex<HashMap<Arc<str>, HashMap<String, Entry>>>,
    /// Reports of nodes that left, still to be written.
    left: Mutex<Vec<(String, String, NodeReport)>>,
    /// The last words of nodes that left, for as long as the store may know less of them, or take them for connected.
    departed: Mutex<HashMap<(Arc<str>, String), NodeReport>>,
    /// Groups of which the store is to hear anew where their nodes stand.
    moved: Mutex<BTreeSet<Arc<str>>>,
    streams: AtomicU64,
    version: watch::Sender<u64>,
    /// What nodes have logged, still to be written.
    pub(super) warnings: Warnings,
    /// What nodes have counted by route, still to be written.
    pub(super) routes: Routes,
    /// A node came or left: the store should hear of it soon.
    pub(super) urgent: AtomicBool,
    /// Something is to be written.
    pub(super) news: Notify,
}

struct Entry {
    /// Which stream it is.
    stream: u64,
    end: Option<oneshot::Sender<End>>,
    /// What its stream is to tell it; `None` until the store has said.
    maintenance: watch::Sender<Option<pb::Maintenance>>,
    address: SocketAddr,
    host: String,
    version: String,
    boot: String,
    heard_at: u64,
    position: Option<Position>,
    troubles: Troubles,
    rivals: Rivals,
    figures: Option<Figures>,
    /// It goes ahead of others while a rollout is on.
    canary: bool,
    /// Differs from what the store was told.
    news: bool,
    told: Option<Instant>,
}

/// What is known of a node by its stream here.
pub(super) struct Here {
    pub(super) report: NodeReport,
    pub(super) address: SocketAddr,
    pub(super) figures: Option<Figures>,
}

/// A stream's place among the nodes. Dropped, the node has left.
pub(in crate::dpm) struct Alive {
    live: Arc<Live>,
    group: Arc<str>,
    node: String,
    stream: u64,
    maintenance: watch::Receiver<Option<pb::Maintenance>>,
}

impl super::Nodes {
    /// A node opened a stream, and says where it stands. Another stream of the same node ends.
    pub(in crate::dpm) fn enter(
        &self,
        group: &Arc<str>,
        node: &str,
        address: SocketAddr,
        facts: pb::NodeFacts,
        position: Option<Position>,
    ) -> (Alive, oneshot::Receiver<End>) {
        let (end, ended) = oneshot::channel();
        let (orders, maintenance) = watch::channel(None);
        let stream = self.live.streams.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            stream,
            end: Some(end),
            maintenance: orders,
            address,
            host: clip(facts.hostname),
            version: clip(facts.version),
            boot: clip(facts.boot_id),
            heard_at: self.store.now(),
            position,
            troubles: Troubles::default(),
            rivals: Rivals::default(),
            figures: None,
            canary: false,
            news: true,
            told: None,
        };
        let mut groups = self.live.lock();
        let before = groups.entry(group.clone()).or_default().insert(node.to_owned(), entry);
        drop(groups);
        if let Some(end) = before.and_then(|before| before.end) {
            tracing::info!(node, %group, "a node opened a second stream; the first one ends");
            end.send(End::Replaced).ok();
        }
        self.live.urgent.store(true, Ordering::Release);
        self.live.changed(group);
        (Alive { live: self.live.clone(), group: group.clone(), node: node.to_owned(), stream, maintenance }, ended)
    }

    /// Has a node's stream tell it whether it is in maintenance, if it has one here and does not know.
    pub(in crate::dpm) fn maintain(&self, node: &Node) {
        let groups = self.live.lock();
        if let Some(entry) = groups.get(&*node.group).and_then(|nodes| nodes.get(&node.id)) {
            let order = Some(order(node));
            entry.maintenance.send_if_modified(|told| {
                let news = *told != order;
                *told = order;
                news
            });
        }
    }

    /// Ends the streams of a group's nodes for which `end` gives a reason.
    pub(in crate::dpm) fn end(&self, group: &str, end: impl Fn(&str) -> Option<End>) {
        let mut groups = self.live.lock();
        for (id, entry) in groups.get_mut(group).into_iter().flatten() {
            if let Some(reason) = end(id)
                && let Some(sender) = entry.end.take()
            {
                sender.send(reason).ok();
            }
        }
    }

    /// Whether a node of the group has a stream here.
    pub(in crate::dpm) fn any(&self, group: &str) -> bool {
        self.live.lock().contains_key(group)
    }

    /// How many streams there are.
    pub(in crate::dpm) fn streams(&self) -> usize {
        self.live.lock().values().map(HashMap::len).sum()
    }
}

impl Live {
    pub(super) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            groups: Mutex::default(),
            left: Mutex::default(),
            departed: Mutex::default(),
            moved: Mutex::default(),
            streams: AtomicU64::default(),
            version: watch::Sender::default(),
            warnings: Warnings::default(),
            routes: Routes::default(),
            urgent: AtomicBool::default(),
            news: Notify::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, HashMap<String, Entry>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self, group: &Arc<str>) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(group.clone());
        self.version.send_modify(|version| *version += 1);
        self.news.notify_one();
    }

    /// The last words here of a node that left, unless the store knows later ones, or some of another replica of that very second.
    pub(super) fn last_words(&self, node: &Node, member: &str) -> Option<NodeReport> {
        let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = departed.get(&(Arc::from(&*node.group), node.id.clone()))?;
        let newer = match &node.report {
            // Joined anew, it is another one.
            None => last.reported_at >= node.joined_at,
            Some(stored) if stored.member == member => last.reported_at >= stored.reported_at,
            Some(stored) => last.reported_at > stored.reported_at,
        };
        newer.then(|| NodeReport { member: member.to_owned(), ..last.clone() })
    }

    /// Where the nodes of a group stand.
    pub(super) fn standing(&self, group: &str) -> Standing {
        let mut standing = Standing::new();
        for entry in self.lock().get(group).into_iter().flat_map(HashMap::values) {
            let position = entry.position.as_ref();
            let (lineage, revision) = (position.map(|p| &*p.lineage), position.map_or(0, |p| p.revision));
            *standing.entry(Stand::new(lineage, revision, &entry.troubles, entry.canary)).or_default() += 1;
        }
        standing
    }

    /// The groups of which the store is to hear where their nodes stand. Whoever takes them and fails gives them back by
    /// [`Live::moved_again`].
    pub(super) fn take_moved(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The store did not hear of these groups.
    pub(super) fn moved_again(&self, groups: BTreeSet<Arc<str>>) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).extend(groups);
    }

    /// A node as its stream here tells; `None` if it has none.
    pub(super) fn here(&self, group: &str, node: &str, member: &str) -> Option<Here> {
        let groups = self.lock();
        let entry = groups.get(group)?.get(node).filter(|entry| !entry.rivals.gives_way)?;
        Some(Here { report: entry.report(true, member), address: entry.address, figures: entry.figures })
    }

    /// What the store should hear now, by group. Whoever takes it and fails gives it back by [`Live::keep`].
    pub(super) fn take_news(&self, member: &str) -> Vec<(String, String, NodeReport)> {
        let mut groups = self.lock();
        let mut reports = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        // Of one that left and is back the store hears that it is back: of two reports in one statement either might stay.
        reports.retain(|(group, node, _)| groups.get(&**group).is_none_or(|nodes| !nodes.contains_key(node)));
        reports.iter_mut().for_each(|(_, _, report)| report.member = member.to_owned());
        for (group, nodes) in &mut *groups {
            for (node, entry) in nodes {
                let quiet = entry.told.is_some_and(|told| told.elapsed() < SIGN_OF_LIFE);
                let due = entry.news || !quiet || entry.rivals.are_open();
                if due && !entry.rivals.gives_way {
                    entry.news = false;
                    entry.told = Some(Instant::now());
                    reports.push((group.to_string(), node.clone(), entry.report(true, member)));
                }
            }
        }
        reports
    }

    /// Keeps reports that could not be written, unless there are newer ones by now.
    pub(super) fn keep(&self, reports: Vec<(String, String, NodeReport)>) {
        let mut left = Vec::new();
        let mut groups = self.lock();
        for (group, node, report) in reports {
            match groups.get_mut(&*group).and_then(|nodes| nodes.get_mut(&node)) {
                Some(entry) => entry.news = true,
                None => left.push((group, node, report)),
            }
        }
        drop(groups);
        self.left.lock().unwrap_or_else(PoisonError::into_inner).append(&mut left);
    }
}

impl Entry {
    fn report(&self, connected: bool, member: &str) -> NodeReport {
        let position = self.position.as_ref();
        NodeReport {
            host: self.host.clone(),
            version: self.version.clone(),
            boot: self.boot.clone(),
            reported_at: self.heard_at,
            lineage: position.map_or_else(String::new, |position| position.lineage.to_string()),
            revision: position.map_or(0, |position| position.revision),
            digest: position.map_or_else(Vec::new, |position| position.digest.to_bytes().to_vec()),
            rejected: serde_json::to_value(self.troubles()).unwrap_or_default(),
            traffic: self.figures.and_then(Figures::told).and_then(|told| serde_json::to_value(told).ok()),
            connected,
            member: member.to_owned(),
        }
    }
}

impl Alive {
    /// The store says of the node what it said before its stream began, unless it has said something since.
    pub(in crate::dpm) fn begin(&self, node: &Node) {
        self.update(|entry| {
            entry.maintenance.send_if_modified(|told| {
                let unknown = told.is_none();
                told.get_or_insert_with(|| order(node));
                unknown
            });
            false
        });
    }

    /// What the node is to be told of its maintenance: hears of every change.
    pub(in crate::dpm) fn maintenance(&self) -> watch::Receiver<Option<pb::Maintenance>> {
        self.maintenance.clone()
    }

    /// The node says that it runs `applied`.
    pub(in crate::dpm) fn applied(&self, position: Position, applied: pb::Applied) {
        let total = applied.rejected_total.max(u32::try_from(applied.rejected.len()).unwrap_or(u32::MAX));
        let rejected = applied.rejected.into_iter().take(REJECTED).map(|rejection| {
            let key = rejection.key.unwrap_or_default();
            RejectedObject {
                kind: clip(key.kind),
                id: clip(key.id),
                reason: clip(rejection.reason),
                serving_last_good: rejection.serving_last_good,
            }
        });
        let rejected: Vec<_> = rejected.collect();
        self.update(|entry| {
            entry.position = Some(position);
            entry.troubles.rejected = rejected;
            entry.troubles.rejected_total = total;
            entry.troubles.refused = None;
            true
        });
    }

    /// The node says whether it is in maintenance: the order that it was told last is in force.
    pub(in crate::dpm) fn maintained(&self, on: bool) {
        self.update(|entry| std::mem::replace(&mut entry.troubles.maintained, on) != on);
    }

    /// The node says where it stands, and that it stays there.
    pub(in crate::dpm) fn stays(&self, position: Position) {
        self.update(|entry| {
            let news = entry.position.as_ref() != Some(&position);
            entry.position = Some(position);
            news
        });
    }

    /// The node says that it did not take a step.
    pub(in crate::dpm) fn refused(&self, fault: &str, detail: String, revision: u64) {
        let refused = Some(RefusedStep { fault: fault.to_owned(), detail: clip(detail), revision });
        self.update(|entry| {
            let news = entry.troubles.refused != refused;
            entry.troubles.refused = refused;
            news
        });
    }

    /// When the node's certificate ends (Unix seconds), if it should have had the next one for some time.
    pub(in crate::dpm) fn certificate_ends(&self, ends: Option<u64>) {
        self.update(|entry| std::mem::replace(&mut entry.troubles.certificate_ends, ends) != ends);
    }

    /// The node says what it has logged; lines beyond the bounds are left out.
    pub(in crate::dpm) fn warned(&self, told: Vec<pb::Warning>, bounds: Bounds) {
        let groups = self.live.lock();
        let Some(entry) = groups.get(&*self.group).and_then(|nodes| nodes.get(&self.node)) else { return };
        if !told.is_empty() && entry.stream == self.stream {
            let origin = Origin { group: &self.group, node: &self.node, boot: &entry.boot };
            self.live.warnings.add(origin, told, self.live.store.now(), bounds);
        }
    }

    /// The node says what it has counted by route; `most` of a group are kept apart.
    pub(in crate::dpm) fn counted(&self, told: pb::RouteTraffic, most: u32) {
        let is_current = {
            let groups = self.live.lock();
            let entry = groups.get(&*self.group).and_then(|nodes| nodes.get(&self.node));
            entry.is_some_and(|entry| entry.stream == self.stream && !entry.rivals.gives_way)
        };
        if is_current {
            self.live.routes.add(&self.group, &self.node, told, self.live.store.now(), most as usize);
        }
    }

    /// The node goes ahead of others, or does not any more.
    pub(in crate::dpm) fn goes_ahead(&self, canary: bool) {
        let mut groups = self.live.lock();
        let entry = groups.get_mut(&*self.group).and_then(|nodes| nodes.get_mut(&self.node));
        let Some(entry) = entry.filter(|entry| entry.stream == self.stream) else { return };
        let news = std::mem::replace(&mut entry.canary, canary) != canary;
        drop(groups);
        if news {
            self.live.changed(&self.group);
        }
    }

    /// The node says how it does. `watched`: what it counts is to be written with the next round of reports. Where the node stands it
    /// does not change, so that no receipt is written, and nobody who waits for one is woken.
    pub(in crate::dpm) fn report(&self, report: pb::Report, watched: bool) {
        let mut figures = Figures {
            uptime: Duration::from_millis(report.uptime_ms),
            requests: report.requests,
            responses_5xx: report.responses_5xx,
            cpu: Duration::from_millis(report.cpu_ms),
            connections: report.connections,
            resident_bytes: report.resident_bytes,
            upstream_targets: report.upstream_targets,
            unhealthy_targets: report.unhealthy_targets,
            certificate_not_after: report.certificate_not_after,
            traffic: Traffic::told(&report),
            revision: 0,
        };
        let have = report.have.unwrap_or_default();
        let alarms: Vec<String> = report.alarms.into_iter().take(ALARMS).map(clip).collect();
        let mut counted = false;
        self.update(|entry| {
            // Of another lineage the number says nothing.
            if entry.position.as_ref().is_some_and(|position| *position.lineage == *have.lineage) {
                figures.revision = have.revision;
            }
            let differs = |known: Figures| (known.traffic, known.revision) != (figures.traffic, figures.revision);
            counted = watched && entry.figures.is_none_or(differs);
            entry.news |= counted;
            let news = entry.troubles.alarms != alarms;
            entry.figures = Some(figures);
            entry.troubles.alarms = alarms;
            news
        });
        if counted {
            self.live.news.notify_one();
        }
    }

    /// The node was heard.
    fn update(&self, change: impl FnOnce(&mut Entry) -> bool) {
        let mut groups = self.live.lock();
        let entry = groups.get_mut(&*self.group).and_then(|nodes| nodes.get_mut(&self.node));
        let Some(entry) = entry.filter(|entry| entry.stream == self.stream) else { return };
        entry.heard_at = self.live.store.now();
        let answered = entry.rivals.answered();
        let news = change(entry);
        entry.news |= news;
        drop(groups);
        if news || answered {
            self.live.changed(&self.group);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut groups = self.live.lock();
        let Some(nodes) = groups.get_mut(&*self.group) else { return };
        if nodes.get(&self.node).is_none_or(|entry| entry.stream != self.stream) {
            return;
        }
        let Some(entry) = nodes.remove(&self.node) else { return };
        let now = self.live.store.now();
        // Where an earlier process has the node's stream, nothing ends but a mistake.
        let last = (!entry.rivals.gives_way).then(|| NodeReport { reported_at: now, ..entry.report(false, "") });
        if let Some(last) = &last {
            let mut departed = self.live.departed.lock().unwrap_or_else(PoisonError::into_inner);
            departed.retain(|_, last| now.saturating_sub(last.reported_at) <= REMOTE_LIFE.as_secs());
            // While the nodes are locked: whoever does not find it among them any more finds its last words.
            departed.insert((self.group.clone(), self.node.clone()), last.clone());
        }
        if nodes.is_empty() {
            groups.remove(&*self.group);
        }
        drop(groups);
        self.live.routes.left(&self.group, &self.node);
        if let Some(last) = last {
            let last = (self.group.to_string(), self.node.clone(), last);
            self.live.left.lock().unwrap_or_else(PoisonError::into_inner).push(last);
        }
        self.live.urgent.store(true, Ordering::Release);
        self.live.changed(&self.group);
    }
}

/// What a node's stream tells it of its own maintenance, or that of its group.
fn order(node: &Node) -> pb::Maintenance {
    let maintenance = node.maintenance.as_ref().or(node.group_maintenance.as_ref());
    let reason = maintenance.map(|maintenance| maintenance.reason.clone()).unwrap_or_default();
    pb::Maintenance { on: maintenance.is_some(), reason }
}

/// The text itself if it is short, else its beginning.
pub(in crate::dpm) fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST));
    text
}

#[cfg(test)]
mod tests {
    use super::super::Nodes;
    use super::*;
    use milecastle_settings::Members;
    use milecastle_store::{DEFAULT_GROUP, KeySource};

    #[tokio::test]
    async fn of_a_node_that_is_back_the_store_hears_that_alone() {
        let home = tempfile::tempdir().unwrap();
        let dsn = format!("sqlite:{}/store.db", home.path().display());
        let store = milecastle_store::open(&dsn, &KeySource::File(home.path().join("sealing.key"))).await.unwrap();
        let nodes = Nodes::new(store, "m1", &Members::default());
        let (group, address) = (Arc::from(DEFAULT_GROUP), SocketAddr::from(([127, 0, 0, 1], 1)));
        let enter = |id: &str| nodes.enter(&group, id, address, pb::NodeFacts::default(), None).0;
        // As a node does that is refused for its certificate, and has joined a moment later; the other one stays away.
        drop(enter("n1"));
        drop(enter("n2"));
        let _back = enter("n1");
        let news = nodes.live.take_news("m1");
        let mut told: Vec<_> = news.iter().map(|(_, id, report)| (id.as_str(), report.connected)).collect();
        told.sort_unstable();
        assert_eq!(told, [("n1", true), ("n2", false)]);
    }

    #[tokio::test]
    async fn what_a_node_counts_moves_no_receipt() {
        let home = tempfile::tempdir().unwrap();
        let dsn = format!("sqlite:{}/store.db", home.path().display());
        let store = milecastle_store::open(&dsn, &KeySource::File(home.path().join("sealing.key"))).await.unwrap();
        let nodes = Nodes::new(store, "m1", &Members::default());
        let (group, address) = (Arc::from(DEFAULT_GROUP), SocketAddr::from(([127, 0, 0, 1], 1)));
        let (alive, _end) = nodes.enter(&group, "n1", address, pb::NodeFacts::default(), None);
        let (_, mut changes) = (nodes.live.take_news("m1"), nodes.live.changes());
        assert_eq!(nodes.live.take_moved().len(), 1);
        changes.mark_unchanged();
        let times = || vec![0; milecastle_wire::TIME_BOUNDS_MS.len() + 1];
        let report =
            |good| pb::Report { responses: vec![0, good, 0, 0, 0], request_times: times(), ..pb::Report::default() };
        // Of no interest before a rollout is on.
        alive.report(report(1), false);
        assert_eq!(nodes.live.take_news("m1").len(), 0);
        alive.report(report(2), true);
        assert_eq!(nodes.live.take_news("m1").len(), 1);
        assert_eq!((nodes.live.take_moved().len(), changes.has_changed().unwrap()), (0, false));
        // What is wrong with it does.
        alive.report(pb::Report { alarms: vec!["disk".to_owned()], ..report(2) }, true);
        assert_eq!((nodes.live.take_moved().len(), changes.has_changed().unwrap()), (1, true));
    }

    #[test]
    fn long_texts_end_at_a_character() {
        assert_eq!(clip("short".to_owned()), "short");
        let clipped = clip(format!("x{}", "é".repeat(LONGEST)));
        assert_eq!(clipped.len(), LONGEST - 1);
    }
}
