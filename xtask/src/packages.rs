//! Programs of others that the system's packages bring.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{output, run};

/// Installs a package with apt-get.
pub(crate) fn install(package: &str) -> Result<()> {
    println!("installing {package} with apt-get");
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let apt = |args: &[&str]| {
        let quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"];
        let words = [sudo, &quiet, args].concat();
        run(Command::new(words[0]).args(words.iter().skip(1)))
    };
    apt(&["update"])
        .and_then(|()| apt(&["install", "--yes", "--no-install-recommends", package]))
        .with_context(|| format!("apt-get cannot install {package}: install it by hand"))
}

/// The directories of PATH.
pub(crate) fn path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

/// A program that the tests start by its name; installs its package where there is none.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf> {
    let find = || path().into_iter().map(|dir| dir.join(name)).find(|program| program.is_file());
    if let Some(found) = find() {
        return Ok(found);
    }
    install(package)?;
    find().with_context(|| format!("{package} was installed, but there is no {name} in PATH"))
}
