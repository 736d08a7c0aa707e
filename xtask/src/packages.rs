//! Programs of others that the system's packages bring.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::run::{output, run};

/// Whether the lists of packages are fresh; held while apt-get runs, which does not run twice at a time.
static FRESH: Mutex<bool> = Mutex::new(false);

/// Installs packages with apt-get.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let all = packages.join(" ");
    println!("installing {all} with apt-get");
    let mut fresh = FRESH.lock().unwrap_or_else(PoisonError::into_inner);
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let apt = |args: &[&str]| {
        let quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"];
        let words = [sudo, &quiet, args].concat();
        run(Command::new(words[0]).args(words.iter().skip(1)))
    };
    let update = || if *fresh { Ok(()) } else { apt(&["update"]) };
    update()
        .and_then(|()| apt(&[&["install", "--yes", "--no-install-recommends"][..], packages].concat()))
        .with_context(|| format!("apt-get cannot install {all}: install it by hand"))?;
    *fresh = true;
    Ok(())
}

/// The directories of PATH.
pub(crate) fn path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

fn find(name: &str) -> Option<PathBuf> {
    path().into_iter().map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// A program of this name; installs its package where there is none.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf> {
    Ok(programs(&[(name, package)])?.remove(0).1)
}

/// Programs, given with the packages that bring them; those that are missing are installed at once.
pub(crate) fn programs<'a>(wanted: &[(&'a str, &str)]) -> Result<Vec<(&'a str, PathBuf)>> {
    let is_missing = |(name, _): &&(&str, &str)| find(name).is_none();
    let missing: Vec<_> = wanted.iter().filter(is_missing).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    let found = wanted.iter().map(|(name, package)| {
        let program = find(name).with_context(|| format!("{package} was installed, but there is no {name} in PATH"))?;
        Ok((*name, program))
    });
    found.collect()
}
