//! Taking a candidate back: a change set that restores what it changed, as it was at the base.
//!
//! What was written since the candidate is kept, and is the next candidate; unless the group cannot be without what is taken back, as
//! where a later object refers to it. Then all that was written since the base is taken back. What is gone because its lifetime ended stays
//! gone: brought back it would have none, and nobody has decided that.
//!
//! What must stay true: the work grows with what was changed since the base, so it is done before the group is held ([`Way`]), and while it
//! is held only where somebody has written meanwhile; then within a time ([`WHILE_HELD`]), for which all writers wait.

use milecastle_model::Key;
use milecastle_store::{Advance, ChangeSet, Gate, HeldRollout, PublishError, Published, Rollout, Source, Step, Term};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

use super::course::{End, Situation, Stage};
use crate::revisions::{Editor, Edits, Plan, Refused};
use crate::state::{Difference, Image};

/// Longest message of a change set, in bytes.
const LONGEST: usize = 500;

/// For how long it is thought in all while the group is held. Shorter than writers wait for its row (10 s, `lock_timeout`), since it is
/// published in that time too.
const WHILE_HELD: Duration = Duration::from_secs(7);

/// What a way back is thought through of, as it was read at one moment.
pub(crate) struct Ground {
    gate: Gate,
    head: Arc<Image>,
    base: Image,
    candidate: Image,
    /// What is gone since the base because its lifetime ended.
    expired: BTreeSet<Key>,
}

/// How a candidate is taken back, thought through of one head of its group.
pub(crate) struct Way {
    gate: Gate,
    head: Arc<Image>,
    plan: Plan,
    /// What takes back all since the base, where the plan takes back the candidate alone.
    all: Option<Edits>,
    /// Why the plan takes back all since the base where something was written since the candidate.
    rests: Option<String>,
}

/// Somebody who takes a candidate back, and why.
pub(crate) struct Back<'a> {
    pub(crate) editor: Editor<'a>,
    /// His name.
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
    /// The leader's term of office, if it is the leader's doing.
    pub(crate) term: Option<Term<'a>>,
}

impl Ground {
    /// Reads what there is of the group at this moment.
    pub(crate) async fn of(editor: Editor<'_>, gate: Gate) -> Result<Self, Refused> {
        let head = editor.group.current().await?;
        let base = editor.at(&head, gate.base).await?;
        let candidate = editor.at(&head, gate.candidate).await?;
        let expired = editor.acting.store().history_expired(editor.group.id(), gate.base).await?;
        Ok(Self { gate, head, base, candidate, expired })
    }
}

impl Way {
    /// The way back from a candidate, as the group is at this moment.
    pub(crate) async fn of(editor: Editor<'_>, gate: Gate) -> Result<Self, Refused> {
        Self::through(editor, Ground::of(editor, gate).await?).await
    }

    /// The way back from a candidate. Nothing is asked of the database.
    pub(crate) async fn through(editor: Editor<'_>, ground: Ground) -> Result<Self, Refused> {
        let Ground { gate, head, base, candidate, expired } = ground;
        let returns =
            |one: &Difference<'_>| one.after.is_some() || key_of(one).is_some_and(|key| !expired.contains(key));
        let all = edits(base.differences(&head).filter(&returns));
        let queued: BTreeSet<&Key> =
            candidate.differences(&head).filter_map(|difference| key_of(&difference)).collect();
        let settings = [&base, &candidate, &*head].map(|image| image.get(&Key::group_settings()));
        let mut rests = None;
        if !queued.is_empty() && settings.iter().all(|one| *one == settings[0]) {
            let undone = base.differences(&candidate).filter(&returns);
            let undone = undone.filter(|one| key_of(one).is_some_and(|key| !queued.contains(key)));
            // Not forced: what stays must not refer to what goes.
            let plan = editor.plan(head.clone(), edits(undone), false).await?;
            let queued: Vec<Key> = queued.into_iter().cloned().collect();
            let plan = tokio::task::spawn_blocking(move || plan.keeping(&queued)).await?;
            if plan.flaws().is_empty() {
                return Ok(Self { gate, head, plan, all: Some(all), rests: None });
            }
            rests = Some(Refused::Flawed(plan.flaws().to_vec()).to_string());
        }
        // Whatever stands against it, this is what the group was.
        let plan = editor.plan(head.clone(), all, true).await?;
        Ok(Self { gate, head, plan, all: None, rests })
    }

    /// Whether the group is still what it was thought through of.
    fn fits(&self, Rollout { head, .. }: &Rollout) -> bool {
        let image = &self.head;
        head.gate == Some(self.gate)
            && (&*head.lineage, head.revision, &*head.mark) == (&**image.lineage(), image.revision(), image.mark())
    }
}

impl Back<'_> {
    /// Takes back the candidate of the rollout that is held, which is on, by a way that was thought through before. `None`, and nothing
    /// done: the term of office is over.
    pub(crate) async fn take(
        &self,
        mut held: HeldRollout<'_>,
        situation: &Situation<'_>,
        way: Option<Way>,
    ) -> Result<Option<Published>, Refused> {
        let Some(gate) = situation.gate else { return Ok(None) };
        let until = Instant::now() + WHILE_HELD;
        let mut way = match way.filter(|way| way.fits(held.rollout())) {
            Some(way) => way,
            // Nobody writes meanwhile: it leads back from the head until the end.
            None => in_time(until, Way::of(self.editor, gate)).await?,
        };
        let published = held.publish(self.change_set(gate, &way.plan)).await;
        let (published, advance) = match (published, way.all.take()) {
            (Ok(published), Some(_)) => (published, Advance::Next),
            (Err(error), Some(all)) if !matches!(error, PublishError::Store(_)) => {
                way.rests = Some(error.to_string());
                let plan = in_time(until, self.editor.plan(way.head.clone(), all, true)).await?;
                let published = held.publish(self.change_set(gate, &plan)).await;
                (published.map_err(|error| plan.refused(error))?, Advance::Head)
            }
            (published, _) => (published.map_err(|error| way.plan.refused(error))?, Advance::Head),
        };
        let taken = held.step(&self.step(situation, gate, advance)).await?.then_some(published);
        if let (Some(_), Some(reason)) = (&taken, way.rests) {
            let group = self.editor.group.id();
            tracing::warn!(%group, reason, "what was written since the candidate rests on it, and was taken back with it");
        }
        Ok(taken)
    }

    fn change_set(&self, gate: Gate, plan: &Plan) -> ChangeSet {
        plan.change_set(Source::Rollback, message(gate.candidate, self.reason))
    }

    /// The step that follows: the rollout ends so, and with [`Advance::Next`] its canaries go on with what was written since.
    fn step(&self, situation: &Situation<'_>, gate: Gate, advance: Advance) -> Step<'_> {
        let none = Stage::default();
        let stage = situation.stage.as_ref();
        let end = if self.term.is_some() { End::RolledBack } else { End::Aborted };
        let record = situation.ended(gate, stage.unwrap_or(&none), end, self.by, self.reason);
        let anew = stage.map(Stage::anew).filter(|_| advance == Advance::Next);
        let (stage, record) = (anew.map(super::written), super::written(record));
        Step { name: "take back", term: self.term, stage, record, advance }
    }
}

/// What is thought while the group is held.
async fn in_time<T>(until: Instant, thought: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
    timeout_at(until, Box::pin(thought)).await.unwrap_or(Err(Refused::Slow(WHILE_HELD)))
}

fn message(candidate: u64, reason: &str) -> String {
    let mut message = format!("rollout of revision {candidate} taken back: {reason}");
    message.truncate(message.floor_char_boundary(LONGEST));
    message
}

/// What brings objects back to what they were before.
fn edits<'a>(differences: impl Iterator<Item = Difference<'a>>) -> Edits {
    let edit = |difference: Difference<'a>| {
        let key = key_of(&difference)?.clone();
        Some((key, difference.before.map(|object| object.body.clone())))
    };
    differences.filter_map(edit).collect()
}

fn key_of<'a>(difference: &Difference<'a>) -> Option<&'a Key> {
    Some(&difference.before.or(difference.after)?.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use crate::admin::judge::Draft;
    use crate::rollout::{Policy, situation, written};
    use crate::testing::{compiler, sealing_key, sqlite};
    use milecastle_store::{Acting, Actor, ActorKind, DEFAULT_GROUP, Op, Put, Store, Tuning, open_with};
    use milecastle_testkit::TempDir;
    use milecastle_testkit::postgres::Database;
    use serde_json::{Value, json};

    const GATE: Gate = Gate { base: 1, candidate: 2 };

    async fn write(acting: Acting<'_>, (path, body): &(&str, Value)) {
        let draft = Draft::new(Key::from_path(path).unwrap(), body.clone(), &compiler());
        let put = Put { references: draft.references(), ..Put::new(draft.key().clone(), body.to_string()) };
        acting.publish(DEFAULT_GROUP, ChangeSet::new(Source::Api, vec![Op::Put(put)])).await.unwrap();
    }

    /// Takes `candidate` back, which is revision 2, by a way that was thought through before `meanwhile` was written; gives what is left.
    async fn taken_back(store: Store, candidate: (&str, Value), meanwhile: &[(&str, Value)]) -> Vec<String> {
        let actor = Actor::new(ActorKind::AdminKey, "ann");
        let acting = store.by(&actor);
        write(acting, &("/routes/before", json!({ "id": "before", "uri": "/before" }))).await;
        let hold = async || acting.rollout_hold(DEFAULT_GROUP).await.unwrap();
        hold().await.set(&json!({ "strategy": "canary" }), true, &json!({})).await.unwrap();
        write(acting, &candidate).await;
        let (stage, record) = (Some(written(Stage::default())), json!({}));
        let chosen = Step { name: "choose", term: None, stage, record, advance: Advance::Stay };
        assert!(hold().await.step(&chosen).await.unwrap());

        let state = State::start(store.clone()).await.unwrap();
        let here = state.find(DEFAULT_GROUP).await.unwrap();
        let compiler = compiler();
        let editor = Editor { acting, compiler: &compiler, group: &here, effort: None };
        let way = Way::of(editor, GATE).await.unwrap();
        for one in meanwhile {
            write(acting, one).await;
        }
        let (held, policy) = (hold().await, Policy::default());
        let rollout = held.rollout().clone();
        let back = Back { editor, by: "ann", reason: "bad", term: None };
        let taken = back.take(held, &situation(store.now(), &rollout, &policy, &[]), Some(way)).await;
        assert!(taken.unwrap().is_some());
        let image = here.current().await.unwrap();
        image.objects().map(|object| object.key.to_string()).collect()
    }

    fn route(path: &str) -> (&str, Value) {
        (path, json!({ "uri": path }))
    }

    #[tokio::test]
    async fn what_was_thought_through_of_another_head_is_thought_anew() {
        let dir = TempDir::new();
        let left =
            taken_back(sqlite(dir.path()).await, route("/routes/candidate"), &[route("/routes/meanwhile")]).await;
        assert_eq!(left, ["/routes/before", "/routes/meanwhile"]);
    }

    #[tokio::test]
    async fn what_rests_on_the_candidate_is_taken_back_with_it() {
        let split = json!({ "traffic-split": { "rules": [{ "weighted_upstreams": [{ "upstream_id": "c" }] }] } });
        for (candidate, later, body) in [
            ("/services/c", "/routes/r", json!({ "uri": "/r", "service_id": "c" })),
            ("/upstreams/c", "/routes/r", json!({ "uri": "/r", "upstream_id": "c" })),
            ("/plugin_configs/c", "/routes/r", json!({ "uri": "/r", "plugin_config_id": "c" })),
            ("/upstreams/c", "/routes/r", json!({ "uri": "/r", "plugins": split })),
            // These hinder no deletion.
            ("/upstreams/c", "/stream_routes/r", json!({ "upstream_id": "c" })),
            ("/ssls/c", "/upstreams/r", json!({ "nodes": {}, "tls": { "client_cert_id": "c" } })),
        ] {
            let dir = TempDir::new();
            let meanwhile = [(later, body.clone()), route("/routes/other")];
            let left = taken_back(sqlite(dir.path()).await, (candidate, json!({})), &meanwhile).await;
            assert_eq!(left, ["/routes/before"], "{candidate}, {body}");
        }
    }

    #[tokio::test]
    async fn while_the_group_is_held_nothing_else_is_asked() {
        let (dir, database) = (TempDir::new(), Database::create().unwrap());
        // One connection for notices, and the one that holds the group.
        let tuning = Tuning { max_connections: 2, ..Tuning::default() };
        let store = open_with(database.dsn(), &sealing_key(dir.path()), &tuning).await.unwrap();
        assert_eq!(taken_back(store, route("/routes/candidate"), &[]).await, ["/routes/before"]);
    }
}
