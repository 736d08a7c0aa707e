//! The binary: the one place that knows every crate. It reads the configuration, hands the plugin registry to both
//! planes, starts and stops them.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backup;
mod banner;
mod check;
mod cli;
mod client;
mod compiler;
mod config;
mod control;
mod data_dir;
mod demo;
mod gateway;
mod key;
#[cfg(test)]
mod metrics_reference;
mod on_the_database;
mod ports;
mod process;
mod role;
mod roles;
mod sealing_key;
mod successor;
mod supervisor;
mod up;
mod user;
mod waiting;

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
        Command::Gateway(gateway) => done(roles::gateway(&gateway)),
        Command::Key(command) => done(key::run(&command)),
        Command::User(command) => done(user::run(&command)),
        Command::Role(command) => done(role::run(command)),
        Command::SealingKey(command) => done(sealing_key::run(&command)),
        Command::Backup(command) => done(backup::back_up(&command)),
        Command::Restore(command) => done(backup::restore(&command)),
        Command::Check(check) => done(check::run(&check)),
        Command::Config(command) => client::run(client::Command::Config(command)),
        Command::Nodes(command) => client::run(client::Command::Nodes(command)),
        Command::Group(command) => client::run(client::Command::Group(command)),
        Command::Token(command) => client::run(client::Command::Token(command)),
        Command::Members(command) => client::run(client::Command::Members(command)),
        Command::Audit(command) => client::run(client::Command::Audit(command)),
        Command::Events(command) => client::run(client::Command::Events(command)),
        Command::Rollout(command) => client::run(client::Command::Rollout(command)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to do if even standard error is closed.
            let _told = writeln!(std::io::stderr(), "milecastle: {}", told(&error));
            client::exit_code(&error)
        }
    }
}

/// An error with its causes, each of them once: some say their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = std::fs::read("/nowhere/file").map_err(anyhow::Error::from).unwrap_err();
        assert_eq!(told(&error), error.to_string());
        let outer = error.context("cannot read it");
        assert_eq!(told(&outer), format!("{outer:#}"));
        let missing = milecastle_settings::load::<milecastle_settings::ControlFile>(
            Some("/nowhere/control.yaml".as_ref()),
            &config::known(),
        );
        let text = told(&missing.unwrap_err().into());
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }
}
