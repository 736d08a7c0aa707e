//! The command line.

use crate::client;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// An API gateway cluster: stateless gateways, a replicated control plane, one binary.
#[derive(Debug, Parser)]
#[command(name = "milecastle", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Try it out:  milecastle up\nA cluster, step by step: docs/cluster.md\nExit codes: 0 done, 1 failed, \
                        2 wrong command line, 3 no such thing, 4 conflict, 5 waited in vain, 6 rejected by nodes"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: control plane on embedded SQLite, one gateway, a demo upstream
    Up(Up),
    /// Run a replica of the control plane: dashboard and DP manager in one process
    Control(Serve),
    /// Run a dashboard: the Admin API, on a database that others share
    Dashboard(Serve),
    /// Run a DP manager: gateway nodes join it and pull their configuration from it
    DpManager(Serve),
    /// Run a gateway node
    Gateway(Gateway),
    /// Show the configuration, its history, and how far it has come
    Config(client::Config),
    /// Show, revoke or delete gateway nodes, or take them out of service
    Nodes(client::Nodes),
    /// List, make or delete gateway groups, or take them out of service
    Group(client::Group),
    /// Mint, list or revoke the tokens with which nodes join
    Token(client::Token),
    /// Show the replicas of the control plane, and which one leads, or take one out of service
    Members(client::Members),
    /// Show who changed what, or write it to a file
    Audit(client::Audit),
    /// Show what happened, and what happens: changes, receipts, nodes, replicas, alarms
    Events(client::Events),
    /// How new revisions of a gateway group go out: canaries first, the others later; and the rollout that is on
    Rollout(client::Rollout),
    /// Make, list or delete keys of the Admin API in the database itself: the way back in when they are lost
    Key(Key),
    /// List, make, disable or delete accounts of people, or give one a new password, in the database itself
    User(User),
    /// List, make, change or delete roles beside the built-in ones, in the database itself
    Role(Roles),
    /// Replace the key that seals secrets in the database, or seal what a configuration file should not tell
    SealingKey(SealingKey),
    /// Write the database into one file, beside the processes that run on it; the sealing key is not in it
    Backup(Backup),
    /// Bring a backup into a database that is empty
    Restore(Restore),
    /// Check a configuration file and say everything that is wrong with it
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Directory of everything that outlives the process [default: ./milecastle-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Configuration file (YAML); without one, the defaults
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not start the demo upstream
    #[arg(long)]
    pub no_demo: bool,
}

/// Of the roles of a cluster.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file (YAML); without one, the defaults. MILECASTLE__A__B=v in the environment overrides its key a.b
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `milecastle gateway`.
#[derive(Debug, Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    pub serve: Serve,
    /// Take the place of the gateway that runs with the same state directory: its listening sockets are handed over, and its
    /// connections end by themselves. If this process cannot serve, that one goes on. The same as SIGUSR2 to that one
    #[arg(long)]
    pub upgrade: bool,
}

/// `milecastle key`.
#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub command: KeyCommand,
    #[command(flatten)]
    pub database: OnDatabase,
}

/// `milecastle sealing-key`.
#[derive(Debug, Args)]
pub(crate) struct SealingKey {
    #[command(subcommand)]
    pub command: SealingKeyCommand,
    #[command(flatten)]
    pub database: OnDatabase,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SealingKeyCommand {
    /// Seal the database with another key, beside the processes that run on it. All or nothing, and no harm if it is repeated
    Replace {
        /// The new key: 32 bytes in base64
        #[arg(long, value_name = "FILE")]
        next_key_file: PathBuf,
    },
    /// Seal what comes on standard input, such as database.dsn, so that a configuration file can hold it
    Seal,
}

/// `milecastle backup`.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to make. There must be none of that name
    #[arg(value_name = "BACKUP")]
    pub file: PathBuf,
    #[command(flatten)]
    pub database: OnDatabase,
}

/// `milecastle restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// What `milecastle backup` made, or of PostgreSQL `pg_dump --format=custom`
    #[arg(value_name = "BACKUP")]
    pub file: PathBuf,
    #[command(flatten)]
    pub database: OnDatabase,
}

/// Which database a command works on.
#[derive(Debug, Args)]
pub(crate) struct OnDatabase {
    /// Data directory of `milecastle up`, which may be running [default: ./milecastle-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Configuration file that names database and sealing key; MILECASTLE__DATABASE__DSN overrides its database.dsn
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What the file is for; `--data` goes with `up` alone
    #[arg(long, value_enum, default_value_t = Role::Up, global = true)]
    pub role: Role,
}

/// `milecastle user`.
#[derive(Debug, Args)]
pub(crate) struct User {
    #[command(subcommand)]
    pub command: UserCommand,
    #[command(flatten)]
    pub database: OnDatabase,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List the accounts
    List,
    /// Make an account; its password is shown this once, and is to be changed at the first login
    Create {
        /// What the account is called, 1 to 64 of A-Z a-z 0-9 . _ @ -
        name: String,
        /// What it may do, in all gateway groups: administrator, operator, api_owner, viewer, or a role that was made
        #[arg(long, value_name = "ROLE", default_value = "viewer")]
        allows: String,
    },
    /// Give an account a new password, for somebody who has forgotten theirs; it is shown this once, and is to be changed at the
    /// first login. All of its sessions end
    Passwd {
        /// What the account is called
        name: String,
    },
    /// Let nobody log in with an account; all of its sessions end
    Disable {
        /// What the account is called
        name: String,
    },
    /// Let people log in with an account again
    Enable {
        /// What the account is called
        name: String,
    },
    /// Delete an account; all of its sessions end
    Delete {
        /// What the account is called
        name: String,
    },
}

/// `milecastle role`.
#[derive(Debug, Args)]
pub(crate) struct Roles {
    #[command(subcommand)]
    pub command: RoleCommand,
    #[command(flatten)]
    pub database: OnDatabase,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// List the roles that were made, and the names of those that are built in
    List,
    /// Make a role
    Create {
        /// What the role is called, 1 to 64 of A-Z a-z 0-9 . _ -
        name: String,
        #[command(flatten)]
        allows: RoleAllows,
    },
    /// Change what a role allows, for all who have it; what is not given stays
    Change {
        /// What the role is called
        name: String,
        #[command(flatten)]
        allows: RoleAllows,
    },
    /// Delete a role that nobody has
    Delete {
        /// What the role is called
        name: String,
    },
}

/// What a role is to be.
#[derive(Debug, Args)]
pub(crate) struct RoleAllows {
    /// Resources that it may read, as GET /api/roles names them
    #[arg(long, value_name = "RESOURCE,…", value_delimiter = ',')]
    pub read: Option<Vec<String>>,
    /// Resources that it may write
    #[arg(long, value_name = "RESOURCE,…", value_delimiter = ',')]
    pub write: Option<Vec<String>>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown this once
    Create {
        /// What the key is called, 1 to 64 of A-Z a-z 0-9 . _ -; that of the first start is called `admin`
        name: String,
        /// What it allows, in all gateway groups: admin (everything), viewer (GET alone), or a role of `milecastle role list`
        #[arg(long, value_name = "ROLE", default_value = "admin")]
        allows: String,
        /// Put it in place of the key of this name, which opens nothing from then on
        #[arg(long)]
        replace: bool,
    },
    /// List the keys, never the keys themselves
    List,
    /// Delete a key; it opens nothing from then on
    Delete {
        /// What the key is called
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// What the file is for
    #[arg(long, value_enum, default_value_t = Role::Up)]
    pub role: Role,
}

/// The process that a file configures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything in one process.
    Up,
    /// Dashboard and DP manager.
    Control,
    /// Admin API.
    Dashboard,
    /// The gRPC server of the gateways.
    DpManager,
    /// A gateway node.
    Gateway,
}
