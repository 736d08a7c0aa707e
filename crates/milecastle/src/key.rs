//! `milecastle key`: keys of the Admin API in the database itself, for operators who have none that opens it any more.

use crate::cli::{Key, KeyCommand};
use crate::client::{Refused, Table, relative, say, tell};
use crate::on_the_database::{operator, with_store};
use anyhow::ensure;
use milecastle_control::{is_role, mint_admin_key};
use milecastle_store::{Role as KeyRole, Store};

/// Does what was asked; processes that run on the database know of it within a second.
///
/// # Errors
/// The database cannot be opened, or the name is taken or unknown: each says what to do.
pub(crate) fn run(args: &Key) -> anyhow::Result<()> {
    with_store(&args.database, async |store| command(&args.command, store).await)
}

async fn command(command: &KeyCommand, store: &Store) -> anyhow::Result<()> {
    let operator = operator();
    let by = store.by(&operator);
    match command {
        KeyCommand::Create { name, allows, replace } => {
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            ensure!(
                (1..=64).contains(&name.len()) && name.bytes().all(fit),
                "a key's name is 1 to 64 of A-Z a-z 0-9 . _ -, not `{name}`"
            );
            let role = KeyRole::from_name(allows);
            if let KeyRole::Named(role) = &role {
                ensure!(is_role(store, role).await?, "there is no role `{role}`: milecastle role list");
            }
            let Some(key) = mint_admin_key(by, name, role, *replace).await? else {
                let message = format!("there is a key `{name}` already: choose another name, or --replace it");
                return Err(Refused::conflict(message).into());
            };
            // The key alone on standard output, so that it can go into a file.
            tell(&format!("key `{name}` ({allows}), shown this once; only its hash is kept:"))?;
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
            if !by.admin_key_delete(name).await? {
                return Err(Refused::missing(format!("there is no key `{name}`")).into());
            }
            say(&format!("key {name} deleted"))
        }
    }
}
