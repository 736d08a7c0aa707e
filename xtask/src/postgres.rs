//! The PostgreSQL server that tests run against.
//!
//! Only finding and installing it: test processes start their own throw-away cluster (`milecastle_testkit::postgres`), unless
//! `MILECASTLE_TEST_POSTGRES` names one.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{output, run};

/// The directory with `initdb` and `postgres`; installs PostgreSQL with apt-get where there is none.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    println!("installing PostgreSQL with apt-get");
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let apt = |args: &[&str]| {
        let quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"];
        let words = [sudo, &quiet, args].concat();
        run(Command::new(words[0]).args(words.iter().skip(1)))
    };
    apt(&["update"])
        .and_then(|()| apt(&["install", "--yes", "--no-install-recommends", "postgresql"]))
        .context("PostgreSQL is not installed, and apt-get cannot install it: install it by hand")?;
    find().context("PostgreSQL was installed, but there is no initdb in PATH or /usr/lib/postgresql")
}

fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = versions.map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).collect::<Vec<_>>();
    packaged.chain(in_path).find(|dir| dir.join("initdb").is_file() && dir.join("psql").is_file())
}
