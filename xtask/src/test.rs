//! `cargo xtask test`: all that CI runs, in its order.

use std::num::NonZero;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::postgres;
use crate::run::{cargo, root, run, target};
use crate::tidy;
use crate::tools;

const CARGO_DENY: &str = "0.20.2";

type Step = (&'static str, &'static str, fn(&Options) -> Result<()>);

const STEPS: &[Step] = &[
    ("tools", "find or install what the checks need", tools),
    ("fmt", "cargo fmt --check, also of the plugins", fmt),
    ("clippy", "cargo clippy, warnings are errors", |_| {
        run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    }),
    ("deny", "licences, sources and banned crates", deny),
    ("tidy", "cargo xtask tidy", |_| tidy::tidy()),
    ("build", "everything the tests run", |_| run(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))),
    ("tests", "cargo test", tests),
];

struct Options {
    full: bool,
    /// What goes to `cargo test`.
    passed_on: Vec<String>,
}

/// Runs all steps, or the ones named.
pub(crate) fn test(args: &[&str]) -> Result<()> {
    let mut words = args.iter().copied();
    let mut options = Options { full: false, passed_on: Vec::new() };
    let mut chosen = Vec::new();
    for word in words.by_ref() {
        match word {
            "--full" => options.full = true,
            "--" => break,
            step => match STEPS.iter().find(|(name, ..)| *name == step) {
                Some(step) => chosen.push(step),
                None => {
                    let names: Vec<_> = STEPS.iter().map(|(name, ..)| *name).collect();
                    bail!("no step `{step}`; there are {}", names.join(", "));
                }
            },
        }
    }
    options.passed_on = words.map(str::to_owned).collect();
    if chosen.is_empty() {
        chosen = STEPS.iter().collect();
    }
    let mut times = Vec::new();
    for (name, what, step) in chosen {
        println!("--- {name}: {what}");
        let start = Instant::now();
        step(&options).with_context(|| {
            format!("step {name} failed after {}; run it alone with `cargo xtask test {name}`", show(start.elapsed()))
        })?;
        println!("--- {name}: done in {}", show(start.elapsed()));
        times.push(format!("{name} {}", show(start.elapsed())));
    }
    println!("--- all passed: {}", times.join(", "));
    Ok(())
}

fn show(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Programs that the tests start by their names, and the packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("faketime", "faketime"),
    ("strace", "strace"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("openssl", "openssl"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// Python environments, and the folders of their `requirements.txt`.
const ENVIRONMENTS: &[(&str, &str)] = &[
    ("python", "tests/strictness/origins"),
    ("grpc", "tests/grpc"),
    ("http3", "tests/http3"),
    ("client-apisix-client", "tests/clients/apisix-client"),
    ("client-apisix-python-client", "tests/clients/apisix-python-client"),
    ("client-mcp-apisix", "tests/clients/mcp-apisix"),
    ("openapi", "tests/openapi"),
    ("otlp", "tests/otlp"),
];

fn tools(_: &Options) -> Result<()> {
    println!("PostgreSQL: {}", postgres::programs()?.display());
    for (name, program) in packages::programs(PROGRAMS)? {
        println!("{name}: {}", program.display());
    }
    // What is compiled does not wait for what is downloaded.
    std::thread::scope(|scope| {
        let deny = scope.spawn(|| tools::installed("cargo-deny", CARGO_DENY));
        for (name, folder) in ENVIRONMENTS {
            println!("{folder}: {}", tools::python_programs(name, &format!("{folder}/requirements.txt"))?.display());
        }
        println!("tests/oidc: {}", tools::node_modules("oidc", "tests/oidc")?.display());
        let deny = deny.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("cargo-deny: {}", deny.display());
        Ok(())
    })
}

fn fmt(_: &Options) -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    // A macro declares the plugins' modules, where `cargo fmt` does not find them.
    let mut rustfmt = std::process::Command::new("rustfmt");
    rustfmt.args(["--check", "--edition", "2024"]).current_dir(root());
    for entry in std::fs::read_dir(root().join("crates/plugins/src"))? {
        let module = entry?.path().join("mod.rs");
        if module.is_file() {
            rustfmt.arg(module);
        }
    }
    run(&mut rustfmt)
}

fn deny(_: &Options) -> Result<()> {
    let mut command = std::process::Command::new(tools::installed("cargo-deny", CARGO_DENY)?);
    command.args(["--log-level", "error", "--all-features", "--locked", "check", "bans", "licenses", "sources"]);
    run(command.current_dir(root()))
}

fn tests(options: &Options) -> Result<()> {
    let mut command = cargo(&["test", "--locked", "--workspace"]);
    command.args(&options.passed_on);
    command.env("MILECASTLE_BIN", target().join("debug/milecastle"));
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // They wait for processes and timeouts half of their time.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        command.env("RUST_TEST_THREADS", (2 * cores).to_string());
    }
    if options.full {
        command.env("MILECASTLE_TEST_FULL", "1");
    }
    run(&mut command)
}
