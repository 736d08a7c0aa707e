//! `milecastle backup` and `milecastle restore`: the database as one file (docs/backup.md).
//!
//! What must stay true: a file with the name of a backup is a whole one; nothing that is there is written over; what is restored is a
//! database of ours, which is looked at before anything is written; no backup holds the sealing key; and the password of the database is in
//! no list of processes.

mod part;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use milecastle_store::{KeySource, OUR_TABLES, copy_sqlite, is_empty, is_ours, open, sqlite_file};
use part::Part;

use crate::cli::{Backup, Restore};
use crate::client::tell;
use crate::on_the_database::{database, runtime, with_store};

/// Where Debian and its kin keep PostgreSQL's programs, by version.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// Why a database is left alone.
const NOT_EMPTY: &str =
    "there is something in the database already, and a restore writes over nothing: name an empty one";

/// Why a file is not restored.
const NOT_OURS: &str = "nothing was restored: the file is no backup that milecastle made of such a database";

/// Writes the database into a file, beside the processes that run on it.
///
/// # Errors
/// There is such a file, or the database or the program that reads it says no.
pub(crate) fn back_up(args: &Backup) -> anyhow::Result<()> {
    let (dsn, _) = database(&args.database)?;
    let part = Part::of(&args.file)?;
    match sqlite_file(dsn.reveal()) {
        Some(path) => {
            ensure!(path.exists(), "there is no {}: nothing has run on this database yet", path.display());
            runtime()?.block_on(copy_sqlite(dsn.reveal(), &part.path))?;
        }
        None => on_database("pg_dump", dsn.reveal(), |dump| dump.args(["--format=custom", "--file"]).arg(&part.path))?,
    }
    part.becomes(&args.file)?;
    tell(&format!(
        "{} is one state of the whole database. The sealing key is not in it, and it cannot be restored without: keep both, apart \
         from each other",
        args.file.display()
    ))
}

/// Brings such a file into a database that is empty.
///
/// # Errors
/// There is something in the database, the file is no backup of ours, or the sealing key is another one.
pub(crate) fn restore(args: &Restore) -> anyhow::Result<()> {
    let (dsn, key) = database(&args.database)?;
    let from = File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    match sqlite_file(dsn.reveal()) {
        Some(path) => restore_sqlite((args.file.as_path(), from), &path, &key)?,
        None => {
            let listed = run("pg_restore", |restore| restore.arg("--list").arg(&args.file)).context(NOT_OURS)?;
            ensure!(lists_ours(&listed), NOT_OURS);
            ensure!(runtime()?.block_on(is_empty(dsn.reveal()))?, NOT_EMPTY);
            let whole = ["--exit-on-error", "--single-transaction", "--no-owner"];
            on_database("pg_restore", dsn.reveal(), |restore| restore.args(whole).arg(&args.file))?;
        }
    }
    with_store(&args.database, async |store| {
        let groups = store.group_list().await?.len();
        tell(&format!(
            "restored, with {groups} gateway groups. Nodes that hold revisions which this database does not know keep them, and raise \
             an alarm, until you decide: milecastle group lineage GROUP. What was revoked since is welcome again: revoke it once more"
        ))
    })
    .context("the database is restored, and does not open")
}

/// Puts a copy in its place once the key opens it.
fn restore_sqlite((backup, mut from): (&Path, File), path: &Path, key: &KeySource) -> anyhow::Result<()> {
    ensure!(runtime()?.block_on(is_ours(backup)), NOT_OURS);
    ensure!(!fs::metadata(path).is_ok_and(|there| there.len() > 0), NOT_EMPTY);
    // SQLite would play what is left of another database over this one.
    for end in ["-wal", "-shm", "-journal"] {
        let left = beside(path, end);
        ensure!(!left.exists(), "there is a {} of a database that is gone: move it away first", left.display());
    }
    let part = Part::of_any(path)?;
    let mut to = OpenOptions::new().write(true).open(&part.path)?;
    io::copy(&mut from, &mut to).with_context(|| format!("cannot write {}", part.path.display()))?;
    drop(to);
    let opened = runtime()?.block_on(async {
        open(&format!("sqlite:{}", part.path.display()), key).await?.close().await;
        anyhow::Ok(())
    });
    opened.context("nothing was restored: the file does not open as a database")?;
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("cannot replace the empty {}", path.display()))?;
    }
    part.becomes(path)
}

/// A path with something at its end.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// Whether a list of what is in a dump of PostgreSQL's names the tables of ours.
fn lists_ours(listed: &str) -> bool {
    // As `215; 1259 16385 TABLE public node milecastle`.
    let tables = listed.lines().filter_map(|line| line.split_once(" TABLE ")?.1.split(' ').nth(1));
    let tables: Vec<&str> = tables.collect();
    OUR_TABLES.iter().all(|table| tables.contains(table))
}

/// Runs one of PostgreSQL's programs on the database.
fn on_database(program: &str, dsn: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<()> {
    let (shown, password) = without_password(dsn)?;
    let password = password.map(|password| ("PGPASSWORD", password));
    run(program, |command| with(command.arg("--dbname").arg(shown).envs(password))).map(drop)
}

/// Runs one of PostgreSQL's programs; gives what it says.
fn run(program: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<String> {
    let path = found(program)?;
    let said = with(&mut Command::new(&path)).output().with_context(|| format!("cannot run {}", path.display()))?;
    ensure!(said.status.success(), "{program} failed: {}", String::from_utf8_lossy(&said.stderr).trim());
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Where a program of PostgreSQL's is: in the PATH, or else the newest one that is installed.
fn found(program: &str) -> anyhow::Result<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut there: Vec<PathBuf> = std::env::split_paths(&in_path).map(|directory| directory.join(program)).collect();
    let installed = fs::read_dir(POSTGRESQL).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(program))))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    there.extend(versions.into_iter().map(|(_, path)| path));
    match there.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "there is no {program} here: install PostgreSQL's client programs, of the server's version or a later one (Debian: \
             postgresql-client)"
        ),
    }
}

/// A connection string as others may see it, and its password.
fn without_password(dsn: &str) -> anyhow::Result<(String, Option<String>)> {
    let Some((scheme, rest)) = dsn.split_once("://") else { return Ok((dsn.to_owned(), None)) };
    let (authority, place) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    ensure!(
        !place.contains("password="),
        "write the password into database.dsn as postgres://USER:PASSWORD@HOST/DATABASE"
    );
    let login = authority.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?, host)));
    let Some(((user, password), host)) = login else { return Ok((dsn.to_owned(), None)) };
    Ok((format!("{scheme}://{user}@{host}{place}"), Some(decoded(password))))
}

/// What percent signs stand for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let escaped = after.split_at_checked(2);
        match escaped.and_then(|(digits, after)| Some((u8::from_str_radix(digits, 16).ok()?, after))) {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => {
                bytes.push(b'%');
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_ours_by_its_tables() {
        let entry = |table: &str| format!("215; 1259 16385 TABLE public {table} milecastle\n");
        let ours: String = OUR_TABLES.iter().map(|table| entry(table)).collect();
        assert!(lists_ours(&format!("; Format: CUSTOM\n;\n216; 1259 1 SEQUENCE public s m\n{ours}")));
        assert!(!lists_ours(&ours.replace("TABLE public", "TABLE DATA public")));
        assert!(!lists_ours(&entry("node")) && !lists_ours(""));
    }

    #[test]
    fn the_password_is_taken_out_of_the_connection_string() {
        for (dsn, shown, password) in [
            ("postgres://u:p@h:5432/d?sslmode=disable", "postgres://u@h:5432/d?sslmode=disable", Some("p")),
            ("postgresql://u:a%40b%2fc%zz@h/d", "postgresql://u@h/d", Some("a@b/c%zz")),
            ("postgres://u@h/d", "postgres://u@h/d", None),
            ("postgres://h/d", "postgres://h/d", None),
            ("postgres:///d?host=/run", "postgres:///d?host=/run", None),
        ] {
            let expected = (shown.to_owned(), password.map(str::to_owned));
            assert_eq!(without_password(dsn).unwrap(), expected, "{dsn}");
        }
        assert!(without_password("postgres://h/d?user=u&password=p").is_err());
    }
}
