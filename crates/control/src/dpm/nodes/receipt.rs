//! How far a revision has come, over all replicas.
//!
//! Each DP manager writes one row for each group that says how many of its connected nodes stand where. So a replica without
//! any streams can tell too, and the work of telling grows with the replicas, not with the nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milecastle_store::Gate;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{Nodes, RefusedStep, Troubles};

/// How often the store is asked what nodes of other replicas run while somebody waits for them.
const REMOTE_LOOK: Duration = Duration::from_millis(100);

/// How far a revision has come. `Display` is the value of the header `Milecastle-Receipt`: `applied 3/3`, and
/// `applied 2/3, rejected 1` where a node did not take all of it; `applied 1/3, held 2` where a rollout keeps it from two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Nodes that have the revision, or a later one, in force.
    pub applied: usize,
    /// Nodes that are connected.
    pub total: usize,
    /// Nodes that refused the step, or have it in force with objects in quarantine.
    pub rejected: usize,
    /// Nodes that a rollout keeps it from for now.
    pub held: usize,
    /// Whether nothing more is to be expected: every node has it in force, refused it, or is kept from it for now.
    pub settled: bool,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "applied {}/{}", self.applied, self.total)?;
        if self.rejected > 0 {
            write!(f, ", rejected {}", self.rejected)?;
        }
        if self.held > 0 {
            write!(f, ", held {}", self.held)?;
        }
        Ok(())
    }
}

/// Where a node stands, as far as receipts are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Stand {
    /// Lineage of what is in force; `None` if nothing is.
    lineage: Option<String>,
    revision: u64,
    /// It holds objects that it cannot build.
    quarantine: bool,
    /// The step that it refused last.
    refused: Option<u64>,
    /// It counts its revisions in another history than the database, or holds something else than its revision adds up to.
    #[serde(default)]
    apart: bool,
    /// It goes ahead of others while a rollout is on.
    #[serde(default)]
    canary: bool,
}

/// Nodes by where they stand: few different places, however many nodes.
pub(super) type Standing = BTreeMap<Stand, usize>;

/// As it is written.
#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    #[serde(flatten)]
    stand: Stand,
    nodes: usize,
}

/// What other members said last, by group; asked again by whoever finds it old, one at a time.
#[derive(Default)]
pub(super) struct Elsewhere(Mutex<BTreeMap<String, (Instant, Arc<Standing>)>>);

impl Stand {
    pub(super) fn new(lineage: Option<&str>, revision: u64, troubles: &Troubles, canary: bool) -> Self {
        let refused = troubles.refused.as_ref();
        let apart = |step: &RefusedStep| step.revision <= revision || step.fault == "backwards";
        Self {
            lineage: lineage.map(str::to_owned),
            revision,
            quarantine: troubles.rejected_total > 0,
            refused: refused.map(|step| step.revision),
            apart: refused.is_some_and(apart),
            canary,
        }
    }
}

/// A standing as the store keeps it.
pub(super) fn to_json(standing: &Standing) -> serde_json::Value {
    let written = standing.iter().map(|(stand, nodes)| Written { stand: stand.clone(), nodes: *nodes });
    serde_json::to_value(written.collect::<Vec<_>>()).unwrap_or_default()
}

impl Nodes {
    /// Waits until every connected node of the group has `revision` in force or has refused it, at most for `wait`; says how
    /// far it came. Waiting longer than it takes is no fault of a write, so the store's failures only leave out the nodes of
    /// other replicas.
    pub async fn wait_applied(&self, group: &str, revision: u64, wait: Duration) -> Receipt {
        self.wait(group, None, revision, wait).await
    }

    /// As [`Self::wait_applied`], for a revision that has just been written in `lineage`. What is watched of the group may be
    /// older: in the lineage before, nodes may have had another revision of the same number for long.
    pub async fn wait_written(&self, group: &str, lineage: &str, revision: u64, wait: Duration) -> Receipt {
        self.wait(group, Some(lineage), revision, wait).await
    }

    async fn wait(&self, group: &str, lineage: Option<&str>, revision: u64, wait: Duration) -> Receipt {
        let deadline = Instant::now() + wait;
        let (mut changed, mut stops) = (self.live.changes(), self.stops.subscribe());
        loop {
            changed.borrow_and_update();
            let receipt = self.standing(group, lineage, revision).await;
            if receipt.settled || Instant::now() >= deadline || *stops.borrow() {
                return receipt;
            }
            let look = deadline.min(Instant::now() + REMOTE_LOOK);
            // However it ends: the next round looks.
            tokio::select! {
                () = sleep_until(look) => {}
                _ = changed.changed() => {}
                _ = stops.wait_for(|stops| *stops) => {}
            }
        }
    }

    /// How far a revision is at this moment.
    pub async fn applied(&self, group: &str, revision: u64) -> Receipt {
        self.standing(group, None, revision).await
    }

    /// Without a lineage it is the one that the group is watched to have.
    async fn standing(&self, group: &str, lineage: Option<&str>, revision: u64) -> Receipt {
        let elsewhere = self.standing_elsewhere(group).await;
        let heads = self.store.watch().heads();
        let head = heads.get(group);
        let wanted = Wanted {
            lineage: lineage.or_else(|| head.map(|head| head.lineage.as_str())),
            revision,
            gate: head.and_then(|head| head.gate),
        };
        let mut count = Count::default();
        let here = self.live.standing(group);
        here.iter().chain(&*elsewhere).for_each(|(stand, nodes)| count.add(stand, *nodes, &wanted));
        Receipt { settled: count.settled == count.receipt.total, ..count.receipt }
    }

    /// What nodes run that are connected to other members.
    async fn standing_elsewhere(&self, group: &str) -> Arc<Standing> {
        let mut known = self.elsewhere.0.lock().await;
        if let Some((asked, standing)) = known.get(group).filter(|(asked, _)| asked.elapsed() < REMOTE_LOOK) {
            tracing::trace!(
                group,
                age_ms = asked.elapsed().as_millis(),
                "a receipt rests on what was read a moment ago"
            );
            return standing.clone();
        }
        let mut standing = Standing::new();
        match self.store.receipt_list(group, self.silence.lost_after).await {
            Ok(rows) => {
                for (_, row) in rows.into_iter().filter(|(member, _)| **member != *self.member) {
                    // Written by another version, perhaps: then its nodes are not known.
                    let row: Vec<Written> = serde_json::from_value(row).unwrap_or_default();
                    row.into_iter().for_each(|Written { stand, nodes }| *standing.entry(stand).or_default() += nodes);
                }
            }
            Err(error) => tracing::debug!(group, %error, "nodes of other replicas are left out of a receipt"),
        }
        known.retain(|_, (asked, _)| asked.elapsed() < REMOTE_LOOK);
        let standing = Arc::new(standing);
        known.insert(group.to_owned(), (Instant::now(), standing.clone()));
        standing
    }
}

/// What a receipt is about.
struct Wanted<'a> {
    lineage: Option<&'a str>,
    revision: u64,
    gate: Option<Gate>,
}

/// A receipt in the making.
#[derive(Default)]
struct Count {
    receipt: Receipt,
    /// Nodes of which nothing is to be expected any more.
    settled: usize,
}

impl Count {
    fn add(&mut self, stand: &Stand, nodes: usize, wanted: &Wanted<'_>) {
        let same = !stand.apart && stand.lineage.is_some() && stand.lineage.as_deref() == wanted.lineage;
        let applied = same && stand.revision >= wanted.revision;
        let refused = stand.apart || stand.refused.is_some_and(|revision| revision >= wanted.revision);
        let beyond = |gate: Gate| wanted.revision > if stand.canary { gate.candidate } else { gate.base };
        let held = !applied && !refused && wanted.gate.is_some_and(beyond);
        let rejected = (applied && stand.quarantine) || (!applied && refused);
        self.receipt.total += nodes;
        self.receipt.applied += if applied { nodes } else { 0 };
        self.receipt.rejected += if rejected { nodes } else { 0 };
        self.receipt.held += if held { nodes } else { 0 };
        self.settled += if applied || refused || held { nodes } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_counts_what_nodes_say() {
        let refused = |revision| Troubles {
            refused: Some(RefusedStep { fault: "digest".to_owned(), detail: String::new(), revision }),
            ..Troubles::default()
        };
        let quarantined = Troubles { rejected_total: 2, ..Troubles::default() };
        let check = |held: (Option<&str>, u64), troubles: &Troubles, expected: (usize, usize, usize)| {
            let mut count = Count::default();
            let wanted = Wanted { lineage: Some("l"), revision: 5, gate: None };
            count.add(&Stand::new(held.0, held.1, troubles, false), 3, &wanted);
            assert_eq!((count.receipt.applied, count.receipt.rejected, count.settled), expected);
            assert_eq!(count.receipt.total, 3);
        };
        check((Some("l"), 5), &Troubles::default(), (3, 0, 3));
        check((Some("l"), 6), &quarantined, (3, 3, 3));
        check((Some("l"), 4), &quarantined, (0, 0, 0));
        check((Some("l"), 4), &refused(5), (0, 3, 3));
        check((Some("l"), 3), &refused(4), (0, 0, 0));
        check((Some("l"), 6), &refused(7), (3, 0, 3));
        // It keeps another revision 6 than the database has, which may be further on by now.
        check((Some("l"), 6), &refused(4), (0, 3, 3));
        let mut set_back = refused(7);
        if let Some(step) = &mut set_back.refused {
            step.fault = "backwards".to_owned();
        }
        check((Some("l"), 6), &set_back, (0, 3, 3));
        check((Some("other"), 9), &Troubles::default(), (0, 0, 0));
        check((None, 0), &Troubles::default(), (0, 0, 0));
    }

    #[test]
    fn whom_a_rollout_keeps_it_from_is_waited_for_no_longer() {
        let check = |canary, at, revision, expected: (usize, usize, usize)| {
            let mut count = Count::default();
            let wanted = Wanted { lineage: Some("l"), revision, gate: Some(Gate { base: 4, candidate: 5 }) };
            count.add(&Stand::new(Some("l"), at, &Troubles::default(), canary), 2, &wanted);
            assert_eq!((count.receipt.applied, count.receipt.held, count.settled), expected);
        };
        check(false, 4, 5, (0, 2, 2));
        check(true, 4, 5, (0, 0, 0));
        check(true, 5, 5, (2, 0, 2));
        check(true, 5, 6, (0, 2, 2));
        check(false, 3, 4, (0, 0, 0));
    }

    #[test]
    fn a_receipt_as_a_header() {
        let receipt = Receipt { applied: 2, total: 3, ..Receipt::default() };
        assert_eq!(receipt.to_string(), "applied 2/3");
        assert_eq!(Receipt { rejected: 1, ..receipt }.to_string(), "applied 2/3, rejected 1");
        assert_eq!(Receipt { applied: 1, held: 2, ..receipt }.to_string(), "applied 1/3, held 2");
    }

    #[test]
    fn a_standing_survives_the_store() {
        let stand =
            |revision| Stand::new(Some("l"), revision, &Troubles { rejected_total: 1, ..Troubles::default() }, true);
        let standing = Standing::from([(stand(4), 2), (stand(5), 7), (Stand::default(), 1)]);
        let read: Vec<Written> = serde_json::from_value(to_json(&standing)).unwrap();
        let read: Standing = read.into_iter().map(|written| (written.stand, written.nodes)).collect();
        assert_eq!(read, standing);
    }
}
