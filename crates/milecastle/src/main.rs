//! The binary: the one place that knows every crate. It reads the configuration, hands the plugin registry to both
//! planes, starts and stops them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod banner;
mod check;
mod cli;
mod config;
mod control;
mod data_dir;
mod demo;
mod gateway;
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
    let result = match Cli::parse().command {
        Command::Up(up) => up::run(&up),
        Command::Control(serve) => roles::control(&serve),
        Command::Dashboard(serve) => roles::dashboard(&serve),
        Command::DpManager(serve) => roles::dp_manager(&serve),
        Command::Gateway(serve) => roles::gateway(&serve),
        Command::Check(check) => check::run(&check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if even standard error is closed.
            let _told = writeln!(std::io::stderr(), "milecastle: {error:#}");
            ExitCode::FAILURE
        }
    }
}
