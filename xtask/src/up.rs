//! `cargo xtask up`: build and run everything in one process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{cargo, root, run, target};

/// Builds the binary with the release profile and becomes `milecastle up`.
pub(crate) fn up(args: &[&str]) -> Result<()> {
    run(&mut cargo(&["build", "--locked", "--release", "--package", "milecastle"]))?;
    let program = target().join("release/milecastle");
    let error = Command::new(&program).arg("up").args(args).current_dir(root()).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
