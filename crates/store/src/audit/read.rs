//! Reading the audit log, and forgetting what is old.

use std::time::Duration;

use serde_json::Value as Json;

use super::audited;
use crate::error::StoreError;
use crate::lease::Term;
use crate::member::millis;
use crate::sql::{Row, Value, args};
use crate::store::Store;

const SELECT: &str = "SELECT id, at, actor_kind, actor, actor_id, address, request, group_id, kind, object, action, outcome, \
                      revision, before, after, times FROM audit";

/// What has an index: in these words, so that both databases see that it is enough.
const RARE_ACTION: &str = "action NOT IN ('create', 'update', 'delete')";
const RARE_OUTCOME: &str = "outcome <> 'done'";

/// Entries that one statement forgets, so that nobody waits long for it.
const TRIM_BATCH: u64 = 5000;

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Identity; greater than that of any entry that was there when its change began.
    pub id: u64,
    /// Unix time in milliseconds, by the database's clock.
    pub at: u64,
    /// Name of an [`ActorKind`](super::ActorKind).
    pub actor_kind: String,
    /// As in [`Actor::name`](super::Actor::name).
    pub actor: String,
    /// As in [`Actor::id`](super::Actor::id).
    pub actor_id: String,
    /// As in [`Actor::address`](super::Actor::address).
    pub address: Option<String>,
    /// As in [`Actor::request`](super::Actor::request).
    pub request: Option<String>,
    /// The gateway group, if it is about one.
    pub group: Option<String>,
    /// What it is about: one of [`audited`], or the name of a kind.
    pub kind: String,
    /// Which one; may be empty.
    pub object: String,
    /// Name of an [`AuditAction`](super::AuditAction).
    pub action: String,
    /// Name of an [`AuditOutcome`](super::AuditOutcome).
    pub outcome: String,
    /// The revision that the change made, if it made one.
    pub revision: Option<u64>,
    /// What it was before; of a change, what differs.
    pub before: Option<Json>,
    /// What it is now; of a change, what differs.
    pub after: Option<Json>,
    /// How often; more than 1 only of attempts.
    pub times: u64,
}

/// Which entries are wanted; `None` says nothing.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this moment or later, Unix time in milliseconds.
    pub since: Option<u64>,
    /// Before this moment, Unix time in milliseconds.
    pub until: Option<u64>,
    /// Name of the actor.
    pub actor: Option<String>,
    /// Gateway group.
    pub group: Option<String>,
    /// What it is about.
    pub kind: Option<String>,
    /// Which one.
    pub object: Option<String>,
    /// What was done.
    pub action: Option<String>,
    /// What became of it.
    pub outcome: Option<String>,
    /// Older than the entry with this id.
    pub before: Option<u64>,
}

/// Which entries may be seen.
#[derive(Debug, Clone)]
pub struct AuditScope {
    /// Those of these groups alone; `None`: of all groups, and those of none.
    pub groups: Option<Vec<String>>,
    /// Whether those that say who may do what ([`audited::OF_ACCESS`]) are among them.
    pub access: bool,
}

/// Conditions in the making.
#[derive(Default)]
struct Where<'a> {
    conditions: Vec<String>,
    values: Vec<Value<'a>>,
}

impl<'a> Where<'a> {
    /// Adds a condition; `?` stands for the value.
    fn and(&mut self, condition: &str, value: impl Into<Value<'a>>) {
        self.values.push(value.into());
        self.conditions.push(condition.replace('?', &format!("${}", self.values.len())));
    }

    /// Adds that a column is one of some texts, or none of them.
    fn among(&mut self, column: &str, among: bool, texts: impl IntoIterator<Item = &'a str>) {
        let first = self.values.len() + 1;
        self.values.extend(texts.into_iter().map(Value::from));
        let places: Vec<String> = (first..=self.values.len()).map(|place| format!("${place}")).collect();
        let not = if among { "" } else { "NOT " };
        // Nothing is one of none, in words that both databases understand.
        let condition = if places.is_empty() {
            format!("{not}(1 = 0)")
        } else {
            let places = places.join(", ");
            format!("{column} {not}IN ({places})")
        };
        self.conditions.push(condition);
    }

    fn of(filter: &'a AuditFilter, scope: &'a AuditScope) -> Self {
        let mut all = Self::default();
        let AuditFilter { since, until, actor, group, kind, object, action, outcome, before } = filter;
        let texts = [
            ("actor = ?", actor),
            ("group_id = ?", group),
            ("kind = ?", kind),
            ("object = ?", object),
            ("action = ?", action),
            ("outcome = ?", outcome),
        ];
        for (condition, text) in texts {
            if let Some(text) = text {
                all.and(condition, text);
            }
        }
        if action.as_deref().is_some_and(|action| !["create", "update", "delete"].contains(&action)) {
            all.conditions.push(RARE_ACTION.to_owned());
        }
        if outcome.as_deref().is_some_and(|outcome| outcome != "done") {
            all.conditions.push(RARE_OUTCOME.to_owned());
        }
        for (condition, number) in [("at >= ?", since), ("at < ?", until), ("id < ?", before)] {
            if let Some(number) = number {
                all.and(condition, *number);
            }
        }
        if let Some(groups) = &scope.groups {
            all.among("group_id", true, groups.iter().map(String::as_str));
        }
        if !scope.access {
            all.among("kind", false, audited::OF_ACCESS);
        }
        all
    }

    /// The statement that gives the newest `limit` entries, and its values.
    fn newest(mut self, limit: u64) -> (String, Vec<Value<'a>>) {
        let conditions = self.sql();
        self.values.push(limit.into());
        (format!("{SELECT}{conditions} ORDER BY id DESC LIMIT ${}", self.values.len()), self.values)
    }

    fn sql(&self) -> String {
        if self.conditions.is_empty() { String::new() } else { format!(" WHERE {}", self.conditions.join(" AND ")) }
    }
}

impl Store {
    /// The newest `limit` entries that are wanted and may be seen, newest first. Older ones follow with the id of the last one
    /// as [`AuditFilter::before`], whatever is added meanwhile.
    pub async fn audit_list(
        &self,
        filter: &AuditFilter,
        scope: &AuditScope,
        limit: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        let (sql, values) = Where::of(filter, scope).newest(limit);
        self.0.db.rows(sql, &values).await?.iter().map(entry).collect()
    }

    /// One entry, if it may be seen.
    pub async fn audit_get(&self, id: u64, scope: &AuditScope) -> Result<Option<Entry>, StoreError> {
        let all = AuditFilter::default();
        let mut found = Where::of(&all, scope);
        found.and("id = ?", id);
        let sql = format!("{SELECT}{}", found.sql());
        self.0.db.row(sql, &found.values).await?.as_ref().map(entry).transpose()
    }

    /// Forgets entries that are older than `keep`, oldest first and in short transactions, as long as the term of office lasts.
    /// Gives how many.
    pub async fn audit_trim(&self, term: Term<'_>, keep: Duration) -> Result<u64, StoreError> {
        let clock = self.0.db.clock_sql();
        let sql = format!(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < {clock} - $1 ORDER BY at LIMIT {TRIM_BATCH})"
        );
        let mut forgotten = 0;
        loop {
            let mut tx = self.0.db.begin_write().await?;
            if !term.lasts(&mut tx, &self.0.db).await? {
                return Ok(forgotten);
            }
            let batch = tx.run(sql.clone(), args![millis(keep)]).await?;
            tx.commit().await?;
            forgotten += batch;
            if batch < TRIM_BATCH {
                return Ok(forgotten);
            }
        }
    }
}

fn entry(row: &Row) -> Result<Entry, StoreError> {
    let json = |column: Option<String>| {
        let parsed = column.map(|text| serde_json::from_str(&text)).transpose();
        parsed.map_err(|_| StoreError::corrupt("an entry of the audit log"))
    };
    Ok(Entry {
        id: row.int(0)?,
        at: row.int(1)?,
        actor_kind: row.text(2)?,
        actor: row.text(3)?,
        actor_id: row.text(4)?,
        address: row.text_opt(5)?,
        request: row.text_opt(6)?,
        group: row.text_opt(7)?,
        kind: row.text(8)?,
        object: row.text(9)?,
        action: row.text(10)?,
        outcome: row.text(11)?,
        revision: row.int_opt(12)?,
        before: json(row.text_opt(13)?)?,
        after: json(row.text_opt(14)?)?,
        times: row.int(15)?,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, SqliteConnection};

    use super::*;

    const ALL: AuditScope = AuditScope { groups: None, access: true };

    /// PostgreSQL decides by what it knows of the table.
    #[tokio::test]
    async fn sqlite_finds_the_newest_by_each_filter_without_sorting() {
        let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0011_audit.sql")).await.unwrap();
        db.execute(include_str!("../../../../migrations/sqlite/0025_audit_filters.sql")).await.unwrap();
        let mut check = async |filter: AuditFilter, scope: &AuditScope, expected: &str| {
            let (sql, _) = Where::of(&filter, scope).newest(50);
            let plan = db.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get::<String, _>("detail")).collect();
            assert!(steps.len() == 1 && steps[0].contains(expected), "{sql}: {steps:?}");
        };
        let none = AuditFilter::default;
        let text = |text: &str| Some(text.to_owned());
        let filters = [
            (AuditFilter { actor: text("ann"), ..none() }, "audit_actor (actor=?"),
            (AuditFilter { group: text("prod"), ..none() }, "audit_group (group_id=?"),
            (AuditFilter { group: text("prod"), since: Some(1), until: Some(2), ..none() }, "audit_group (group_id=?"),
            (AuditFilter { kind: text("role"), ..none() }, "audit_kind (kind=?"),
            (AuditFilter { object: text("1"), ..none() }, "audit_name (object=?"),
            (AuditFilter { kind: text("route"), object: text("1"), ..none() }, "audit_object (kind=? AND object=?"),
            (AuditFilter { action: text("revoke"), ..none() }, "audit_action (action=?"),
            (AuditFilter { outcome: text("refused"), ..none() }, "audit_outcome (outcome=?"),
            // What nearly all are is no way to find any.
            (AuditFilter { outcome: text("done"), ..none() }, "SCAN audit"),
            (AuditFilter { outcome: text("done"), group: text("prod"), ..none() }, "audit_group (group_id=?"),
            (AuditFilter { action: text("update"), actor: text("ann"), ..none() }, "audit_actor (actor=?"),
        ];
        for (filter, index) in filters {
            check(filter.clone(), &ALL, index).await;
            // A later page goes on where the one before ended.
            let later = if index == "SCAN audit" { "rowid<?".to_owned() } else { format!("{index} AND id<?)") };
            check(AuditFilter { before: Some(9), ..filter }, &ALL, &later).await;
        }
        let one_group = AuditScope { groups: Some(vec!["prod".to_owned()]), access: false };
        check(none(), &one_group, "audit_group (group_id=?").await;
    }
}
