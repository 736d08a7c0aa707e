//! `cargo xtask`: everything around building. CI calls nothing else.
//!
//! It depends on `settings` alone of our crates, so that it builds quickly and runs when the rest does not compile.

#![allow(clippy::print_stdout, reason = "a command line tool talks to its user")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bench;
mod codegen;
mod fuzz;
mod new_plugin;
mod packages;
mod postgres;
mod run;
mod test;
mod tidy;
mod tools;
mod up;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  up [ARGS]            build the binary and run everything in one process; ARGS go to `milecastle up`
  test [STEP] [--full] all that CI runs, in its order, or one step: tools, fmt, clippy, deny, tidy, build, tests
                       --full adds the long runs; what follows `--` goes to `cargo test`
  tidy                 rules that no compiler checks: layers, line limits, words, plugin lists, generated files
  codegen [--check]    write the generated files, or say which are not current
  new-plugin NAME      make the folder of a plugin, e.g. `new-plugin limit-count`
  fuzz [TARGET] [--seconds N]
                       run the fuzz targets of tests/fuzz, or the ones named, each so long; 600 without a number
  bench [ARGS]         build for shipping and compare with nginx, haproxy and Envoy; ARGS go to tests/bench/compare.py
  bench workers [ARGS] the same with two workers for each, on both cores, and at half of the load
  bench memory [ARGS]  build for shipping and measure the memory that routes take; ARGS go to tests/bench/memory.py
  bench changes [ARGS] build for shipping and change the configuration under load; ARGS go to tests/bench/changes.py
  bench cold-start [ARGS]
                       build for shipping and measure starts from the last good configuration
  bench propagation [ARGS]
                       build for shipping and measure how soon a change is in force on every node of a cluster
  bench control [ARGS] build for shipping and measure what large configurations take of the control plane
  bench upgrade --from BINARY [ARGS]
                       build for shipping and upgrade a cluster to it from another binary under load; fails if anything is lost
  bench idle [ARGS]    build for shipping and measure the memory that idle connections take, beside the peers
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let result = match args.first().map(String::as_str) {
        Some("up") => up::up(&rest),
        Some("test") => test::test(&rest),
        Some("tidy") => tidy::tidy(),
        Some("codegen") => codegen::codegen(&rest),
        Some("new-plugin") => new_plugin::new_plugin(&rest),
        Some("fuzz") => fuzz::fuzz(&rest),
        Some("bench") => bench::bench(&rest),
        Some("help" | "-h" | "--help") | None => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(anyhow::anyhow!("no command `{other}`\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
