//! How much of its history the control plane keeps. Whichever replica leads trims it, so all of them should have the same
//! settings here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::load::Checks;

/// The history of changes: what was published, for people to read, and for nodes that were away to catch up by. A node that
/// missed more than is kept gets the whole configuration instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct History {
    /// Changes kept for each gateway group at most; the oldest are forgotten first.
    #[schemars(range(min = 1), extend("x-unit" = "changes"))]
    pub changes: u64,
    /// Changes older than this are forgotten, even where there are fewer.
    pub max_age: Time,
    /// The newest changes of each gateway group that stay, however old they are.
    #[schemars(range(min = 1), extend("x-unit" = "changes"))]
    pub min_changes: u64,
    /// Drafts of change sets that nobody has edited for so long are forgotten.
    pub drafts: Time,
    /// Lines of the logs of nodes that were not written for this long are forgotten.
    pub node_warnings: Time,
    /// Different lines of the log of each node that are kept at most: those that were written last.
    #[schemars(range(min = 1), extend("x-unit" = "lines"))]
    pub node_warnings_most: u64,
    /// How long what nodes counted is kept for charts of up to 24 hours: one sample of each node, and of the routes of each group, in
    /// 5 minutes.
    pub samples: Time,
    /// The same for charts of up to an hour: one sample in 30 seconds. No longer than `samples`.
    pub fine_samples: Time,
    /// How often the leader looks for what is to be forgotten: history, and nodes and replicas that were silent for long.
    pub interval: Time,
}

impl History {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("history");
        checks.above_zero(&[
            ("max_age", self.max_age),
            ("drafts", self.drafts),
            ("node_warnings", self.node_warnings),
            ("fine_samples", self.fine_samples),
            ("interval", self.interval),
        ]);
        if self.fine_samples > self.samples {
            checks.fault("fine_samples", "expected at most `history.samples`");
        }
        if self.min_changes > self.changes {
            checks.fault("min_changes", "expected at most `history.changes`");
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            changes: 100_000,
            max_age: Time::secs(90 * 86_400),
            min_changes: 1000,
            drafts: Time::secs(30 * 86_400),
            node_warnings: Time::secs(7 * 86_400),
            node_warnings_most: 200,
            samples: Time::secs(25 * 3600),
            fine_samples: Time::secs(65 * 60),
            interval: Time::secs(30),
        }
    }
}
