//! What a route is together with its service (`docs/spec/resources.md` §2.1, §2.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Labels, PluginConfig, Route, Service, Timeout, Upstream};
use crate::{Id, Plugins};

/// Where the nodes of a route come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpstreamSource<'a> {
    /// An upstream object.
    Id(&'a Id),
    /// The inline upstream of the route or of its service.
    Inline(&'a Arc<Upstream>),
}

/// A route with what it takes over from its service.
#[derive(Debug, Clone)]
pub struct EffectiveRoute<'a> {
    /// Nodes; `None` if neither says, and then only a plugin can answer.
    pub upstream: Option<UpstreamSource<'a>>,
    /// Host patterns: the route's `hosts`, else its `host`, else the service's `hosts`; empty means any.
    pub hosts: Vec<&'a str>,
    /// The route's timeout, which replaces the upstream's as a whole. Services have none.
    pub timeout: Option<Timeout>,
    /// The route's labels, else the service's.
    pub labels: &'a Labels,
    /// The route's value, else the service's, else false.
    pub enable_websocket: bool,
    /// Always the route's.
    pub name: Option<&'a str>,
    route: &'a Route,
    service: Option<&'a Service>,
}

/// Applies `route` over `service`.
pub fn effective<'a>(route: &'a Route, service: Option<&'a Service>) -> EffectiveRoute<'a> {
    let own = source(route.upstream_id.as_ref(), route.upstream.as_ref());
    let inherited = || service.and_then(|service| source(service.upstream_id.as_ref(), service.upstream.as_ref()));
    let hosts: Vec<&str> = match (&route.hosts[..], &route.host, service) {
        ([], None, Some(service)) => service.hosts.iter().map(String::as_str).collect(),
        ([], host, _) => host.iter().map(String::as_str).collect(),
        (hosts, ..) => hosts.iter().map(String::as_str).collect(),
    };
    EffectiveRoute {
        upstream: own.or_else(inherited),
        hosts,
        timeout: route.timeout,
        labels: match service {
            Some(service) if route.labels.is_empty() => &service.labels,
            _ => &route.labels,
        },
        enable_websocket: route
            .enable_websocket
            .or_else(|| service.and_then(|service| service.enable_websocket))
            .unwrap_or(false),
        name: route.name.as_deref(),
        route,
        service,
    }
}

impl<'a> EffectiveRoute<'a> {
    /// The plugins by name: the route's, then those of `plugin_config` that it lacks, then those of the service. An entry
    /// counts as a whole; nothing is merged within.
    pub fn plugins(&self, plugin_config: Option<&'a PluginConfig>) -> BTreeMap<&'a str, &'a Value> {
        let shared = plugin_config.map(|config| &config.plugins);
        let service = self.service.map(|service| &service.plugins);
        let layers: [Option<&'a Plugins>; 3] = [Some(&self.route.plugins), shared, service];
        let mut merged = BTreeMap::new();
        for (name, config) in layers.into_iter().flatten().flatten() {
            merged.entry(name.as_str()).or_insert(config);
        }
        merged
    }
}

/// An id is preferred to an inline upstream.
fn source<'a>(id: Option<&'a Id>, inline: Option<&'a Arc<Upstream>>) -> Option<UpstreamSource<'a>> {
    id.map(UpstreamSource::Id).or(inline.map(UpstreamSource::Inline))
}
