//! The binary: the one place that knows every crate. It reads the configuration, hands the plugin registry to both
//! planes, starts and stops them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod banner;
mod check;
mod cli;
mod client;
mod config;
mod control;
mod data_dir;
mod demo;
mod gateway;
mod key;
mod ports;
mod process;
mod roles;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match Cli::parse().command {
        Command::Up(up) => done(up::run(&up)),
        Command::Control(serve) => done(roles::control(&serve)),
        Command::Dashboard(serve) => done(roles::dashboard(&serve)),
        Command::DpManager(serve) => done(roles::dp_manager(&serve)),
        Command::Gateway(serve) => done(roles::gateway(&serve)),
        Command::Key(command) => done(key::run(&command)),
        Command::Check(check) => done(check::run(&check)),
        Command::Config(command) => client::run(client::Command::Config(command)),
        Command::Nodes(command) => client::run(client::Command::Nodes(command)),
        Command::Group(command) => client::run(client::Command::Group(command)),
        Command::Token(command) => client::run(client::Command::Token(command)),
        Command::Members(command) => client::run(client::Command::Members(command)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to do if even standard error is closed.
            let _told = writeln!(std::io::stderr(), "milecastle: {error:#}");
            client::exit_code(&error)
        }
    }
}
