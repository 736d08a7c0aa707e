//! Configuration of `syslog`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Sends a line for each TCP or UDP session to a syslog server (RFC 5424).
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// The server.
    #[schemars(length(min = 1))]
    pub(super) host: String,
    /// Its port.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) port: u16,
    /// How it is reached. For UDP its name is looked up again whenever the answer's time is over (`dns` of the node's file);
    /// while that fails, lines go where they went before.
    #[serde(default)]
    pub(super) sock_type: SockType,
    /// TLS over TCP. The server's certificate is verified.
    #[serde(default)]
    pub(super) tls: bool,
    /// Milliseconds for connecting, and for each write.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1))]
    pub(super) timeout: u64,
    /// What is gathered is sent once it comes to so many bytes.
    #[serde(default = "flush_limit")]
    #[schemars(range(min = 1))]
    pub(super) flush_limit: usize,
    /// What would make it more bytes than this is dropped.
    #[serde(default = "drop_limit")]
    pub(super) drop_limit: usize,
    /// Accepted; there is one connection.
    #[serde(default = "pool_size")]
    #[schemars(range(min = 5))]
    #[expect(dead_code, reason = "the schema checks it, and there is one connection")]
    pub(super) pool_size: u64,
    /// The entry: texts that begin with `$` are variables. Needed here or in the metadata.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub(super) log_format: Option<Value>,
    /// Name of the queue, for logs.
    #[serde(default = "name")]
    pub(super) name: String,
    /// Entries that are gathered before they go to what is sent; 1 gathers none.
    #[serde(default = "batch_max_size")]
    #[schemars(range(min = 1))]
    pub(super) batch_max_size: usize,
    /// Seconds without a new entry after which what is gathered goes there.
    #[serde(default = "inactive_timeout")]
    #[schemars(range(min = 1))]
    pub(super) inactive_timeout: u32,
    /// Age in seconds of the oldest entry at which what is gathered goes there.
    #[serde(default = "buffer_duration")]
    #[schemars(range(min = 1))]
    pub(super) buffer_duration: u32,
    /// Times that sending is tried again.
    #[serde(default)]
    pub(super) max_retry_count: u32,
    /// Seconds before each.
    #[serde(default = "retry_delay")]
    pub(super) retry_delay: u32,
}

/// See [`Config::sock_type`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SockType {
    /// A TCP connection that is kept.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// What holds for all instances that do not say otherwise.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MetadataConfig {
    /// The entry, for instances without one.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub(super) log_format: Option<Value>,
    /// Entries of all instances that wait; further ones are dropped.
    #[serde(default = "max_pending_entries")]
    #[schemars(range(min = 1))]
    pub(super) max_pending_entries: usize,
}

fn timeout() -> u64 {
    3000
}

fn flush_limit() -> usize {
    4096
}

fn drop_limit() -> usize {
    1_048_576
}

fn pool_size() -> u64 {
    5
}

fn name() -> String {
    "stream sys logger".to_owned()
}

fn batch_max_size() -> usize {
    1000
}

fn inactive_timeout() -> u32 {
    5
}

fn buffer_duration() -> u32 {
    60
}

fn retry_delay() -> u32 {
    1
}

pub(super) fn max_pending_entries() -> usize {
    8192
}
