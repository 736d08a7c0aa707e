//! Configuration of `ip-restriction`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Allows or denies requests by the client's address.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Only these addresses and blocks pass: IPv4, IPv6 or CIDR. Either this or `blacklist`.
    #[schemars(length(min = 1))]
    pub(super) whitelist: Option<Vec<String>>,
    /// These addresses and blocks are refused.
    #[schemars(length(min = 1))]
    pub(super) blacklist: Option<Vec<String>>,
    /// Message of the refusal's body.
    #[serde(default = "message")]
    #[schemars(length(min = 1, max = 1024))]
    pub(super) message: String,
    /// Status of the refusal.
    #[serde(default = "response_code")]
    #[schemars(range(min = 403, max = 404))]
    pub(super) response_code: u16,
}

/// Allows or denies TCP and UDP sessions by the client's address.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct StreamConfig {
    /// Only these addresses and blocks pass: IPv4, IPv6 or CIDR. Either this or `blacklist`.
    #[schemars(length(min = 1))]
    pub(super) whitelist: Option<Vec<String>>,
    /// Sessions of these addresses and blocks are closed.
    #[schemars(length(min = 1))]
    pub(super) blacklist: Option<Vec<String>>,
}

fn message() -> String {
    "Your IP address is not allowed".to_owned()
}

fn response_code() -> u16 {
    403
}
