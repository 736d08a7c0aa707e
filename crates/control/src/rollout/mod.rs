//! Progressive rollout: new revisions of a group go to canaries first, to the others after a soak time, and are taken back by
//! themselves where canaries do not bear them (`docs/rollout.md`).
//!
//! Where nodes may go stands in the database ([`milecastle_store::Gate`]); the publish that makes a revision closes the gate, and the
//! leader moves it on ([`Looks`]) by what [`course`] says. DP managers do what it says and decide nothing.

mod back;
mod course;
mod metrics;
mod policy;
mod stalled;
mod verdict;
mod wait;

use milecastle_snapshot::Compiler;
use milecastle_store::{Actor, ActorKind, Node, Rollout, Step, Term};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

pub(crate) use back::{Back, Ground, Way};
pub(crate) use course::{Course, End, Outcome, Record, Seen, Situation, Stage, stored};
pub use metrics::watch_rollouts;
pub(crate) use policy::{Policy, Strategy};
pub(crate) use stalled::{Stalled, stalled};

use crate::dpm::{Silence, Troubles, is_connected};
use crate::members::{LEADER, MemberSettings};
use crate::revisions::{Editor, Refused};
use crate::state::State;
use crate::traffic::Told;

/// What histories call whoever does it where nobody asked for it.
pub(crate) const NAME: &str = "rollout";

/// The fault of a step whose settings a node does not know.
const SETTINGS: &str = "settings";

/// The nodes that go ahead in the rollout that is on.
pub(crate) fn canaries_of(rollout: &Rollout) -> BTreeSet<String> {
    stored(rollout).0.map(|stage| stage.canaries).unwrap_or_default()
}

/// The policy of a group; `None`: it, or how far the rollout that is on has come, is of a version that knows more.
pub(crate) fn policy_of(rollout: &Rollout) -> Option<Policy> {
    // Taken for one that nobody has looked at, it would get other canaries.
    rollout.stage.as_ref().map(Stage::deserialize).transpose().ok()?;
    match &rollout.policy {
        None => Some(Policy::default()),
        Some(policy) => Policy::deserialize(policy).ok(),
    }
}

/// As the store keeps it.
pub(crate) fn written(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("numbers, texts and maps by text have a JSON form")
}

/// How long a group is left alone whose rollout could not be taken back while writers waited: they have it for most of the time.
const REST: Duration = Duration::from_secs(10);

/// Fewest that ask the database at once: one that holds its group for long keeps no other one waiting.
const TURNS: usize = 2;

/// The rollouts as the leader of one term looks at them, each by a task of its own: one whose way back takes long to be found keeps no other
/// one waiting. Of however many groups there are, so many as the database has room for ask it at once, in the order in which they
/// came: each turn ends, so none waits for ever. What is under way ends with it.
pub(crate) struct Looks {
    leader: Arc<Leader>,
    silence: Silence,
    since: Instant,
    tasks: JoinSet<()>,
    /// Of the groups that are looked at.
    under_way: HashMap<String, AbortHandle>,
}

/// Whoever moves rollouts on where nobody asks for it.
struct Leader {
    state: Arc<State>,
    compiler: Arc<Compiler>,
    member: Arc<str>,
    epoch: u64,
    turns: Semaphore,
}

impl Looks {
    /// Those of this member in the term of office that has begun.
    pub(crate) fn begin(state: &Arc<State>, member: &Arc<str>, settings: &MemberSettings, epoch: u64) -> Self {
        let turns = Semaphore::new(state.store().background().max(TURNS));
        let (state, compiler, member) = (state.clone(), settings.compiler.clone(), member.clone());
        Self {
            leader: Arc::new(Leader { state, compiler, member, epoch, turns }),
            silence: (&settings.members).into(),
            since: Instant::now(),
            tasks: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    /// Whether it is of this term.
    pub(crate) fn is_of(&self, epoch: u64) -> bool {
        self.leader.epoch == epoch
    }

    /// Begins to look at all rollouts that nobody looks at, and to move each on as far as it may go.
    pub(crate) async fn look(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a look at a rollout broke off; trying again");
            }
        }
        self.under_way.retain(|_, look| !look.is_finished());
        // Of what cannot be read the alarm tells ([`stalled`]).
        let rollouts = match self.leader.state.store().rollout_list().await {
            Ok(rollouts) => rollouts.known,
            Err(error) => return tracing::debug!(%error, "rollouts are looked at later"),
        };
        let patience = self.patience();
        for rollout in rollouts.into_iter().filter(|rollout| rollout.staged || rollout.head.gate.is_some()) {
            if let Entry::Vacant(free) = self.under_way.entry(rollout.group.clone()) {
                free.insert(self.tasks.spawn(self.leader.clone().look(rollout, patience)));
            }
        }
    }

    /// Before nodes could have been heard of, none passes for gone.
    fn patience(&self) -> Silence {
        let is_early = self.since.elapsed() < self.silence.offline_after;
        let offline_after = if is_early { Duration::MAX } else { self.silence.offline_after };
        Silence { offline_after, ..self.silence }
    }
}

impl Leader {
    /// Looks at a rollout; rests after what kept writers waiting for nothing, and lets others look meanwhile.
    async fn look(self: Arc<Self>, rollout: Rollout, silence: Silence) {
        if let Err(error) = self.look_at(&rollout, silence).await {
            tracing::warn!(group = rollout.group, %error, "a rollout cannot go on now; trying again");
            if let Refused::Slow(_) = error {
                sleep(REST).await;
            }
        }
    }

    /// Moves a rollout on as far as it may go, if it may. Has a turn while it asks the database.
    async fn look_at(&self, rollout: &Rollout, silence: Silence) -> Result<(), Refused> {
        let Self { state, compiler, member, epoch, .. } = self;
        let (store, group) = (state.store(), &rollout.group);
        let term = Term { lease: LEADER, holder: member, epoch: *epoch };
        let Some(policy) = policy_of(rollout) else { return Ok(()) };
        if rollout.head.gate.is_none() && !stored(rollout).1.is_note_due(&policy, store.now()) {
            return Ok(());
        }
        // None is ever closed.
        let turn = self.turns.acquire().await;
        let nodes = store.node_list(group).await?;
        // However long is waited from here on: it is decided of the moment at which the nodes were so.
        let now = store.now();
        let nodes = seen(now, silence, rollout, nodes);
        let course = situation(now, rollout, &policy, &nodes).course();
        if let Course::Wait(_) = course {
            return Ok(());
        }
        let actor = Actor::new(ActorKind::System, NAME);
        let here = state.find(group).await?;
        let editor = Editor { acting: store.by(&actor), compiler, group: &here, effort: None };
        let (_turn, way) = match (course, rollout.head.gate) {
            (Course::Back(_), Some(gate)) => {
                let ground = Ground::of(editor, gate).await?;
                drop(turn);
                let way = Way::through(editor, ground).await?;
                (self.turns.acquire().await, Some(way))
            }
            _ => (turn, None),
        };
        // It is to go on: decided once more, of what there is while nobody writes.
        let held = store.by(&actor).rollout_hold(group).await?;
        let rollout = held.rollout().clone();
        let Some(policy) = policy_of(&rollout) else { return Ok(()) };
        let situation = situation(now, &rollout, &policy, &nodes);
        match situation.course() {
            Course::Wait(_) => {}
            Course::Step { name, stage, record, advance } => {
                let stage = stage.as_deref();
                let step =
                    Step { name, term: Some(term), stage: stage.map(written), record: written(&record), advance };
                if held.step(&step).await? && rollout.head.gate.is_some() {
                    let canaries = stage.map(|stage| &stage.canaries);
                    tracing::info!(group, step = name, gate = ?rollout.head.gate, ?canaries, "a rollout goes on");
                }
            }
            Course::Back(reason) => {
                let back = Back { editor, by: &actor.name, reason: &reason, term: Some(term) };
                if let Some(published) = back.take(held, &situation, way).await? {
                    let gate = rollout.head.gate;
                    tracing::warn!(group, ?gate, revision = published.revision, reason, "a rollout was taken back");
                }
            }
        }
        Ok(())
    }
}

/// All that the course of a rollout depends on, at `now` (Unix seconds).
pub(crate) fn situation<'a>(now: u64, rollout: &Rollout, policy: &'a Policy, nodes: &'a [Seen]) -> Situation<'a> {
    let (stage, record) = stored(rollout);
    let (head, gate) = (rollout.head.revision, rollout.head.gate);
    Situation { now, policy, head, gate, stage, record, nodes }
}

/// Those of a group's nodes that may talk to the control plane, as they are at `now` (Unix seconds).
pub(crate) fn seen(now: u64, silence: Silence, rollout: &Rollout, nodes: Vec<Node>) -> Vec<Seen> {
    let welcome = nodes.into_iter().filter(|node| node.welcome);
    welcome.map(|node| see(node, &rollout.head.lineage, now, silence)).collect()
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
    let of_lineage = |revision: u64| if report.lineage == lineage { revision } else { 0 };
    let told = report.traffic.as_ref().and_then(|told| Told::deserialize(told).ok());
    Seen {
        id: node.id,
        host: node.host,
        connected,
        present: is_recent(report.reported_at),
        maintained,
        boot: report.boot,
        revision: of_lineage(report.revision),
        rejected: troubles.rejected_total,
        refused,
        traffic: told.map(|told| told.traffic),
        counted_with: told.and_then(|told| told.revision).map(of_lineage),
        told_at: told.and_then(|told| told.at),
    }
}

#[cfg(test)]
mod tests {
    use milecastle_model::{Key, Kind};
    use milecastle_store::{ChangeSet, NewGroup, Op, Put, Source};
    use milecastle_testkit::{TempDir, eventually};
    use serde_json::json;

    use super::*;
    use crate::testing;

    /// More than the database has room for at once.
    const GROUPS: usize = 12;

    #[tokio::test]
    async fn rollouts_of_many_groups_are_looked_at_in_turns() {
        let dir = TempDir::new();
        let store = testing::sqlite(dir.path()).await;
        let system = Actor::system();
        let by = store.by(&system);
        let groups: Vec<String> = (0..GROUPS).map(|n| format!("g{n}")).collect();
        for group in &groups {
            by.group_create(&NewGroup::named(group)).await.unwrap();
            by.rollout_hold(group)
                .await
                .unwrap()
                .set(&json!({ "strategy": "canary" }), true, &json!({}))
                .await
                .unwrap();
            let put = Put::new(Key::new(Kind::Route, "1"), json!({ "id": "1", "uri": "/" }).to_string());
            by.publish(group, ChangeSet::new(Source::Api, vec![Op::Put(put)])).await.unwrap();
        }
        let state = Arc::new(State::start(store.clone()).await.unwrap());
        let epoch = store.lease_take(LEADER, "test", Duration::from_secs(600)).await.unwrap().unwrap();
        let mut looks = Looks::begin(&state, &"test".into(), &testing::member(&store), epoch);
        let leader = looks.leader.clone();
        let room = leader.turns.available_permits();
        assert!((TURNS..GROUPS).contains(&room));
        let mut held = leader.turns.acquire_many(u32::try_from(room).unwrap()).await.unwrap();
        looks.look().await;
        let closed = async || {
            let known = store.rollout_list().await.unwrap().known;
            known.iter().filter(|rollout| rollout.head.gate.is_some()).count()
        };
        // As often as it takes any of them to be given to all, there being no node that it could harm: none has its turn.
        for _ in 0..10 * GROUPS {
            assert_eq!(closed().await, GROUPS);
        }
        // One turn is enough for all of them, and none is left out.
        drop(held.split(1).unwrap());
        eventually("all have had their turn", async || closed().await == 0).await;
    }
}
