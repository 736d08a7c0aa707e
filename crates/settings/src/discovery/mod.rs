//! Service discovery: the registries that upstreams with a `service_name` ask (`docs/spec/resources.md` §14).
//!
//! One type for whoever holds it: nothing in it belongs to a single node.

mod group;
mod kubernetes;
mod registries;
mod url;

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use kubernetes::{Kubernetes, KubernetesApi, KubernetesClient, KubernetesScheme, NamespaceSelector};
pub use registries::{Registries, RegistrySettings};
pub use url::{NameServer, RegistryUrl};

use crate::load::Checks;
use crate::{Size, Time};

/// The registries that a node names itself, and how it asks those of its group and its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Discovery {
    /// Those of the node's file; each takes the place of the one of the gateway group's settings.
    #[serde(flatten)]
    pub registries: Registries,
    /// How long the first request for a service waits for the registry's first answer; later ones never wait.
    pub first_answer: Time,
    /// Shortest pause after a registry has failed; doubled at each further failure, with jitter.
    pub retry_min: Time,
    /// Longest such pause.
    pub retry_max: Time,
    /// Longest answer of a registry; a longer one counts as a failure.
    pub answer_bytes: Size,
    /// Most instances of one service; an answer with more counts as a failure.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "instances"))]
    pub service_instances: u32,
    /// How long changes of instances are gathered before they are written to the state directory, from which a node that
    /// starts while a registry is away takes them.
    pub write_delay: Time,
    /// How long instances are kept there after the registry has confirmed them last; older ones are not used by a start.
    pub keep_for: Time,
}

/// The registry `dns`. Exactly one of `servers` and `resolv_conf` is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DnsDiscovery {
    /// Resolvers, `address` or `address:port` (53 where it is left out); the next one is asked when one fails.
    pub servers: Vec<NameServer>,
    /// A file in the format of `/etc/resolv.conf` whose resolvers are asked.
    pub resolv_conf: Option<PathBuf>,
    /// Kinds of records in the order in which they are asked for: the first kind that there is counts. `last` is the kind that
    /// there was the last time; `CNAME` is followed in any case.
    #[schemars(length(min = 1))]
    pub order: Vec<DnsOrder>,
    /// How long one try at one resolver may take.
    pub timeout: Time,
    /// Tries, over all resolvers.
    #[schemars(range(min = 1, max = 20), extend("x-unit" = "tries"))]
    pub tries: u32,
    /// An answer is kept at least so long, whatever its TTL; so is one that there is no such name.
    pub min_ttl: Time,
    /// An answer is kept at most so long.
    pub max_ttl: Time,
}

/// See [`DnsDiscovery::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsOrder {
    /// The kind of the last success.
    #[serde(rename = "last")]
    Last,
    /// Services: port, weight and priority come with the target.
    #[serde(rename = "SRV")]
    Srv,
    /// IPv4 addresses.
    #[serde(rename = "A")]
    A,
    /// IPv6 addresses.
    #[serde(rename = "AAAA")]
    Aaaa,
    /// Aliases.
    #[serde(rename = "CNAME")]
    Cname,
}

/// Consul agents, and how they are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConsulAgents {
    /// Consul agents, `http://host:8500`.
    #[serde(skip_serializing)]
    #[schemars(length(min = 1))]
    pub servers: Vec<RegistryUrl>,
    /// ACL token.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub token: Option<Secret<String>>,
    /// Pause between two questions where `keepalive` is off.
    pub fetch_interval: Time,
    /// Asks with blocking queries: the agent answers when something has changed.
    pub keepalive: bool,
    /// Time limits.
    pub timeout: ConsulTimeout,
}

/// The registry `consul`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Consul {
    /// Who is asked.
    #[serde(flatten)]
    pub agents: ConsulAgents,
    /// Weight of every instance.
    #[schemars(extend("x-unit" = "share"))]
    pub weight: u32,
    /// Services that are never asked for: they have no instances.
    pub skip_services: Vec<String>,
    /// The one instance of services that have none.
    pub default_service: Option<DefaultService>,
}

/// The registry `consul_kv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConsulKv {
    /// Who is asked.
    #[serde(flatten)]
    pub agents: ConsulAgents,
    /// What the keys of all services begin with, without `/` at either end.
    pub prefix: String,
    /// Weight of instances whose value names none.
    #[schemars(extend("x-unit" = "share"))]
    pub weight: u32,
    /// Services that are never asked for, as `upstreams/web/`: they have no instances.
    pub skip_keys: Vec<String>,
    /// The one instance of services that have none.
    pub default_service: Option<DefaultService>,
}

/// See [`ConsulAgents::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConsulTimeout {
    /// To connect, TLS included.
    #[schemars(range(min = 1, max = 600_000), extend("x-unit" = "milliseconds"))]
    pub connect: u32,
    /// For the whole answer; beyond `wait`, where the agent is asked to wait.
    #[schemars(range(min = 1, max = 600_000), extend("x-unit" = "milliseconds"))]
    pub read: u32,
    /// How long the agent waits for a change before it answers.
    #[schemars(range(min = 1, max = 600), extend("x-unit" = "seconds"))]
    pub wait: u32,
}

/// See [`Consul::default_service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultService {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Attributes.
    #[serde(default)]
    pub metadata: DefaultMetadata,
}

/// See [`DefaultService::metadata`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DefaultMetadata {
    /// Weight.
    #[schemars(extend("x-unit" = "share"))]
    pub weight: u32,
}

/// Time limits for a registry that is asked at intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegistryTimeout {
    /// To connect, TLS included.
    #[schemars(range(min = 1, max = 600_000), extend("x-unit" = "milliseconds"))]
    pub connect: u32,
    /// To send the question.
    #[schemars(range(min = 1, max = 600_000), extend("x-unit" = "milliseconds"))]
    pub send: u32,
    /// For the whole answer.
    #[schemars(range(min = 1, max = 600_000), extend("x-unit" = "milliseconds"))]
    pub read: u32,
}

/// The registry `nacos`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nacos {
    /// Nacos servers, `http://host:8848`, with `user:password@` before the host where they ask for a login; the next one is
    /// asked when one fails.
    #[serde(skip_serializing)]
    #[schemars(length(min = 1))]
    pub host: Vec<RegistryUrl>,
    /// What paths begin with: `/nacos/v1/` or `/nacos/v2/`.
    pub prefix: String,
    /// Pause between two questions for one service.
    pub fetch_interval: Time,
    /// Weight of instances that name none.
    #[schemars(extend("x-unit" = "share"))]
    pub weight: u32,
    /// Time limits.
    pub timeout: RegistryTimeout,
    /// Access key, for servers that ask for signed questions; needs `secret_key`.
    pub access_key: Option<String>,
    /// The key that signs.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub secret_key: Option<Secret<String>>,
}

/// The registry `eureka`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Eureka {
    /// Eureka servers, `http://host:8761`, with `user:password@` before the host where they ask for it; the next one is asked
    /// when one fails.
    #[serde(skip_serializing)]
    #[schemars(length(min = 1))]
    pub host: Vec<RegistryUrl>,
    /// What paths begin with.
    pub prefix: String,
    /// Pause between two questions for one application.
    pub fetch_interval: Time,
    /// Weight of instances whose metadata name none.
    #[schemars(extend("x-unit" = "share"))]
    pub weight: u32,
    /// Time limits.
    pub timeout: RegistryTimeout,
}

impl Discovery {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        checks.above_zero(&[("first_answer", self.first_answer), ("write_delay", self.write_delay)]);
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            checks.fault("retry_min", "expected more than 0 and no more than `retry_max`");
        }
        if self.keep_for < Time::secs(60) {
            checks.fault("keep_for", "expected at least 1m");
        }
        if self.answer_bytes < Size::kib(16) {
            checks.fault("answer_bytes", "expected at least 16k");
        }
        self.registries.check(checks);
    }
}

impl DnsDiscovery {
    fn check(&self, checks: &mut Checks<'_>) {
        if self.servers.is_empty() == self.resolv_conf.is_none() {
            checks.fault("servers", "expected exactly one of `servers` and `resolv_conf`");
        }
        checks.above_zero(&[("timeout", self.timeout), ("min_ttl", self.min_ttl)]);
        if self.min_ttl > self.max_ttl {
            checks.fault("min_ttl", "expected no more than `max_ttl`");
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            first_answer: Time::secs(5),
            retry_min: Time::millis(500),
            retry_max: Time::secs(15),
            answer_bytes: Size::kib(8 * 1024),
            service_instances: 10_000,
            write_delay: Time::secs(1),
            keep_for: Time::secs(7 * 86_400),
        }
    }
}

impl Default for DnsDiscovery {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            resolv_conf: None,
            order: vec![DnsOrder::Last, DnsOrder::Srv, DnsOrder::A, DnsOrder::Aaaa, DnsOrder::Cname],
            timeout: Time::secs(2),
            tries: 5,
            min_ttl: Time::secs(1),
            max_ttl: Time::secs(3600),
        }
    }
}

impl Default for ConsulAgents {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            token: None,
            fetch_interval: Time::secs(3),
            keepalive: true,
            timeout: ConsulTimeout::default(),
        }
    }
}

impl Default for Consul {
    fn default() -> Self {
        Self { agents: ConsulAgents::default(), weight: 1, skip_services: Vec::new(), default_service: None }
    }
}

impl Default for ConsulKv {
    fn default() -> Self {
        Self {
            agents: ConsulAgents::default(),
            prefix: "upstreams".into(),
            weight: 1,
            skip_keys: Vec::new(),
            default_service: None,
        }
    }
}

impl Default for ConsulTimeout {
    fn default() -> Self {
        Self { connect: 2000, read: 2000, wait: 60 }
    }
}

impl Default for DefaultMetadata {
    fn default() -> Self {
        Self { weight: 1 }
    }
}

impl Default for RegistryTimeout {
    fn default() -> Self {
        Self { connect: 2000, send: 2000, read: 5000 }
    }
}

impl Default for Nacos {
    fn default() -> Self {
        Self {
            host: Vec::new(),
            prefix: "/nacos/v1/".into(),
            fetch_interval: Time::secs(30),
            weight: 100,
            timeout: RegistryTimeout::default(),
            access_key: None,
            secret_key: None,
        }
    }
}

impl Default for Eureka {
    fn default() -> Self {
        Self {
            host: Vec::new(),
            prefix: "/eureka/".into(),
            fetch_interval: Time::secs(30),
            weight: 100,
            timeout: RegistryTimeout::default(),
        }
    }
}
