//! A database as a whole: whether there is anything in it, and a copy of it beside processes that write.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::sqlite::SqliteConnectOptions;

use crate::connect::{self, Tuning};
use crate::error::OpenError;
use crate::sql::{Db, Value};

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
