//! What was published, when and by whom; and how long that is kept.

use milecastle_model::Change;

use crate::change::Source;
use crate::error::StoreError;
use crate::read::change;
use crate::sql::{Row, args};
use crate::store::Store;

const COLUMNS: &str = "SELECT revision, author, message, source, at, puts, deletes FROM change_set WHERE group_id = $1";

/// One change set that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSetInfo {
    /// The revision that it made.
    pub revision: u64,
    /// [`crate::ChangeSet::author`].
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

/// A published change set with all that it did.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Who, why and how much.
    pub info: ChangeSetInfo,
    /// By kind's name, then id.
    pub changes: Vec<Change>,
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

    /// Forgets the history up to and including revision `floor`: deltas start there from now on. A floor that lies lower
    /// than the present one or beyond the head changes nothing.
    pub async fn history_trim(&self, group: &str, floor: u64) -> Result<(), StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        let raise = "UPDATE gateway_group SET floor = $2 WHERE id = $1 AND floor < $2 AND $2 <= head";
        if tx.run(raise, args![group, floor]).await? > 0 {
            tx.run("DELETE FROM change_set WHERE group_id = $1 AND revision <= $2", args![group, floor]).await?;
        }
        tx.commit().await
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
