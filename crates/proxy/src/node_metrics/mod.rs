//! Metrics of the node itself (`docs/spec/plugins/prometheus.md`, the gauges "refresh", and our own).
//!
//! They mirror what is counted elsewhere, so they are brought up to date when they are looked at and cost requests nothing.

mod families;
pub(crate) mod limits;
mod traffic;

use crate::access_log::AccessLog;
use crate::counters::Counters;
use crate::current::Current;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::health::UpstreamHealth;
use crate::node::NodeStatus;
use crate::secrets::NodeSecrets;
use crate::side_http;
use families::Families;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use milecastle_export::otlp::{self, OtlpSettings};
use milecastle_export::{Background, TargetError};
use milecastle_plugin_api::NodeFacts;
use milecastle_settings::{MetricsPush, Prometheus};
use milecastle_telemetry::metrics::{FamilySnapshot, MetricError, Registry};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What the metrics are read from.
pub(crate) struct Sources {
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) upstream_health: Arc<UpstreamHealth>,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) secrets: Arc<NodeSecrets>,
    pub(crate) current: Arc<OnceLock<Arc<Current>>>,
    pub(crate) node: Arc<dyn Fn() -> NodeStatus + Send + Sync>,
    pub(crate) facts: NodeFacts,
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) exporters: Arc<Background>,
}

/// Metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The address of the collector.
    #[error("endpoint: {0}")]
    Endpoint(#[from] TargetError),
    /// The header.
    #[error("authorization: it cannot be sent as a header: leave out line breaks and other control characters")]
    Authorization,
}

/// Registers the node's metrics, for those who only want to know what there is.
///
/// # Errors
/// A name is taken by a metric of another kind.
pub fn register_metrics(registry: &Registry, settings: &Prometheus) -> Result<(), MetricError> {
    Families::new(registry, settings)?;
    milecastle_pki::register_listener_metrics(registry)?;
    side_http::register_metrics(registry).map(drop)
}

/// The node's metrics.
pub(crate) struct NodeMetrics {
    sources: Sources,
    families: Families,
    /// Held while they are brought up to date: the page and what pushes them must not do it at once.
    updating: Mutex<()>,
}

impl NodeMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken by a metric of another kind.
    pub(crate) fn new(sources: Sources, settings: &Prometheus) -> Result<Self, MetricError> {
        let families = Families::new(&sources.registry, settings)?;
        Ok(Self { sources, families, updating: Mutex::default() })
    }

    /// The page as of now.
    pub(crate) fn render(&self) -> String {
        self.update();
        self.sources.registry.render()
    }

    /// The figures as of now.
    fn snapshot(&self) -> Vec<FamilySnapshot> {
        self.update();
        self.sources.registry.snapshot()
    }

    /// Starts pushing them, if the settings say where to.
    ///
    /// # Errors
    /// What they say cannot be used.
    pub(crate) fn push(self: &Arc<Self>, settings: &MetricsPush) -> Result<(), PushError> {
        let Some(endpoint) = &settings.endpoint else { return Ok(()) };
        let mut headers = HeaderMap::new();
        if let Some(secret) = &settings.authorization {
            let mut value = HeaderValue::try_from(secret.reveal()).map_err(|_| PushError::Authorization)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let target = otlp::collector(endpoint, MetricsPush::PATH, true)?;
        let Sources { facts, exporters, .. } = &self.sources;
        let about = vec![
            otlp::text("service.name", "milecastle-gateway"),
            otlp::text("service.version", facts.version),
            otlp::text("host.name", &*facts.hostname),
        ];
        let metrics = self.clone();
        otlp::push_metrics(
            exporters,
            OtlpSettings { target, headers, timeout: settings.timeout.get() },
            settings.interval.get(),
            about,
            self.families.push_failures.clone(),
            move || metrics.snapshot(),
        );
        Ok(())
    }

    fn update(&self) {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.update(&self.sources);
    }
}
