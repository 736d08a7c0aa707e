//! Configuration of `traffic-split`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Chooses the upstream of TCP and UDP sessions by conditions and weights.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Tried in order; the first one that matches chooses. If none does, the route's own upstream is used.
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
}

/// One of [`Config::rules`].
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Rule {
    /// Conditions, one of which must hold; without any the rule always matches.
    pub(super) r#match: Option<Vec<Match>>,
    /// What is chosen between, in turn by weight.
    #[serde(default = "own_upstream")]
    #[schemars(length(min = 1, max = 20))]
    pub(super) weighted_upstreams: Vec<Weighted>,
}

/// One of [`Rule::match`].
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Match {
    /// An expression over the variables of the session, such as `[["remote_addr", "==", "10.0.0.1"]]`; without one it holds.
    #[schemars(with = "Option<Vec<Value>>")]
    pub(super) vars: Option<Value>,
}

/// One of [`Rule::weighted_upstreams`]; with neither upstream it stands for the route's own.
#[derive(Debug, Deserialize, JsonSchema, serde::Serialize)]
pub(super) struct Weighted {
    /// An upstream object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream_id: Option<UpstreamId>,
    /// An upstream in place: `type`, `hash_on`, `key`, `nodes`, `timeout` and `scheme` of it count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub(super) upstream: Option<Value>,
    /// Share of the sessions.
    #[serde(default = "one")]
    pub(super) weight: u32,
}

/// An id, as objects write it.
#[derive(Debug, Deserialize, JsonSchema, serde::Serialize)]
#[serde(untagged)]
pub(super) enum UpstreamId {
    Text(String),
    Number(u64),
}

fn one() -> u32 {
    1
}

fn own_upstream() -> Vec<Weighted> {
    vec![Weighted { upstream_id: None, upstream: None, weight: 1 }]
}
