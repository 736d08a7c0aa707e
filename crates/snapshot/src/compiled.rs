//! What a matched request needs to know of its route.

use crate::upstream::CompiledUpstream;
use foldhash::quality::FixedState;
use http::StatusCode;
use milecastle_plugin_api::{Built, Chain, RouteInfo, checksum};
use serde_json::Value;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of a request that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is served.
    Serve,
    /// It is answered with this status: something that the route refers to is missing or in quarantine.
    Fail(StatusCode),
}

/// Where the route's upstream is.
#[derive(Debug, Clone)]
pub enum UpstreamRef {
    /// Nowhere.
    None,
    /// In the route or its service.
    Inline(Arc<CompiledUpstream>),
    /// An object of its own, looked up when it is needed, so that a change of it touches no route.
    Id(Arc<str>),
}

/// The terms of a route ([`CompiledRoute::terms`]) with this body.
pub(crate) fn terms<'a>(
    body: &Value,
    conditions: &[&str],
    plugins: impl Iterator<Item = &'a Built>,
    more: impl Hash,
) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    for condition in conditions {
        body.get(condition).map(checksum).hash(&mut hasher);
    }
    // The order of plugins says nothing: it may be that in which they were written.
    let plugins = plugins
        .filter(|built| !built.def().incidental)
        .map(|built| FixedState::default().hash_one((built.name(), built.checksum())));
    plugins.fold(0, u64::wrapping_add).hash(&mut hasher);
    more.hash(&mut hasher);
    hasher.finish()
}

/// Time limits towards the upstream (`docs/spec/upstream-balancing.md` §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To establish a connection, TLS included.
    pub connect: Duration,
    /// Between two writes.
    pub send: Duration,
    /// Between two reads.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: minute, send: minute, read: minute }
    }
}

/// A route with its service and plugin_config merged in.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Ids and names.
    pub info: Arc<RouteInfo>,
    /// What becomes of a request that matches.
    pub outcome: Outcome,
    /// The plugins in force, by the precedence route, plugin_config, service.
    pub chain: Arc<Chain>,
    /// The upstream.
    pub upstream: UpstreamRef,
    /// The route's own time limits; they replace the upstream's as a whole.
    pub timeout: Option<Timeouts>,
    /// Whether `Upgrade` is passed on.
    pub websocket: bool,
    /// Changes when the conditions or the plugins in force do: connections that last were opened under them. Names, labels, time
    /// limits, values of secrets, the upstream and plugins that are [incidental](milecastle_plugin_api::Plugin::INCIDENTAL) do not count.
    pub terms: u64,
    /// Stands in for a route in quarantine that never had a good form.
    pub(crate) stand_in: bool,
}
