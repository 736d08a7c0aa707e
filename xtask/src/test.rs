//! `cargo xtask test`: all that CI runs, in its order.

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

fn tools(_: &Options) -> Result<()> {
    println!("PostgreSQL: {}", postgres::programs()?.display());
    println!("h2load: {}", packages::program("h2load", "nghttp2-client")?.display());
    println!("HAProxy: {}", packages::program("haproxy", "haproxy")?.display());
    println!("nginx: {}", packages::program("nginx", "nginx")?.display());
    println!("dnsmasq: {}", packages::program("dnsmasq", "dnsmasq-base")?.display());
    println!("ip: {}", packages::program("ip", "iproute2")?.display());
    println!("faketime: {}", packages::program("faketime", "faketime")?.display());
    println!("strace: {}", packages::program("strace", "strace")?.display());
    println!("redis: {}", packages::program("redis-server", "redis-server")?.display());
    println!("redis-cli: {}", packages::program("redis-cli", "redis-tools")?.display());
    println!("openssl: {}", packages::program("openssl", "openssl")?.display());
    println!("mosquitto: {}", packages::program("mosquitto", "mosquitto")?.display());
    println!("mosquitto_pub: {}", packages::program("mosquitto_pub", "mosquitto-clients")?.display());
    println!("node: {}", packages::program("node", "nodejs")?.display());
    let strictness = tools::python_programs("python", "tests/strictness/origins/requirements.txt")?;
    println!("uvicorn, gunicorn: {}", strictness.display());
    println!("grpcio: {}", tools::python_programs("grpc", "tests/grpc/requirements.txt")?.display());
    println!("aioquic: {}", tools::python_programs("http3", "tests/http3/requirements.txt")?.display());
    for client in ["apisix-client", "apisix-python-client", "mcp-apisix"] {
        let requirements = format!("tests/clients/{client}/requirements.txt");
        println!("{client}: {}", tools::python_programs(&format!("client-{client}"), &requirements)?.display());
    }
    println!("oidc-provider: {}", tools::node_modules("oidc", "tests/oidc")?.display());
    println!("schemathesis: {}", tools::python_programs("openapi", "tests/openapi/requirements.txt")?.display());
    println!("OTLP: {}", tools::python_programs("otlp", "tests/otlp/requirements.txt")?.display());
    println!("cargo-deny: {}", tools::installed("cargo-deny", CARGO_DENY)?.display());
    Ok(())
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
    if options.full {
        command.env("MILECASTLE_TEST_FULL", "1");
    }
    run(&mut command)
}
