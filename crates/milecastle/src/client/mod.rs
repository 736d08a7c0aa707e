//! The operator's commands: thin clients of the dashboard's REST API.
//!
//! Exit codes: 0 done; 1 it could not be done; 2 the command line is wrong; 3 there is no such thing; 4 it conflicts with what
//! is there; 5 a wait ended before all nodes had the revision; 6 a node did not take all of it, or it was taken
//! back.

mod audit;
mod changes;
mod cli;
mod commands;
mod config;
mod drafts;
mod events;
mod http;
mod rollout;
mod settings;
mod tls;
mod view;

pub(crate) use cli::{Audit, Config, Events, Group, Members, Nodes, Token};
pub(crate) use rollout::Rollout;
pub(crate) use view::{Table, relative, say, tell};

use anyhow::Context;
use cli::Server;
use std::path::Path;
use std::process::ExitCode;

/// A command of an operator.
pub(crate) enum Command {
    Config(Config),
    Nodes(Nodes),
    Group(Group),
    Token(Token),
    Members(Members),
    Audit(Audit),
    Events(Events),
    Rollout(Rollout),
}

/// How a command ended, if not with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    /// A wait ended before all nodes had the revision.
    Late,
    /// A node did not take all of the revision, or it was taken back.
    Rejected,
}

/// What was answered instead of doing what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    /// The HTTP status.
    status: u16,
    message: String,
}

impl Refused {
    /// There is no such thing.
    pub(crate) fn missing(message: String) -> Self {
        Self { status: 404, message }
    }

    /// It conflicts with what is there.
    pub(crate) fn conflict(message: String) -> Self {
        Self { status: 409, message }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Why it could not be done.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(async {
        match command {
            Command::Config(command) => config::run(command).await,
            Command::Nodes(command) => commands::nodes(command).await,
            Command::Group(command) => commands::group(command).await,
            Command::Token(command) => commands::token(command).await,
            Command::Members(command) => commands::members(command).await,
            Command::Audit(command) => audit::run(command).await,
            Command::Events(command) => events::run(command).await,
            Command::Rollout(command) => rollout::run(command).await,
        }
    });
    match done {
        Ok(Ended::Done) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Late) => Ok(ExitCode::from(5)),
        Ok(Ended::Rejected) => Ok(ExitCode::from(6)),
        Err(error) => Err(error),
    }
}

/// The exit code of an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Refused>().map(|refused| refused.status) {
        Some(404) => ExitCode::from(3),
        Some(409 | 412) => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}

/// The client that the options of a command describe.
fn client(server: &Server) -> anyhow::Result<http::Client> {
    http::Client::new(&server.server, admin_key(server)?, tls::connector(server)?, server.timeout.get())
}

/// The Admin key that the command line gives, or else the environment: a key that is given this once goes before one that was
/// exported for all commands, and may be over by now.
fn admin_key(server: &Server) -> anyhow::Result<Option<String>> {
    let variable = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read the Admin key in {}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    };
    match (&server.admin_key, &server.admin_key_file) {
        (Some(key), _) => Ok(Some(key.clone())),
        (None, Some(path)) => read(path),
        (None, None) => match (variable("MILECASTLE_ADMIN_KEY"), variable("MILECASTLE_ADMIN_KEY_FILE")) {
            (Some(key), _) => Ok(Some(key)),
            (None, Some(path)) => read(Path::new(&path)),
            (None, None) => Ok(None),
        },
    }
}
