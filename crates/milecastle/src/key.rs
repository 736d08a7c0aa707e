//! `milecastle key`: keys of the Admin API in the database itself, for operators who have none that opens it any more.
//!
//! Whoever may read the database's connection string and the sealing key has everything already; no key is asked for here.

use crate::cli::{Allows, Key, KeyCommand, Role};
use crate::client::{Refused, Table, relative, say, tell};
use crate::config::known;
use crate::control::{sealing_key, tuning};
use crate::up;
use anyhow::{Context, ensure};
use milecastle_control::mint_admin_key;
use milecastle_settings::{ControlFile, DashboardFile, Database, DpManagerFile, Sealing, load};
use milecastle_store::{Role as KeyRole, Store};
use std::path::PathBuf;

/// Does what was asked, beside processes that may be running on the same database: they know of it within a second.
///
/// # Errors
/// The database cannot be opened, or the name is taken or unknown: each says what to do.
pub(crate) fn run(args: &Key) -> anyhow::Result<()> {
    let place = place(args)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let key = sealing_key(&place.sealing, place.sealing_key_file)?;
        let dsn = place.database.dsn.as_ref().context("database.dsn is not set")?;
        let store = milecastle_store::open_with(dsn.reveal(), &key, &tuning(&place.database)).await?;
        let done = command(&args.command, &store).await;
        store.close().await;
        done
    })
}

/// Where the keys are.
struct Place {
    database: Database,
    sealing: Sealing,
    sealing_key_file: Option<PathBuf>,
}

fn place(args: &Key) -> anyhow::Result<Place> {
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
        Role::Gateway => anyhow::bail!("a gateway has no keys of the Admin API: use the file of a control plane"),
    };
    Ok(Place { database, sealing, sealing_key_file: None })
}

async fn command(command: &KeyCommand, store: &Store) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { name, allows, replace } => {
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            ensure!(
                (1..=64).contains(&name.len()) && name.bytes().all(fit),
                "a key's name is 1 to 64 of A-Z a-z 0-9 . _ -, not `{name}`"
            );
            let role = match allows {
                Allows::Admin => KeyRole::Admin,
                Allows::Viewer => KeyRole::Viewer,
            };
            let Some(key) = mint_admin_key(store, name, role, *replace).await? else {
                let message = format!("there is a key `{name}` already: choose another name, or --replace it");
                return Err(Refused::conflict(message).into());
            };
            // The key alone on standard output, so that it can go into a file.
            tell(&format!("key `{name}` ({}), shown this once; only its hash is kept:", role.name()))?;
            say(&key)
        }
        KeyCommand::List => {
            let mut table = Table::new(&["name", "allows", "made"]);
            for key in store.admin_key_list().await? {
                table.row([key.name, key.role.name().to_owned(), relative(key.created_at)]);
            }
            say(&table.text())
        }
        KeyCommand::Delete { name } => {
            if !store.admin_key_delete(name).await? {
                return Err(Refused::missing(format!("there is no key `{name}`")).into());
            }
            say(&format!("key {name} deleted"))
        }
    }
}
