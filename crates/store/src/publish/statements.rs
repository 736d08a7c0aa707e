//! The statements of a publish whose length goes with the number of rows. `$1` is the group unless said otherwise; then come
//! the rows.
//!
//! Each looks its rows up by index, in both databases, whatever the number of objects in the group and whatever the database knows of
//! that. To that end joins go through [`Dialect::each`], and deletions name rows by their place (of a list of row values SQLite would
//! search the whole group); its migration tells SQLite's planner what tables will hold.

use crate::sql::{Dialect, tuples};

/// A table whose rows belong to objects.
#[derive(Clone, Copy)]
pub(super) enum Table {
    Resource,
    Reference,
    KeyDigest,
}

impl Table {
    /// Its name, and its columns of the object's kind and id.
    fn names(self) -> [&'static str; 3] {
        match self {
            Table::Resource => ["resource", "kind", "id"],
            Table::Reference => ["reference", "from_kind", "from_id"],
            Table::KeyDigest => ["key_digest", "kind", "id"],
        }
    }

    /// Its rows, called `r`, of each object in the list `want`.
    fn wanted(self, dialect: Dialect) -> String {
        let [table, kind, id] = self.names();
        let condition = format!("r.group_id = $1 AND r.{kind} = want.kind AND r.{id} = want.id");
        format!("want {}", dialect.each(table, "r", &condition))
    }
}

/// The list `want` of objects. Rows: kind, id.
fn want(rows: usize) -> String {
    format!("WITH want (kind, id) AS (VALUES {})", tuples(rows, 2, 2))
}

/// Reads what is stored under keys. Rows: kind, id.
pub(super) fn stored(dialect: Dialect, rows: usize) -> String {
    let (want, wanted) = (want(rows), Table::Resource.wanted(dialect));
    format!("{want} SELECT r.kind, r.id, r.body, r.sealed, r.created, r.modified, r.expires_at FROM {wanted}")
}

/// Reads which of some keys exist. Rows: kind, id.
pub(super) fn existing(dialect: Dialect, rows: usize) -> String {
    format!("{} SELECT r.kind, r.id FROM {}", want(rows), Table::Resource.wanted(dialect))
}

/// Reads the objects of kind `$2` within ranges of ids. Rows: the ids below and above.
pub(super) fn within(dialect: Dialect, rows: usize) -> String {
    let within = "r.group_id = $1 AND r.kind = $2 AND r.id > span.low AND r.id < span.high";
    format!(
        "WITH span (low, high) AS (VALUES {}) SELECT r.kind, r.id, r.body, r.sealed, r.created, r.modified \
         FROM span {} ORDER BY r.id",
        tuples(rows, 2, 3),
        dialect.each("resource", "r", within)
    )
}

/// Reads who refers to objects of kind `$3` that are gone, in a way that hinders (`$2`: true). Rows: id. The ids are a list, because
/// PostgreSQL knows what all refer to: that it is none of these it sees of a list alone.
pub(super) fn users(rows: usize) -> String {
    format!(
        "SELECT to_kind, to_id, from_kind, MIN(from_id), plugin FROM reference \
         WHERE group_id = $1 AND hinders = $2 AND to_kind = $3 AND to_id IN {} \
         GROUP BY to_kind, to_id, from_kind, plugin ORDER BY to_id, from_kind, plugin",
        tuples(1, rows, 4)
    )
}

/// Reads a lookup key that one of some objects shares with another owner. Rows: kind, id.
pub(super) fn shared_keys(dialect: Dialect, rows: usize) -> String {
    let shared =
        "other.group_id = $1 AND other.plugin = r.plugin AND other.digest = r.digest AND other.owner <> r.owner";
    format!(
        "{} SELECT r.kind, r.id, other.kind, other.id, r.plugin FROM {} {} \
         ORDER BY r.kind, r.id, other.kind, other.id LIMIT 1",
        want(rows),
        Table::KeyDigest.wanted(dialect),
        dialect.each("key_digest", "other", shared)
    )
}

/// Deletes the rows of objects from a table. Rows: kind, id.
pub(super) fn delete(dialect: Dialect, table: Table, rows: usize) -> String {
    let ([name, ..], place) = (table.names(), dialect.place());
    let places = format!("{} SELECT r.{place} FROM {}", want(rows), table.wanted(dialect));
    format!("DELETE FROM {name} WHERE {}", dialect.at(&places))
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
pub(super) fn keep(dialect: Dialect, rows: usize) -> String {
    format!(
        "{} INSERT INTO base (group_id, kind, id, body, sealed, created, modified) \
         SELECT r.group_id, r.kind, r.id, r.body, r.sealed, r.created, r.modified FROM {} \
         ON CONFLICT (group_id, kind, id) DO UPDATE SET body = excluded.body, sealed = excluded.sealed, \
         created = excluded.created, modified = excluded.modified",
        want(rows),
        Table::Resource.wanted(dialect)
    )
}

/// Copies objects, as just written, into the history: what was sealed is the same blob in both. Rows: kind, id.
pub(super) fn log_puts(dialect: Dialect, rows: usize) -> String {
    format!(
        "{} INSERT INTO change (group_id, revision, kind, id, body, sealed, created) \
         SELECT r.group_id, r.modified, r.kind, r.id, r.body, r.sealed, r.created FROM {}",
        want(rows),
        Table::Resource.wanted(dialect)
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

    /// What PostgreSQL does, the conformance suite measures.
    #[tokio::test]
    async fn sqlite_looks_everything_up_by_the_whole_key() {
        let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0001_spine.sql")).await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0012_changes.sql")).await.unwrap();
        let lite = Dialect::Lite;
        let tables = [Table::Resource, Table::Reference, Table::KeyDigest];
        let fixed = [crate::read::delta(lite), crate::past::past(lite), crate::past::KEEP];
        for rows in [1, 2, 200] {
            let reads = [stored, existing, within, shared_keys, log_puts, keep].map(|sql| sql(lite, rows));
            let deletes = tables.map(|table| delete(lite, table, rows));
            for sql in fixed.map(str::to_owned).into_iter().chain(reads).chain(deletes).chain([users(rows)]) {
                let plan = db.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
                let steps: Vec<String> = plan.iter().map(|step| step.get::<String, _>("detail")).collect();
                let looked_up = steps.iter().filter(|step| step.starts_with("SEARCH")).count();
                assert!(looked_up > 0, "{sql}: {steps:#?}");
                for step in steps {
                    let ours =
                        ["resource", "reference", "key_digest", "change", "base", "r", "other", "c", "n", "w", "b"];
                    let scans = step.strip_prefix("SCAN ").is_some_and(|scanned| ours.contains(&scanned));
                    let by_a_part =
                        ["group_id=?", "kind=?", "plugin=?"].iter().any(|last| step.ends_with(&format!("{last})")));
                    assert!(!scans && !by_a_part && !step.contains("AUTOMATIC"), "{sql}: {step}");
                }
            }
        }
    }
}
