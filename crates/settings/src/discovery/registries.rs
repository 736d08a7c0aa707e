//! The registries that there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Consul, ConsulKv, DnsDiscovery, Eureka, Kubernetes, Nacos};
use crate::load::Checks;

/// The registries, by the `discovery_type` of upstreams. Where one has no section, requests to upstreams that need it are
/// answered with 503.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Registries {
    /// Names of the Domain Name System: addresses, or SRV records.
    pub dns: Option<DnsDiscovery>,
    /// Consul's health endpoint. Of several agents the next one is asked when one fails.
    pub consul: Option<Consul>,
    /// Keys of Consul's key/value store. The service's name says which agent is asked.
    pub consul_kv: Option<ConsulKv>,
    /// Nacos.
    pub nacos: Option<Nacos>,
    /// Eureka.
    pub eureka: Option<Eureka>,
    /// Endpoints or EndpointSlices of a Kubernetes cluster.
    pub kubernetes: Option<Kubernetes>,
}

/// The settings of one registry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RegistrySettings<'a> {
    /// See [`Registries::dns`].
    Dns(&'a DnsDiscovery),
    /// See [`Registries::consul`].
    Consul(&'a Consul),
    /// See [`Registries::consul_kv`].
    ConsulKv(&'a ConsulKv),
    /// See [`Registries::nacos`].
    Nacos(&'a Nacos),
    /// See [`Registries::eureka`].
    Eureka(&'a Eureka),
    /// See [`Registries::kubernetes`].
    Kubernetes(&'a Kubernetes),
}

impl Registries {
    /// Those that have a section, each with its `discovery_type`.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, RegistrySettings<'_>)> {
        let all = [
            ("dns", self.dns.as_ref().map(RegistrySettings::Dns)),
            ("consul", self.consul.as_ref().map(RegistrySettings::Consul)),
            ("consul_kv", self.consul_kv.as_ref().map(RegistrySettings::ConsulKv)),
            ("nacos", self.nacos.as_ref().map(RegistrySettings::Nacos)),
            ("eureka", self.eureka.as_ref().map(RegistrySettings::Eureka)),
            ("kubernetes", self.kubernetes.as_ref().map(RegistrySettings::Kubernetes)),
        ];
        all.into_iter().filter_map(|(name, settings)| Some((name, settings?)))
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        let Self { dns, consul, consul_kv, nacos, eureka, kubernetes } = self;
        if let Some(dns) = dns {
            dns.check(&mut checks.at("dns"));
        }
        let (consul, keys) = (consul.as_ref().map(|own| &own.agents), consul_kv.as_ref().map(|own| &own.agents));
        let polled = [
            ("consul.fetch_interval", consul.map(|agents| agents.fetch_interval)),
            ("consul_kv.fetch_interval", keys.map(|agents| agents.fetch_interval)),
            ("nacos.fetch_interval", nacos.as_ref().map(|nacos| nacos.fetch_interval)),
            ("eureka.fetch_interval", eureka.as_ref().map(|eureka| eureka.fetch_interval)),
        ];
        for (key, interval) in polled {
            checks.above_zero(&interval.map(|interval| (key, interval)).into_iter().collect::<Vec<_>>());
        }
        let servers = [
            ("consul", "servers", consul.map(|agents| &agents.servers)),
            ("consul_kv", "servers", keys.map(|agents| &agents.servers)),
            ("nacos", "host", nacos.as_ref().map(|nacos| &nacos.host)),
            ("eureka", "host", eureka.as_ref().map(|eureka| &eureka.host)),
        ];
        for (section, key, _) in servers.iter().filter(|(.., servers)| servers.is_some_and(Vec::is_empty)) {
            checks.at(section).fault(key, "required: name at least one server");
        }
        if consul_kv.as_ref().is_some_and(|own| own.prefix.split('/').any(str::is_empty)) {
            checks.fault("consul_kv.prefix", "expected what keys begin with, without `/` at either end: `upstreams`");
        }
        let prefixes = [
            ("nacos.prefix", nacos.as_ref().map(|nacos| &nacos.prefix)),
            ("eureka.prefix", eureka.as_ref().map(|eureka| &eureka.prefix)),
        ];
        for (key, prefix) in prefixes {
            if prefix.is_some_and(|prefix| !is_prefix(prefix)) {
                checks.fault(key, "expected a path that begins and ends with `/`");
            }
        }
        if let Some(nacos) = nacos
            && nacos.access_key.is_some() != nacos.secret_key.is_some()
        {
            checks.fault("nacos.access_key", "expected both `access_key` and `secret_key`, or neither");
        }
        if let Some(kubernetes) = kubernetes {
            kubernetes.check(&mut checks.at("kubernetes"));
        }
    }
}

/// Whether a path can stand before others.
fn is_prefix(path: &str) -> bool {
    path.starts_with('/') && path.ends_with('/') && path.bytes().all(|byte| matches!(byte, b'!'..=b'~'))
}
