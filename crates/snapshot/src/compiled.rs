//! What a matched request needs to know of its route.

use crate::upstream::CompiledUpstream;
use http::StatusCode;
use milecastle_plugin_api::{Chain, RouteInfo};
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
    /// Stands in for a route in quarantine that never had a good form.
    pub(crate) stand_in: bool,
}
