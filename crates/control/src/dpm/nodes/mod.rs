//! What the nodes of each group run: of those with a stream here from memory, of the others from what their replicas wrote
//! into the store.
//!
//! What must stay true:
//! - A node counts as having applied a revision only by its own word, for the lineage that the group has now.
//! - A node is connected for as long as the replica that says so lives, by the database's clock at the time of reading.
//! - What is told of a node never goes back: what it said here counts until the store knows it, also when it has left.
//! - What is kept of a node's words is bounded.
//! - The store hears where a group's nodes stand at most once in each receipt interval, in one row however many they are; of
//!   each node by itself more rarely, in one statement for many of them.

mod live;
mod receipt;
mod routes;
mod warnings;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use milecastle_settings::Members;
use milecastle_store::{Head, Heads, Maintenance, Node, NodeReport, Rollout, Store, StoreError};
use tokio::sync::watch;

pub(crate) use live::clip;
pub(super) use live::{Alive, End};
use live::{Here, Live};
use receipt::Elsewhere;
pub use receipt::Receipt;
pub(super) use write::{Pace, write};

use crate::rollout::canaries_of;
use crate::traffic::{Told, Traffic};

/// A node of another replica that was not heard of for this long does not count any more.
const REMOTE_LIFE: Duration = Duration::from_secs(30);

/// The nodes of all groups. Cheap to clone, and the same for all clones.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
    live: Arc<Live>,
    elsewhere: Arc<Elsewhere>,
    /// The member of the control plane that this process is.
    member: Arc<str>,
    silence: Silence,
    /// Turns true when this process stops: whoever waits for nodes hears how far they are.
    stops: Arc<watch::Sender<bool>>,
}

/// After how long a silence others are taken for gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence {
    /// A member, whose nodes are not counted then.
    pub(crate) lost_after: Duration,
    /// A node, which is no longer called lost but offline.
    pub(crate) offline_after: Duration,
}

impl From<&Members> for Silence {
    fn from(settings: &Members) -> Self {
        Self { lost_after: settings.lost_after.get(), offline_after: settings.nodes_offline_after.get() }
    }
}

/// How a node does, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It runs the newest revision that it may have, all of it.
    Healthy,
    /// It is connected, and behind that revision.
    Late,
    /// It is connected, and does not take all that it is sent.
    Rejected,
    /// Its stream ended or it fell silent, a short while ago.
    Lost,
    /// It has not been heard of for long, or never since it joined.
    Offline,
    /// It may not talk to the control plane any more.
    Revoked,
}

impl Condition {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Late => "late",
            Self::Rejected => "rejected",
            Self::Lost => "lost",
            Self::Offline => "offline",
            Self::Revoked => "revoked",
        }
    }
}

/// An object that a node could not build.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct RefusedStep {
    /// `digest`, `gap`, `lineage`, `backwards`, `malformed` or `unspecified`.
    pub fault: String,
    /// What the node says of it.
    pub detail: String,
    /// The revision refused.
    pub revision: u64,
}

/// The end of a certificate that a node has in force for an object, in which a reference stands for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HeldCertificate {
    /// The name of the object's kind, which may be one that this version does not know.
    pub kind: String,
    /// The object's id.
    pub id: String,
    /// Unix time in seconds.
    pub not_after: u64,
}

/// What a node does not do as it should, and what is not as it should be with it.
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
    /// What an operator should know of: in the node's words, and last in the control plane's.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Starts of later processes that have the node's identity too, and no right to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<String>,
    /// When its certificate ends (Unix seconds), once it should have had the next one for some time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ends: Option<u64>,
    /// When certificates end that it has in force for objects with references to them: of each object the first one, a few; `None`: it
    /// has told nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<HeldCertificate>>,
    /// Whether it takes no new work because an operator wants that: the node's own word, after each order.
    #[serde(default)]
    pub maintained: bool,
}

impl Troubles {
    /// Those that a report tells.
    pub(crate) fn of(report: &NodeReport) -> Self {
        // Written by another version, perhaps: then only this is not known.
        serde_json::from_value(report.rejected.clone()).unwrap_or_default()
    }
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
    /// Addresses of upstreams whose health it watches.
    pub upstream_targets: u64,
    /// Those of them that are not healthy.
    pub unhealthy_targets: u64,
    /// When its certificate ends, in seconds since 1970.
    pub certificate_not_after: i64,
    /// Requests that are over since then; `None`: it is of a version that does not tell.
    pub traffic: Option<Traffic>,
    /// What it had in force of its group's configuration when it told this; 0 if nothing.
    pub revision: u64,
    /// When it told this, Unix time in seconds.
    pub told_at: u64,
}

impl Figures {
    /// What the other replicas are to know of them; `None`: its version tells no traffic.
    fn told(self) -> Option<Told> {
        let Self { connections, upstream_targets, unhealthy_targets, revision, told_at, .. } = self;
        let (revision, at) = (Some(revision), Some(told_at));
        Some(Told { traffic: self.traffic?, connections, upstream_targets, unhealthy_targets, revision, at })
    }
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
    /// Its own maintenance.
    pub maintenance: Option<Maintenance>,
    /// That of its group.
    pub group_maintenance: Option<Maintenance>,
    /// Where its stream to this replica comes from; `None` if it has none here.
    pub address: Option<SocketAddr>,
    /// Whether it has a stream to some replica, as far as is known.
    pub connected: bool,
    /// The member of the control plane that heard of it last.
    pub member: String,
    /// Whether it goes ahead of others, in the rollout that is on.
    pub canary: bool,
    /// How it does.
    pub condition: Condition,
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

impl Nodes {
    /// The nodes that the store knows; those with streams to this process as soon as a DP manager shares this. `member` is
    /// the id under which this process is a member of the control plane.
    pub fn new(store: Store, member: &str, settings: &Members) -> Self {
        Self {
            live: Arc::new(Live::new(&store)),
            store,
            elsewhere: Arc::default(),
            member: member.into(),
            silence: settings.into(),
            stops: Arc::default(),
        }
    }

    /// Ends all waiting for nodes, now and from now on: this process stops, and soon has no nodes to tell of.
    pub fn end_waits(&self) {
        self.stops.send_replace(true);
    }

    /// Silence after which a member of the control plane is lost.
    pub fn lost_after(&self) -> Duration {
        self.silence.lost_after
    }

    /// After how long a silence others are taken for gone.
    pub(crate) fn silence(&self) -> Silence {
        self.silence
    }

    /// All nodes that joined a group, by id.
    ///
    /// # Errors
    /// What the store says; also that it refuses writes: what other replicas say of their nodes is out of date then.
    pub async fn list(&self, group: &str) -> Result<Vec<NodeState>, StoreError> {
        self.store.takes_writes()?;
        let rollout = self.store.rollout_get(group).await?;
        let canaries = canaries_of(&rollout);
        let joined = self.store.node_list(group).await?;
        Ok(joined.into_iter().map(|node| self.known(node, &rollout.head, &canaries)).collect())
    }

    /// All nodes of all groups, with their groups, by group and id. `heads` and `rollouts` are what they are compared with.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn list_all(&self, heads: &Heads, rollouts: &[Rollout]) -> Result<Vec<(String, NodeState)>, StoreError> {
        self.store.takes_writes()?;
        let canaries: HashMap<&str, BTreeSet<String>> =
            rollouts.iter().map(|rollout| (rollout.group.as_str(), canaries_of(rollout))).collect();
        let nobody = BTreeSet::new();
        let joined = self.store.node_list_all().await?;
        let known = |node: Node| {
            // Of a group that was made or deleted at this moment nothing is told.
            let head = heads.get(&node.group)?;
            let canaries = canaries.get(node.group.as_str()).unwrap_or(&nobody);
            Some((node.group.clone(), self.known(node, head, canaries)))
        };
        Ok(joined.into_iter().filter_map(known).collect())
    }

    /// One node; `None` if the group has none of this id.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn get(&self, group: &str, id: &str) -> Result<Option<NodeState>, StoreError> {
        self.store.takes_writes()?;
        let rollout = self.store.rollout_get(group).await?;
        let canaries = canaries_of(&rollout);
        Ok(self.store.node_get(group, id).await?.map(|node| self.known(node, &rollout.head, &canaries)))
    }

    /// A node as far as it is known, from here and from the store.
    fn known(&self, mut node: Node, head: &Head, canaries: &BTreeSet<String>) -> NodeState {
        // In this order: one that is not here any more has left its last words.
        let here = self.live.here(&node.group, &node.id, &self.member);
        let last = || self.live.last_words(&node, &self.member);
        if let Some(report) = here.as_ref().map(|here| here.report.clone()).or_else(last) {
            node.host.clone_from(&report.host);
            node.version.clone_from(&report.version);
            node.report = Some(report);
        }
        let mut state = self.stored(node);
        if let Some(Here { address, figures, .. }) = here {
            state.connected = true;
            state.address = Some(address);
            state.figures = figures;
        }
        state.canary = canaries.contains(&state.id);
        state.condition = self.condition(&state, head);
        state
    }

    fn condition(&self, state: &NodeState, head: &Head) -> Condition {
        let quiet = state.heard_at.map(|at| Duration::from_secs(self.store.now().saturating_sub(at)));
        let due = head.gate.map_or(head.revision, |gate| if state.canary { gate.candidate } else { gate.base });
        let at_head = state.lineage.as_deref() == Some(&head.lineage) && state.revision >= due;
        let refuses = state.troubles.rejected_total > 0 || state.troubles.refused.is_some();
        match (state.connected, at_head) {
            _ if !state.welcome => Condition::Revoked,
            (true, _) if refuses => Condition::Rejected,
            (true, true) => Condition::Healthy,
            (true, false) => Condition::Late,
            (false, _) if quiet.is_some_and(|quiet| quiet < self.silence.offline_after) => Condition::Lost,
            (false, _) => Condition::Offline,
        }
    }

    /// A node as its report has it.
    fn stored(&self, node: Node) -> NodeState {
        let connected = is_connected(&node, self.store.now(), self.silence.lost_after);
        let report = node.report;
        let troubles = report.as_ref().map(Troubles::of).unwrap_or_default();
        let digest = report.iter().flat_map(|report| &report.digest).map(|byte| format!("{byte:02x}")).collect();
        let heard_at = report.as_ref().map(|report| report.reported_at);
        let member = report.as_ref().map(|report| report.member.clone()).unwrap_or_default();
        let (boot, lineage, revision) =
            report.map(|report| (report.boot, Some(report.lineage), report.revision)).unwrap_or_default();
        NodeState {
            id: node.id,
            host: node.host,
            version: node.version,
            boot,
            joined_at: node.joined_at,
            welcome: node.welcome,
            maintenance: node.maintenance,
            group_maintenance: node.group_maintenance,
            address: None,
            connected,
            member,
            canary: false,
            condition: Condition::Offline,
            heard_at,
            lineage: lineage.filter(|lineage| !lineage.is_empty()),
            revision,
            digest,
            troubles,
            figures: None,
        }
    }
}

/// Whether a node has a stream by its report, at `now` (Unix seconds): it was heard of lately, and so was the replica, which is
/// lost after so long a silence.
pub(crate) fn is_connected(node: &Node, now: u64, lost_after: Duration) -> bool {
    let recent = now.saturating_sub(REMOTE_LIFE.as_secs());
    let is_served = node.member_silence.is_some_and(|silence| silence < lost_after);
    node.report.as_ref().is_some_and(|report| report.connected && report.reported_at >= recent && is_served)
}
