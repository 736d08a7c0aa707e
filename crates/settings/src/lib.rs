//! Configuration of every process: each file is a type, and the type is the only description of the file.
//!
//! From the types come the check of a file (unknown keys, wrong types, ranges: all faults at once, with line and column), its
//! defaults, and the reference page `docs/configuration.md`. To add a key, add a field with a doc comment that tells what it
//! is and its unit ([`Time`] and [`Size`] carry theirs), give it a default, and run `cargo xtask codegen`.
//!
//! What bounds the memory, places or time that others may take of a process, or how soon it notices and tries again, is a key;
//! a constant is what a protocol or a file's layout says, the size of a buffer, the length of a name, and the pace of work that
//! nobody outside sees.
//!
//! Invariants:
//! - What a file leaves out is the type's `Default`; no other crate knows a default.
//! - A loaded configuration is complete and checked; whoever reads it need not check again.
//! - Secrets ([`milecastle_telemetry::Secret`]) appear in no message, not even in those about their own key.
//!
//! Deliberately absent: reloading (what can change while running is a resource, not a setting), plugin configurations of
//! resources, and any I/O but reading the files that the configuration names.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod audit;
mod availability;
mod check;
mod common;
mod dashboard;
mod discovery;
mod dp_manager;
mod events;
mod gateway;
mod history;
mod idempotency;
mod listener;
mod load;
mod members;
mod oidc;
pub mod reference;
mod replica;
mod tree;
mod units;
mod whole;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use audit::Audit;
pub use availability::Availability;
pub use common::{
    Database, HostPort, HttpLimits, IpPort, ListenTls, Log, LogFormat, Probes, Sealing, SecretError, Server,
};
pub use dashboard::{Admin, AdminKey, Dashboard, DashboardFile, Declarative};
pub use discovery::{
    Consul, ConsulAgents, ConsulKv, ConsulTimeout, DefaultMetadata, DefaultService, Discovery, DnsDiscovery, DnsOrder,
    Eureka, Kubernetes, KubernetesApi, KubernetesClient, KubernetesScheme, Nacos, NameServer, NamespaceSelector,
    Registries, RegistrySettings, RegistryTimeout, RegistryUrl,
};
pub use dp_manager::{Certificates, DpLimits, DpManager, DpManagerFile, Stream};
pub use events::{EventStreams, Events};
pub use gateway::{
    AmbiguousPath, Apisix, ControlPlane, Dns, EscapeStyle, Gateway, GatewayFile, HttpListen, Limits,
    LongConnectionPolicy, LongConnections, MetricSettings, MetricsPush, NginxConfig, NginxHttp, NginxStream,
    NodeListen, Ocsp, PluginAttr, Prometheus, ProxyProtocol, ProxyVersion, Secrets, Shutdown, SideTls, Ssl, SslListen,
    State, StreamProxy, TcpListen, Timeouts, TlsVersion, TlsVersions, TrustedAddresses, Upgrade, UpstreamKeepalive,
    UpstreamPool, UpstreamTls,
};
pub use history::History;
pub use idempotency::Idempotency;
pub use listener::Listener;
pub use load::{Checks, ENVIRONMENT_PREFIX, Fault, Faults, File, Known, LoadError, load, load_with, parse};
pub use members::Members;
pub use oidc::{Oidc, OidcRole};
pub use replica::{ControlShutdown, Replica};
pub use tree::{Place, yaml};
pub use units::{Peers, PortRange, Size, Switch, Time, UnitError};
pub use whole::{ControlFile, UpFile};
