//! What was up and what was down, and since when: the history of looks at the cluster, its parts and its probes.
//!
//! What must stay true: what is the same at one look as at the one before takes no row of its own, and spans of one subject never
//! overlap.

use std::time::Duration;

use crate::error::StoreError;
use crate::lease::Term;
use crate::sql::{BATCH, Row, Value, args, tuples};
use crate::store::Store;

/// Values of one observation in the statements below.
const COLUMNS: usize = 5;

/// What is looked at. Ordered by kind, group, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watched {
    /// What sort of thing, as `node`.
    pub kind: String,
    /// The gateway group that it is in; empty if it is in none.
    pub group: String,
    /// Which one.
    pub name: String,
}

/// What a look has seen of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Of what.
    pub subject: Watched,
    /// Whether it does what it is for.
    pub is_up: bool,
    /// How it is, in a word or two.
    pub detail: String,
}

/// A time in which something was the same at each look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was seen.
    pub observation: Observation,
    /// The first look, Unix time in seconds.
    pub began_at: u64,
    /// The last one.
    pub seen_at: u64,
}

impl Store {
    /// Records what was seen at `at` (Unix seconds), each subject once, and forgets what is older than `keep`, as long as the term of
    /// office lasts. What was seen alike no longer than `gap` ago goes on.
    pub async fn availability_record(
        &self,
        term: Term<'_>,
        at: u64,
        seen: &[Observation],
        gap: Duration,
        keep: Duration,
    ) -> Result<(), StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(());
        }
        let recent = at.saturating_sub(gap.as_secs());
        for seen in seen.chunks(BATCH) {
            let rows = |first| tuples(seen.len(), COLUMNS, first);
            let mut values: Vec<Value<'_>> = args![at, recent].to_vec();
            for Observation { subject: Watched { kind, group, name }, is_up, detail } in seen {
                values.extend_from_slice(args![kind, group, name, *is_up, detail]);
            }
            let goes_on = format!(
                "WITH seen (kind, group_id, name, is_up, detail) AS (VALUES {}) UPDATE availability SET seen_at = $1 FROM seen \
                 WHERE availability.kind = seen.kind AND availability.group_id = seen.group_id AND availability.name = seen.name \
                 AND availability.is_up = seen.is_up AND availability.detail = seen.detail \
                 AND availability.seen_at BETWEEN $2 AND $1 AND NOT EXISTS (SELECT 1 FROM availability AS later \
                 WHERE later.kind = seen.kind AND later.group_id = seen.group_id AND later.name = seen.name \
                 AND later.began_at > availability.began_at)",
                rows(3)
            );
            tx.run(goes_on, &values).await?;
            values.remove(1);
            let begins = format!(
                "WITH seen (kind, group_id, name, is_up, detail) AS (VALUES {}) \
                 INSERT INTO availability (kind, group_id, name, began_at, seen_at, is_up, detail) \
                 SELECT seen.kind, seen.group_id, seen.name, $1, $1, seen.is_up, seen.detail FROM seen \
                 WHERE NOT EXISTS (SELECT 1 FROM availability AS known WHERE known.kind = seen.kind \
                 AND known.group_id = seen.group_id AND known.name = seen.name AND known.seen_at >= $1)",
                rows(2)
            );
            tx.run(begins, &values).await?;
        }
        tx.run("DELETE FROM availability WHERE seen_at < $1", args![at.saturating_sub(keep.as_secs())]).await?;
        tx.commit().await
    }

    /// The first `limit` spans after the one of this subject and beginning that were seen at `from` or later (Unix seconds), by subject
    /// and beginning; `kind`: of this kind alone.
    pub async fn availability_list(
        &self,
        from: u64,
        kind: Option<&str>,
        after: (&Watched, u64),
        limit: u64,
    ) -> Result<Vec<Span>, StoreError> {
        let (Watched { kind: last, group, name }, began_at) = after;
        let sql = "SELECT kind, group_id, name, began_at, seen_at, is_up, detail FROM availability \
                   WHERE (kind, group_id, name, began_at) > ($1, $2, $3, $4) AND seen_at >= $5 AND ($6 = '' OR kind = $6) \
                   ORDER BY kind, group_id, name, began_at LIMIT $7";
        let args = args![last, group, name, began_at, from, kind.unwrap_or_default(), limit];
        self.0.db.rows(sql, args).await?.iter().map(span).collect()
    }
}

fn span(row: &Row) -> Result<Span, StoreError> {
    let subject = Watched { kind: row.text(0)?, group: row.text(1)?, name: row.text(2)? };
    let observation = Observation { subject, is_up: row.flag(5)?, detail: row.text(6)? };
    Ok(Span { observation, began_at: row.int(3)?, seen_at: row.int(4)? })
}
