//! `cargo xtask bench`: the binary as it is shipped, beside nginx, haproxy and Envoy, what it keeps in memory, how it starts, what
//! changes of its configuration cost its clients, and how soon they are in force in a cluster.

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, root, run, target};

/// Builds the `dist` profile, then runs `tests/bench/memory.py` for `memory`, `tests/bench/changes.py` for `changes`,
/// `tests/bench/cold_start.py` for `cold-start`, `tests/bench/propagation.py` for `propagation`, else `tests/bench/compare.py` with Milecastle as a proxy under test; each gets
/// the other arguments, and finds the binary in `MILECASTLE_BIN`.
pub(crate) fn bench(args: &[&str]) -> Result<()> {
    build(&["milecastle"])?;
    let scripts = root().join("tests/bench");
    let mut python = Command::new("python3");
    python.current_dir(root()).env("MILECASTLE_BIN", target().join("dist/milecastle"));
    if let ["memory", rest @ ..] = args {
        build(&["milecastle-snapshot", "--example", "memory"])?;
        python.env("MEMORY_BIN", target().join("dist/examples/memory"));
        return run(python.arg(scripts.join("memory.py")).args(rest));
    }
    if let ["changes", rest @ ..] = args {
        return run(python.arg(scripts.join("changes.py")).args(rest));
    }
    if let ["cold-start", rest @ ..] = args {
        return run(python.arg(scripts.join("cold_start.py")).args(rest));
    }
    if let ["propagation", rest @ ..] = args {
        return run(python.arg(scripts.join("propagation.py")).args(rest));
    }
    let driver = scripts.join("milecastle.py");
    let driver = driver.display();
    let proxy = format!(
        "name=milecastle http=http://127.0.0.1:19301 https=https://127.0.0.1:19302 gateway=http://127.0.0.1:19303 grpc=http://127.0.0.1:19301 \
         cmd='python3 \"{driver}\" start' setup='python3 \"{driver}\" configure'"
    );
    run(python.arg(scripts.join("compare.py")).args(["--proxy", &proxy]).args(args))
}

fn build(package: &[&str]) -> Result<()> {
    run(cargo(&["build", "--locked", "--profile", "dist", "--package"]).args(package))
}
