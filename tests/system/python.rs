//! Programs in the environments that `cargo xtask test tools` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the environment of this name.
pub fn python(environment: &str, program: &str) -> Command {
    let program = tools(environment).join("bin").join(program);
    assert!(program.exists(), "{} is missing: run `cargo xtask test tools`", program.display());
    let mut command = Command::new(program);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command
}

/// The directory of the environment of this name.
pub fn tools(environment: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("tools").join(environment)
}
