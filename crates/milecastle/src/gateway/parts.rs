//! What a gateway node is put together from.

use crate::compiler::compiler;
use anyhow::Context;
use milecastle_export::Background;
use milecastle_plugin_api::{NodeFacts, Shared};
use milecastle_proxy::drain::Drain;
use milecastle_proxy::handover::{Gate, Takeover};
use milecastle_proxy::node::{Node, NodeConfig};
use milecastle_proxy::status::Health;
use milecastle_proxy::{
    AccessLog, Counters, Current, Discovery, GatewayConfig, GatewayParts, NodeSecrets, OnRequestEnd, OnSessionEnd,
    SideParts, UpstreamHealth,
};
use milecastle_settings::Gateway as Settings;
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_telemetry::metrics;
use std::fs::File;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// What the membership, the side servers and the workers of a node share. Made before any of them starts.
pub(super) struct Parts {
    facts: NodeFacts,
    /// The runtime beside the workers.
    side: tokio::runtime::Handle,
    pub(super) health: Arc<Health>,
    /// What plugins share; has their log files.
    pub(super) shared: Arc<Shared>,
    metrics: Arc<metrics::Registry>,
    pub(super) exporters: Arc<Background>,
    compiler: Arc<Compiler>,
    counters: Arc<Counters>,
    upstream_health: Arc<UpstreamHealth>,
    discovery: Arc<Discovery>,
    secrets: Arc<NodeSecrets>,
    access_log: Option<Arc<AccessLog>>,
    session_log: Option<Arc<AccessLog>>,
    pub(super) drain: Arc<Drain>,
    pub(super) configuration: Configuration,
}

/// The configuration in force, once there is one.
#[derive(Clone, Default)]
pub(super) struct Configuration {
    current: Arc<OnceLock<Arc<Current>>>,
    arrived: Arc<Notify>,
}

impl Parts {
    /// Makes them all; opens the access logs. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A registry or a log file that cannot be used.
    pub(super) fn new(settings: &Settings, facts: NodeFacts, config: &GatewayConfig) -> anyhow::Result<Self> {
        let (workers, side) = (config.workers(), tokio::runtime::Handle::current());
        let metrics = Arc::new(metrics::Registry::new(&settings.plugin_attr.prometheus.metric_prefix, workers));
        let exporters = Arc::new(milecastle_proxy::background(side.clone(), config, settings.limits.export_answer));
        let shared = Arc::new(Shared::default());
        shared.put(metrics.clone());
        shared.put(exporters.clone());
        let outlet = milecastle_proxy::background(side.clone(), config, settings.secrets.answer_bytes);
        let secrets = NodeSecrets::new(&settings.secrets, &side, outlet);
        let compiler = compiler(settings.plugin_attr.to_json(), shared.clone(), secrets.clone());
        let (state, authorities) = (Some(settings.state.dir()), config.authorities());
        Ok(Self {
            health: Arc::new(Health::new(workers)),
            compiler: Arc::new(compiler),
            counters: Arc::new(Counters::new(workers)),
            upstream_health: Arc::default(),
            discovery: Discovery::new(&settings.discovery, side.clone(), state, authorities)?,
            secrets,
            access_log: AccessLog::of_requests(settings, workers)?.map(Arc::new),
            session_log: AccessLog::of_sessions(settings, workers)?.map(Arc::new),
            drain: Arc::new(Drain::new(facts.version, settings.upgrade.count_interval.get())),
            configuration: Configuration::default(),
            facts,
            side,
            shared,
            metrics,
            exporters,
        })
    }

    /// The access logs that are written.
    pub(super) fn access_logs(&self) -> Vec<Arc<AccessLog>> {
        self.access_log.iter().chain(&self.session_log).cloned().collect()
    }

    /// Joins the cluster. `lock` is that of the state directory, if another process hands it over.
    ///
    /// # Errors
    /// Another process has the state directory.
    pub(super) fn join(&self, settings: &Settings, lock: Option<Arc<File>>) -> anyhow::Result<Node> {
        let configuration = self.configuration.clone();
        let publish = move |snapshot| configuration.publish(snapshot);
        let configuration = self.configuration.clone();
        let snapshot = move || configuration.snapshot();
        let figures = self.counters.figures(self.upstream_health.clone(), snapshot, settings.control_plane.routes);
        let health = self.health.clone();
        let maintain = move |reason| health.maintain(reason);
        let config = node_config(settings, &self.facts, lock);
        Ok(Node::start(config, self.compiler.clone(), self.secrets.clone(), publish, figures, maintain)?)
    }

    /// What the side servers take.
    pub(super) fn for_side_servers(&self, node: &Node, gate: Gate) -> SideParts {
        SideParts {
            current: self.configuration.current.clone(),
            health: self.health.clone(),
            compiler: self.compiler.clone(),
            metrics: self.metrics.clone(),
            counters: self.counters.clone(),
            upstream_health: self.upstream_health.clone(),
            discovery: self.discovery.clone(),
            secrets: self.secrets.clone(),
            node: Arc::new(node.status_reader()),
            facts: self.facts.clone(),
            access_logs: self.access_logs(),
            drain: self.drain.clone(),
            gate,
            exporters: self.exporters.clone(),
        }
    }

    /// What the workers take.
    pub(super) fn for_workers(&self, config: GatewayConfig, current: Arc<Current>, gate: Gate) -> GatewayParts {
        GatewayParts {
            config,
            facts: self.facts.clone(),
            current,
            counters: self.counters.clone(),
            upstream_health: self.upstream_health.clone(),
            discovery: self.discovery.clone(),
            side: self.side.clone(),
            on_end: self.access_log.clone().map(|log| log as Arc<dyn OnRequestEnd>),
            on_session_end: self.session_log.clone().map(|log| log as Arc<dyn OnSessionEnd>),
            drain: self.drain.clone(),
            gate,
        }
    }
}

impl Configuration {
    /// Puts a snapshot in force.
    fn publish(&self, snapshot: Arc<Snapshot>) {
        match self.current.get() {
            Some(current) => current.publish(snapshot),
            None => {
                self.current.get_or_init(|| Arc::new(Current::new(snapshot)));
                self.arrived.notify_one();
            }
        }
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.get().map(|current| current.load())
    }

    /// Waits for the first one.
    ///
    /// # Errors
    /// The process to take over from serves on.
    pub(super) async fn first(&self, takeover: Option<&mut Takeover>) -> anyhow::Result<Arc<Current>> {
        let broken_off = async {
            match takeover {
                Some(takeover) => takeover.broken_off().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.arrived.notified() => {}
            error = broken_off => return Err(error.into()),
        }
        Ok(self.current.get().context("the first configuration has arrived")?.clone())
    }
}

/// Facts of the node on this machine.
pub(super) fn facts(settings: &Settings) -> NodeFacts {
    NodeFacts { hostname: hostname().into(), version: env!("CARGO_PKG_VERSION"), tracing: settings.apisix.tracing }
}

fn node_config(settings: &Settings, facts: &NodeFacts, lock: Option<Arc<File>>) -> NodeConfig {
    let boot = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    NodeConfig {
        control_plane: settings.control_plane.clone(),
        state: settings.state.clone(),
        hostname: facts.hostname.to_string(),
        version: facts.version.to_owned(),
        boot_id: format!("{:016x}-{:08x}", boot.as_nanos(), std::process::id()),
        follow_interval: settings.upgrade.follow_interval.get(),
        lock,
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}
