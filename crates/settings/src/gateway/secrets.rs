//! How secret managers are asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Size, Time};

/// How secret managers are asked for what references such as `$secret://vault/1/shop/key` stand for. Nothing is asked while the
/// configuration has no such reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Secrets {
    /// How long a value is used before it is asked for again.
    pub ttl: Time,
    /// After how long a reference is asked for again whose manager knows nothing of it, or did not answer. A manager that is out of
    /// reach is asked one question each time, and for all the rest as soon as it answers.
    pub negative_ttl: Time,
    /// References whose values a node knows at once; those beyond, of the objects that were written last, stay unresolved, which an alarm
    /// of the node, the log and a metric tell. Set it alike on all nodes of a group, so that they leave out the same ones.
    #[schemars(range(min = 1, max = 65536), extend("x-unit" = "references"))]
    pub entries: u32,
    /// How long one question may take, and how long a new configuration waits for the values that it needs: at most 10s. It does not
    /// wait for a manager that is known to be out of reach.
    pub timeout: Time,
    /// Longest answer of a secret manager; a longer one counts as a failure.
    pub answer_bytes: Size,
    /// Questions to one secret manager under way at once; further ones wait for their turn. Each secret object is a manager of its own,
    /// so with ten of them ten times as many are under way.
    #[schemars(range(min = 1, max = 1024), extend("x-unit" = "questions"))]
    pub concurrency: u32,
}

impl Secrets {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        if self.timeout < Time::secs(1) || self.timeout > Time::secs(10) {
            checks.fault("timeout", "expected 1s to 10s: a change of the configuration may wait so long, and the node says nothing meanwhile");
        }
        for (key, time) in [("ttl", self.ttl), ("negative_ttl", self.negative_ttl)] {
            if time < Time::secs(1) {
                checks.fault(key, "expected at least 1s: each reference in use is asked for again after it");
            }
        }
        if self.answer_bytes < Size::kib(4) {
            checks.fault("answer_bytes", "expected at least 4k: a private key takes most of that");
        }
    }
}

impl Default for Secrets {
    fn default() -> Self {
        Self {
            ttl: Time::secs(300),
            negative_ttl: Time::secs(60),
            entries: 512,
            timeout: Time::secs(5),
            answer_bytes: Size::kib(1024),
            concurrency: 32,
        }
    }
}
