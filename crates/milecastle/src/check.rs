//! `milecastle check`.

use crate::cli::{Check, Role};
use crate::config::known_thoroughly;
use anyhow::Context;
use milecastle_settings::{ControlFile, DashboardFile, DpManagerFile, File, GatewayFile, Listener, UpFile, load};
use std::io::Write;

/// Loads the file as the process would, with the files that it names, without starting anything.
///
/// # Errors
/// All faults of the file, each with its line, key and what was expected.
pub(crate) fn run(check: &Check) -> anyhow::Result<()> {
    let listeners = match check.role {
        Role::Up => listeners::<UpFile>(check),
        Role::Control => listeners::<ControlFile>(check),
        Role::Dashboard => listeners::<DashboardFile>(check),
        Role::DpManager => listeners::<DpManagerFile>(check),
        Role::Gateway => listeners::<GatewayFile>(check),
    }?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: ok", check.config.display()).context("cannot write to standard output")?;
    for Listener { key, address, .. } in listeners {
        writeln!(out, "  {address:<22} {key}").context("cannot write to standard output")?;
    }
    Ok(())
}

fn listeners<F: File>(check: &Check) -> anyhow::Result<Vec<Listener>> {
    Ok(load::<F>(Some(&check.config), &known_thoroughly())?.listeners())
}
