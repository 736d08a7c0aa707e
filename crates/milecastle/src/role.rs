//! `milecastle role`: roles beside the built-in ones, in the database itself.

use crate::cli::{RoleAllows, RoleCommand, Roles};
use crate::client::{Refused, Table, relative, say};
use crate::on_the_database::{operator, with_store};
use anyhow::ensure;
use milecastle_control::{is_role_name, role_allows};
use milecastle_store::{BUILT_IN_ROLES, CustomRole, RoleError, RoleUpdate, Store};

/// Does what was asked; processes that run on the database know of it at once.
///
/// # Errors
/// The database cannot be opened, the name is taken or unknown, there is no such resource, or somebody has the role: each says what
/// to do.
pub(crate) fn run(args: Roles) -> anyhow::Result<()> {
    let Roles { command, database } = args;
    with_store(&database, async move |store| do_it(command, store).await)
}

async fn do_it(command: RoleCommand, store: &Store) -> anyhow::Result<()> {
    let operator = operator();
    let by = store.by(&operator);
    match command {
        RoleCommand::List => {
            let mut table = Table::new(&["name", "reads", "writes", "changed", "description"]);
            for name in BUILT_IN_ROLES {
                table.row([name, "", "", "", "built in"].map(str::to_owned));
            }
            for role in store.role_list().await? {
                let [reads, writes] = ["read", "write"].map(|action| listed(&role, action));
                table.row([role.name, reads, writes, relative(role.changed_at), role.description]);
            }
            say(&table.text())
        }
        RoleCommand::Create { name, allows } => {
            ensure!(is_role_name(&name), "a role's name is 1 to 64 of A-Z a-z 0-9 . _ -, not `{name}`");
            let RoleAllows { read, write, description } = allows;
            let allows = role_allows(read.unwrap_or_default(), write.unwrap_or_default())?;
            let role = RoleUpdate { description: description.unwrap_or_default(), allows };
            by.role_create(&name, &role).await.map_err(refused)?;
            say(&format!("role {name} made"))
        }
        RoleCommand::Change { name, allows } => {
            let stored = found(store, &name).await?;
            let RoleAllows { read, write, description } = allows;
            let mut kept = stored.allows;
            kept.retain(|action, _| match action.as_str() {
                "read" => read.is_none(),
                "write" => write.is_none(),
                _ => true,
            });
            let mut allows = role_allows(read.unwrap_or_default(), write.unwrap_or_default())?;
            allows.extend(kept);
            let role = RoleUpdate { description: description.unwrap_or(stored.description), allows };
            by.role_update(&name, stored.version, &role).await.map_err(refused)?;
            say(&format!("role {name} changed"))
        }
        RoleCommand::Delete { name } => {
            let stored = found(store, &name).await?;
            by.role_delete(&name, stored.version).await.map_err(refused)?;
            say(&format!("role {name} deleted"))
        }
    }
}

async fn found(store: &Store, name: &str) -> anyhow::Result<CustomRole> {
    let missing = || refused(RoleError::Missing(name.to_owned()));
    store.role_get(name).await?.ok_or_else(missing)
}

fn listed(role: &CustomRole, action: &str) -> String {
    let names = role.allows.get(action).into_iter().flatten().map(String::as_str);
    names.collect::<Vec<_>>().join(", ")
}

fn refused(error: RoleError) -> anyhow::Error {
    let message = error.to_string();
    match error {
        RoleError::Missing(_) => Refused::missing(format!("{message}: milecastle role list")).into(),
        RoleError::Exists(_) | RoleError::Stale { .. } | RoleError::Held { .. } => Refused::conflict(message).into(),
        RoleError::Store(error) => error.into(),
    }
}
