//! What plugins share on a node: its metrics, and of exporters where they run and how their work is counted.

use milecastle_export::{Background, Backlog};
use milecastle_plugin_api::{BuildCx, ConfigError, Shared};
use milecastle_telemetry::metrics::{Counter, Family, MetricError, Options, Registry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Prefix of metrics where no gateway has set one.
const PREFIX: &str = "apisix_";

/// Cells that a counter is spread over if nobody has said how many workers there are.
const SHARDS: usize = 8;

/// The metrics of the node: those of the data plane, or, where there is none, new ones.
pub(crate) fn registry(shared: &Shared, prefix: Option<&str>) -> Arc<Registry> {
    shared.get_or_init(|| Registry::new(prefix.unwrap_or(PREFIX), SHARDS))
}

/// How often limits have bitten that plugins set by `plugin_attr`, by the key.
///
/// # Errors
/// The metric's name is taken.
pub(crate) fn limit_hits(cx: &BuildCx<'_>) -> Result<Family<Counter>, Vec<ConfigError>> {
    registry(cx.shared, None).limit_hits().map_err(|error| vec![ConfigError::new(error.to_string())])
}

/// The exporters of a node.
pub(crate) struct Exporting {
    /// Where they run.
    pub(crate) background: Arc<Background>,
    sent: Family<Counter>,
    dropped: Family<Counter>,
    /// By plugin: its limit is for all its queues together.
    backlogs: Mutex<HashMap<&'static str, Backlog>>,
}

/// The node's, or why there is none.
struct Kept(Result<Arc<Exporting>, String>);

impl Exporting {
    /// The node's. Starts nothing: most configurations are checked and never used.
    ///
    /// # Errors
    /// A metric's name is taken.
    pub(crate) fn of(cx: &BuildCx<'_>) -> Result<Arc<Self>, Vec<ConfigError>> {
        // One after the other: the shared state is asked for one value at a time.
        let registry = registry(cx.shared, None);
        let background = cx.shared.get_or_init(Background::default);
        let make = || Kept(Self::new(&registry, background.clone()).map(Arc::new).map_err(|error| error.to_string()));
        let kept = cx.shared.get_or_init(make);
        kept.0.clone().map_err(|reason| vec![ConfigError::new(reason)])
    }

    fn new(registry: &Registry, background: Arc<Background>) -> Result<Self, MetricError> {
        let counter = |name, help| registry.counter(name, help, &["exporter"], Options::default());
        Ok(Self {
            background,
            sent: counter("exporter_sent_total", "Log entries and spans that a server has taken, by plugin")?,
            dropped: counter(
                "exporter_dropped_total",
                "Log entries and spans that were dropped: no room was left, or the server did not take them",
            )?,
            backlogs: Mutex::default(),
        })
    }

    /// What waits in all queues of a plugin.
    pub(crate) fn backlog(&self, plugin: &'static str) -> Backlog {
        let mut backlogs = self.backlogs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Backlog::new(self.sent.with(&[plugin]), self.dropped.with(&[plugin]));
        backlogs.entry(plugin).or_insert_with(new).clone()
    }
}
