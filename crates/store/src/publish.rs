//! Publishing: one transaction from the group's row to the notice.
//!
//! The order: hold the group's row, read what is stored under the keys concerned, decide (`plan`, pure), write, then check
//! what was written (`check`, references and lookup keys, on the state as it will be), log (history and audit), advance the head.
//! Any refusal rolls back. Each step is one statement for every [`BATCH`](crate::sql::BATCH) objects of the change set.

mod check;
mod plan;
mod statements;
mod write;

use milecastle_model::{Key, Object};
use serde_json::json;

use crate::audit::{Acting, Actor, AuditAction, NewEntry, audited};
use crate::change::{ChangeSet, Delete, Expect, Op, Published, Source};
use crate::declaration::NewDeclaration;
use crate::error::{PublishError, StoreError};
use crate::lease::Term;
use crate::once::Answered;
use crate::read::key;
use crate::seal::{Sealer, hex, random};
use crate::sql::{Tx, args};
use crate::store::{Inner, Store};
pub use plan::says_the_same;
use plan::{Expiry, Plan};

impl Acting<'_> {
    /// Publishes a change set to a group: all of it as one revision, or nothing.
    ///
    /// Waits for other publishes to the same group to end. On [`StoreError::Unavailable`] the set may have been published
    /// all the same, if the connection broke while it was being committed.
    pub async fn publish(self, group: &str, set: ChangeSet) -> Result<Published, PublishError> {
        self.publish_answering(group, set, |_| None).await
    }

    /// As [`Acting::publish`]; of a write that is done once, what `answer` makes of it is kept in the same transaction.
    pub async fn publish_answering(
        self,
        group: &str,
        set: ChangeSet,
        answer: impl Fn(&Published) -> Option<Answered>,
    ) -> Result<Published, PublishError> {
        let Inner { db, watcher, .. } = &*self.store.0;
        let _turn = db.turn(group).await?;
        let mut tx = self.begin().await?;
        let mut write = Writing::begin(&mut tx, self, group).await?;
        let published = Box::pin(write.apply(set)).await?;
        if let Some(answered) = self.once.and_then(|_| answer(&published)) {
            self.keep(&mut tx, &answered).await?;
        }
        tx.commit().await?;
        if published.changed {
            watcher.hint();
        }
        Ok(published)
    }

    /// What [`Self::publish`] would do at this moment, or refuse; nothing is written.
    pub async fn rehearse(self, group: &str, set: ChangeSet) -> Result<Published, PublishError> {
        let db = &self.store.0.db;
        let _turn = db.turn(group).await?;
        let mut tx = db.begin_write().await?;
        let mut write = Writing::begin(&mut tx, self, group).await?;
        // Dropped without a commit, the transaction is rolled back.
        Box::pin(write.apply(set)).await
    }
}

impl Store {
    /// Deletes all objects whose time to live ended at or before `now` (Unix seconds), whoever refers to them; one revision
    /// for each group that has any. Gives those groups with their new revision; none of them once the term of office is
    /// over. A group that cannot be had keeps no other one waiting; the first error is given once all were tried.
    pub async fn expire_due(&self, term: Term<'_>, now: u64) -> Result<Vec<(String, u64)>, PublishError> {
        let due = "SELECT DISTINCT group_id FROM resource WHERE expires_at <= $1 ORDER BY group_id";
        let (mut done, mut failed) = (Vec::new(), None);
        for row in self.0.db.rows(due, args![now]).await? {
            let group = row.text(0)?;
            match self.expire_group(term, &group, now).await {
                Ok(Some(revision)) => done.push((group, revision)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(done), Err)
    }

    async fn expire_group(&self, term: Term<'_>, group: &str, now: u64) -> Result<Option<u64>, PublishError> {
        let _turn = self.0.db.turn(group).await?;
        let mut tx = self.0.db.begin_write().await?;
        let actor = Actor::system();
        let mut write = Writing::begin(&mut tx, self.by(&actor), group).await?;
        // Asked only now: the lease must not be held while the group is waited for.
        if !term.lasts(write.tx, &self.0.db).await? {
            return Ok(None);
        }
        // Read while the group is held: a write that just made an object permanent is seen.
        let due = "SELECT kind, id FROM resource WHERE group_id = $1 AND expires_at <= $2 ORDER BY kind, id";
        let due = write.tx.rows(due, args![group, now]).await?;
        let delete = |key| Op::Delete(Delete { key, expect: Expect::Any, force: true });
        let ops = due.iter().map(|row| key(row, 0).map(delete)).collect::<Result<Vec<Op>, StoreError>>()?;
        let mut set = ChangeSet::new(Source::Expiry, ops);
        set.message = "time to live ended".to_owned();
        let published = Box::pin(write.apply(set)).await?;
        tx.commit().await?;
        self.0.watcher.hint();
        Ok(published.changed.then_some(published.revision))
    }
}

/// A transaction that holds a group's row.
pub(crate) struct Writing<'a> {
    pub(crate) tx: &'a mut Tx,
    by: Acting<'a>,
    pub(crate) sealer: &'a Sealer,
    pub(crate) group: &'a str,
    head: u64,
    /// The oldest revision that the history reaches back to.
    floor: u64,
    /// Whether new revisions go to canaries first.
    staged: bool,
    /// Whether a rollout is on.
    gated: bool,
    /// Unix time in seconds, by the database's clock.
    pub(crate) now: u64,
}

impl<'a> Writing<'a> {
    pub(crate) async fn begin(tx: &'a mut Tx, by: Acting<'a>, group: &'a str) -> Result<Writing<'a>, StoreError> {
        let lock = tx.lock_group_sql();
        let row = tx.row(lock, args![group]).await?.ok_or_else(|| StoreError::UnknownGroup(group.to_owned()))?;
        let store = by.store;
        let rule = store.0.db.rule();
        rule.told(&row, 3, 4)?;
        rule.check()?;
        let (head, floor) = (row.int(1)?, row.int(2)?);
        let (staged, gated) = (row.flag(5)?, row.int_opt(6)?.is_some());
        Ok(Writing { tx, by, sealer: &store.0.sealer, group, head, floor, staged, gated, now: store.now() })
    }

    pub(crate) async fn apply(&mut self, set: ChangeSet) -> Result<Published, PublishError> {
        let ChangeSet { message, source, expected_revision, require, declaration, draft, ops } = set;
        if let Some(expected) = expected_revision.filter(|&expected| expected != self.head) {
            return Err(PublishError::StaleRevision { expected, current: self.head });
        }
        let revision = self.head + 1;
        let ops = plan::resolve(ops, revision)?;
        let keys: Vec<&Key> = ops.iter().map(|(key, _)| key).chain(require.iter().map(|(key, _)| key)).collect();
        let mut stored = self.stored(&keys).await?;
        plan::check_required(&require, &stored)?;
        let plan = plan::decide(ops, &mut stored, revision)?;
        let cascaded = self.below(&plan).await?;

        self.write(&plan, &cascaded).await?;
        self.check_references(&plan).await?;
        self.check_lookup_keys(&plan).await?;

        let puts = plan.writes.len() as u64;
        let deletes = (plan.deletes.len() + cascaded.len()) as u64;
        let changed = puts + deletes > 0;
        let mark = if changed { hex(&random::<8>()) } else { String::new() };
        if changed {
            let insert = "INSERT INTO change_set (group_id, revision, author, message, source, at, puts, deletes, mark) \
                          VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
            let author = &self.by.actor.name;
            let args = args![self.group, revision, author, &message, source.name(), self.now, puts, deletes, &mark];
            self.tx.run(insert, args).await?;
            self.log(&plan, &cascaded).await?;
            self.advance().await?;
            self.tx.notify(self.group).await?;
        }
        let revision = if changed { revision } else { self.head };
        if let Some(declaration) = &declaration {
            self.declare(declaration, revision).await?;
        }
        if let Some((id, version)) = &draft {
            self.finish_draft(id, *version).await?;
        }
        let declared = declaration.map(|declaration| self.declared(&declaration, revision));
        let entries: Vec<NewEntry> = self.audited(&plan, &cascaded).chain(declared).collect();
        self.by.record(self.tx, entries).await?;
        let cascaded = cascaded.into_iter().map(|object| object.key).collect();
        Ok(Published { revision, mark, changed, outcomes: plan.into_outcomes(), cascaded })
    }

    /// Moves the head to the next revision. Where revisions go to canaries first, that begins a rollout, unless one is on; then its
    /// candidate follows the head for as long as nobody has looked at it.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let sql = match (self.gated, self.staged) {
            (true, _) => {
                "UPDATE gateway_group SET head = $2, candidate = CASE WHEN EXISTS (SELECT 1 FROM rollout r \
                 WHERE r.group_id = $1 AND r.stage IS NOT NULL) THEN candidate ELSE $2 END WHERE id = $1"
            }
            (false, true) => "UPDATE gateway_group SET base = head, candidate = $2, head = $2 WHERE id = $1",
            (false, false) => "UPDATE gateway_group SET head = $2 WHERE id = $1",
        };
        self.tx.run(sql, args![self.group, self.head + 1]).await.map(drop)
    }

    /// What the audit log says of each object.
    fn audited<'s>(&'s self, plan: &'s Plan, cascaded: &'s [Object]) -> impl Iterator<Item = NewEntry> {
        let (by, group, revision) = (self.by, self.group, self.head + 1);
        let puts = plan
            .writes
            .iter()
            .filter_map(move |write| by.of_object(group, revision, write.replaced.as_ref(), Some(&write.object)));
        let gone = plan.deletes.iter().map(|deletion| &deletion.object).chain(cascaded);
        let deletes = gone.filter_map(move |object| by.of_object(group, revision, Some(object), None));
        let expiries = plan.expiries.iter().filter_map(move |Expiry { key, before, after }| {
            let [before, after] = [before, after].map(|at| Some(json!({ "expires_at": at })));
            Some(NewEntry::of(key.kind.name(), &key.id, before, after)?.within(group))
        });
        puts.chain(deletes).chain(expiries)
    }

    /// What it says of a declaration: the objects that follow from it have entries of their own.
    fn declared(&self, declaration: &NewDeclaration, revision: u64) -> NewEntry {
        let [before, after] = [None, Some(json!({ "digest": declaration.digest }))];
        let (group, object) = (Some(self.group.to_owned()), String::new());
        let (kind, action) = (audited::CONFIGS, AuditAction::Update);
        NewEntry { group, kind, object, action, revision: Some(revision), before, after }
    }
}
