//! `prometheus`: counts requests, latency and traffic (`docs/spec/plugins/prometheus.md`).
//!
//! The families live in the process's [`Registry`] of metrics, which the data plane puts into the node's shared state
//! together with its own gauges and serves as a page; without one the plugin makes its own.

mod config;
mod exporter;
mod labels;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use crate::exporting;
use config::{Config, Disabled, Settings, metadata_schema};
use exporter::Exporter;
use milecastle_plugin_api::{
    BuildCx, CompiledMetadata, ConfigError, Example, Hooks, Metadata, OnLog, Plugin, PluginDef, RequestCx, RunPolicy,
};
use milecastle_telemetry::metrics::Registry;
use serde_json::Value;
use std::sync::Arc;

pub(crate) use stream::DEF as STREAM;

pub(crate) static DEF: PluginDef = PluginDef::of::<Prometheus>();

struct Prometheus {
    prefer_name: bool,
    exporter: Arc<Exporter>,
}

/// The exporter of a node, or why there is none.
struct Shared(Result<Arc<Exporter>, String>);

impl Plugin for Prometheus {
    type Config = Config;
    const NAME: &'static str = "prometheus";
    const PRIORITY: i32 = 500;
    const INCIDENTAL: bool = true;
    const METADATA: Option<Metadata> =
        Some(Metadata { schema: metadata_schema, compile: compile_metadata, unwritable: None });
    const RUN_POLICY: RunPolicy = RunPolicy::PreferRoute;
    const EXAMPLES: &'static [Example] = &[
        Example::new("Ids as labels", include_str!("examples/default.json")),
        Example::new("Names as labels", include_str!("examples/names.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        // Read apart from making the exporter: the shared state is asked for one value at a time.
        let settings = Settings::read(cx.attr);
        let registry = registry(cx);
        let shared = cx.shared.get_or_init(|| {
            let exporter = settings.and_then(|settings| {
                Exporter::new(&registry, settings).map_err(|error| format!("plugin_attr.prometheus: {error}"))
            });
            Shared(exporter.map(Arc::new))
        });
        match &shared.0 {
            Ok(exporter) => Ok(Self { prefer_name: config.prefer_name, exporter: exporter.clone() }),
            Err(reason) => Err(vec![ConfigError::new(reason.clone())]),
        }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.log_reading_head(|prometheus| prometheus.exporter.reads_head())
    }
}

/// The metrics of the node.
fn registry(cx: &BuildCx<'_>) -> Arc<Registry> {
    let settings = Settings::read(cx.attr).ok();
    exporting::registry(cx.shared, settings.as_ref().and_then(|settings| settings.prefix.as_deref()))
}

fn compile_metadata(value: &Value) -> Result<CompiledMetadata, ConfigError> {
    Ok(Arc::new(Disabled::read(value)))
}

impl OnLog for Prometheus {
    fn on_log(&self, cx: &mut RequestCx) {
        self.exporter.count(cx, self.prefer_name, cx.metadata(Self::NAME));
    }
}
