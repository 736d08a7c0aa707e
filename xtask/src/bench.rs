//! `cargo xtask bench`: the binary as it is shipped, beside nginx and haproxy.

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, root, run, target};

/// Builds the `dist` profile and runs `tests/bench/compare.py` with these arguments. The binary's path is in
/// `MILECASTLE_BIN` of its environment, for use in the `cmd` of a `--proxy`.
pub(crate) fn bench(args: &[&str]) -> Result<()> {
    run(&mut cargo(&["build", "--locked", "--profile", "dist", "--package", "milecastle"]))?;
    let mut compare = Command::new("python3");
    compare.arg("tests/bench/compare.py").args(args).current_dir(root());
    run(compare.env("MILECASTLE_BIN", target().join("dist/milecastle")))
}
