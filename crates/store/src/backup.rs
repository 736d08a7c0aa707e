//! A database as a whole: whether there is anything in it, and a copy of it beside processes that write.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::connect::{self, Tuning};
use crate::error::OpenError;
use crate::sql::{Db, Value};

/// Tables that a database of ours has, of whatever version.
pub const OUR_TABLES: [&str; 4] = ["schema_migration", "data_key", "gateway_group", "change_set"];

/// Whether a file is a SQLite database of ours. It is read as it is, and nothing is made beside it.
pub async fn is_ours(file: &Path) -> bool {
    let options =
        SqliteConnectOptions::new().filename(file).read_only(true).immutable(true).disable_statement_logging();
    let Ok(mut connection) = options.connect().await else { return false };
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    let found = sqlx::query_scalar::<_, String>(tables).fetch_all(&mut connection).await;
    // It was only read.
    connection.close().await.ok();
    found.is_ok_and(|found| OUR_TABLES.iter().all(|table| found.iter().any(|name| name == table)))
}

/// The file of the SQLite database that a connection string names; `None` of others.
pub fn sqlite_file(dsn: &str) -> Option<PathBuf> {
    let options = dsn.starts_with("sqlite:").then(|| SqliteConnectOptions::from_str(dsn).ok()).flatten()?;
    Some(options.get_filename().to_owned())
}

/// Whether the database that `dsn` names has no table yet.
pub async fn is_empty(dsn: &str) -> Result<bool, OpenError> {
    let db = connect::connect(dsn, &Tuning::default()).await?;
    let tables = match &db {
        Db::Pg(_) => "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() LIMIT 1",
        Db::Lite { .. } => "SELECT 1 FROM sqlite_schema LIMIT 1",
    };
    let found = db.rows(tables, &[]).await;
    db.close().await;
    Ok(found?.is_empty())
}

/// Copies the SQLite database that `dsn` names into a file that is empty: one state of all of it. Whoever writes meanwhile is not
/// waited for, and does not wait.
pub async fn copy_sqlite(dsn: &str, to: &Path) -> Result<(), OpenError> {
    let Some(path) = to.to_str() else {
        return Err(OpenError::File { path: to.to_owned(), why: "its name is no text; choose another".to_owned() });
    };
    let db = connect::connect(dsn, &Tuning::default()).await?;
    let done = db.rows("VACUUM INTO $1", &[Value::Text(Some(path))]).await;
    db.close().await;
    done?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeySource, open};
    use milecastle_testkit::TempDir;
    use sqlx::Executor as _;
    use std::fs;

    #[tokio::test]
    async fn a_database_is_ours_by_its_tables() {
        let dir = TempDir::new();
        let file = |name: &str| dir.path().join(name);
        let store = open(&format!("sqlite:{}", file("ours").display()), &KeySource::File(file("key"))).await.unwrap();
        copy_sqlite(&format!("sqlite:{}", file("ours").display()), &file("copy")).await.unwrap();
        store.close().await;
        let other = SqliteConnectOptions::new().filename(file("other")).create_if_missing(true);
        let mut other = other.connect().await.unwrap();
        other.execute("CREATE TABLE node (id TEXT); CREATE TABLE gateway_group (id TEXT)").await.unwrap();
        other.close().await.unwrap();
        fs::write(file("text"), "SQLite format 3").unwrap();
        fs::write(file("empty"), "").unwrap();
        for (name, expected) in
            [("copy", true), ("ours", true), ("other", false), ("text", false), ("empty", false), ("missing", false)]
        {
            let before = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(is_ours(&file(name)).await, expected, "{name}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{name}");
        }
    }
}
