//! The PostgreSQL server that tests run against.
//!
//! Only finding and installing it: test processes start their own throw-away cluster (`milecastle_testkit::postgres`), unless
//! `MILECASTLE_TEST_POSTGRES` names one.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::packages;

/// The directory with `initdb` and `postgres`; installs PostgreSQL with apt-get where there is none.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    packages::install(&["postgresql"])?;
    find().context("PostgreSQL was installed, but there is no initdb in PATH or /usr/lib/postgresql")
}

fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = versions.map(|entry| entry.path().join("bin"));
    packaged.chain(packages::path()).find(|dir| dir.join("initdb").is_file() && dir.join("psql").is_file())
}
