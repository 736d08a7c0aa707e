//! Two processes with the identity of one node, as after its state directory was copied to another machine.
//!
//! What must stay true:
//! - Of two that live, the one that started earlier keeps its stream, in whatever order they come and whoever looks: their starts
//!   (`NodeFacts.boot_id`) have an order, and no clock of the control plane has a part in it.
//! - That the earlier one lives is found by the replica that has its stream: it was asked there, and has spoken since. That replica
//!   names the later one in what it writes of the node, and the replica of the later one goes by this alone.
//! - So a process that is gone keeps nobody out: for [`ANSWER`] at most where its stream was, and elsewhere not at all, unless it
//!   was alive when the later one was named; then for as long as its stream counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use milecastle_store::{Node, NodeReport, StoreError};
use milecastle_wire::pb;
use tokio::time::{Instant, timeout_at};

use super::super::{Nodes, REMOTE_LIFE, Troubles, is_connected};
use super::{Alive, End, Entry, Live, clip};

/// How long a process that is asked whether it lives has to say anything.
const ANSWER: Duration = Duration::from_secs(1);

/// For how long a later process is named that does not come again: longer than one stays away that was turned away.
const NAMED_FOR: Duration = Duration::from_secs(300);

/// Later processes of one node that are named.
const NAMED: usize = 16;

/// What is known of other processes with the identity of one that has a stream here.
#[derive(Default)]
pub(super) struct Rivals {
    /// When this one was asked whether it lives; `None` if it has spoken since.
    asked: Option<Instant>,
    /// The start of one that has a stream to another replica, and when that was noticed; `None` once that one is named.
    elsewhere: Option<(String, Instant)>,
    /// Later ones.
    later: Vec<Later>,
    /// This one is later: its stream ends, and takes nothing with it that is known of the node.
    pub(super) gives_way: bool,
}

/// A process that started later than one that lives.
struct Later {
    boot: String,
    alarm: String,
    /// When it was last noticed.
    came: Instant,
}

/// What a process finds that comes here.
enum Knock {
    /// No earlier one, or one that is gone.
    Free,
    /// An earlier one, which has until then to say that it lives.
    Asked { until: Instant },
    /// An earlier one, which lives.
    Taken,
}

/// What follows from what the store has heard of another process.
enum Weighed {
    /// Nothing yet.
    Open,
    /// That one is later, and this one lives. The alarm, if operators have not been told.
    Stays { alarm: Option<String> },
    /// That one is earlier, and lives.
    GivesWay,
}

impl Rivals {
    /// Whether a look into the store soon may settle which process stays.
    pub(super) fn are_open(&self) -> bool {
        self.elsewhere.as_ref().is_some_and(|(_, noticed)| noticed.elapsed() < REMOTE_LIFE)
    }

    /// This one has spoken. Gives whether it was asked to.
    pub(super) fn answered(&mut self) -> bool {
        self.asked.take().is_some()
    }
}

impl Entry {
    /// What the node does not do as it should, and which processes have its identity without a right to it.
    pub(super) fn troubles(&self) -> Troubles {
        let mut troubles = self.troubles.clone();
        for later in self.rivals.later.iter().filter(|later| later.came.elapsed() < NAMED_FOR) {
            troubles.alarms.push(later.alarm.clone());
            troubles.later.push(later.boot.clone());
        }
        troubles
    }

    /// Asks the process whether it lives. Gives when that was.
    fn ask(&mut self) -> Instant {
        // It answers to every order, also to one that it has had.
        self.maintenance.send_modify(|_| ());
        *self.rivals.asked.get_or_insert_with(Instant::now)
    }

    /// Names a later process, if there is room. Gives the alarm if it is new.
    fn name(&mut self, boot: &str, whence: &str) -> Option<String> {
        self.news = true;
        let named = &mut self.rivals.later;
        named.retain(|later| later.came.elapsed() < NAMED_FOR);
        if let Some(later) = named.iter_mut().find(|later| later.boot == boot) {
            later.came = Instant::now();
            return None;
        }
        // Whoever has the certificate can make up as many names as it likes.
        if named.len() == NAMED {
            return None;
        }
        let alarm = format!(
            "a second process has this node's identity and is turned away: {whence}; was the state directory copied?"
        );
        named.push(Later { boot: boot.to_owned(), alarm: alarm.clone(), came: Instant::now() });
        Some(alarm)
    }
}

impl Live {
    /// Compares a process that comes with the one that has a stream here. `has_asked`: it has waited for that one's answer.
    fn knock(&self, group: &Arc<str>, node: &str, facts: &pb::NodeFacts, from: SocketAddr, has_asked: bool) -> Knock {
        let boot = clip(facts.boot_id.clone());
        let mut groups = self.lock();
        let entry = groups.get_mut(group).and_then(|nodes| nodes.get_mut(node));
        let Some(entry) = entry.filter(|entry| is_earlier(&entry.boot, &boot)) else { return Knock::Free };
        match entry.rivals.asked {
            Some(asked) if asked.elapsed() >= ANSWER => Knock::Free,
            Some(asked) => Knock::Asked { until: asked + ANSWER },
            None if !has_asked => Knock::Asked { until: entry.ask() + ANSWER },
            None => {
                let alarm = entry.name(&boot, &format!("{} at {}", clip(facts.hostname.clone()), from.ip()));
                drop(groups);
                if let Some(alarm) = alarm {
                    tracing::warn!(node, %group, "{alarm}");
                    self.changed(group);
                }
                Knock::Taken
            }
        }
    }
}

impl Nodes {
    /// Whether a process may open a stream here: not while an earlier one has one, and lives. Waits for that one's answer or end.
    pub(in crate::dpm) async fn admits(
        &self,
        group: &Arc<str>,
        node: &str,
        facts: &pb::NodeFacts,
        from: SocketAddr,
    ) -> bool {
        let (mut changes, mut has_asked) = (self.live.changes(), false);
        loop {
            changes.borrow_and_update();
            let until = match self.live.knock(group, node, facts, from, has_asked) {
                Knock::Free => return true,
                Knock::Taken => return false,
                Knock::Asked { until } => until,
            };
            has_asked = true;
            // However it ends: the next round looks.
            timeout_at(until, changes.changed()).await.map(drop).ok();
        }
    }

    /// Whether a stream that begins gives way to an earlier process, of which the store has heard that it lives and has a stream
    /// to another replica.
    pub(in crate::dpm) fn gives_way(&self, alive: &Alive, node: &Node) -> bool {
        let mut groups = self.live.lock();
        let entry = groups.get_mut(&alive.group).and_then(|nodes| nodes.get_mut(&alive.node));
        let entry = entry.filter(|entry| entry.stream == alive.stream);
        entry.is_some_and(|entry| matches!(self.weigh(entry, node), Weighed::GivesWay))
    }

    /// Looks what the store has heard of the nodes that are about to be written. Streams of later processes end, and nothing is
    /// written of them.
    pub(in crate::dpm::nodes) async fn settle_rivals(
        &self,
        reports: &mut Vec<(String, String, NodeReport)>,
    ) -> Result<(), StoreError> {
        let here = reports.iter().filter(|(_, _, report)| report.connected);
        let here: Vec<_> = here.map(|(group, id, report)| (&**group, &**id, &*report.boot)).collect();
        for node in self.store.node_rivals(&self.member, &here).await? {
            let mut groups = self.live.lock();
            let entry = groups.get_mut(&*node.group).and_then(|nodes| nodes.get_mut(&node.id));
            let Some(entry) = entry else { continue };
            match self.weigh(entry, &node) {
                Weighed::Open => {}
                Weighed::Stays { alarm } => {
                    let mut report = entry.report(true, &self.member);
                    drop(groups);
                    // Whichever of them was heard last: this is what the store is to take.
                    report.reported_at = report.reported_at.max(node.report.map_or(0, |rival| rival.reported_at));
                    if let Some((_, _, old)) =
                        reports.iter_mut().find(|(group, id, _)| (group, id) == (&node.group, &node.id))
                    {
                        *old = report;
                    }
                    if let Some(alarm) = alarm {
                        tracing::warn!(node = node.id, group = node.group, "{alarm}");
                    }
                }
                Weighed::GivesWay => {
                    if let Some(end) = entry.end.take() {
                        end.send(End::Later).ok();
                    }
                    reports.retain(|(group, id, _)| (group, id) != (&node.group, &node.id));
                }
            }
        }
        Ok(())
    }

    fn weigh(&self, entry: &mut Entry, node: &Node) -> Weighed {
        let Some(rival) = self.rival(node, &entry.boot) else { return Weighed::Open };
        let is_later = is_earlier(&rival.boot, &entry.boot);
        if is_later && Troubles::of(rival).later.contains(&entry.boot) {
            entry.rivals.gives_way = true;
            return Weighed::GivesWay;
        }
        let noticed = entry.rivals.elsewhere.as_ref().filter(|_| entry.rivals.are_open());
        if noticed.is_none_or(|(boot, _)| *boot != rival.boot) {
            entry.rivals.elsewhere = Some((rival.boot.clone(), Instant::now()));
        } else if !is_later && entry.rivals.asked.is_none() {
            entry.rivals.elsewhere = None;
            let whence = format!("{}, connected to another DP manager", rival.host);
            return Weighed::Stays { alarm: entry.name(&rival.boot, &whence) };
        }
        // Its answer shows that it lives, and makes it the one that was heard last, which is the one that the store hears of.
        entry.ask();
        Weighed::Open
    }

    /// What the store has heard of another process of the node than that of `boot`, which has a stream to another replica.
    fn rival<'a>(&self, node: &'a Node, boot: &str) -> Option<&'a NodeReport> {
        let report = node.report.as_ref().filter(|report| *report.member != *self.member)?;
        let is_another = is_earlier(&report.boot, boot) || is_earlier(boot, &report.boot);
        Some(report).filter(|_| is_another && is_connected(node, self.store.now(), self.silence.lost_after))
    }
}

/// Whether a process of this start is older than that of the other one. Starts without a name have no order.
fn is_earlier(boot: &str, other: &str) -> bool {
    !boot.is_empty() && boot < other
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use milecastle_settings::{Members, Time};
    use milecastle_store::{Actor, DEFAULT_GROUP, NewMember, NewNode, NewToken, Store};
    use tokio::sync::oneshot;

    use super::super::super::write::reports;
    use super::*;
    use crate::testing::sqlite;

    const EARLY: &str = "18c0000000000000-00000002";
    const LATE: &str = "18c0000000000001-00000001";

    /// Two replicas on one database.
    struct Bed {
        _home: tempfile::TempDir,
        store: Store,
        one: Nodes,
        two: Nodes,
    }

    impl Bed {
        async fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let store = sqlite(home.path()).await;
            let (id, group) = ("t".to_owned(), DEFAULT_GROUP.to_owned());
            let token = NewToken { id, group, name: String::new(), hash: [0; 32], expires_at: None };
            store.by(&Actor::system()).token_create(&token).await.unwrap();
            let (one, two) = (replica(&store, "one").await, replica(&store, "two").await);
            Self { _home: home, store, one, two }
        }

        async fn join(&self, id: &str) {
            let [version, certificate, host] = ["1", "0a", "h"].map(str::to_owned);
            let (group, id, token) = (DEFAULT_GROUP.to_owned(), id.to_owned(), "t".to_owned());
            let node = NewNode { group, id, token, certificate, host, version };
            assert!(self.store.node_join(&node).await.unwrap());
        }
    }

    async fn replica(store: &Store, name: &str) -> Nodes {
        let [id, host, version, address] = [name, name, "1", ""].map(str::to_owned);
        store.member_beat(&NewMember { id, roles: Vec::new(), host, version, address }).await.unwrap();
        Nodes::new(store.clone(), name, &Members { lost_after: Time::secs(3600), ..Members::default() })
    }

    fn facts(boot: &str) -> pb::NodeFacts {
        pb::NodeFacts { boot_id: boot.to_owned(), hostname: format!("host of {boot}"), ..pb::NodeFacts::default() }
    }

    fn group() -> Arc<str> {
        DEFAULT_GROUP.into()
    }

    fn from() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 1))
    }

    /// A process that came to a replica.
    struct Process {
        alive: Alive,
        ended: oneshot::Receiver<End>,
        is_let_in: bool,
    }

    impl Process {
        async fn come(nodes: &Nodes, id: &str, boot: &str) -> Self {
            let (alive, ended) = nodes.enter(&group(), id, from(), facts(boot), None);
            let known = nodes.store.node_get(DEFAULT_GROUP, id).await.unwrap();
            let is_let_in = known.is_none_or(|known| !nodes.gives_way(&alive, &known));
            Self { alive, ended, is_let_in }
        }

        fn speak(&self) {
            self.alive.maintained(false);
        }
    }

    /// A replica writes of all its nodes.
    async fn look(nodes: &Nodes) {
        nodes.live.lock().values_mut().flat_map(HashMap::values_mut).for_each(|entry| entry.news = true);
        reports(nodes).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_at_two_replicas_the_earlier_stays_in_all_orders() {
        let bed = Bed::new().await;
        let (one, two) = (&bed.one, &bed.two);
        for order in 0..32_u32 {
            let is_set = |bit: u32| order & (1 << bit) != 0;
            let id = format!("n{order}");
            bed.join(&id).await;
            let (mut early, mut late);
            // Of the first the store has heard when the other one comes, or it has not.
            if is_set(0) {
                early = Process::come(one, &id, EARLY).await;
                look(if is_set(1) { one } else { two }).await;
                late = Process::come(two, &id, LATE).await;
            } else {
                late = Process::come(two, &id, LATE).await;
                look(if is_set(1) { one } else { two }).await;
                early = Process::come(one, &id, EARLY).await;
            }
            assert!(early.is_let_in && late.is_let_in, "order {order}: nobody knows yet that the other one lives");
            // The replicas look in any order first, and then each of them now and again.
            for is_one in (2..5).map(is_set).chain([true, false].into_iter().cycle().take(12)) {
                look(if is_one { one } else { two }).await;
                early.speak();
                late.speak();
            }
            assert!(early.ended.try_recv().is_err(), "order {order}: the earlier one lost its stream");
            assert_eq!(late.ended.try_recv(), Ok(End::Later), "order {order}");
            drop(late);
            look(two).await;
            assert!(!Process::come(two, &id, LATE).await.is_let_in, "order {order}");
            for nodes in [one, two] {
                let node = nodes.get(DEFAULT_GROUP, &id).await.unwrap().unwrap();
                assert!(node.connected && node.boot == EARLY, "order {order}: {node:?}");
                assert!(node.troubles.alarms[0].contains(&format!("host of {LATE}")), "{:?}", node.troubles.alarms);
            }
            drop(early);
            look(one).await;
            assert!(Process::come(two, &id, LATE).await.is_let_in, "order {order}: the earlier one has left");
        }
    }

    /// As after a node's host lost its power and was started again.
    #[tokio::test]
    async fn one_that_does_not_answer_keeps_nobody_out_elsewhere() {
        let bed = Bed::new().await;
        bed.join("n1").await;
        let mut gone = Process::come(&bed.one, "n1", EARLY).await;
        look(&bed.one).await;
        let mut next = Process::come(&bed.two, "n1", LATE).await;
        for nodes in [&bed.two, &bed.one].into_iter().cycle().take(10) {
            look(nodes).await;
            next.speak();
            assert!(next.is_let_in && next.ended.try_recv().is_err() && gone.ended.try_recv().is_err());
        }
        let node = bed.two.get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        assert!(node.connected && node.boot == LATE && node.troubles.alarms.is_empty(), "{node:?}");
    }

    #[tokio::test]
    async fn whoever_comes_waits_for_the_answer_of_an_earlier_one() {
        let bed = Bed::new().await;
        let admits = async |boot: &str| bed.one.admits(&group(), "n1", &facts(boot), from()).await;
        let early = Process::come(&bed.one, "n1", EARLY).await;
        let mut orders = early.alive.maintenance();
        let (is_admitted, ()) = tokio::join!(admits(LATE), async {
            orders.changed().await.unwrap();
            early.speak();
        });
        assert!(!is_admitted);
        // Its own next stream is not kept out, nor one of which nobody can tell when it started.
        assert!(admits(EARLY).await && admits("").await);
        // It vanishes, and nobody hears of that.
        assert!(admits(LATE).await);
        drop(early);
        let _late = Process::come(&bed.one, "n1", LATE).await;
        assert!(admits(EARLY).await, "a later one keeps an earlier one out");
    }

    #[tokio::test]
    async fn what_is_named_is_bounded() {
        let bed = Bed::new().await;
        let _early = Process::come(&bed.one, "n1", EARLY).await;
        let mut groups = bed.one.live.lock();
        let entry = groups.get_mut(DEFAULT_GROUP).unwrap().get_mut("n1").unwrap();
        for n in 0..=NAMED {
            assert_eq!(entry.name(&n.to_string(), "host").is_some(), n < NAMED);
            assert_eq!(entry.name(&n.to_string(), "host"), None, "an operator hears of each once");
        }
        let troubles = entry.troubles();
        assert_eq!((troubles.later.len(), troubles.alarms.len()), (NAMED, NAMED));
    }
}
