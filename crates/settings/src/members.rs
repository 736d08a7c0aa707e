//! How the replicas of the control plane know of each other. All of them should have the same settings here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::load::Checks;

/// The replicas of the control plane as members of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Members {
    /// What lists call this replica; unset is the name of its host.
    pub name: Option<String>,
    /// How often a replica says that it lives.
    pub heartbeat: Time,
    /// Silence after which a replica is lost: it leads no longer, and nodes that were connected to it are not waited for.
    pub lost_after: Time,
    /// Silence after which a lost replica disappears from the list.
    pub forget_after: Time,
    /// Silence after which a gateway node is called offline, and no longer lost.
    pub nodes_offline_after: Time,
    /// Silence after which a gateway node is forgotten; one that comes back later joins again with its group token.
    pub forget_nodes_after: Time,
}

impl Members {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("members");
        if self.heartbeat.is_zero() || self.heartbeat.get() * 2 > self.lost_after.get() {
            checks.fault("heartbeat", "expected more than 0 and at most half of `members.lost_after`");
        }
        if self.forget_after < self.lost_after {
            checks.fault("forget_after", "expected at least `members.lost_after`");
        }
        if self.forget_nodes_after < self.nodes_offline_after {
            checks.fault("forget_nodes_after", "expected at least `members.nodes_offline_after`");
        }
    }
}

impl Default for Members {
    fn default() -> Self {
        Self {
            name: None,
            heartbeat: Time::secs(2),
            lost_after: Time::secs(6),
            forget_after: Time::secs(3600),
            nodes_offline_after: Time::secs(600),
            forget_nodes_after: Time::secs(30 * 86_400),
        }
    }
}
