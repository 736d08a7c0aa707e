//! The command line of `milecastle config`: objects, their history, and change sets.

use super::Server;
use clap::{Args, Subcommand, ValueEnum};
use milecastle_settings::Time;
use std::path::PathBuf;

/// `milecastle config`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub command: ConfigCommand,
    /// Gateway group
    #[arg(short, long, default_value = "default", global = true)]
    pub group: String,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show objects: of all kinds, of one kind (routes, upstreams, ...), or a single one
    Get {
        /// The kind, as in paths of the Admin API
        kind: Option<String>,
        /// Its id
        id: Option<String>,
    },
    /// Show what was published, newest first
    History {
        /// How many revisions
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u16,
        /// Show which objects this revision changed, instead of the list
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Write the group as one file to standard output; private keys are in it as marks, which stand for those that a group has
    Export {
        #[command(flatten)]
        chosen: Select,
        /// As what
        #[arg(long, value_enum, default_value_t = ExportAs::Yaml)]
        format: ExportAs,
    },
    /// Make the objects of a file the group's, as one revision; without --yes, say what that would change
    Apply {
        /// YAML or JSON file as `export` writes it, `-` for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        arrive: Arrive,
        #[command(flatten)]
        publish: Publish,
    },
    /// Make the objects of another group this group's, as one revision, secrets included; without --yes, say what that would change
    Promote {
        /// The other group
        from: String,
        #[command(flatten)]
        arrive: Arrive,
        #[command(flatten)]
        publish: Publish,
    },
    /// Show what it takes to come from one revision to another, object by object
    Diff {
        /// The one revision
        from: String,
        /// The other one
        #[arg(default_value = "head")]
        to: String,
    },
    /// Bring the group back to what it was at a revision, as a new revision; without --yes, say what that would do
    Rollback {
        /// The revision
        revision: u64,
        #[command(flatten)]
        publish: Publish,
    },
    /// Prepare a change set that others look at before it is published
    Draft {
        #[command(subcommand)]
        command: DraftCommand,
    },
    /// Wait until every connected node has a revision in force
    ///
    /// Ends with 0 when all have it, with 6 when all have answered and some did not take all of it, and with 5 when the time
    /// is over before, or no node was connected all the while.
    Wait {
        /// The revision; without it, the newest one
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// How long to wait at most
        #[arg(long, value_name = "TIME", default_value = "30s")]
        within: Time,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DraftCommand {
    /// List the drafts of the group
    List,
    /// Begin a draft
    Begin {
        /// What it is called in commands; without it, an id is made
        id: Option<String>,
        #[command(flatten)]
        edits: Edits,
    },
    /// Add edits to a draft, or give it another name or message
    Edit {
        /// The draft
        id: String,
        #[command(flatten)]
        edits: Edits,
        /// Only if it is still of this version
        #[arg(long, value_name = "N")]
        draft_version: Option<u64>,
    },
    /// Show what a draft would do now, and what stands against it
    Show {
        /// The draft
        id: String,
    },
    /// Make a draft the group's next revision; without --yes, say what that would change
    Publish {
        /// The draft
        id: String,
        /// Only if it is still of this version: the one that was looked at
        #[arg(long, value_name = "N")]
        draft_version: Option<u64>,
        #[command(flatten)]
        publish: Publish,
    },
    /// Throw a draft away
    Discard {
        /// The draft
        id: String,
    },
}

/// What goes into a draft.
#[derive(Debug, Args)]
pub(crate) struct Edits {
    /// JSON file of edits, `-` for standard input: [{"op":"put","kind":"route","id":"1","body":{…}}, …] (docs/changes.md)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What people call it
    #[arg(long)]
    pub name: Option<String>,
    /// Why, for people: the history shows it once it is published
    #[arg(short, long)]
    pub message: Option<String>,
}

/// Which objects; all of them where none are named.
#[derive(Debug, Args)]
pub(crate) struct Select {
    /// Only these kinds, with commas between them: route, upstream, ...
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Only these objects, with commas between them: /routes/1, ...
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub objects: Vec<String>,
}

/// How objects arrive in a group.
#[derive(Debug, Args)]
pub(crate) struct Arrive {
    #[command(flatten)]
    pub chosen: Select,
    /// What to do about objects that are there and are others: overwrite, keep (leave them), refuse (do nothing at all)
    #[arg(long, value_name = "WHAT", default_value = "overwrite")]
    pub existing: String,
    /// Delete what the group has, is meant, and does not come
    #[arg(long)]
    pub prune: bool,
}

/// How a group is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportAs {
    /// For people
    Yaml,
    /// Byte for byte
    Json,
}

/// How a change set is published.
#[derive(Debug, Args)]
#[group(id = "publishing")]
pub(crate) struct Publish {
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// Only on top of this revision, as it was said without --yes [default: the newest one]
    #[arg(long, value_name = "N")]
    pub expected_revision: Option<u64>,
    /// Why, for people: the history shows it
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// Do it even if objects then name what is not there, or cannot be built: what depends on them is answered with 503
    #[arg(long)]
    pub force: bool,
    /// Wait at most so long until every connected node has it
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Time>,
}
