//! From a connection string to connection pools, with the reason when there is no way.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use crate::error::{OpenError, StoreError};
use crate::file::OpenFiles;
use crate::rule::Rule;
use crate::server::{LOCK_TIMEOUT, Server};
use crate::sql::Db;

/// How a process uses PostgreSQL. SQLite has one writer and local files, so nothing of this concerns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Connections at most, one of them for notices. Writers of a group queue at its row anyway; readers are few. Default 10.
    pub max_connections: u32,
    /// How long to look for the server when opening. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a statement waits for a connection, and whoever writes to a group for its turn. Short: callers answer 503 and clients try
    /// again. Default 3 s.
    pub acquire_timeout: Duration,
    /// How long a statement may run before the server ends it, but for those of migrations; if the server does not, it is given up
    /// a little later. Default 30 s.
    pub statement_timeout: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            max_connections: 10,
            connect_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// How long SQLite waits for another process's write to end.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that read a SQLite file.
const READERS: u32 = 4;

/// Connects to the database that `dsn` names.
pub(crate) async fn connect(dsn: &str, tuning: &Tuning) -> Result<Db, OpenError> {
    match dsn.split_once(':') {
        Some(("postgres" | "postgresql", _)) => postgres(dsn, tuning).await,
        Some(("sqlite", _)) => sqlite(dsn).await,
        Some((scheme, _)) if dsn.contains("://") => bad(format!("scheme `{scheme}` is not supported")),
        _ => bad("it has no scheme"),
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T, OpenError> {
    Err(OpenError::BadDsn { why: why.into() })
}

async fn postgres(dsn: &str, tuning: &Tuning) -> Result<Db, OpenError> {
    let options = match PgConnectOptions::from_str(dsn) {
        Ok(options) => options,
        Err(sqlx::Error::Configuration(why)) => return bad(why.to_string()),
        Err(_) => return bad("PostgreSQL does not understand it"),
    };
    let [lock_timeout, statement_timeout] =
        [LOCK_TIMEOUT, tuning.statement_timeout].map(|time| format!("{}ms", time.as_millis()));
    let application = options.get_application_name().unwrap_or("milecastle").to_owned();
    let options = options
        .application_name(&application)
        // A write that cannot have its group's row, and a process that stopped in the middle of one, must not hold up the
        // others for good.
        .options([
            ("lock_timeout", &*lock_timeout),
            ("idle_in_transaction_session_timeout", "30s"),
            ("statement_timeout", &statement_timeout),
            // What is looked up row by row looks dearer than it is, and is done sooner than compiled.
            ("jit", "off"),
        ])
        .disable_statement_logging();
    // The pool hides why it cannot connect behind a time-out, so the first connection is made by hand.
    let first = tokio::time::timeout(tuning.connect_timeout, PgConnection::connect_with(&options)).await;
    let connection = match first {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(why_not(&options, error)),
        Err(_) => return Err(why_not(&options, io::Error::from(io::ErrorKind::TimedOut).into())),
    };
    connection.close().await.map_err(StoreError::from)?;
    Ok(Db::Pg(Server::new(options, tuning)))
}

fn why_not(options: &PgConnectOptions, error: sqlx::Error) -> OpenError {
    let at = match options.get_socket() {
        Some(socket) => format!("{}", socket.display()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let user = options.get_username().to_owned();
    match &error {
        sqlx::Error::Tls(_) => OpenError::Tls { at, cause: Box::new(error) },
        // What rustls says of a certificate comes as an I/O error.
        sqlx::Error::Io(said) if said.kind() == io::ErrorKind::InvalidData => {
            OpenError::Tls { at, cause: Box::new(error) }
        }
        sqlx::Error::Io(_) => OpenError::Unreachable { at, cause: Box::new(error) },
        sqlx::Error::Database(said) => match said.code().as_deref() {
            // invalid_authorization_specification, invalid_password
            Some("28000" | "28P01") => OpenError::Refused { at, user, message: said.message().to_owned() },
            // invalid_catalog_name
            Some("3D000") => {
                let database = options.get_database().unwrap_or(&user).to_owned();
                OpenError::NoDatabase { at, database, user }
            }
            _ => OpenError::Store(error.into()),
        },
        _ => OpenError::Store(error.into()),
    }
}

async fn sqlite(dsn: &str) -> Result<Db, OpenError> {
    let options = match SqliteConnectOptions::from_str(dsn) {
        Ok(options) => options,
        Err(error) => return bad(error.to_string()),
    };
    if dsn.contains(":memory:") || dsn.contains("mode=memory") {
        return bad("a database in memory keeps nothing");
    }
    let path = options.get_filename().to_owned();
    let files = create_private(&path).and_then(|()| OpenFiles::of(&path)).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "its directory does not exist; create it".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied; give this user the directory".to_owned(),
            _ => error.to_string(),
        };
        OpenError::File { path: path.clone(), why }
    })?;
    let files = Arc::new(files);
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        // Not NORMAL, which may lose the last commits with the power: nodes may hold those revisions already, and their
        // numbers would be used again for something else.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let write = sqlite_pool(&files, 1, true).connect_lazy_with(options.clone());
    let read = sqlite_pool(&files, READERS, false).connect_lazy_with(options);
    first_sqlite_connection(&write, &path).await?;
    // All of them at once, each held until the last is there: a reader that comes while the others are busy must not have to
    // open a file that has gone meanwhile.
    let readers = (0..READERS).map(|_| read.acquire());
    let opened = futures_util::future::try_join_all(readers).await.map_err(StoreError::from);
    opened.map_err(|error| OpenError::File { path, why: error.to_string() })?;
    Ok(Db::Lite { write, read, files, rule: Rule::default() })
}

/// Connections that stay open, so that what was opened can be read whatever becomes of the path.
fn sqlite_pool(files: &Arc<OpenFiles>, connections: u32, writes: bool) -> SqlitePoolOptions {
    let files = files.clone();
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            let files = files.clone();
            Box::pin(async move {
                if writes {
                    // Opens the write-ahead log, which a connection does no sooner than it reads.
                    connection.execute("SELECT COUNT(*) FROM sqlite_schema").await?;
                    files.writer_opened();
                }
                files.check().map_err(|replaced| sqlx::Error::Io(io::Error::other(replaced)))
            })
        })
        // Where SQLite itself ended a transaction, as it does when the disk is full, the driver believes it open for good:
        // rolling it back fails, and every later one on the connection with it. The ping waits for the rollback.
        .after_release(|connection, _| {
            Box::pin(async move {
                connection.ping().await?;
                Ok(!connection.is_in_transaction())
            })
        })
}

/// Switching a new file to its write-ahead log does not wait for another process that does the same: it must be tried again.
async fn first_sqlite_connection(pool: &sqlx::SqlitePool, path: &Path) -> Result<(), OpenError> {
    let started = Instant::now();
    loop {
        match pool.acquire().await.map_err(StoreError::from) {
            Ok(_) => return Ok(()),
            Err(StoreError::Unavailable(_)) if started.elapsed() < BUSY_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(OpenError::File { path: path.to_owned(), why: error.to_string() }),
        }
    }
}

/// Makes the file, readable by its owner alone, unless it exists; SQLite gives its side files the same mode. One that exists
/// is not opened: see [`crate::file`].
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(dsn: &str) -> String {
        connect(dsn, &Tuning::default()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn bad_strings_say_why() {
        for (dsn, why) in [
            ("", "it has no scheme"),
            ("/var/lib/x.db", "it has no scheme"),
            ("mysql://h/d", "scheme `mysql` is not supported"),
            ("postgres://h:port/d", "invalid port number"),
            ("sqlite::memory:", "a database in memory keeps nothing"),
        ] {
            let error = refused(dsn).await;
            assert!(error.contains(why) && error.contains("write postgres://"), "{dsn}: {error}");
        }
    }

    #[tokio::test]
    async fn nobody_there() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = refused(&format!("postgres://u:hush@127.0.0.1:{port}/d")).await;
        assert!(error.contains(&format!("no PostgreSQL answers at 127.0.0.1:{port}")), "{error}");
        assert!(error.contains("refused") && !error.contains("hush"), "{error}");
    }

    #[tokio::test]
    async fn sqlite_files_that_cannot_be() {
        let dir = milecastle_testkit::TempDir::new();
        let error = refused(&format!("sqlite:{}/no/such.db", dir.path().display())).await;
        assert!(error.contains("its directory does not exist; create it"), "{error}");
        let path = dir.path().join("text.db");
        std::fs::write(&path, "certainly not a database, but long enough to be taken for one".repeat(50)).unwrap();
        let error = refused(&format!("sqlite:{}", path.display())).await;
        assert!(error.contains("text.db cannot be used") && error.contains("not a database"), "{error}");
    }
}
