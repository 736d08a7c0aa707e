//! What was published, when and by whom; and how long that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use milecastle_model::{Change, Key};

use crate::change::Source;
use crate::error::StoreError;
use crate::lease::Term;
use crate::past;
use crate::read::{change, key};
use crate::sql::{BATCH, Row, Value, args, tuples};
use crate::store::Store;

/// Change sets forgotten in one transaction at most, for which publishes to the group wait.
const TRIM_BATCH: u64 = 200;

const COLUMNS: &str = "SELECT revision, author, message, source, at, puts, deletes FROM change_set WHERE group_id = $1";

/// One change set that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSetInfo {
    /// The revision that it made.
    pub revision: u64,
    /// [`crate::Actor::name`].
    pub author: String,
    /// [`crate::ChangeSet::message`].
    pub message: String,
    /// [`crate::ChangeSet::source`].
    pub source: Source,
    /// Unix time in seconds.
    pub at: u64,
    /// Objects created or replaced.
    pub puts: u64,
    /// Objects deleted.
    pub deletes: u64,
}

/// How much of its history each group keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Change sets at most.
    pub most: u64,
    /// Change sets older than this are forgotten, even where there are fewer.
    pub max_age: Duration,
    /// The newest change sets that stay, however old they are.
    pub least: u64,
}

/// A published change set with all that it did.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Who, why and how much.
    pub info: ChangeSetInfo,
    /// By kind's name, then id.
    pub changes: Vec<Change>,
}

/// What a change set did to one object, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The object.
    pub key: Key,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of an object in a change set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was not there before.
    Created,
    /// Its body is another one.
    Updated,
    /// It is gone.
    Deleted,
}

impl Touched {
    /// Of a change with its body.
    pub fn by(change: &Change) -> Self {
        let created = match change {
            Change::Put(object) => Some(object.created),
            Change::Delete { .. } => None,
        };
        Self { key: change.key().clone(), fate: Fate::of(created, change.revision()) }
    }
}

impl Fate {
    /// Stable name for interfaces: what was done.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Created => "create",
            Fate::Updated => "update",
            Fate::Deleted => "delete",
        }
    }

    /// `created`: the revision in which the object was made; `None` for a deletion.
    fn of(created: Option<u64>, revision: u64) -> Self {
        match created {
            None => Self::Deleted,
            Some(created) if created == revision => Self::Created,
            Some(_) => Self::Updated,
        }
    }
}

impl Store {
    /// The newest `limit` change sets of a group below revision `before` (all, if `None`), newest first.
    pub async fn history_list(
        &self,
        group: &str,
        before: Option<u64>,
        limit: u64,
    ) -> Result<Vec<ChangeSetInfo>, StoreError> {
        let sql = format!("{COLUMNS} AND revision < $2 ORDER BY revision DESC LIMIT $3");
        let rows = self.0.db.rows(sql, args![group, before.unwrap_or(u64::MAX), limit]).await?;
        rows.iter().map(info).collect()
    }

    /// The newest `limit` change sets of all of these groups, of each only below the revision beside it, newest first. Those of one
    /// moment come by group, and of a group as they were made.
    pub async fn history_merged(
        &self,
        groups: &[(String, u64)],
        limit: u64,
    ) -> Result<Vec<(String, ChangeSetInfo)>, StoreError> {
        let mut merged = Vec::new();
        for groups in groups.chunks(BATCH) {
            // Revisions have no gaps: of each group no more is read than could be among the newest.
            let sql = format!(
                "WITH asked (id, below) AS (VALUES {}) \
                 SELECT revision, author, message, source, at, puts, deletes, group_id FROM asked \
                 JOIN change_set ON group_id = id AND revision < below AND revision >= below - $1 \
                 ORDER BY at DESC, group_id, revision DESC LIMIT $1",
                tuples(groups.len(), 2, 2)
            );
            let pairs = groups.iter().flat_map(|(group, below)| [Value::from(group), Value::from(*below)]);
            let values: Vec<Value<'_>> = std::iter::once(Value::from(limit)).chain(pairs).collect();
            for row in self.0.db.rows(sql, &values).await? {
                merged.push((row.text(7)?, info(&row)?));
            }
        }
        merged
            .sort_by(|(one, a), (other, b)| b.at.cmp(&a.at).then_with(|| (one, b.revision).cmp(&(other, a.revision))));
        merged.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(merged)
    }

    /// The first `limit` change sets of a group after revision `after`, oldest first; those that are not kept are left out.
    pub async fn history_after(&self, group: &str, after: u64, limit: u64) -> Result<Vec<ChangeSetInfo>, StoreError> {
        let sql = format!("{COLUMNS} AND revision > $2 ORDER BY revision LIMIT $3");
        self.0.db.rows(sql, args![group, after, limit]).await?.iter().map(info).collect()
    }

    /// For each of these revisions of a group the first `most` objects that it touched, by kind's name, then id. Revisions that
    /// are not kept are left out.
    pub async fn history_touched(
        &self,
        group: &str,
        revisions: RangeInclusive<u64>,
        most: u64,
    ) -> Result<BTreeMap<u64, Vec<Touched>>, StoreError> {
        let sql = "SELECT revision, kind, id, CASE WHEN body IS NULL THEN NULL ELSE created END FROM \
                   (SELECT revision, kind, id, body, created, \
                    ROW_NUMBER() OVER (PARTITION BY revision ORDER BY kind, id) AS place \
                    FROM change WHERE group_id = $1 AND revision BETWEEN $2 AND $3) AS placed \
                   WHERE place <= $4 ORDER BY revision, kind, id";
        let rows = self.0.db.rows(sql, args![group, *revisions.start(), *revisions.end(), most]).await?;
        let mut touched: BTreeMap<u64, Vec<Touched>> = BTreeMap::new();
        for row in &rows {
            let revision = row.int(0)?;
            let one = Touched { key: key(row, 1)?, fate: Fate::of(row.int_opt(3)?, revision) };
            touched.entry(revision).or_default().push(one);
        }
        Ok(touched)
    }

    /// The objects whose lifetime has ended after a revision, as far as the history reaches.
    pub async fn history_expired(&self, group: &str, after: u64) -> Result<BTreeSet<Key>, StoreError> {
        let sql = "SELECT DISTINCT change.kind, change.id FROM change JOIN change_set \
                   ON change_set.group_id = change.group_id AND change_set.revision = change.revision \
                   WHERE change.group_id = $1 AND change.revision > $2 AND change_set.source = $3 AND change.body IS NULL";
        let rows = self.0.db.rows(sql, args![group, after, Source::Expiry.name()]).await?;
        rows.iter().map(|row| key(row, 0)).collect()
    }

    /// One change set; `None` if that revision is not kept, or not yet made.
    pub async fn history_get(&self, group: &str, revision: u64) -> Result<Option<Publication>, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let row = tx.row(format!("{COLUMNS} AND revision = $2"), args![group, revision]).await?;
        let Some(row) = row else { return Ok(None) };
        let sql = "SELECT kind, id, body, sealed, created, revision FROM change \
                   WHERE group_id = $1 AND revision = $2 ORDER BY kind, id";
        let changes = tx.rows(sql, args![group, revision]).await?;
        let changes = changes.iter().map(|row| change(row, &self.0.sealer, group)).collect::<Result<_, _>>()?;
        Ok(Some(Publication { info: info(&row)?, changes }))
    }

    /// Forgets, oldest first, what `retention` does not keep of each group's history at `now` (Unix seconds). Deltas then
    /// start at the oldest revision that is left. Gives how many change sets were forgotten, as long as the term of office
    /// lasted; in short transactions, so that publishes do not wait for long.
    pub async fn history_retain(&self, term: Term<'_>, retention: &Retention, now: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for group in self.group_list().await? {
            // What leads back to the base of a rollout stays; the base of one that begins meanwhile is a later revision.
            let before_base = group.gate.map_or(u64::MAX, |gate| gate.base.saturating_sub(1));
            let newest_to_go = group.revision.saturating_sub(retention.least).min(before_base);
            let too_many = group.revision.saturating_sub(retention.most).min(newest_to_go);
            let too_old = now.saturating_sub(retention.max_age.as_secs());
            let sql = "SELECT revision FROM (SELECT revision, at FROM change_set WHERE group_id = $1 AND revision <= $2 \
                       ORDER BY revision LIMIT $3) oldest WHERE revision <= $4 OR at < $5 ORDER BY revision DESC LIMIT 1";
            let args = args![&group.id, newest_to_go, TRIM_BATCH, too_many, too_old];
            while let Some(row) = self.0.db.row(sql, args).await? {
                match self.history_trim(term, &group.id, row.int(0)?).await? {
                    Some(trimmed) => forgotten += trimmed,
                    None => return Ok(forgotten),
                }
            }
        }
        Ok(forgotten)
    }

    /// Forgets the history up to and including revision `floor`. `None`, and nothing forgotten: the term of office is over.
    async fn history_trim(&self, term: Term<'_>, group: &str, floor: u64) -> Result<Option<u64>, StoreError> {
        let _turn = self.0.db.turn(group).await?;
        let mut tx = self.0.db.begin_write().await?;
        let raise = "UPDATE gateway_group SET floor = $2 WHERE id = $1 AND floor < $2 AND $2 <= head";
        tx.run(raise, args![group, floor]).await?;
        // Asked only now: the lease must not be held while the group is waited for.
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(None);
        }
        past::raise(&mut tx, group, floor).await?;
        let delete = "DELETE FROM change_set WHERE group_id = $1 AND revision <= $2";
        let trimmed = tx.run(delete, args![group, floor]).await?;
        tx.commit().await?;
        Ok(Some(trimmed))
    }
}

fn info(row: &Row) -> Result<ChangeSetInfo, StoreError> {
    let source = row.text(3)?;
    Ok(ChangeSetInfo {
        revision: row.int(0)?,
        author: row.text(1)?,
        message: row.text(2)?,
        source: Source::from_name(&source).ok_or_else(|| StoreError::corrupt("the source of a change set"))?,
        at: row.int(4)?,
        puts: row.int(5)?,
        deletes: row.int(6)?,
    })
}
