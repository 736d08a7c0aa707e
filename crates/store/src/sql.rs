//! The two databases behind one face: pools, transactions, rows and bound values.
//!
//! Statements are written once, with `$1` placeholders that both understand, for the SQL that both share. What differs in a
//! statement is asked of [`Tx`] or [`Dialect`] by meaning ([`Tx::lock_group_sql`]), and nothing outside this module names a driver except
//! `connect` and `watch`.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite, Transaction};

use crate::error::{CANCELLED, StoreError};
use crate::file::OpenFiles;
use crate::rule::Rule;
use crate::server::{Patience, Server, Turn};

/// Rows in one statement at most: what keeps the number of placeholders below both databases' limits.
pub(crate) const BATCH: usize = 200;

/// The lock that racing first starts take: "mileCAST" in ASCII.
const BOOTSTRAP_LOCK: i64 = 0x6d69_6c65_4341_5354;

/// A database, by its connection pools.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// PostgreSQL.
    Pg(Server),
    /// SQLite: one connection writes, so that writers of a process queue in order instead of polling the file lock.
    Lite {
        /// A single connection.
        write: SqlitePool,
        /// Several, which never wait for the writer (write-ahead log).
        read: SqlitePool,
        /// What the connections have open.
        files: Arc<OpenFiles>,
        /// What was read of the rule of the schema.
        rule: Rule,
    },
}

/// A transaction. Dropped without [`Tx::commit`] it is rolled back.
pub(crate) enum Tx {
    Pg(Transaction<'static, Postgres>, Patience),
    Lite(Transaction<'static, Sqlite>, Arc<OpenFiles>),
}

/// Whose SQL a statement is in, where its words are put together before there is a [`Tx`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dialect {
    Pg,
    Lite,
}

/// A statement.
pub(crate) enum Sql {
    /// Prepared once for each connection.
    Fixed(&'static str),
    /// Of varying length, prepared for one use. Must hold no value, only placeholders; `cargo xtask tidy` looks at most
    /// places where one would stand.
    Batch(String),
}

impl From<&'static str> for Sql {
    fn from(sql: &'static str) -> Sql {
        Sql::Fixed(sql)
    }
}

impl From<String> for Sql {
    fn from(sql: String) -> Sql {
        Sql::Batch(sql)
    }
}

impl Sql {
    fn into_parts(self) -> (AssertSqlSafe<std::borrow::Cow<'static, str>>, bool) {
        match self {
            Sql::Fixed(sql) => (AssertSqlSafe(sql.into()), true),
            Sql::Batch(sql) => (AssertSqlSafe(sql.into()), false),
        }
    }
}

/// A bound value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Int(Option<i64>),
    Text(Option<&'a str>),
    Blob(Option<&'a [u8]>),
    Flag(bool),
}

/// Revisions and times: beyond 2^63 - 1, which only a made-up number is, the greatest that there can be.
impl From<u64> for Value<'_> {
    fn from(value: u64) -> Self {
        Value::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<Option<u64>> for Value<'_> {
    fn from(value: Option<u64>) -> Self {
        Value::Int(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Value::Text(Some(value))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Value::Text(Some(value))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Value::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Value::Blob(Some(value))
    }
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        Value::Blob(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Flag(value)
    }
}

/// The bound values of a statement, in the order of its placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::Value::from($value)),*] };
}
pub(crate) use args;

/// One row of an answer; columns by position.
pub(crate) enum Row {
    Pg(PgRow),
    Lite(SqliteRow),
}

macro_rules! column {
    ($row:expr, $index:expr) => {
        match $row {
            Row::Pg(row) => row.try_get($index)?,
            Row::Lite(row) => row.try_get($index)?,
        }
    };
}

impl Row {
    /// A number that is not negative, as all of ours are.
    pub(crate) fn int(&self, index: usize) -> Result<u64, StoreError> {
        let value: i64 = column!(self, index);
        u64::try_from(value).map_err(|_| StoreError::corrupt(format!("negative number in column {index}")))
    }

    /// A number; 0 in place of a negative one.
    pub(crate) fn int_or_zero(&self, index: usize) -> Result<u64, StoreError> {
        let value: i64 = column!(self, index);
        Ok(u64::try_from(value).unwrap_or(0))
    }

    pub(crate) fn signed_opt(&self, index: usize) -> Result<Option<i64>, StoreError> {
        Ok(column!(self, index))
    }

    pub(crate) fn int_opt(&self, index: usize) -> Result<Option<u64>, StoreError> {
        let value: Option<i64> = column!(self, index);
        value
            .map(u64::try_from)
            .transpose()
            .map_err(|_| StoreError::corrupt(format!("negative number in column {index}")))
    }

    pub(crate) fn text(&self, index: usize) -> Result<String, StoreError> {
        Ok(column!(self, index))
    }

    pub(crate) fn text_opt(&self, index: usize) -> Result<Option<String>, StoreError> {
        Ok(column!(self, index))
    }

    pub(crate) fn blob(&self, index: usize) -> Result<Vec<u8>, StoreError> {
        Ok(column!(self, index))
    }

    pub(crate) fn blob_opt(&self, index: usize) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(column!(self, index))
    }

    pub(crate) fn flag(&self, index: usize) -> Result<bool, StoreError> {
        Ok(match self {
            Row::Pg(row) => row.try_get(index)?,
            Row::Lite(row) => row.try_get::<i64, _>(index)? != 0,
        })
    }
}

macro_rules! bound {
    ($name:ident, $database:ty, $arguments:ty) => {
        fn $name(sql: Sql, args: &[Value<'_>]) -> Query<'static, $database, $arguments> {
            let (sql, persistent) = sql.into_parts();
            let query = sqlx::query::<$database>(sql).persistent(persistent);
            args.iter().fold(query, |query, value| match *value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Blob(value) => query.bind(value),
                Value::Flag(value) => query.bind(value),
            })
        }
    };
}
bound!(pg, Postgres, PgArguments);
bound!(lite, Sqlite, SqliteArguments);

impl Db {
    /// A transaction that writes. In SQLite it has the file's write lock from the start.
    pub(crate) async fn begin_write(&self) -> Result<Tx, StoreError> {
        self.rule().check()?;
        self.check_files()?;
        Ok(match self.clone() {
            Db::Pg(Server { pool, patience, .. }) => {
                let begin = patience.clone();
                Tx::Pg(begun(async move { begin.answer(pool.begin()).await }).await?, patience)
            }
            Db::Lite { write, files, .. } => {
                Tx::Lite(begun(async move { write.begin_with("BEGIN IMMEDIATE").await }).await?, files)
            }
        })
    }

    /// Waits for its turn to hold the row of a group, which lasts until what is given is dropped. To be taken before the transaction is
    /// begun: whoever waits has no connection. In SQLite the one connection that writes is the queue.
    pub(crate) async fn turn(&self, group: &str) -> Result<Option<Turn>, StoreError> {
        match self {
            Db::Pg(server) => server.turn(group).await.map(Some),
            Db::Lite { .. } => Ok(None),
        }
    }

    /// A transaction that reads one state throughout.
    pub(crate) async fn begin_read(&self) -> Result<Tx, StoreError> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(match self.clone() {
            Db::Pg(Server { pool, patience, .. }) => {
                let begin = patience.clone();
                Tx::Pg(begun(async move { begin.answer(pool.begin_with(BEGIN)).await }).await?, patience)
            }
            Db::Lite { read, files, .. } => Tx::Lite(begun(async move { read.begin().await }).await?, files),
        })
    }

    /// Fails if the files of a SQLite database are no longer those that are open.
    pub(crate) fn check_files(&self) -> Result<(), StoreError> {
        match self {
            Db::Pg(_) => Ok(()),
            Db::Lite { files, .. } => Ok(files.check()?),
        }
    }

    /// What was read of the rule of the schema.
    pub(crate) fn rule(&self) -> &Rule {
        match self {
            Db::Pg(server) => &server.rule,
            Db::Lite { rule, .. } => rule,
        }
    }

    /// A transaction that no other one of this kind overlaps, in whatever process.
    pub(crate) async fn begin_alone(&self) -> Result<Tx, StoreError> {
        let mut tx = self.begin_write().await?;
        if let Tx::Pg(held, patience) = &mut tx {
            // Whoever comes second waits as long as a statement may take: longer than for a row, not as long as any migration.
            patience.answer(pg("SET LOCAL lock_timeout = 0".into(), &[]).execute(&mut **held)).await?;
            let lock = pg("SELECT pg_advisory_xact_lock($1)".into(), &[Value::Int(Some(BOOTSTRAP_LOCK))]);
            patience.answer(lock.execute(&mut **held)).await.map_err(|error| match error {
                sqlx::Error::Database(late) if late.code().as_deref() == Some(CANCELLED) => StoreError::busy_schema(),
                other => other.into(),
            })?;
        }
        Ok(tx)
    }

    /// The expression for the database's own time, in milliseconds since 1970.
    pub(crate) fn clock_sql(&self) -> &'static str {
        match self {
            Db::Pg(_) => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
            Db::Lite { .. } => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        }
    }

    /// Runs one statement by itself, which writes, and gives the number of rows that it touched.
    pub(crate) async fn run(&self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<u64, StoreError> {
        self.rule().check()?;
        self.check_files()?;
        let touched = match self {
            Db::Pg(Server { pool, patience, .. }) => {
                patience.answer(pg(sql.into(), args).execute(pool)).await?.rows_affected()
            }
            Db::Lite { write, .. } => lite(sql.into(), args).execute(write).await?.rows_affected(),
        };
        self.check_files()?;
        Ok(touched)
    }

    /// Reads by one statement.
    pub(crate) async fn rows(&self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        Ok(match self {
            Db::Pg(Server { pool, patience, .. }) => {
                patience.answer(pg(sql.into(), args).fetch_all(pool)).await?.into_iter().map(Row::Pg).collect()
            }
            Db::Lite { read, .. } => lite(sql.into(), args).fetch_all(read).await?.into_iter().map(Row::Lite).collect(),
        })
    }

    /// Reads one row or none.
    pub(crate) async fn row(&self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, args).await?.pop())
    }

    /// Whether it is being closed, or is closed.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Db::Pg(server) => server.pool.is_closed(),
            Db::Lite { read, .. } => read.is_closed(),
        }
    }

    /// Closes every connection once its work is done.
    pub(crate) async fn close(&self) {
        match self {
            Db::Pg(server) => server.pool.close().await,
            Db::Lite { write, read, .. } => {
                read.close().await;
                write.close().await;
            }
        }
    }
}

impl Dialect {
    pub(crate) const ALL: [Self; 2] = [Self::Pg, Self::Lite];

    /// What joins, to each row that stands before it, the rows of `table` that meet `condition`, called `name`: each is looked up by
    /// itself, however large either database thinks that both sides are.
    pub(crate) fn each(self, table: &str, name: &str, condition: &str) -> String {
        match self {
            Self::Pg => format!("CROSS JOIN {}", fenced(table, name, condition)),
            // SQLite keeps the order of a CROSS JOIN.
            Self::Lite => format!("CROSS JOIN {table} {name} ON {condition}"),
        }
    }

    /// The same, with a row of NULLs where there is none.
    pub(crate) fn each_or_null(self, table: &str, name: &str, condition: &str) -> String {
        match self {
            Self::Pg => format!("LEFT JOIN {} ON TRUE", fenced(table, name, condition)),
            Self::Lite => format!("LEFT JOIN {table} {name} ON {condition}"),
        }
    }

    /// The column that says where a row is, also of what [`Self::each`] has joined.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::Pg => "ctid",
            Self::Lite => "rowid",
        }
    }

    /// The condition that a row is at one of the places that `select` reads. PostgreSQL goes to what an array names; with what a query
    /// gives it may compare each row of the table.
    pub(crate) fn at(self, select: &str) -> String {
        match self {
            Self::Pg => format!("{} = ANY (ARRAY({select}))", self.place()),
            Self::Lite => format!("{} IN ({select})", self.place()),
        }
    }
}

/// What PostgreSQL looks up for each row, because it does not look into what has an OFFSET. Else it would join all of a group where it
/// has no statistics, and takes a group for a few rows: in the very transaction that fills a table, and for a minute after.
fn fenced(table: &str, name: &str, condition: &str) -> String {
    format!("LATERAL (SELECT {name}.ctid, {name}.* FROM {table} {name} WHERE {condition} OFFSET 0) {name}")
}

/// See [`Tx::lock_group_sql`].
macro_rules! locked_group {
    ($hold:literal) => {
        concat!(
            "SELECT lineage, head, floor, (SELECT oldest FROM schema_rule), (SELECT release FROM schema_rule), ",
            "staged, base, candidate ",
            "FROM gateway_group WHERE id = $1",
            $hold
        )
    };
}

impl Tx {
    /// Whose SQL it takes.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Tx::Pg(..) => Dialect::Pg,
            Tx::Lite(..) => Dialect::Lite,
        }
    }

    /// The statement that reads `lineage, head, floor`, then the rule of the schema, then `staged, base, candidate`, of group `$1`,
    /// and holds its row until the end of the transaction. For whoever has a turn ([`Db::turn`]).
    pub(crate) fn lock_group_sql(&self) -> &'static str {
        match self {
            // Not FOR UPDATE: that would also hold up whoever inserts a token or a node, whose foreign key names the row.
            Tx::Pg(..) => locked_group!(" FOR NO KEY UPDATE"),
            Tx::Lite(..) => locked_group!(""),
        }
    }

    /// The statement that says whether there is a table of migrations.
    pub(crate) fn has_migrations_sql(&self) -> &'static str {
        match self {
            Tx::Pg(..) => "SELECT to_regclass('schema_migration') IS NOT NULL",
            Tx::Lite(..) => "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration')",
        }
    }

    /// Runs a statement and gives the number of rows that it touched.
    pub(crate) async fn run(&mut self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<u64, StoreError> {
        Ok(match self {
            Tx::Pg(tx, patience) => patience.answer(pg(sql.into(), args).execute(&mut **tx)).await?.rows_affected(),
            Tx::Lite(tx, _) => lite(sql.into(), args).execute(&mut **tx).await?.rows_affected(),
        })
    }

    /// Reads all rows.
    pub(crate) async fn rows(&mut self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        self.each(sql, args, |row| {
            rows.push(row);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Reads one row or none.
    pub(crate) async fn row(&mut self, sql: impl Into<Sql>, args: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, args).await?.pop())
    }

    /// Reads row by row, so that a large answer is held only in the form that `take` gives it.
    pub(crate) async fn each(
        &mut self,
        sql: impl Into<Sql>,
        args: &[Value<'_>],
        mut take: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Tx::Pg(tx, patience) => {
                let mut rows = pg(sql.into(), args).fetch(&mut **tx);
                let mut read = patience.answer(rows.try_next()).await?;
                while let Some(row) = read {
                    take(Row::Pg(row))?;
                    read = patience.further(rows.try_next()).await?;
                }
            }
            Tx::Lite(tx, _) => {
                let mut rows = lite(sql.into(), args).fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(Row::Lite(row))?;
                }
            }
        }
        Ok(())
    }

    /// Tells listeners of other processes that something about a group changed, once the transaction commits. In SQLite
    /// they poll.
    pub(crate) async fn notify(&mut self, group: &str) -> Result<(), StoreError> {
        if let Tx::Pg(..) = self {
            self.rows("SELECT pg_notify($1, $2)", args![crate::watch::CHANNEL, group]).await?;
        }
        Ok(())
    }

    /// Commits in a task of its own, so that it is not given up half-way, as by a heartbeat that is late or a request whose client
    /// leaves: the driver would take back a transaction that the database has committed, which it complains of.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let committed = tokio::spawn(async move {
            match self {
                Tx::Pg(tx, patience) => patience.answer(tx.commit()).await?,
                Tx::Lite(tx, files) => {
                    files.check()?;
                    tx.commit().await?;
                    // The disk took its time: what went to a file that was deleted meanwhile is not acknowledged either.
                    files.check()?;
                }
            }
            Ok(())
        });
        committed.await.unwrap_or_else(|gone| Err(StoreError::Unavailable(Box::new(gone))))
    }
}

/// Begins a transaction in a task of its own, so that it is not given up half-way, as a request is whose client leaves:
/// PostgreSQL's connection would go back to the pool inside a transaction that nobody knows of, and take the next
/// statements, acknowledged, down with it.
async fn begun<D: sqlx::Database>(
    begin: impl Future<Output = Result<Transaction<'static, D>, sqlx::Error>> + Send + 'static,
) -> Result<Transaction<'static, D>, StoreError> {
    match tokio::spawn(begin).await {
        Ok(begun) => Ok(begun?),
        Err(gone) => Err(StoreError::Unavailable(Box::new(gone))),
    }
}

/// `rows` tuples of `width` placeholders, counted from `first`: `($2, $3), ($4, $5)`.
pub(crate) fn tuples(rows: usize, width: usize, first: usize) -> String {
    let mut sql = String::with_capacity(rows * width * 6);
    for row in 0..rows {
        for column in 0..width {
            let before = match (row, column) {
                (0, 0) => "(",
                (_, 0) => "), (",
                _ => ", ",
            };
            write!(sql, "{before}${}", first + row * width + column).expect("a String takes all that is written to it");
        }
    }
    sql.push(')');
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_count_on() {
        assert_eq!(tuples(1, 1, 1), "($1)");
        assert_eq!(tuples(2, 3, 2), "($2, $3, $4), ($5, $6, $7)");
    }

    #[test]
    fn a_number_beyond_the_column_is_the_greatest() {
        assert!(matches!(Value::from(u64::MAX), Value::Int(Some(i64::MAX))));
        assert!(matches!(Value::from(7_u64), Value::Int(Some(7))));
    }
}
