//! What a group was at a revision that is past.
//!
//! The history has the form that each change set gave to an object. What an object was before its first change that is kept stands
//! in the table `base`, which has all that was otherwise at the floor. What has not changed since is in the objects themselves.
//!
//! What must stay true: for each object that the history above the floor tells something of, `base` has the form that it had at the floor,
//! or nothing if there was no such object. Publishing copies it there before it replaces what is as old as the floor; trimming brings it
//! to the new floor ([`raise`]).

use std::ops::Range;
use std::sync::LazyLock;

use milecastle_model::{Key, Object};

use crate::error::StoreError;
use crate::read::{key, object};
use crate::sql::{Dialect, Tx, args};
use crate::store::Store;

/// The statement that reads what the objects that group `$1` changed after revision `$2` and up to `$3` were at `$2`: kind, id, whether
/// there was such an object, then what is known of it as [`object`] wants it. `kind || ''` as in [`crate::read::delta`].
pub(crate) fn past(dialect: Dialect) -> &'static str {
    static SQL: LazyLock<[String; 2]> = LazyLock::new(|| {
        Dialect::ALL.map(|dialect| {
            let next = "n.group_id = $1 AND n.revision = t.first AND n.kind = t.kind AND n.id = t.id";
            let was = "w.group_id = $1 AND w.kind = t.kind AND w.id = t.id AND w.revision = (SELECT MAX(x.revision) \
                       FROM change x WHERE x.group_id = $1 AND x.kind = t.kind AND x.id = t.id AND x.revision <= $2)";
            format!(
                "WITH touched AS (SELECT kind || '' AS kind, id, MIN(revision) AS first FROM change \
                 WHERE group_id = $1 AND revision > $2 AND revision <= $3 GROUP BY kind || '', id) \
                 SELECT t.kind, t.id, n.body IS NULL OR n.created < n.revision, \
                 CASE WHEN w.revision IS NULL THEN b.body ELSE w.body END, \
                 CASE WHEN w.revision IS NULL THEN b.sealed ELSE w.sealed END, \
                 CASE WHEN w.revision IS NULL THEN b.created ELSE w.created END, \
                 CASE WHEN w.revision IS NULL THEN b.modified ELSE w.revision END \
                 FROM touched t {} {} {} ORDER BY t.kind, t.id",
                dialect.each("change", "n", next),
                dialect.each_or_null("change", "w", was),
                dialect.each_or_null("base", "b", "b.group_id = $1 AND b.kind = t.kind AND b.id = t.id")
            )
        })
    });
    &SQL[dialect as usize]
}

/// Takes out of `base` what has changed in group `$1` up to revision `$2`.
const DROP: &str = "DELETE FROM base WHERE group_id = $1 AND EXISTS (SELECT 1 FROM change c \
     WHERE c.group_id = $1 AND c.kind = base.kind AND c.id = base.id AND c.revision <= $2)";

/// Puts into `base` the last form up to revision `$2` of what has changed in group `$1` by then, and once more later.
pub(crate) const KEEP: &str = "INSERT INTO base (group_id, kind, id, body, sealed, created, modified) \
     SELECT c.group_id, c.kind, c.id, c.body, c.sealed, c.created, c.revision FROM change c \
     WHERE c.group_id = $1 AND c.revision <= $2 AND c.body IS NOT NULL \
     AND c.revision = (SELECT MAX(x.revision) FROM change x \
       WHERE x.group_id = $1 AND x.kind = c.kind AND x.id = c.id AND x.revision <= $2) \
     AND EXISTS (SELECT 1 FROM change n WHERE n.group_id = $1 AND n.kind = c.kind AND n.id = c.id AND n.revision > $2)";

/// What the objects that changed between two revisions were at the first of them.
#[derive(Debug, Clone)]
pub enum Past {
    /// Each with what it was, by kind's name, then id; `None` if there was no such object.
    Known(Vec<(Key, Option<Object>)>),
    /// It is not known any more.
    Forgotten {
        /// The oldest revision that the history reaches back to. If the one asked for is no older, an object has been changed by a release
        /// that did not keep what it was.
        floor: u64,
    },
}

impl Store {
    /// What the objects that changed after `between.start`, up to and including `between.end`, were at `between.start`. So, put in place of
    /// what the group was at the end, they give what it was at the start. The work grows with the changes in between.
    pub async fn past(&self, group: &str, between: Range<u64>) -> Result<Past, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let row = tx.row("SELECT floor FROM gateway_group WHERE id = $1", args![group]).await?;
        let floor = row.ok_or_else(|| StoreError::UnknownGroup(group.to_owned()))?.int(0)?;
        if between.start < floor {
            return Ok(Past::Forgotten { floor });
        }
        let (mut known, mut forgotten) = (Vec::new(), false);
        tx.each(past(tx.dialect()), args![group, between.start, between.end], |row| {
            let was = match (row.flag(2)?, row.blob_opt(3)?) {
                (false, _) => None,
                (true, Some(_)) => Some(object(&row, &self.0.sealer, group, 3)?),
                (true, None) => {
                    forgotten = true;
                    None
                }
            };
            known.push((key(&row, 0)?, was));
            Ok(())
        })
        .await?;
        Ok(if forgotten { Past::Forgotten { floor } } else { Past::Known(known) })
    }
}

/// Brings what was at the floor of a group to what was at `floor`, before the changes up to there are forgotten.
pub(crate) async fn raise(tx: &mut Tx, group: &str, floor: u64) -> Result<(), StoreError> {
    tx.run(DROP, args![group, floor]).await?;
    tx.run(KEEP, args![group, floor]).await?;
    Ok(())
}
