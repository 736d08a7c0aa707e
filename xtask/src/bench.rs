//! `cargo xtask bench`: the binary as it is shipped, beside nginx, haproxy and Envoy, what routes and idle connections take of
//! memory, how it starts, what changes of its configuration cost its clients, how soon they are in force in a cluster, what large
//! configurations take of the control plane, and what an upgrade of a cluster costs.

use std::process::Command;

use anyhow::Result;

use crate::run::{cargo, root, run, target};

/// Builds the `dist` profile, then runs the script in `tests/bench` that the first argument names, else `compare.py`; it gets the
/// other arguments, and finds the binary in `MILECASTLE_BIN`. Where peers are measured too, Milecastle is a proxy under test.
pub(crate) fn bench(args: &[&str]) -> Result<()> {
    build(&["milecastle"])?;
    let scripts = root().join("tests/bench");
    let mut python = Command::new("python3");
    python.current_dir(root()).env("MILECASTLE_BIN", target().join("dist/milecastle"));
    let driver = scripts.join("milecastle.py");
    let driver = driver.display();
    let proxy = format!(
        "name=milecastle http=http://127.0.0.1:19301 https=https://127.0.0.1:19302 gateway=http://127.0.0.1:19303 grpc=http://127.0.0.1:19301 \
         cmd='python3 \"{driver}\" start' setup='python3 \"{driver}\" configure'"
    );
    match args {
        ["memory", rest @ ..] => {
            build(&["milecastle-snapshot", "--example", "memory"])?;
            python.env("MEMORY_BIN", target().join("dist/examples/memory"));
            python.arg(scripts.join("memory.py")).args(rest)
        }
        ["changes", rest @ ..] => python.arg(scripts.join("changes.py")).args(rest),
        ["cold-start", rest @ ..] => python.arg(scripts.join("cold_start.py")).args(rest),
        ["control", rest @ ..] => python.arg(scripts.join("control.py")).args(rest),
        ["upgrade", rest @ ..] => python.arg(scripts.join("upgrade.py")).args(rest),
        ["propagation", rest @ ..] => python.arg(scripts.join("propagation.py")).args(rest),
        ["workers", rest @ ..] => {
            // Both cores to all: with two workers there is none left for the load.
            let two = ["--workers", "2", "--proxy-cpus", "0,1", "--load-cpus", "0,1"];
            let scenarios = ["--scenarios", "h1,gateway,tls,h2,h2-few,half"];
            python.arg(scripts.join("compare.py")).args(["--proxy", &proxy]).args(two).args(scenarios).args(rest)
        }
        ["idle", rest @ ..] => python.arg(scripts.join("idle.py")).args(["--proxy", &proxy]).args(rest),
        all => python.arg(scripts.join("compare.py")).args(["--proxy", &proxy]).args(all),
    };
    run(&mut python)
}

fn build(package: &[&str]) -> Result<()> {
    run(cargo(&["build", "--locked", "--profile", "dist", "--package"]).args(package))
}
