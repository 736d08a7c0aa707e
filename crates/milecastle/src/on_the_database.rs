//! Commands that work on the database itself, beside processes that may be running on it: the way back in for operators who have
//! nothing that opens the API any more.
//!
//! Whoever may read the database's connection string and the sealing key has everything already; no key is asked for here.

use crate::cli::{OnDatabase, Role};
use crate::config::known;
use crate::control::{dsn, sealing_key, tuning};
use crate::up;
use anyhow::{Context, ensure};
use milecastle_settings::{ControlFile, DashboardFile, Database, DpManagerFile, Sealing, load};
use milecastle_store::{Actor, ActorKind, KeySource, Store};
use milecastle_telemetry::Secret;
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// Opens the database that the options name and works on it.
///
/// # Errors
/// The database cannot be opened, or what the work says.
pub(crate) fn with_store(
    options: &OnDatabase,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let place = place(options)?;
    runtime()?.block_on(async {
        let key = sealing_key(&place.sealing, place.sealing_key_file)?;
        let dsn = dsn(&place.database, &key)?;
        let store = milecastle_store::open_with(dsn.reveal(), &key, &tuning(&place.database)).await?;
        let done = work(&store).await;
        store.close().await;
        done
    })
}

/// For work of a command's own.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// The connection string of the database that the options name, and the key that it is sealed with.
pub(crate) fn database(options: &OnDatabase) -> anyhow::Result<(Secret<String>, KeySource)> {
    let place = place(options)?;
    let key = sealing_key(&place.sealing, place.sealing_key_file)?;
    Ok((dsn(&place.database, &key)?, key))
}

/// The key that the database is sealed with, of which nothing is asked.
pub(crate) fn key(options: &OnDatabase) -> anyhow::Result<KeySource> {
    let place = place(options)?;
    sealing_key(&place.sealing, place.sealing_key_file)
}

/// Who runs the command, as the audit log names them: the system's user name, which nobody vouches for.
pub(crate) fn operator() -> Actor {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    Actor::new(ActorKind::Machine, named.unwrap_or_else(|| "unknown".to_owned()))
}

/// Where the database is.
struct Place {
    database: Database,
    sealing: Sealing,
    sealing_key_file: Option<PathBuf>,
}

fn place(args: &OnDatabase) -> anyhow::Result<Place> {
    let config = args.config.as_deref();
    ensure!(
        args.role == Role::Up || args.data.is_none(),
        "--data is for --role up: --config names the database of others"
    );
    let (database, sealing) = match args.role {
        Role::Up => {
            let file = up::load(config, args.data.as_deref())?;
            let sealing_key_file = up::sealing_key_file(&file);
            // Opening makes what is not there; a database in which no process looks helps nobody.
            ensure!(
                file.replica.sealing.read()?.is_some() || sealing_key_file.exists(),
                "there is no {}: name the data directory of `milecastle up` (--data), or the file of a control plane \
                 (--role control --config FILE)",
                sealing_key_file.display()
            );
            return Ok(Place {
                database: file.replica.database,
                sealing: file.replica.sealing,
                sealing_key_file: Some(sealing_key_file),
            });
        }
        Role::Control => {
            let file: ControlFile = load(config, &known())?;
            (file.replica.database, file.replica.sealing)
        }
        Role::Dashboard => {
            let file: DashboardFile = load(config, &known())?;
            (file.replica.database, file.replica.sealing)
        }
        Role::DpManager => {
            let file: DpManagerFile = load(config, &known())?;
            (file.replica.database, file.replica.sealing)
        }
        Role::Gateway => anyhow::bail!("a gateway has no database: use the file of a control plane"),
    };
    Ok(Place { database, sealing, sealing_key_file: None })
}
