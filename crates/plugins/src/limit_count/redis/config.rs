//! How Redis is reached, as attributes of the plugin.

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

/// Attributes of `policy: redis`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub(in super::super) struct RedisConfig {
    /// Name or address of the Redis server; required for `policy: redis`.
    #[schemars(length(min = 2))]
    pub(super) redis_host: Option<String>,
    /// Its TCP port.
    #[serde(default = "port")]
    #[schemars(range(min = 1))]
    pub(super) redis_port: u16,
    /// User (ACL) that the gateway is there; it must be allowed `EVAL` on keys that begin with `plugin-limit-count:`.
    #[schemars(length(min = 1))]
    pub(super) redis_username: Option<String>,
    /// Its password. Empty is none.
    #[schemars(with = "Option<String>")]
    pub(super) redis_password: Option<Secret<String>>,
    /// Number of the database.
    #[serde(default)]
    pub(super) redis_database: u32,
    /// Milliseconds that connecting may take, and as many for each answer.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1))]
    pub(super) redis_timeout: u32,
    /// Speaks TLS.
    #[serde(default)]
    pub(super) redis_ssl: bool,
    /// Verifies the server's certificate, with the authorities of `apisix.ssl.ssl_trusted_certificate`.
    #[serde(default)]
    pub(super) redis_ssl_verify: bool,
    /// Milliseconds after which a connection without a question is closed.
    #[serde(default = "keepalive_timeout")]
    #[schemars(range(min = 1000))]
    pub(super) redis_keepalive_timeout: u32,
    /// Connections that a worker may keep. It has one, over which its questions go one after the other without waiting for each
    /// other's answers.
    #[serde(default = "keepalive_pool")]
    #[schemars(range(min = 1))]
    pub(super) redis_keepalive_pool: u32,
    /// Seconds after which nodes tell Redis what they counted meanwhile. Only -1 is available in this version: each request is
    /// counted there at once.
    #[serde(default = "at_once")]
    #[schemars(extend("default" = -1))]
    pub(super) sync_interval: f64,
}

fn port() -> u16 {
    6379
}

fn timeout() -> u32 {
    1000
}

fn keepalive_timeout() -> u32 {
    10_000
}

fn keepalive_pool() -> u32 {
    100
}

pub(super) fn at_once() -> f64 {
    -1.0
}
