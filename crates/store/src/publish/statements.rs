//! The statements of a publish whose length goes with the number of rows. `$1` is the group unless said otherwise; then come
//! the rows.
//!
//! Each looks its rows up by index, in both databases and whatever the number of objects in the group. To that end joins are
//! written as `CROSS JOIN`, whose order SQLite keeps, and deletions as alternatives, each of which SQLite looks up by itself
//! (for a list of row values it would search the whole group); its migration tells its planner what tables will hold.

use std::fmt::Write as _;

use crate::sql::tuples;

/// Reads what is stored under keys. Rows: kind, id.
pub(super) fn stored(rows: usize) -> String {
    format!(
        "WITH want (kind, id) AS (VALUES {}) \
         SELECT r.kind, r.id, r.body, r.sealed, r.created, r.modified, r.expires_at FROM want CROSS JOIN resource r \
         WHERE r.group_id = $1 AND r.kind = want.kind AND r.id = want.id",
        tuples(rows, 2, 2)
    )
}

/// Reads which of some keys exist. Rows: kind, id.
pub(super) fn existing(rows: usize) -> String {
    format!(
        "WITH want (kind, id) AS (VALUES {}) SELECT r.kind, r.id FROM want CROSS JOIN resource r \
         WHERE r.group_id = $1 AND r.kind = want.kind AND r.id = want.id",
        tuples(rows, 2, 2)
    )
}

/// Reads the objects of kind `$2` within ranges of ids. Rows: the ids below and above.
pub(super) fn within(rows: usize) -> String {
    format!(
        "WITH span (low, high) AS (VALUES {}) SELECT r.kind, r.id, r.body, r.sealed, r.created, r.modified \
         FROM span CROSS JOIN resource r \
         WHERE r.group_id = $1 AND r.kind = $2 AND r.id > span.low AND r.id < span.high ORDER BY r.id",
        tuples(rows, 2, 3)
    )
}

/// Reads who refers to objects that are gone, in a way that hinders (`$2`: true). Rows: kind, id.
pub(super) fn users(rows: usize) -> String {
    format!(
        "WITH gone (kind, id) AS (VALUES {}) SELECT r.to_kind, r.to_id, r.from_kind, MIN(r.from_id), r.plugin \
         FROM gone CROSS JOIN reference r \
         WHERE r.group_id = $1 AND r.to_kind = gone.kind AND r.to_id = gone.id AND r.hinders = $2 \
         GROUP BY r.to_kind, r.to_id, r.from_kind, r.plugin ORDER BY r.to_kind, r.to_id, r.from_kind, r.plugin",
        tuples(rows, 2, 3)
    )
}

/// Reads a lookup key that one of some objects shares with another owner. Rows: kind, id.
pub(super) fn shared_keys(rows: usize) -> String {
    format!(
        "WITH written (kind, id) AS (VALUES {}) SELECT mine.kind, mine.id, other.kind, other.id, mine.plugin \
         FROM written CROSS JOIN key_digest mine CROSS JOIN key_digest other \
         WHERE mine.group_id = $1 AND mine.kind = written.kind AND mine.id = written.id \
         AND other.group_id = $1 AND other.plugin = mine.plugin AND other.digest = mine.digest \
         AND other.owner <> mine.owner ORDER BY mine.kind, mine.id, other.kind, other.id LIMIT 1",
        tuples(rows, 2, 2)
    )
}

/// A table whose rows belong to objects.
#[derive(Clone, Copy)]
pub(super) enum Table {
    Resource,
    Reference,
    KeyDigest,
}

/// Deletes the rows of objects from a table. Rows: kind, id.
pub(super) fn delete(table: Table, rows: usize) -> String {
    let (table, kind, id) = match table {
        Table::Resource => ("resource", "kind", "id"),
        Table::Reference => ("reference", "from_kind", "from_id"),
        Table::KeyDigest => ("key_digest", "kind", "id"),
    };
    let mut sql = format!("DELETE FROM {table} WHERE ");
    for row in 0..rows {
        let or = if row == 0 { "" } else { " OR " };
        let (of_kind, of_id) = (2 * row + 2, 2 * row + 3);
        write!(sql, "{or}(group_id = $1 AND {kind} = ${of_kind} AND {id} = ${of_id})")
            .expect("a String takes all that is written to it");
    }
    sql
}

/// Writes objects. Rows, from `$1` on: group, kind, id, body, sealed, created, modified, expires_at.
pub(super) fn put(rows: usize) -> String {
    format!(
        "INSERT INTO resource (group_id, kind, id, body, sealed, created, modified, expires_at) VALUES {} \
         ON CONFLICT (group_id, kind, id) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
         modified = excluded.modified, expires_at = excluded.expires_at",
        tuples(rows, 8, 1)
    )
}

/// Writes references. Rows, from `$1` on: group, from_kind, from_id, plugin, to_kind, to_id, hinders.
pub(super) fn refer(rows: usize) -> String {
    format!(
        "INSERT INTO reference (group_id, from_kind, from_id, plugin, to_kind, to_id, hinders) VALUES {} \
         ON CONFLICT DO NOTHING",
        tuples(rows, 7, 1)
    )
}

/// Writes lookup keys. Rows, from `$1` on: group, plugin, digest, kind, id, owner.
pub(super) fn hold_keys(rows: usize) -> String {
    format!(
        "INSERT INTO key_digest (group_id, plugin, digest, kind, id, owner) VALUES {} ON CONFLICT DO NOTHING",
        tuples(rows, 6, 1)
    )
}

/// Copies objects, as they are, to what was at the floor of the history, in place of what a release may have left there that does not
/// keep it up to date. Rows: kind, id.
pub(super) fn keep(rows: usize) -> String {
    format!(
        "WITH want (kind, id) AS (VALUES {}) \
         INSERT INTO base (group_id, kind, id, body, sealed, created, modified) \
         SELECT r.group_id, r.kind, r.id, r.body, r.sealed, r.created, r.modified FROM want CROSS JOIN resource r \
         WHERE r.group_id = $1 AND r.kind = want.kind AND r.id = want.id \
         ON CONFLICT (group_id, kind, id) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
         created = excluded.created, modified = excluded.modified",
        tuples(rows, 2, 2)
    )
}

/// Copies objects, as just written, into the history: what was sealed is the same blob in both. Rows: kind, id.
pub(super) fn log_puts(rows: usize) -> String {
    format!(
        "WITH want (kind, id) AS (VALUES {}) \
         INSERT INTO change (group_id, revision, kind, id, body, sealed, created) \
         SELECT r.group_id, r.modified, r.kind, r.id, r.body, r.sealed, r.created FROM want CROSS JOIN resource r \
         WHERE r.group_id = $1 AND r.kind = want.kind AND r.id = want.id",
        tuples(rows, 2, 2)
    )
}

/// Writes deletions into the history. Rows, from `$1` on: group, revision, kind, id, body (none), sealed, created.
pub(super) fn log_deletes(rows: usize) -> String {
    format!("INSERT INTO change (group_id, revision, kind, id, body, sealed, created) VALUES {}", tuples(rows, 7, 1))
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, SqliteConnection};

    use super::*;

    /// PostgreSQL decides by the size of the tables; the conformance suite measures there.
    #[tokio::test]
    async fn sqlite_looks_everything_up_by_the_whole_key() {
        let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0001_spine.sql")).await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0012_changes.sql")).await.unwrap();
        let tables = [Table::Resource, Table::Reference, Table::KeyDigest];
        let deletes = tables.map(|table| move |rows| delete(table, rows));
        let reads: [fn(usize) -> String; 7] = [stored, existing, within, users, shared_keys, log_puts, keep];
        for rows in [1, 2, 200] {
            let statements = reads.iter().map(|sql| sql(rows)).chain(deletes.iter().map(|sql| sql(rows)));
            for sql in statements.chain([crate::read::DELTA, crate::past::PAST, crate::past::KEEP].map(str::to_owned)) {
                let plan = db.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
                let steps: Vec<String> = plan.iter().map(|step| step.get::<String, _>("detail")).collect();
                let looked_up = steps.iter().filter(|step| step.starts_with("SEARCH")).count();
                assert!(looked_up > 0, "{sql}: {steps:#?}");
                for step in steps {
                    let scans =
                        ["SCAN r", "SCAN mine", "SCAN other", "SCAN c", "SCAN change", "SCAN n", "SCAN w", "SCAN b"]
                            .contains(&&*step);
                    let by_a_part =
                        ["group_id=?", "kind=?", "plugin=?"].iter().any(|last| step.ends_with(&format!("{last})")));
                    assert!(!scans && !by_a_part && !step.contains("AUTOMATIC"), "{sql}: {step}");
                }
            }
        }
    }
}
