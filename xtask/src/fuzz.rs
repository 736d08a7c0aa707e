//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, one after the other (docs/fuzzing.md).

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{root, run, target};
use crate::tools;

const CARGO_FUZZ: &str = "0.13.2";

/// Runs all targets, or the ones named.
pub(crate) fn fuzz(args: &[&str]) -> Result<()> {
    let known = targets()?;
    let mut seconds: u32 = 600;
    let mut chosen = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => {
                let number = words.next().and_then(|number| number.parse().ok());
                seconds = number.context("--seconds needs a number, 0 to replay the seeds alone")?;
            }
            target if known.iter().any(|name| name == target) => chosen.push(target.to_owned()),
            other => bail!("no target `{other}`; there are {}", known.join(", ")),
        }
    }
    let program = tools::installed("cargo-fuzz", CARGO_FUZZ)?;
    for name in if chosen.is_empty() { &known } else { &chosen } {
        println!("--- {name}: {seconds} s");
        run(&mut command(&program, name, seconds)?)?;
    }
    Ok(())
}

/// Names of the targets, sorted.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

fn command(program: &std::path::Path, name: &str, seconds: u32) -> Result<Command> {
    let build = target().join("fuzz");
    let corpus = build.join("corpus").join(name);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new(program);
    // Instrumentation is an unstable option of rustc; our toolchain is the stable one, told to take it all the same.
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(root());
    command.args(["run", "--fuzz-dir", "tests/fuzz", "--target-dir"]).arg(build).arg(name);
    // What is found new goes to the first folder.
    command.arg(corpus).arg(format!("tests/fuzz/seeds/{name}"));
    command.args(["--", "-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=64", "-print_final_stats=1"]);
    command.arg(if seconds == 0 { "-runs=0".to_owned() } else { format!("-max_total_time={seconds}") });
    Ok(command)
}
