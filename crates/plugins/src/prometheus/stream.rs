//! The metrics of TCP and UDP sessions. What moves while a session lives (open sessions, bytes) the data plane counts itself.

use super::config::Config;
use milecastle_plugin_api::stream::{OnSessionLog, SessionEnd, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Hooks, Plugin, PluginDef};
use milecastle_telemetry::metrics::{Counter, Family, MetricError, Options, Registry};
use std::sync::Arc;

pub(crate) static DEF: PluginDef = PluginDef::of::<StreamPrometheus>();

/// Most series of a family: nodes may come and go.
const MAX_SERIES: usize = 100_000;

struct StreamPrometheus {
    prefer_name: bool,
    families: Arc<Families>,
}

struct Families {
    connections: Family<Counter>,
    status: Family<Counter>,
}

/// The families of a node, or why there are none.
struct Shared(Result<Arc<Families>, String>);

impl Families {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let options = || Options { max_series: MAX_SERIES, ..Options::default() };
        Ok(Self {
            connections: registry.counter(
                "stream_connection_total",
                "TCP and UDP sessions by stream route.",
                &["route"],
                options(),
            )?,
            status: registry.counter(
                "stream_status",
                "TCP and UDP sessions by how they ended, listener and node.",
                &["code", "listen_addr", "node"],
                options(),
            )?,
        })
    }
}

impl Plugin for StreamPrometheus {
    type Config = Config;
    const NAME: &'static str = "prometheus";
    const PRIORITY: i32 = 500;
    const INCIDENTAL: bool = true;
    const EXAMPLES: &'static [Example] = &[Example::new("Ids as labels", include_str!("examples/default.json"))];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let registry = super::registry(cx);
        let shared = cx.shared.get_or_init(|| {
            Shared(Families::new(&registry).map(Arc::new).map_err(|error| format!("plugin_attr.prometheus: {error}")))
        });
        match &shared.0 {
            Ok(families) => Ok(Self { prefer_name: config.prefer_name, families: families.clone() }),
            Err(reason) => Err(vec![ConfigError::new(reason.clone())]),
        }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.session_log()
    }
}

/// How a session ended, as one number (`docs/spec/plugins/prometheus.md`, rule 6).
fn code(cx: &StreamCx) -> u16 {
    match (cx.rejected, cx.status, cx.end) {
        (Some(known @ (400 | 403 | 500 | 502 | 503)), ..) => known,
        (Some(400..500), ..) => 400,
        (Some(_), ..) => 500,
        (None, 200, SessionEnd::Closed | SessionEnd::Superseded) => 200,
        (None, 200, SessionEnd::Client) => 400,
        (None, 200, SessionEnd::Upstream) => 502,
        (None, status, _) => status,
    }
}

impl OnSessionLog for StreamPrometheus {
    fn on_session_log(&self, cx: &mut StreamCx) {
        let route = cx.route.as_deref();
        let named = route.and_then(|route| route.name.as_deref()).filter(|name| self.prefer_name && !name.is_empty());
        let label = named.or_else(|| route.map(|route| &*route.id)).unwrap_or_default();
        self.families.connections.with(&[label]).inc();
        let node = cx.upstream.last().map_or("", |attempt| &attempt.node);
        self.families.status.with(&[&code(cx).to_string(), &cx.listen.to_string(), node]).inc();
    }
}
