//! The data plane's part of a process: one gateway node.

use anyhow::Context;
use milecastle_matching::RouterMode;
use milecastle_plugin_api::{NodeFacts, Registry, Shared};
use milecastle_proxy::node::{Node, NodeConfig};
use milecastle_proxy::status::Health;
use milecastle_proxy::{Current, EnvironmentSecrets, Gateway, GatewayConfig, SideParts, SideServers};
use milecastle_settings::{Gateway as Settings, HttpRouter};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_telemetry::metrics;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// A running gateway node.
pub(crate) struct GatewayNode {
    pub gateway: Gateway,
    pub side: SideServers,
    node: Node,
    health: Arc<Health>,
    settings: Settings,
}

impl GatewayNode {
    /// Joins the cluster and serves. Returns once the first configuration is in force; until then the traffic ports stay
    /// closed and `/status` says 503.
    ///
    /// # Errors
    /// A setting that cannot be used, or a listener that cannot be opened.
    pub(crate) async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let facts = NodeFacts { hostname: hostname().into(), version: env!("CARGO_PKG_VERSION") };
        let config = GatewayConfig::new(settings, &facts)?;
        let health = Arc::new(Health::new(config.workers()));
        let prefix = &settings.plugin_attr.prometheus.metric_prefix;
        let metrics = Arc::new(metrics::Registry::new(prefix, config.workers()));
        let shared = Arc::new(Shared::default());
        shared.put(metrics.clone());
        let registry = Arc::new(Registry::new(
            milecastle_plugins::ALL,
            settings.plugins.as_deref(),
            plugin_attr(settings)?,
            shared,
            Arc::new(EnvironmentSecrets),
        ));
        let compiler = Arc::new(Compiler::new(registry.clone(), router_mode(settings)));

        let first: Arc<OnceLock<Arc<Current>>> = Arc::default();
        let arrived = Arc::new(Notify::new());
        let publish = {
            let (first, arrived) = (first.clone(), arrived.clone());
            move |snapshot: Arc<Snapshot>| match first.get() {
                Some(current) => current.publish(snapshot),
                None => {
                    first.get_or_init(|| Arc::new(Current::new(snapshot)));
                    arrived.notify_one();
                }
            }
        };
        let counters = milecastle_proxy::Counters::new(&metrics)?;
        let figures = counters.figures();
        let node = Node::start(node_config(settings, &facts), compiler, publish, figures);
        let side = SideServers::start(
            settings,
            SideParts {
                current: first.clone(),
                health: health.clone(),
                registry,
                metrics: metrics.clone(),
                node: Box::new(node.status_reader()),
                facts: facts.clone(),
            },
        )
        .await?;
        arrived.notified().await;
        let current = first.get().context("the first configuration has arrived")?.clone();
        let gateway = Gateway::start(config, current, facts, counters, health.clone())?;
        Ok(Self { gateway, side, node, health, settings: settings.clone() })
    }

    /// Revision in force.
    pub(crate) fn revision(&self) -> u64 {
        self.node.status().revision
    }

    /// `/status` says 503, load balancers look elsewhere, requests in flight end, and what is left is cut.
    pub(crate) async fn stop(self) {
        self.health.drain();
        tokio::time::sleep(self.settings.shutdown.grace.get()).await;
        self.gateway.drain(self.settings.shutdown.drain.get()).await;
    }
}

/// How routes are matched.
pub(crate) fn router_mode(settings: &Settings) -> RouterMode {
    match settings.apisix.router.http {
        HttpRouter::RadixtreeHostUri => RouterMode::HostUri,
        HttpRouter::RadixtreeUri => RouterMode::Uri,
        HttpRouter::RadixtreeUriWithParameter => RouterMode::UriWithParameter,
    }
}

/// Start-up settings of the plugins, by plugin.
pub(crate) fn plugin_attr(settings: &Settings) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    match serde_json::to_value(&settings.plugin_attr)? {
        serde_json::Value::Object(attrs) => Ok(attrs),
        _ => Ok(serde_json::Map::new()),
    }
}

fn node_config(settings: &Settings, facts: &NodeFacts) -> NodeConfig {
    let boot = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    NodeConfig {
        control_plane: settings.control_plane.clone(),
        dir: settings.state.dir().to_owned(),
        hostname: facts.hostname.to_string(),
        version: facts.version.to_owned(),
        boot_id: format!("{:x}-{:x}", boot.as_nanos(), std::process::id()),
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}
