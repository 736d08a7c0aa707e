//! Upstreams (`docs/spec/resources.md` §3).

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::de::{int, object, seconds, some_int, some_object, some_seconds};
use super::node::nodes;
use super::{HealthChecks, Labels, Node, SecretText};
use crate::Id;

/// A set of nodes and how to use it, standalone or inline.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Upstream {
    /// Absent when inline.
    pub id: Option<Id>,
    /// Name for people.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// How nodes are chosen.
    #[serde(default, rename = "type")]
    pub balancer: Balancer,
    /// Static nodes, from either form; `None` if they come from service discovery.
    #[serde(default, deserialize_with = "nodes")]
    pub nodes: Option<Vec<Node>>,
    /// Name to ask service discovery for.
    pub service_name: Option<String>,
    /// Which registry to ask.
    pub discovery_type: Option<String>,
    /// Arguments of that registry.
    #[serde(default, deserialize_with = "object")]
    pub discovery_args: Map<String, Value>,
    /// Where the key of a consistent hash comes from.
    #[serde(default)]
    pub hash_on: HashOn,
    /// Name of that key.
    pub key: Option<String>,
    /// Health checks.
    #[serde(default, deserialize_with = "some_object")]
    pub checks: Option<HealthChecks>,
    /// Extra attempts after the first; absent: one less than there are nodes.
    #[serde(default, deserialize_with = "some_int")]
    pub retries: Option<u32>,
    /// Time from the first attempt after which none is begun; `None` (also for 0) is no limit.
    #[serde(default, deserialize_with = "some_seconds")]
    pub retry_timeout: Option<Duration>,
    /// Absent: [`Timeout::DEFAULT`], unless the route has one.
    #[serde(default, deserialize_with = "some_object")]
    pub timeout: Option<Timeout>,
    /// Which host name the upstream sees.
    #[serde(default)]
    pub pass_host: PassHost,
    /// The host name for [`PassHost::Rewrite`].
    pub upstream_host: Option<String>,
    /// Protocol towards the nodes.
    #[serde(default)]
    pub scheme: Scheme,
    /// Pool of idle connections; absent: the node's settings.
    #[serde(default, deserialize_with = "some_object")]
    pub keepalive_pool: Option<KeepalivePool>,
    /// Client certificate for the upstream.
    #[serde(default, deserialize_with = "some_object")]
    pub tls: Option<UpstreamTls>,
}

/// How nodes are chosen (`type`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// By weight in turn.
    #[default]
    RoundRobin,
    /// Consistent hash.
    Chash,
    /// Lowest smoothed response time of two.
    Ewma,
    /// Fewest requests in flight by weight.
    LeastConn,
    /// A name that is none of these; requests to such an upstream fail.
    Other(String),
}

impl<'de> Deserialize<'de> for Balancer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Balancer, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(match name.as_str() {
            "roundrobin" => Balancer::RoundRobin,
            "chash" => Balancer::Chash,
            "ewma" => Balancer::Ewma,
            "least_conn" => Balancer::LeastConn,
            _ => Balancer::Other(name),
        })
    }
}

/// Where the key of a consistent hash comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    /// The variable named by `key`.
    #[default]
    Vars,
    /// The header named by `key`.
    Header,
    /// The cookie named by `key`.
    Cookie,
    /// The consumer's name.
    Consumer,
    /// `key` with its variables expanded.
    VarsCombinations,
}

/// Which host name the upstream sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's.
    Node,
    /// `upstream_host`.
    Rewrite,
}

/// Protocol towards the nodes. In L4 use [`Scheme::Http`] is read as [`Scheme::Tcp`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// HTTP/1.1 in clear text.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// gRPC: HTTP/2 in clear text.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
    /// L4.
    Tcp,
    /// L4 over TLS.
    Tls,
    /// L4 datagrams.
    Udp,
    /// Kafka, for `kafka-proxy`.
    Kafka,
}

impl Scheme {
    /// Port of a node that names none; L4 schemes have no default.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Scheme::Http | Scheme::Grpc => Some(80),
            Scheme::Https | Scheme::Grpcs => Some(443),
            Scheme::Tcp | Scheme::Tls | Scheme::Udp | Scheme::Kafka => None,
        }
    }

    /// Whether TLS is spoken to the nodes.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Grpcs | Scheme::Tls)
    }

    /// As written in the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Grpc => "grpc",
            Scheme::Grpcs => "grpcs",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Udp => "udp",
            Scheme::Kafka => "kafka",
        }
    }
}

/// TIMEOUT. Each is above zero, whole milliseconds, at most a hundred years (`docs/spec/upstream-balancing.md` §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct Timeout {
    /// To establish a connection, TLS included.
    #[serde(deserialize_with = "seconds")]
    pub connect: Duration,
    /// Between two writes.
    #[serde(deserialize_with = "seconds")]
    pub send: Duration,
    /// Between two reads.
    #[serde(deserialize_with = "seconds")]
    pub read: Duration,
}

impl Timeout {
    /// 60 s each, where neither route nor upstream has one.
    pub const DEFAULT: Timeout =
        Timeout { connect: Duration::from_secs(60), send: Duration::from_secs(60), read: Duration::from_secs(60) };
}

impl Default for Timeout {
    fn default() -> Timeout {
        Timeout::DEFAULT
    }
}

/// Pool of idle connections, per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct KeepalivePool {
    /// Most idle connections. Default 320.
    #[serde(deserialize_with = "int")]
    pub size: u32,
    /// How long one may idle. Default 60 s; zero closes at once.
    #[serde(deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// Requests after which one is closed. Default 1000.
    #[serde(deserialize_with = "int")]
    pub requests: u64,
}

impl Default for KeepalivePool {
    fn default() -> KeepalivePool {
        KeepalivePool { size: 320, idle_timeout: Duration::from_secs(60), requests: 1000 }
    }
}

/// The client certificate that the gateway shows to the upstream: a pair, or the id of an ssl object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct UpstreamTls {
    /// PEM or a secret reference.
    pub client_cert: Option<String>,
    /// PEM, ciphertext or a secret reference.
    pub client_key: Option<SecretText>,
    /// An ssl object of type `client`.
    pub client_cert_id: Option<Id>,
    /// Whether the upstream's certificate is verified. Default false.
    #[serde(default)]
    pub verify: bool,
}
