//! Programs of others, installed at a fixed version so that they do not change under us.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{cargo, run, target};

/// Path of a program that is a crate of its own name, at this version; installed under the target directory where it
/// is missing.
pub(crate) fn installed(name: &str, version: &str) -> Result<PathBuf> {
    let tools = target().join("tools");
    let program = tools.join("bin").join(name);
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).trim().ends_with(version)) {
        return Ok(program);
    }
    println!("installing {name} {version} into {}", tools.display());
    let version = format!("{name}@{version}");
    // Not optimised: such programs are built more often than they run for long.
    let mut install = cargo(&["install", "--debug", "--locked", "--quiet", "--force", &version, "--root"]);
    // A build directory of its own, removed afterwards: its objects are of no use to anybody.
    let build = tools.join("build");
    run(install.arg(&tools).arg("--target-dir").arg(&build))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(program)
}
