//! `milecastle sealing-key`: replaces the key that seals secrets in the database, and seals what a file should not tell
//! (docs/security.md).

use crate::cli::{SealingKey, SealingKeyCommand};
use crate::client::{say, tell};
use crate::on_the_database::{database, key, runtime};
use anyhow::{Context, ensure};
use milecastle_store::{SealingKey as Key, reseal};
use std::io::Read as _;

/// Does what was asked.
///
/// # Errors
/// A key that cannot be read, a database that does not open: each says what to do.
pub(crate) fn run(args: &SealingKey) -> anyhow::Result<()> {
    match &args.command {
        SealingKeyCommand::Replace { next_key_file } => {
            let text = std::fs::read_to_string(next_key_file)
                .with_context(|| format!("cannot read {}", next_key_file.display()))?;
            let next = Key::from_text(&text)?;
            let (dsn, current) = database(&args.database)?;
            let done = runtime()?.block_on(reseal(dsn.reveal(), &current, &next))?;
            let fingerprint = next.fingerprint();
            let said = if done { "is sealed" } else { "had been sealed before" };
            tell(&format!(
                "the database {said} with the key {fingerprint}: now put it in place of sealing.key_file on every host"
            ))
        }
        SealingKeyCommand::Seal => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            ensure!(!text.trim().is_empty(), "write what is to be sealed, such as database.dsn, on standard input");
            say(&key(&args.database)?.seal_text(text.trim())?)
        }
    }
}
