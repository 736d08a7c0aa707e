//! Writes that clients have named (docs/api.md). The same on all replicas, since whichever leads trims them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::load::Checks;

/// Writes with the header `Idempotency-Key`, and what was answered to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Idempotency {
    /// Those older than this are forgotten: then a repeated one is done again.
    pub keep: Time,
    /// Those that are kept at most, of all clients together; the oldest are forgotten first. Each takes as much room as the object
    /// that it wrote.
    #[schemars(range(min = 1), extend("x-unit" = "writes"))]
    pub most: u64,
    /// Those that are kept at most of one account, key or token, so that nobody has those of others forgotten.
    #[schemars(range(min = 1), extend("x-unit" = "writes"))]
    pub most_of_a_caller: u64,
}

impl Idempotency {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        checks.at("idempotency").above_zero(&[("keep", self.keep)]);
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { keep: Time::secs(86_400), most: 100_000, most_of_a_caller: 10_000 }
    }
}
