//! Progressive rollout: up to where the nodes of a group may go, and what leads back from there (`docs/rollout.md`).
//!
//! What must stay true:
//! - Of a group whose revisions go to canaries first no head is open to every node before a step says so: the publish that makes
//!   it closes the gate, in its own transaction.
//! - What is done to a rollout is decided while its group is held ([`HeldRollout`]), of what the database has then: no writer comes
//!   between, however steadily the group is written to. A leader's step names its term of office; once that is over, nothing is done.
//! - What opens or closes the gate, and whatever somebody asked for, is in the audit log, in the transaction that does it.
//! - While the gate is closed, no history from the base on is forgotten: every revision from there on can be had ([`Store::past`]).
//!
//! Deliberately absent: policies, who is a canary, and what is judged. They are JSON here.

use serde_json::{Value as Json, json};

use crate::audit::{Acting, NewEntry, audited};
use crate::change::{ChangeSet, Published};
use crate::error::{PublishError, StoreError};
use crate::group;
use crate::lease::Term;
use crate::publish::Writing;
use crate::server::Turn;
use crate::sql::{Row, Tx, args};
use crate::store::Store;
use crate::watch::{self, Gate, Head};

/// Reads rollouts: the columns of [`watch::head`], then those of a rollout.
const ROLLOUTS: &str = "SELECT g.id, g.lineage, g.head, c.mark, g.epoch, g.floor, g.base, g.candidate, g.staged, r.version, \
                        r.policy, r.stage, r.record FROM gateway_group g \
                        LEFT JOIN change_set c ON c.group_id = g.id AND c.revision = g.head \
                        LEFT JOIN rollout r ON r.group_id = g.id";

/// How the revisions of a group go out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// The group.
    pub group: String,
    /// Where the group stands; its gate is closed while a rollout is on.
    pub head: Head,
    /// Whether new revisions go to canaries first.
    pub staged: bool,
    /// Grows with each step, and each change of the policy; 0 before the first.
    pub version: u64,
    /// The policy, as it was given; `None` if none ever was.
    pub policy: Option<Json>,
    /// How far the rollout that is on has come; `None` where none is on, and where nobody has looked at it yet.
    pub stage: Option<Json>,
    /// What is remembered beyond one rollout.
    pub record: Json,
}

/// A step of a rollout.
#[derive(Debug, Clone)]
pub struct Step<'a> {
    /// What it is, in a word, for the audit log.
    pub name: &'static str,
    /// The term of office of the leader who takes it; `None`: somebody asked for it.
    pub term: Option<Term<'a>>,
    /// [`Rollout::stage`] from then on.
    pub stage: Option<Json>,
    /// [`Rollout::record`] from then on.
    pub record: Json,
    /// Up to where nodes may go from then on.
    pub advance: Advance,
}

/// What a step does to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// Nothing.
    Stay,
    /// Every node may have the candidate. If there is a later revision, that is the next candidate, at which nobody has looked.
    Candidate,
    /// The head is the candidate from now on.
    Next,
    /// Every node may have the head: the rollout is over.
    Head,
}

/// The rollouts of all groups that ever had a policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollouts {
    /// By the group's id.
    pub known: Vec<Rollout>,
    /// Groups of which it cannot be read what is stored.
    pub unreadable: Vec<String>,
}

/// The rollout of a group that is held: until this is dropped nobody else writes to the group or moves its rollout. Writers wait for as
/// long, so whatever must be read of other things is better read before.
pub struct HeldRollout<'a> {
    by: Acting<'a>,
    tx: Tx,
    _turn: Option<Turn>,
    rollout: Rollout,
}

impl Store {
    /// How the revisions of a group go out.
    pub async fn rollout_get(&self, group: &str) -> Result<Rollout, StoreError> {
        rollout_of(&mut self.0.db.begin_read().await?, group).await
    }

    /// Those of all groups that ever had a policy.
    pub async fn rollout_list(&self) -> Result<Rollouts, StoreError> {
        let sql = format!("{ROLLOUTS} WHERE r.group_id IS NOT NULL ORDER BY g.id");
        let mut rollouts = Rollouts::default();
        for row in &self.0.db.rows(sql, &[]).await? {
            // What one group has is no reason to lose sight of the others.
            match rollout(row) {
                Ok(rollout) => rollouts.known.push(rollout),
                Err(_) => rollouts.unreadable.push(row.text(0)?),
            }
        }
        Ok(rollouts)
    }
}

impl<'a> Acting<'a> {
    /// Holds the rollout of a group. Waits for publishes to the group to end that are under way.
    pub async fn rollout_hold(self, id: &str) -> Result<HeldRollout<'a>, StoreError> {
        let turn = self.store.0.db.turn(id).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![id]).await?.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?;
        let rollout = rollout_of(&mut tx, id).await?;
        Ok(HeldRollout { by: self, tx, _turn: turn, rollout })
    }
}

impl HeldRollout<'_> {
    /// As it stands.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Sets the policy of the group, and whether its revisions go to canaries first. If they do not, a rollout that is on ends, every
    /// node may have the head, and `record` is [`Rollout::record`] from then on. The group's epoch grows.
    pub async fn set(self, policy: &Json, staged: bool, record: &Json) -> Result<(), StoreError> {
        let Self { by, mut tx, rollout: before, _turn } = self;
        let (id, version) = (before.group.as_str(), before.version);
        let ends = !staged && before.head.gate.is_some();
        let stage = before.stage.as_ref().filter(|_| !ends);
        write(&mut tx, id, version, policy, stage, if ends { record } else { &before.record }).await?;
        tx.run("UPDATE gateway_group SET staged = $2 WHERE id = $1", args![id, staged]).await?;
        if ends {
            open(&mut tx, id).await?;
        }
        group::touch(&mut tx, id).await?;
        let [old, new] = [&before.policy, &Some(policy.clone())].map(|policy| Some(json!({ "policy": policy })));
        by.record(&mut tx, NewEntry::of(audited::ROLLOUT, id, old, new).map(|entry| entry.within(id))).await?;
        tx.commit().await?;
        by.store.0.watcher.hint();
        Ok(())
    }

    /// Publishes to the group, if a step follows; refused, nothing of it is left, and the group is held as before.
    pub async fn publish(&mut self, set: ChangeSet) -> Result<Published, PublishError> {
        self.tx.run("SAVEPOINT publish", &[]).await?;
        let mut writing = Writing::begin(&mut self.tx, self.by, &self.rollout.group).await?;
        let applied = Box::pin(writing.apply(set)).await;
        match applied {
            Ok(published) => {
                self.rollout.head.revision = published.revision;
                Ok(published)
            }
            Err(PublishError::Store(error)) => Err(error.into()),
            Err(refused) => {
                self.tx.run("ROLLBACK TO SAVEPOINT publish", &[]).await?;
                Err(refused)
            }
        }
    }

    /// Takes a step, along with what was published. `false`, and nothing done: the term of office is over.
    pub async fn step(self, step: &Step<'_>) -> Result<bool, StoreError> {
        let Self { by, mut tx, rollout: before, _turn } = self;
        // Asked while the group is held, and not before: the lease must not be held while the group is waited for.
        if let Some(term) = step.term
            && !term.lasts(&mut tx, &by.store.0.db).await?
        {
            return Ok(false);
        }
        take(by, &mut tx, &before, step).await?;
        tx.commit().await?;
        by.store.0.watcher.hint();
        Ok(true)
    }
}

/// Writes what a step changes, and that it was taken. `before` has the head that is in the transaction.
async fn take(by: Acting<'_>, tx: &mut Tx, before: &Rollout, step: &Step<'_>) -> Result<(), StoreError> {
    let (id, revision) = (before.group.as_str(), before.head.revision);
    let gate = before.head.gate.and_then(|gate| match step.advance {
        Advance::Stay => Some(gate),
        Advance::Candidate if gate.candidate < revision => Some(Gate { base: gate.candidate, candidate: revision }),
        Advance::Next => Some(Gate { candidate: revision, ..gate }),
        Advance::Candidate | Advance::Head => None,
    });
    let is_next = step.advance == Advance::Candidate;
    let stage = step.stage.as_ref().filter(|_| gate.is_some() && !is_next);
    let policy = before.policy.clone().unwrap_or_default();
    write(tx, id, before.version, &policy, stage, &step.record).await?;
    match gate {
        Some(Gate { base, candidate }) => {
            let sql = "UPDATE gateway_group SET base = $2, candidate = $3 WHERE id = $1";
            tx.run(sql, args![id, base, candidate]).await?;
        }
        None => open(tx, id).await?,
    }
    let turns = gate != before.head.gate || stage.is_some() != before.stage.is_some();
    if turns {
        group::touch(tx, id).await?;
    }
    if !turns && step.term.is_some() {
        // The leader goes on, and nothing changes for anybody.
        return Ok(());
    }
    let after = json!({ "gate": gate, "step": step.name });
    let entry = NewEntry::of(audited::ROLLOUT, id, Some(json!({ "gate": before.head.gate })), Some(after));
    by.record(tx, entry.map(|entry| entry.within(id))).await
}

async fn write(
    tx: &mut Tx,
    id: &str,
    version: u64,
    policy: &Json,
    stage: Option<&Json>,
    record: &Json,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO rollout (group_id, version, policy, stage, record) VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (group_id) DO UPDATE SET version = excluded.version, policy = excluded.policy, \
               stage = excluded.stage, record = excluded.record";
    let (policy, stage, record) = (policy.to_string(), stage.map(Json::to_string), record.to_string());
    tx.run(sql, args![id, version + 1, &policy, stage.as_deref(), &record]).await.map(drop)
}

/// Opens the gate: every node may have the head.
async fn open(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    tx.run("UPDATE gateway_group SET base = NULL, candidate = NULL WHERE id = $1", args![id]).await.map(drop)
}

async fn rollout_of(tx: &mut Tx, id: &str) -> Result<Rollout, StoreError> {
    let row = tx.row(format!("{ROLLOUTS} WHERE g.id = $1"), args![id]).await?;
    rollout(&row.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?)
}

fn rollout(row: &Row) -> Result<Rollout, StoreError> {
    let parsed = |text: Option<String>| {
        let parse = |text: String| serde_json::from_str(&text).map_err(|_| StoreError::corrupt("a rollout"));
        text.map(parse).transpose()
    };
    Ok(Rollout {
        group: row.text(0)?,
        head: watch::head(row)?,
        staged: row.flag(8)?,
        version: row.int_opt(9)?.unwrap_or(0),
        policy: parsed(row.text_opt(10)?)?,
        stage: parsed(row.text_opt(11)?)?,
        record: parsed(row.text_opt(12)?)?.unwrap_or_default(),
    })
}
