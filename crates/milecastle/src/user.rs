//! `milecastle user`: accounts of people in the database itself, for those who have forgotten their password.

use crate::cli::{User, UserCommand};
use crate::client::{Refused, Table, relative, say, tell};
use crate::on_the_database::{operator, with_store};
use anyhow::ensure;
use milecastle_control::{generate_password, hash_password, is_account_name, is_role};
use milecastle_store::{AccountUpdate, Acting, NewPassword, RoleGrant, Store};

/// Does what was asked; processes that run on the database know of it at once.
///
/// # Errors
/// The database cannot be opened, or the name is taken or unknown: each says what to do.
pub(crate) fn run(args: &User) -> anyhow::Result<()> {
    with_store(&args.database, async |store| command(&args.command, store).await)
}

async fn command(command: &UserCommand, store: &Store) -> anyhow::Result<()> {
    let operator = operator();
    let by = store.by(&operator);
    match command {
        UserCommand::List => {
            let mut table = Table::new(&["name", "roles", "made", "state"]);
            for account in store.account_list().await? {
                let state = match (account.disabled_at, account.must_change) {
                    (Some(_), _) => "disabled",
                    (None, true) => "password to be changed",
                    (None, false) => "",
                };
                let roles: Vec<_> = account.grants.iter().map(shown).collect();
                table.row([account.name, roles.join(", "), relative(account.created_at), state.to_owned()]);
            }
            say(&table.text())
        }
        UserCommand::Create { name, allows } => {
            ensure!(is_account_name(name), "an account's name is 1 to 64 of A-Z a-z 0-9 . _ @ -, not `{name}`");
            ensure!(is_role(store, allows).await?, "there is no role `{allows}`: milecastle role list");
            let (password, kept) = new_password().await;
            if !by.account_create(name, &kept, &[RoleGrant::everywhere(allows)]).await? {
                let message =
                    format!("there is an account `{name}` already: choose another name, or `user passwd {name}`");
                return Err(Refused::conflict(message).into());
            }
            show(name, &password)
        }
        UserCommand::Passwd { name } => {
            let (password, kept) = new_password().await;
            change(by, name, AccountUpdate { password: Some(kept), ..AccountUpdate::default() }).await?;
            show(name, &password)
        }
        UserCommand::Disable { name } => {
            change(by, name, AccountUpdate { disabled: Some(true), ..AccountUpdate::default() }).await?;
            say(&format!("account {name} disabled"))
        }
        UserCommand::Enable { name } => {
            change(by, name, AccountUpdate { disabled: Some(false), ..AccountUpdate::default() }).await?;
            say(&format!("account {name} enabled"))
        }
        UserCommand::Delete { name } => {
            if !by.account_delete(name).await? {
                return Err(missing(name));
            }
            say(&format!("account {name} deleted"))
        }
    }
}

/// A password to be shown once, and what is kept of it.
async fn new_password() -> (String, NewPassword) {
    let password = generate_password();
    let shown = password.reveal().clone();
    (shown, NewPassword { hash: hash_password(password).await, must_change: true })
}

async fn change(by: Acting<'_>, name: &str, update: AccountUpdate) -> anyhow::Result<()> {
    if by.account_update(name, &update, None).await? { Ok(()) } else { Err(missing(name)) }
}

/// The password alone on standard output, so that it can go into a file.
fn show(name: &str, password: &str) -> anyhow::Result<()> {
    tell(&format!("password of `{name}`, shown this once; it is to be changed at the first login:"))?;
    say(password)
}

fn shown(grant: &RoleGrant) -> String {
    if grant.is_everywhere() { grant.role.clone() } else { format!("{} in {}", grant.role, grant.groups.join("+")) }
}

fn missing(name: &str) -> anyhow::Error {
    Refused::missing(format!("there is no account `{name}`: milecastle user list")).into()
}
