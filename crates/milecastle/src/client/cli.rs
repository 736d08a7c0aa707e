//! The command lines of the operator's commands.

mod config;

use clap::{Args, Subcommand, ValueEnum};
use milecastle_settings::Time;
use std::path::PathBuf;

pub(crate) use config::{Arrive, Config, ConfigCommand, DraftCommand, Edits, ExportAs, Publish, Select};

/// How to reach a dashboard, and how to show what it says. The same for every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Server {
    /// Dashboards, with commas between them; tried in this order until one answers
    #[arg(long, env = "MILECASTLE_SERVER", value_name = "URL", value_delimiter = ',', global = true)]
    #[arg(default_value = "http://127.0.0.1:17080")]
    pub server: Vec<String>,
    /// Admin key; others see it in the list of processes, so rather use the environment or a file [env: MILECASTLE_ADMIN_KEY]
    #[arg(long, value_name = "KEY", global = true)]
    pub admin_key: Option<String>,
    /// File that holds the Admin key [env: MILECASTLE_ADMIN_KEY_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "admin_key", global = true)]
    pub admin_key_file: Option<PathBuf>,
    /// Certificates to trust for https, instead of the system's (PEM)
    #[arg(long, env = "MILECASTLE_CA_CERT", value_name = "FILE", global = true)]
    pub ca_cert: Option<PathBuf>,
    /// Certificate to show to the server (PEM)
    #[arg(long, value_name = "FILE", requires = "client_key", global = true)]
    pub client_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert", global = true)]
    pub client_key: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "30s", global = true)]
    pub timeout: Time,
    /// How to show the answer
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Table, global = true)]
    pub output: Output,
}

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns, for people
    Table,
    /// JSON, for programs
    Json,
}

/// `milecastle nodes`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Nodes {
    #[command(subcommand)]
    pub command: Option<NodesCommand>,
    /// Gateway group; without it, all groups
    #[arg(short, long)]
    pub group: Option<String>,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// Show what nodes have logged of level WARN and ERROR, what was written last first
    Warnings {
        /// Gateway group; without it, all groups
        #[arg(short, long)]
        group: Option<String>,
        /// Only of this node
        #[arg(long, value_name = "ID")]
        node: Option<String>,
        /// Only of this level
        #[arg(long, value_enum)]
        level: Option<LogLevel>,
        /// Only lines in which this stands
        #[arg(long)]
        text: Option<String>,
        /// Only lines that were last written no longer ago than this
        #[arg(long, value_name = "TIME")]
        since: Option<Time>,
        /// How many, at most 1000
        #[arg(short = 'n', long, default_value_t = 100)]
        limit: u16,
    },
    /// Cut a node off at once and keep it out until it is deleted
    Revoke(OneNode),
    /// Forget a node and cut it off; if it runs and its group token is good it joins again by itself: to keep it out, revoke it
    Delete(OneNode),
    /// Take a node out of service, or back into it: its /status says 503, and what still comes is served
    Maintenance {
        #[command(flatten)]
        one: OneNode,
        #[command(flatten)]
        order: Order,
    },
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Warn,
    Error,
}

/// Maintenance lasts until it is switched off, whatever starts anew meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Whether it begins or ends
    #[arg(value_enum)]
    pub switch: Switch,
    /// Why, for people: lists and probes show it
    #[arg(long, default_value = "")]
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It begins
    On,
    /// It ends
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct OneNode {
    /// The node's id
    pub node: String,
    /// Its gateway group [default: the one that has the node]
    #[arg(short, long)]
    pub group: Option<String>,
}

/// `milecastle group`.
#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    pub command: GroupCommand,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the gateway groups
    List,
    /// Make a gateway group
    Create {
        /// 1 to 64 of A-Z a-z 0-9 . _ -
        id: String,
        /// What people call it [default: the id]
        #[arg(long)]
        name: Option<String>,
        /// KEY=VALUE; may be given several times
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Delete a gateway group; one that has objects or nodes only with --force
    Delete {
        id: String,
        /// Delete it with all of its objects, tokens and nodes
        #[arg(long)]
        force: bool,
    },
    /// Take all nodes of a gateway group out of service, or back into it; nodes to come included
    Maintenance {
        id: String,
        #[command(flatten)]
        order: Order,
    },
    /// Show or change what decides what can be built in a gateway group: plugins, TCP and UDP, how routes are matched
    Settings {
        #[command(subcommand)]
        command: SettingsCommand,
    },
    /// After the database was restored: show what nodes hold that it does not know, and have them take over its state
    Lineage {
        id: String,
        /// Have the nodes take over what the database holds
        #[arg(long)]
        confirm: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Show them, with the defaults of what is not set
    Get {
        /// The gateway group
        #[arg(default_value = "default")]
        id: String,
    },
    /// Change those that are named, or with --file all of them
    ///
    /// What is stored is judged anew: if objects could not be built any more, they are listed and nothing changes.
    Set {
        /// The gateway group
        #[arg(default_value = "default")]
        id: String,
        #[command(flatten)]
        change: Box<SettingsChange>,
        /// Do it even if objects cannot be built any more: what depends on them is then answered with 503
        #[arg(long)]
        force: bool,
        /// Only if the settings are still of this revision, as `get` shows it
        #[arg(long, value_name = "N")]
        expected_revision: Option<u64>,
        /// Wait at most so long until every connected node has them
        #[arg(long, value_name = "TIME")]
        wait: Option<Time>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct SettingsChange {
    /// The plugins to enable, with commas between them; all others are disabled
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "all_plugins")]
    pub plugins: Option<Vec<String>>,
    /// Enable every built-in plugin, those of later versions included
    #[arg(long)]
    pub all_plugins: bool,
    /// How routes are matched: radixtree_host_uri, radixtree_uri or radixtree_uri_with_parameter
    #[arg(long, value_name = "MODE")]
    pub router: Option<String>,
    /// Which traffic there are routes for: http, stream or http&stream
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// The plugins that TCP and UDP routes may have, with commas between them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub stream_plugins: Option<Vec<String>>,
    /// Whose certificates are verified among upstreams over TLS: off, upstream (those with `tls.verify: true`) or required
    #[arg(long, value_name = "WHOSE")]
    pub verify_upstreams: Option<String>,
    /// YAML or JSON file with registries for service discovery, as `discovery` in a node's file has them, `-` for standard input;
    /// merged into those that are there: null takes one away, and a file of `null` all of them
    #[arg(long, value_name = "FILE")]
    pub discovery: Option<PathBuf>,
    /// JSON file with all settings, `-` for standard input; what it leaves out has its default
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plugins", "all_plugins", "router", "proxy_mode", "stream_plugins", "verify_upstreams", "discovery"])]
    pub file: Option<PathBuf>,
}

/// `milecastle token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub command: TokenCommand,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Mint a token with which nodes join a group; it is shown this once
    Create {
        /// The gateway group
        #[arg(default_value = "default")]
        group: String,
        /// What people call it
        #[arg(long, default_value = "")]
        name: String,
        /// How long nodes may join with it; nodes that did stay [default: for ever]
        #[arg(long, value_name = "TIME")]
        expires_in: Option<Time>,
    },
    /// List the tokens of a group, never the secret in them
    List {
        /// The gateway group
        #[arg(default_value = "default")]
        group: String,
    },
    /// Revoke a token, and cut off every node that joined with it
    Revoke {
        /// The token's id, as lists show it
        token: String,
        /// Its gateway group
        #[arg(short, long, default_value = "default")]
        group: String,
    },
}

/// `milecastle members`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Members {
    #[command(subcommand)]
    pub command: Option<MembersCommand>,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MembersCommand {
    /// Take a replica out of service, or back into it: its /readyz says 503, its nodes go elsewhere, and it does not lead
    Maintenance {
        /// The replica's name, as lists show it
        name: String,
        #[command(flatten)]
        order: Order,
    },
}

/// `milecastle audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub command: AuditCommand,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show entries, newest first
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// How many, at most 500
        #[arg(short = 'n', long, default_value_t = 50)]
        limit: u16,
        /// Only entries older than the one with this id, as the last line of a list shows it
        #[arg(long, value_name = "ID")]
        before: Option<u64>,
    },
    /// Show one entry, with what was before and what is now
    Show {
        /// Its id, as lists show it
        entry: u64,
    },
    /// Write all entries that are wanted to standard output
    Export {
        #[command(flatten)]
        wanted: Wanted,
        /// As what
        #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
        format: ExportFormat,
    },
}

/// `milecastle events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Show what happens from now on, until the command is ended: on the next server that answers when one ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only events of this gateway group
    #[arg(short, long)]
    pub group: Option<String>,
    /// Only events of these kinds, with commas between them: group, change, receipt, lineage, node, member, leader, alarm
    #[arg(long, value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only events that are not older than this
    #[arg(long, value_name = "TIME")]
    pub since: Option<Time>,
    /// Only events after the one with this id
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    pub after: Option<u64>,
    /// Show each event as a JSON object in a line of its own
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

/// Which entries of the audit log.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Not older than this
    #[arg(long, value_name = "TIME")]
    pub since: Option<Time>,
    /// Only older than this
    #[arg(long, value_name = "TIME")]
    pub until: Option<Time>,
    /// Who did it: an account, the name of a key, token/NAME
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// The gateway group
    #[arg(short, long)]
    pub group: Option<String>,
    /// What it is about: route, upstream, ..., gateway_group, node, account, session, ...
    #[arg(long)]
    pub kind: Option<String>,
    /// Which one, by its id or name
    #[arg(long, value_name = "ID")]
    pub object: Option<String>,
    /// create, update, delete, revoke, confirm, sign_in, sign_out; of refused calls read or write
    #[arg(long)]
    pub action: Option<String>,
    /// done, refused or failed
    #[arg(long)]
    pub outcome: Option<String>,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A JSON list, an entry on each line
    Json,
    /// Comma-separated values, for spreadsheets
    Csv,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
