//! Configuration of `limit-conn`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Caps the TCP and UDP sessions that are open at once for a key.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Sessions that may be open without delay.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub(super) conn: u64,
    /// Further sessions, which are delayed; more are closed.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub(super) burst: u64,
    /// Seconds that a session is delayed for each full measure of `conn` that is open before it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(super) default_conn_delay: f64,
    /// Delays are always made of `default_conn_delay`, with and without this.
    #[serde(default)]
    #[expect(dead_code, reason = "both of its values mean the same here")]
    pub(super) only_use_default_delay: bool,
    /// Variable whose values are counted apart, or a text with variables (`key_type`). Without a value, the client's address.
    pub(super) key: String,
    /// What `key` is.
    #[serde(default)]
    pub(super) key_type: KeyType,
}

/// See [`Config::key_type`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyType {
    /// The name of a variable.
    #[default]
    Var,
    /// A text with `$variables`.
    VarCombination,
}
