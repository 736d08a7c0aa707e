//! Reading a group's configuration: where it stands, all of it, or what changed.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use milecastle_model::{Change, Key, Kind, Object};

use crate::error::StoreError;
use crate::seal::{Context, Sealer};
use crate::sql::{Dialect, Row, Tx, args};
use crate::store::Store;
use crate::watch::{self, Gate, Head, Heads, heads};

/// The statement that reads the last change of each key of group `$1` after revision `$2`. `kind || ''`, because SQLite would read all
/// of the group's history to spare itself the sorting.
pub(crate) fn delta(dialect: Dialect) -> &'static str {
    static SQL: LazyLock<[String; 2]> = LazyLock::new(|| {
        Dialect::ALL.map(|dialect| {
            let change = "c.group_id = $1 AND c.revision = last.revision AND c.kind = last.kind AND c.id = last.id";
            format!(
                "WITH last AS (SELECT kind || '' AS kind, id, MAX(revision) AS revision FROM change \
                 WHERE group_id = $1 AND revision > $2 GROUP BY kind || '', id) \
                 SELECT c.kind, c.id, c.body, c.sealed, c.created, c.revision FROM last {} \
                 ORDER BY c.revision, c.kind, c.id",
                dialect.each("change", "c", change)
            )
        })
    });
    &SQL[dialect as usize]
}

/// Reads where group `$1` stands.
const HEAD: &str = heads!(" WHERE g.id = $1");

/// Reads the mark of revision `$2` of group `$1`.
const MARK: &str = "SELECT mark FROM change_set WHERE group_id = $1 AND revision = $2";

/// All objects of a group at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// As in [`Head`].
    pub lineage: String,
    /// The revision.
    pub revision: u64,
    /// As in [`Head`].
    pub mark: String,
    /// As in [`Head`].
    pub gate: Option<Gate>,
    /// By kind's name, then id, in byte order.
    pub objects: Vec<Object>,
}

/// What happened to a group after a revision.
#[derive(Debug, Clone)]
pub enum Changes {
    /// This, applied to the state at the revision asked for, gives the state at `to`.
    Delta {
        /// As in [`Head`]; the caller compares it with that of its own state.
        lineage: String,
        /// The newest revision.
        to: u64,
        /// As in [`Head`], of that revision.
        mark: String,
        /// As in [`Head`].
        gate: Option<Gate>,
        /// For each key that changed, the last change only; in order of revision, then key.
        changes: Vec<Change>,
    },
    /// No delta can be made: the history before `floor` is gone, the revision asked for lies ahead of `head`, or it is not the one
    /// of that mark. Take a [`Snapshot`].
    Gone {
        /// As in [`Head`].
        lineage: String,
        /// The oldest revision that deltas can start from.
        floor: u64,
        /// The newest revision.
        head: u64,
    },
}

impl Store {
    /// Where the group stands.
    pub async fn head(&self, group: &str) -> Result<Head, StoreError> {
        let row = self.0.db.row(HEAD, args![group]).await?;
        watch::head(&row.ok_or_else(|| StoreError::UnknownGroup(group.to_owned()))?)
    }

    /// Where all groups stand at this moment.
    pub async fn head_list(&self) -> Result<Heads, StoreError> {
        let rows = self.0.db.rows(heads!(""), &[]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, watch::head(row)?))).collect()
    }

    /// The whole configuration of a group, as it stands at one revision.
    pub async fn load(&self, group: &str) -> Result<Snapshot, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let (Head { lineage, revision, mark, gate, .. }, _) = head(&mut tx, group).await?;
        let mut objects = Vec::new();
        let sql =
            "SELECT kind, id, body, sealed, created, modified FROM resource WHERE group_id = $1 ORDER BY kind, id";
        tx.each(sql, args![group], |row| {
            objects.push(object(&row, &self.0.sealer, group, 2)?);
            Ok(())
        })
        .await?;
        Ok(Snapshot { lineage, revision, mark, gate, objects })
    }

    /// What changed in a group after `revision`, which must have this `mark`; without one, whatever revision has the number
    /// now. The work grows with the changes, not with the configuration.
    pub async fn changes_since(&self, group: &str, revision: u64, mark: Option<&str>) -> Result<Changes, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let (Head { lineage, revision: to, mark: newest, gate, .. }, floor) = head(&mut tx, group).await?;
        let gone = match mark {
            _ if revision < floor || revision > to => true,
            Some(mark) => mark_of(&mut tx, group, revision).await? != mark,
            None => false,
        };
        if gone {
            return Ok(Changes::Gone { lineage, floor, head: to });
        }
        let mut changes = Vec::new();
        tx.each(delta(tx.dialect()), args![group, revision], |row| {
            changes.push(change(&row, &self.0.sealer, group)?);
            Ok(())
        })
        .await?;
        Ok(Changes::Delta { lineage, to, mark: newest, gate, changes })
    }

    /// Whether the database has `revision` of a group with this mark.
    pub async fn holds(&self, group: &str, revision: u64, mark: &str) -> Result<bool, StoreError> {
        Ok(self.mark(group, revision).await? == mark)
    }

    /// The mark of a revision; empty if the database has none, or does not keep the revision any more.
    pub async fn mark(&self, group: &str, revision: u64) -> Result<String, StoreError> {
        mark(self.0.db.row(MARK, args![group, revision]).await?)
    }

    /// Who in the group has lookup key `value` for `plugin` ([`crate::UniqueKey`]). A consumer and its credentials may
    /// share one; then the first by kind and id.
    pub async fn key_holder(&self, group: &str, plugin: &str, value: &[u8]) -> Result<Option<Key>, StoreError> {
        let digest = self.0.sealer.digest(group, plugin, value);
        let sql = "SELECT kind, id FROM key_digest WHERE group_id = $1 AND plugin = $2 AND digest = $3 \
                   ORDER BY kind, id LIMIT 1";
        let row = self.0.db.row(sql, args![group, plugin, &digest[..]]).await?;
        row.map(|row| key(&row, 0)).transpose()
    }
}

/// Where the group stands and its floor, as the transaction sees them.
async fn head(tx: &mut Tx, group: &str) -> Result<(Head, u64), StoreError> {
    let row = tx.row(HEAD, args![group]).await?.ok_or_else(|| StoreError::UnknownGroup(group.to_owned()))?;
    Ok((watch::head(&row)?, row.int(5)?))
}

/// The mark of a revision; empty if the database has none.
pub(crate) async fn mark_of(tx: &mut Tx, group: &str, revision: u64) -> Result<String, StoreError> {
    mark(tx.row(MARK, args![group, revision]).await?)
}

fn mark(row: Option<Row>) -> Result<String, StoreError> {
    row.map_or(Ok(String::new()), |row| row.text(0))
}

/// The key in columns `at` (kind) and `at + 1` (id).
pub(crate) fn key(row: &Row, at: usize) -> Result<Key, StoreError> {
    let name = row.text(at)?;
    let kind =
        Kind::from_name(&name).ok_or_else(|| StoreError::corrupt(format!("an object of unknown kind `{name}`")))?;
    Ok(Key { kind, id: Arc::from(row.text(at + 1)?) })
}

/// The object in columns kind, id, then from `at` on body, sealed, created, modified.
pub(crate) fn object(row: &Row, sealer: &Sealer, group: &str, at: usize) -> Result<Object, StoreError> {
    let key = key(row, 0)?;
    let body = body(row.blob(at)?, row.flag(at + 1)?, sealer, group, &key)?;
    Ok(Object { key, body, created: row.int(at + 2)?, modified: row.int(at + 3)? })
}

/// The change in columns kind, id, body (none: deleted), sealed, created, revision.
pub(crate) fn change(row: &Row, sealer: &Sealer, group: &str) -> Result<Change, StoreError> {
    let (key, revision) = (key(row, 0)?, row.int(5)?);
    let Some(stored) = row.blob_opt(2)? else { return Ok(Change::Delete { key, revision }) };
    let body = body(stored, row.flag(3)?, sealer, group, &key)?;
    Ok(Change::Put(Object { key, body, created: row.int(4)?, modified: revision }))
}

fn body(stored: Vec<u8>, sealed: bool, sealer: &Sealer, group: &str, key: &Key) -> Result<Bytes, StoreError> {
    if sealed { sealer.open(&body_context(group, key), stored) } else { Ok(stored.into()) }
}

/// What a sealed body belongs to.
pub(crate) fn body_context(group: &str, key: &Key) -> Context {
    Context::of(&["body", group, key.kind.name(), &key.id])
}
