//! The nodes that have a stream here.

mod alive;
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
use super::warnings::Warnings;
use super::{Figures, Troubles};
use rivals::Rivals;

/// Longest text of a node that is kept, in bytes.
const LONGEST: usize = 512;

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
    /// The last report of each node (group, id) that left, still to be written: one, however often it comes and goes while the
    /// database is away.
    left: Mutex<HashMap<(String, String), NodeReport>>,
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
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reports: Vec<_> = left.into_iter().map(|((group, node), report)| (group, node, report)).collect();
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
        let mut groups = self.lock();
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, node, report) in reports {
            match groups.get_mut(&*group).and_then(|nodes| nodes.get_mut(&node)) {
                Some(entry) => entry.news = true,
                None => {
                    left.entry((group, node)).or_insert(report);
                }
            }
        }
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

/// What a node's stream tells it of its own maintenance, or that of its group.
fn order(node: &Node) -> pb::Maintenance {
    let maintenance = node.maintenance.as_ref().or(node.group_maintenance.as_ref());
    let reason = maintenance.map(|maintenance| maintenance.reason.clone()).unwrap_or_default();
    pb::Maintenance { on: maintenance.is_some(), reason }
}

/// What is kept of a text: all of it if it is short, else its beginning, on one line and without NUL, which PostgreSQL refuses.
pub(crate) fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST));
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::Nodes;
    use super::*;
    use crate::testing::sqlite;
    use milecastle_settings::Members;
    use milecastle_store::DEFAULT_GROUP;

    #[tokio::test]
    async fn of_a_node_that_is_back_the_store_hears_that_alone() {
        let home = tempfile::tempdir().unwrap();
        let nodes = Nodes::new(sqlite(home.path()).await, "m1", &Members::default());
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
    async fn of_a_node_that_comes_and_goes_one_report_waits() {
        let home = tempfile::tempdir().unwrap();
        let nodes = Nodes::new(sqlite(home.path()).await, "m1", &Members::default());
        let (group, address) = (Arc::from(DEFAULT_GROUP), SocketAddr::from(([127, 0, 0, 1], 1)));
        let come_and_go = |boot: &str| {
            let facts = pb::NodeFacts { boot_id: boot.to_owned(), ..pb::NodeFacts::default() };
            drop(nodes.enter(&group, "n1", address, facts, None));
        };
        ["1", "2", "3"].into_iter().for_each(come_and_go);
        let news = nodes.live.take_news("m1");
        assert_eq!(news.iter().map(|(_, _, report)| report.boot.as_str()).collect::<Vec<_>>(), ["3"]);
        // What could not be written does not take the place of what has come since.
        come_and_go("4");
        nodes.live.keep(news);
        let news = nodes.live.take_news("m1");
        assert_eq!(news.iter().map(|(_, _, report)| report.boot.as_str()).collect::<Vec<_>>(), ["4"]);
    }

    #[tokio::test]
    async fn what_a_node_counts_moves_no_receipt() {
        let home = tempfile::tempdir().unwrap();
        let nodes = Nodes::new(sqlite(home.path()).await, "m1", &Members::default());
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
    fn texts_are_short_and_such_as_the_database_takes() {
        assert_eq!(clip("short".to_owned()), "short");
        assert_eq!(clip("a\0b\nc".to_owned()), "a b c");
        let clipped = clip(format!("x{}", "é".repeat(LONGEST)));
        assert_eq!(clipped.len(), LONGEST - 1);
    }
}
