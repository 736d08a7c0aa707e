//! Configuration of `limit-count`.

use super::redis::RedisConfig;
use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::borrow::Cow;

/// Caps the number of requests for each key in a time window.
///
/// Counters belong to the object that carries the plugin: a service's covers its routes, a consumer's all it calls. A quota
/// of its own for one consumer stands on that consumer, where it takes the place of its routes'.
/// They are shared by all workers of a node and start anew when this configuration changes. A node holds at most
/// 1,048,576 keys at once (`plugin_attr.limit-count.max_keys`), in some 200 MB; beyond that, those are dropped that have spent least of
/// their quota, and of equal ones those whose windows end first. Each is counted in `limit_hits_total`, by that key.
///
/// With `policy: redis` the nodes that ask one server count together, each request at once: its answer is waited for, as long as
/// `redis_timeout` allows. While there is none, requests are answered with 500, or pass with `allow_degradation`, and a line in the log
/// says why. A worker has one connection to a server, and at most 4,096 questions at a time that wait for its
/// answer, and as many that wait to be sent (`plugin_attr.limit-count.max_pending`); one more has no answer, and is counted there too.
/// After a connection that ended before its first answer, after an answer that did not come in time, and after a server that is a
/// replica by now, is loading or asks for a password, the next is opened 100 ms later (`plugin_attr.limit-count.redis_pause`, in
/// milliseconds; 0: at once), and no sooner than after as long as was waited in vain. Gateway groups with objects of the same id and
/// configuration should not share a database.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Requests allowed in a window: a number, or a template that gives one for each request. A template must not read what
    /// clients choose, such as a header that nobody checks: they would set their own quota.
    pub(super) count: Option<Amount>,
    /// Length of the window in seconds: a number, or a template.
    pub(super) time_window: Option<Amount>,
    /// `fixed`: a window begins with a key's first request. `sliding`: the window before counts by what it overlaps.
    #[serde(default)]
    pub(super) window_type: WindowType,
    /// What is counted by: name of a variable, template or constant, see `key_type`. Without value: the client's address.
    #[serde(default = "remote_addr")]
    pub(super) key: String,
    /// What `key` is: `var` a variable's name, `var_combination` a template, `constant` itself.
    #[serde(default)]
    pub(super) key_type: KeyType,
    /// Several limits, in place of `count` and `time_window`.
    pub(super) rules: Option<Vec<RuleConfig>>,
    /// Objects that name the same group share its counters; all must be configured alike.
    pub(super) group: Option<String>,
    /// Status of a rejection.
    #[serde(default = "service_unavailable")]
    #[schemars(range(min = 200, max = 599))]
    pub(super) rejected_code: u16,
    /// Message of a rejection, answered as `{"error_msg":"…"}`.
    #[schemars(length(min = 1))]
    pub(super) rejected_msg: Option<String>,
    /// Where counters live: `local`, the node's memory; `redis`, a server where all nodes count together. `redis-cluster` and
    /// `redis-sentinel` are not available in this version.
    #[serde(default)]
    pub(super) policy: Policy,
    /// Lets requests pass when the limit cannot be determined, as while Redis does not answer.
    #[serde(default)]
    pub(super) allow_degradation: bool,
    /// Puts limit, remaining requests and seconds until the reset on the answer.
    #[serde(default = "yes")]
    pub(super) show_limit_quota_header: bool,
    #[serde(flatten)]
    pub(super) redis: RedisConfig,
}

/// One of several limits.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct RuleConfig {
    /// Requests allowed in a window.
    pub(super) count: Amount,
    /// Length of the window in seconds.
    pub(super) time_window: Amount,
    /// Template of the key. The rule is skipped if none of its variables has a value.
    pub(super) key: String,
    /// Stands before `RateLimit-` in the names of this rule's headers; by default the rule's place in the list, from 1.
    pub(super) header_prefix: Option<String>,
}

/// Most of anything: the largest whole number up to which every whole number has a form of its own in JSON's arithmetic.
pub(super) const MOST: u64 = (1 << 53) - 1;

/// A positive whole number up to [`MOST`], or a template that gives one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Amount {
    Number(u64),
    Template(String),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => Ok(Self::Template(text)),
            // The schema has the specification's words for everything else.
            other => match other.as_u64().filter(|number| (1..=MOST).contains(number)) {
                Some(number) => Ok(Self::Number(number)),
                None => Err(D::Error::custom(format!(
                    "expected a whole number from 1 to {MOST}, or a template, got {other}"
                ))),
            },
        }
    }
}

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "type": "integer", "exclusiveMinimum": 0, "maximum": MOST }, { "type": "string" }] })
    }
}

/// How windows follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum WindowType {
    #[default]
    Fixed,
    Sliding,
}

/// What the attribute `key` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum KeyType {
    #[default]
    Var,
    VarCombination,
    Constant,
}

/// Where counters live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Policy {
    #[default]
    Local,
    Redis,
    RedisCluster,
    RedisSentinel,
}

impl Policy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::RedisCluster => "redis-cluster",
            Self::RedisSentinel => "redis-sentinel",
        }
    }
}

/// Names of the quota headers.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Metadata {
    /// Header that carries the limit.
    #[serde(default = "limit_header", deserialize_with = "header_name")]
    #[schemars(with = "String", extend("default" = "X-RateLimit-Limit"))]
    pub(super) limit_header: HeaderName,
    /// Header that carries the number of requests left.
    #[serde(default = "remaining_header", deserialize_with = "header_name")]
    #[schemars(with = "String", extend("default" = "X-RateLimit-Remaining"))]
    pub(super) remaining_header: HeaderName,
    /// Header that carries the seconds until the reset.
    #[serde(default = "reset_header", deserialize_with = "header_name")]
    #[schemars(with = "String", extend("default" = "X-RateLimit-Reset"))]
    pub(super) reset_header: HeaderName,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { limit_header: limit_header(), remaining_header: remaining_header(), reset_header: reset_header() }
    }
}

fn header_name<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderName, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("invalid header name: {text}")))
}

fn limit_header() -> HeaderName {
    HeaderName::from_static("x-ratelimit-limit")
}

fn remaining_header() -> HeaderName {
    HeaderName::from_static("x-ratelimit-remaining")
}

fn reset_header() -> HeaderName {
    HeaderName::from_static("x-ratelimit-reset")
}

fn remote_addr() -> String {
    "remote_addr".to_owned()
}

fn service_unavailable() -> u16 {
    503
}

fn yes() -> bool {
    true
}
