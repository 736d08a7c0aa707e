//! What the nodes of each group run: of those with a stream here from memory, of the others from what their replicas wrote
//! into the store.
//!
//! What must stay true:
//! - A node counts as having applied a revision only by its own word, for the lineage that the group has now.
//! - What is kept of a node's words is bounded.
//! - The store hears of a group's nodes at most once in each receipt interval, in one statement for many of them.

mod live;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_store::{Node, Store, StoreError};
use tokio::time::{Instant, timeout_at};

use live::Live;
pub(super) use live::{Alive, End, clip};
pub(super) use write::write;

/// A node of another replica that was not heard of for this long does not count any more.
const REMOTE_LIFE: Duration = Duration::from_secs(30);

/// How often the store is asked for nodes of other replicas while somebody waits for them.
const REMOTE_LOOK: Duration = Duration::from_millis(250);

/// The nodes of all groups. Cheap to clone, and the same for all clones.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
    live: Arc<Live>,
}

/// An object that a node could not build.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RejectedObject {
    /// The name of its kind, which may be one that this version does not know.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Why, in the node's words.
    pub reason: String,
    /// Whether an earlier form of it still serves.
    pub serving_last_good: bool,
}

/// A step that a node did not take as a whole.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefusedStep {
    /// `digest`, `gap`, `lineage`, `backwards`, `malformed` or `unspecified`.
    pub fault: String,
    /// What the node says of it.
    pub detail: String,
    /// The revision refused.
    pub revision: u64,
}

/// What a node does not do as it should.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Troubles {
    /// Objects in quarantine: the first hundred.
    #[serde(default)]
    pub rejected: Vec<RejectedObject>,
    /// How many there are.
    #[serde(default)]
    pub rejected_total: u32,
    /// The step refused last, unless one was applied since.
    #[serde(default)]
    pub refused: Option<RefusedStep>,
    /// What an operator should know of, in the node's words.
    #[serde(default)]
    pub alarms: Vec<String>,
}

/// What a node counted, as it last told a replica; kept by that replica alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Time since its process started.
    pub uptime: Duration,
    /// Requests since then.
    pub requests: u64,
    /// Answers of the 5xx class since then.
    pub responses_5xx: u64,
    /// Processor time since then.
    pub cpu: Duration,
    /// Client connections.
    pub connections: u64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// When its certificate ends, in seconds since 1970.
    pub certificate_not_after: i64,
}

/// A node as known here.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Its id within the group.
    pub id: String,
    /// Name of its machine.
    pub host: String,
    /// Its Milecastle version.
    pub version: String,
    /// Names the run of its process; empty before it first connected.
    pub boot: String,
    /// Unix time in seconds.
    pub joined_at: u64,
    /// Whether it may talk to the control plane: neither it nor its token is revoked.
    pub welcome: bool,
    /// Where its stream to this replica comes from; `None` if it has none here.
    pub address: Option<SocketAddr>,
    /// Whether it has a stream to some replica, as far as is known.
    pub connected: bool,
    /// Unix time in seconds when it was last heard.
    pub heard_at: Option<u64>,
    /// Lineage of the configuration in force; `None` if none is.
    pub lineage: Option<String>,
    /// Revision of the configuration in force.
    pub revision: u64,
    /// Digest of the configuration in force, 64 hexadecimal digits; empty if none is.
    pub digest: String,
    /// What it does not do as it should.
    pub troubles: Troubles,
    /// What it counted; `None` unless it has a stream here and has told.
    pub figures: Option<Figures>,
}

/// How far a revision has come. `Display` is the value of the header `Milecastle-Receipt`: `applied 3/3`, and
/// `applied 2/3, rejected 1` where a node did not take all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Nodes that have the revision, or a later one, in force.
    pub applied: usize,
    /// Nodes that are connected.
    pub total: usize,
    /// Nodes that refused the step, or have it in force with objects in quarantine.
    pub rejected: usize,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "applied {}/{}", self.applied, self.total)?;
        if self.rejected > 0 {
            write!(f, ", rejected {}", self.rejected)?;
        }
        Ok(())
    }
}

impl Nodes {
    /// The nodes that the store knows; those with streams to this process as soon as a DP manager shares this.
    pub fn new(store: Store) -> Self {
        Self { store, live: Arc::default() }
    }

    /// All nodes that joined a group, by id.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list(&self, group: &str) -> Result<Vec<NodeState>, StoreError> {
        let joined = self.store.node_list(group).await?;
        Ok(joined
            .into_iter()
            .map(|node| {
                let mut state = self.stored(node);
                self.live.describe(group, &mut state);
                state
            })
            .collect())
    }

    /// Waits until every connected node of the group has `revision` in force or has refused it, at most for `wait`; says how
    /// far it came. Waiting longer than it takes is no fault of a write, so the store's failures only leave out the nodes of
    /// other replicas.
    pub async fn wait_applied(&self, group: &str, revision: u64, wait: Duration) -> Receipt {
        let deadline = Instant::now() + wait;
        let mut changed = self.live.changes();
        let mut elsewhere = self.elsewhere(group).await;
        loop {
            changed.borrow_and_update();
            let receipt = self.receipt(group, revision, &elsewhere);
            if receipt.is_settled() || Instant::now() >= deadline {
                return receipt.receipt;
            }
            // News of nodes at other replicas come through the store; without any there is no reason to ask it again.
            let look = if elsewhere.is_empty() { deadline } else { deadline.min(Instant::now() + REMOTE_LOOK) };
            if timeout_at(look, changed.changed()).await.is_err() && !elsewhere.is_empty() {
                elsewhere = self.elsewhere(group).await;
            }
        }
    }

    /// How far a revision is at this moment.
    pub async fn applied(&self, group: &str, revision: u64) -> Receipt {
        self.receipt(group, revision, &self.elsewhere(group).await).receipt
    }

    /// Nodes that are connected to other replicas, as the store has it.
    async fn elsewhere(&self, group: &str) -> BTreeMap<String, NodeState> {
        let nodes = match self.store.node_list(group).await {
            Ok(nodes) => nodes,
            Err(error) => {
                tracing::debug!(group, %error, "nodes of other replicas are left out of a receipt");
                Vec::new()
            }
        };
        let nodes = nodes.into_iter().filter(|node| node.welcome).map(|node| self.stored(node));
        nodes.filter(|node| node.connected).map(|node| (node.id.clone(), node)).collect()
    }

    /// A node as the store has it: connected to another replica if it was heard of lately.
    fn stored(&self, node: Node) -> NodeState {
        let report = node.report;
        let (mut troubles, mut digest) = (Troubles::default(), String::new());
        if let Some(report) = &report {
            // Written by another version, perhaps: then only this is not known.
            troubles = serde_json::from_value(report.rejected.clone()).unwrap_or_default();
            digest = report.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        }
        let recent = unix_now().saturating_sub(REMOTE_LIFE.as_secs());
        let heard_at = report.as_ref().map(|report| report.reported_at);
        let (boot, lineage, revision) =
            report.map(|report| (report.boot, Some(report.lineage), report.revision)).unwrap_or_default();
        let connected = heard_at.is_some_and(|at| at >= recent && !self.live.departed(&node.group, &node.id, at));
        NodeState {
            id: node.id,
            host: node.host,
            version: node.version,
            boot,
            joined_at: node.joined_at,
            welcome: node.welcome,
            address: None,
            connected,
            heard_at,
            lineage: lineage.filter(|lineage| !lineage.is_empty()),
            revision,
            digest,
            troubles,
            figures: None,
        }
    }

    fn receipt(&self, group: &str, revision: u64, elsewhere: &BTreeMap<String, NodeState>) -> Count {
        let heads = self.store.watch().heads();
        let lineage = heads.get(group).map(|head| head.lineage.as_str());
        let mut count = Count::default();
        self.live.each(group, |held, at, troubles| count.add((held, at), troubles, (lineage, revision)));
        for (id, node) in elsewhere {
            if !self.live.has(group, id) {
                count.add((node.lineage.as_deref(), node.revision), &node.troubles, (lineage, revision));
            }
        }
        count
    }
}

/// A receipt in the making.
#[derive(Default)]
struct Count {
    receipt: Receipt,
    /// Nodes of which nothing is to be expected any more.
    settled: usize,
}

impl Count {
    fn add(&mut self, held: (Option<&str>, u64), troubles: &Troubles, wanted: (Option<&str>, u64)) {
        let applied = held.0.is_some() && held.0 == wanted.0 && held.1 >= wanted.1;
        let refused = troubles.refused.as_ref().is_some_and(|refused| refused.revision >= wanted.1);
        self.receipt.total += 1;
        self.receipt.applied += usize::from(applied);
        self.receipt.rejected += usize::from((applied && troubles.rejected_total > 0) || (!applied && refused));
        self.settled += usize::from(applied || refused);
    }

    fn is_settled(&self) -> bool {
        self.settled == self.receipt.total
    }
}

/// For what people read.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
        let check = |held, troubles: &Troubles, expected: (usize, usize, bool)| {
            let mut count = Count::default();
            count.add(held, troubles, (Some("l"), 5));
            let Receipt { applied, total, rejected } = count.receipt;
            assert_eq!(((applied, rejected, count.is_settled()), total), (expected, 1));
        };
        check((Some("l"), 5), &Troubles::default(), (1, 0, true));
        check((Some("l"), 6), &quarantined, (1, 1, true));
        check((Some("l"), 4), &quarantined, (0, 0, false));
        check((Some("l"), 4), &refused(5), (0, 1, true));
        check((Some("l"), 4), &refused(4), (0, 0, false));
        check((Some("other"), 9), &Troubles::default(), (0, 0, false));
        check((None, 0), &Troubles::default(), (0, 0, false));
        assert!(Count::default().is_settled());
    }

    #[test]
    fn a_receipt_as_a_header() {
        let receipt = Receipt { applied: 2, total: 3, rejected: 0 };
        assert_eq!(receipt.to_string(), "applied 2/3");
        assert_eq!(Receipt { rejected: 1, ..receipt }.to_string(), "applied 2/3, rejected 1");
    }
}
