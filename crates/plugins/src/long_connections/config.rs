//! Configuration of `long-connections`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says what becomes of WebSockets, long answers and TCP and UDP sessions when their route, their upstream node or their consumer
/// goes, or their route changes.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// `keep`: they go on until one of their sides ends them. `drain`: they are ended after `drain` seconds. `cut`: they are ended
    /// at once.
    pub(super) policy: Policy,
    /// Seconds that they go on with the policy `drain`.
    #[serde(default = "drain")]
    #[schemars(range(min = 1, max = 604_800))]
    pub(super) drain: u32,
}

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Policy {
    Keep,
    Drain,
    Cut,
}

fn drain() -> u32 {
    30
}
