//! The audit log (docs/audit.md). The same on all replicas, since whichever leads trims it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Size, Time};

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Audit {
    /// Entries older than this are forgotten.
    pub keep: Time,
    /// What an entry shows of an object before and after a change is cut at this length, each.
    pub max_body: Size,
}

impl Audit {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        checks.at("audit").above_zero(&[("keep", self.keep)]);
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { keep: Time::secs(180 * 86_400), max_body: Size::kib(16) }
    }
}
