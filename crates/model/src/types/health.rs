//! Health checks (`docs/spec/resources.md` §4).

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::de::{int, ints, list, object, seconds, some_int, some_object, some_seconds, yes};

/// `checks`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HealthChecks {
    /// Probes.
    #[serde(deserialize_with = "object")]
    pub active: ActiveCheck,
    /// Observation of traffic; absent: only failed attempts of retried requests are counted, by [`PassiveCheck::default`].
    #[serde(default, deserialize_with = "some_object")]
    pub passive: Option<PassiveCheck>,
}

/// What a probe is, or which traffic is observed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// An HTTP exchange.
    #[default]
    Http,
    /// An HTTP exchange over TLS.
    Https,
    /// A connection.
    Tcp,
}

/// Probes sent by the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ActiveCheck {
    /// Kind of probe. Default HTTP.
    #[serde(rename = "type")]
    pub kind: ProbeKind,
    /// Limit of one socket operation. Default 1 s, also where the attribute is not above zero.
    #[serde(deserialize_with = "probe_timeout")]
    pub timeout: Duration,
    /// Targets probed in parallel, at least 1. Default 10.
    #[serde(deserialize_with = "concurrency")]
    pub concurrency: u32,
    /// Host name to ask for; absent: the node's.
    pub host: Option<String>,
    /// Port to probe; absent: the node's.
    #[serde(deserialize_with = "some_int")]
    pub port: Option<u16>,
    /// Method. Default `GET`.
    pub http_method: String,
    /// Path. Default `/`.
    pub http_path: String,
    /// Body. Default empty.
    pub http_req_body: String,
    /// Whether an HTTPS probe verifies the certificate. Default true.
    pub https_verify_certificate: bool,
    /// Raw `Name: value` lines to add.
    #[serde(deserialize_with = "list")]
    pub req_headers: Vec<String>,
    /// Probes of usable targets.
    #[serde(deserialize_with = "object")]
    pub healthy: ActiveHealthy,
    /// Probes of unusable targets.
    #[serde(deserialize_with = "object")]
    pub unhealthy: ActiveUnhealthy,
}

impl Default for ActiveCheck {
    fn default() -> ActiveCheck {
        ActiveCheck {
            kind: ProbeKind::Http,
            timeout: Duration::from_secs(1),
            concurrency: 10,
            host: None,
            port: None,
            http_method: "GET".to_owned(),
            http_path: "/".to_owned(),
            http_req_body: String::new(),
            https_verify_certificate: yes(),
            req_headers: Vec::new(),
            healthy: ActiveHealthy::default(),
            unhealthy: ActiveUnhealthy::default(),
        }
    }
}

/// How a target becomes healthy by probes. `Default` is the meaning of the absent object: not probed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ActiveHealthy {
    /// Time between probes of a usable target. Default 1 s; zero (object absent) means no probes.
    #[serde(default = "second", deserialize_with = "seconds")]
    pub interval: Duration,
    /// Statuses that count as success. Default 200, 302.
    #[serde(default = "active_good", deserialize_with = "ints")]
    pub http_statuses: Vec<u16>,
    /// Successes to become healthy. Default 2.
    #[serde(default = "two", deserialize_with = "int")]
    pub successes: u8,
}

impl Default for ActiveHealthy {
    fn default() -> ActiveHealthy {
        ActiveHealthy { interval: Duration::ZERO, http_statuses: active_good(), successes: two() }
    }
}

/// How a target becomes unhealthy by probes. `Default` is the meaning of the absent object: not probed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ActiveUnhealthy {
    /// Time between probes of an unusable target. Default 1 s; zero (object absent) means no probes.
    #[serde(default = "second", deserialize_with = "seconds")]
    pub interval: Duration,
    /// Statuses that count as failure. Default 429, 404, 500–505.
    #[serde(default = "active_bad", deserialize_with = "ints")]
    pub http_statuses: Vec<u16>,
    /// Bad statuses to become unhealthy. Default 5.
    #[serde(default = "five", deserialize_with = "int")]
    pub http_failures: u8,
    /// Failed connections to become unhealthy. Default 2.
    #[serde(default = "two", deserialize_with = "int")]
    pub tcp_failures: u8,
    /// Timeouts to become unhealthy. Default 3.
    #[serde(default = "three", deserialize_with = "int")]
    pub timeouts: u8,
}

impl Default for ActiveUnhealthy {
    fn default() -> ActiveUnhealthy {
        ActiveUnhealthy {
            interval: Duration::ZERO,
            http_statuses: active_bad(),
            http_failures: five(),
            tcp_failures: two(),
            timeouts: three(),
        }
    }
}

/// Observation of traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PassiveCheck {
    /// Kind of traffic. Default HTTP.
    #[serde(rename = "type")]
    pub kind: ProbeKind,
    /// How a target becomes healthy.
    #[serde(deserialize_with = "object")]
    pub healthy: PassiveHealthy,
    /// How a target becomes unhealthy.
    #[serde(deserialize_with = "object")]
    pub unhealthy: PassiveUnhealthy,
}

/// How a target becomes healthy by traffic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PassiveHealthy {
    /// Statuses that count as success. Default 200–208, 226, 300–308.
    #[serde(deserialize_with = "ints")]
    pub http_statuses: Vec<u16>,
    /// Successes to become healthy; 0 disables. Default 5.
    #[serde(deserialize_with = "int")]
    pub successes: u8,
}

impl Default for PassiveHealthy {
    fn default() -> PassiveHealthy {
        PassiveHealthy { http_statuses: (200..=208).chain([226]).chain(300..=308).collect(), successes: 5 }
    }
}

/// How a target becomes unhealthy by traffic. A count of 0 disables.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PassiveUnhealthy {
    /// Statuses that count as failure. Default 429, 500, 503.
    #[serde(deserialize_with = "ints")]
    pub http_statuses: Vec<u16>,
    /// Bad statuses to become unhealthy. Default 5.
    #[serde(deserialize_with = "int")]
    pub http_failures: u8,
    /// Failed connections to become unhealthy. Default 2.
    #[serde(deserialize_with = "int")]
    pub tcp_failures: u8,
    /// Timeouts to become unhealthy. Default 7.
    #[serde(deserialize_with = "int")]
    pub timeouts: u8,
    /// Time after which a target that is not probed while it is unhealthy gets requests again. Absent: never. Our own.
    #[serde(deserialize_with = "some_seconds")]
    pub fail_timeout: Option<Duration>,
}

impl Default for PassiveUnhealthy {
    fn default() -> PassiveUnhealthy {
        PassiveUnhealthy {
            http_statuses: vec![429, 500, 503],
            http_failures: 5,
            tcp_failures: 2,
            timeouts: 7,
            fail_timeout: None,
        }
    }
}

fn probe_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    seconds(deserializer).map(|timeout| if timeout.is_zero() { second() } else { timeout })
}

fn concurrency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    int(deserializer).map(|targets: u32| targets.max(1))
}

fn second() -> Duration {
    Duration::from_secs(1)
}

fn two() -> u8 {
    2
}

fn three() -> u8 {
    3
}

fn five() -> u8 {
    5
}

fn active_good() -> Vec<u16> {
    vec![200, 302]
}

fn active_bad() -> Vec<u16> {
    vec![429, 404, 500, 501, 502, 503, 504, 505]
}
