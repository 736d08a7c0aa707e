//! The data plane's part of a process: one gateway node.

use crate::compiler::compiler;
use anyhow::Context;
use milecastle_plugin_api::{NodeFacts, Shared};
use milecastle_proxy::node::{Node, NodeConfig};
use milecastle_proxy::status::Health;
use milecastle_proxy::{
    AccessLog, Counters, Current, Discovery, EnvironmentSecrets, Gateway, GatewayConfig, GatewayParts, OnRequestEnd,
    SideParts, SideServers, Totals, UpstreamHealth,
};
use milecastle_settings::{Gateway as Settings, Shutdown};
use milecastle_snapshot::Snapshot;
use milecastle_telemetry::metrics;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// A running gateway node.
pub(crate) struct GatewayNode {
    gateway: Gateway,
    side: SideServers,
    node: Node,
    health: Arc<Health>,
    access_log: Option<Arc<AccessLog>>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
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
        let metrics =
            Arc::new(metrics::Registry::new(&settings.plugin_attr.prometheus.metric_prefix, config.workers()));
        let shared = Arc::new(Shared::default());
        shared.put(metrics.clone());
        let attrs = settings.plugin_attr.to_json();
        let compiler = Arc::new(compiler(attrs, shared.clone(), Arc::new(EnvironmentSecrets)));

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
        let counters = Arc::new(Counters::new(config.workers()));
        let maintain = {
            let health = health.clone();
            move |reason| health.maintain(reason)
        };
        let upstream_health: Arc<UpstreamHealth> = Arc::default();
        let side = tokio::runtime::Handle::current();
        let discovery =
            Discovery::new(&settings.discovery, side.clone(), Some(settings.state.dir()), config.authorities())?;
        let figures = counters.figures(upstream_health.clone());
        let node = Node::start(node_config(settings, &facts), compiler.clone(), publish, figures, maintain)?;
        let access_log = AccessLog::open(settings, config.workers())?.map(Arc::new);
        let side_servers = SideServers::start(
            settings,
            SideParts {
                current: first.clone(),
                health: health.clone(),
                compiler,
                metrics,
                counters: counters.clone(),
                upstream_health: upstream_health.clone(),
                discovery: discovery.clone(),
                node: Arc::new(node.status_reader()),
                facts: facts.clone(),
                access_log: access_log.clone(),
            },
        )
        .await?;
        tracing::info!(address = %side_servers.status_addr(), "the status page is served");
        arrived.notified().await;
        let current = first.get().context("the first configuration has arrived")?.clone();
        let workers = config.workers();
        let gateway = Gateway::start(GatewayParts {
            config,
            facts,
            current,
            counters,
            upstream_health,
            discovery,
            side,
            on_end: access_log.clone().map(|log| log as Arc<dyn OnRequestEnd>),
        })?;
        // The workers begin with the configuration that has arrived: from here on load balancers may send.
        (0..workers).for_each(|worker| health.worker_loaded(worker));
        Ok(Self { gateway, side: side_servers, node, health, access_log, shared, shutdown: settings.shutdown.clone() })
    }

    /// Listening addresses with what they are.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let traffic = self.gateway.local_addrs().iter().map(|local| (local.name(), local.addr));
        let status = std::iter::once(("status", self.side.status_addr()));
        let control = self.side.control_addr().map(|address| ("control API", address));
        let metrics = self.side.metrics_addr().map(|address| ("Prometheus", address));
        traffic.chain(status).chain(control).chain(metrics).collect()
    }

    /// Opens every log file anew, after it was moved away.
    pub(crate) fn reopen_logs(&self) {
        milecastle_plugins::reopen_log_files(&self.shared);
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// Revision in force.
    pub(crate) fn revision(&self) -> u64 {
        self.node.status().revision
    }

    /// `/status` says 503, load balancers look elsewhere, requests in flight end, and what is left is cut. What it waits for
    /// is in the log.
    pub(crate) async fn stop(self) {
        self.health.drain();
        let Shutdown { grace, drain, .. } = self.shutdown;
        let open = || self.gateway.counters().totals();
        if !grace.is_zero() {
            let Totals { active: connections, in_flight: requests, .. } = open();
            tracing::info!(
                connections,
                requests,
                "/status says 503; traffic is served as before for {grace} (shutdown.grace), until load balancers have noticed"
            );
            tokio::time::sleep(grace.get()).await;
        }
        let Totals { active: connections, in_flight: requests, .. } = open();
        tracing::info!(
            connections,
            requests,
            "connections end after their present requests; waiting for these for {drain} at most (shutdown.drain)"
        );
        if !self.gateway.drain(drain.get()).await {
            tracing::warn!("requests in flight were cut: they did not end within shutdown.drain");
        }
    }
}

fn node_config(settings: &Settings, facts: &NodeFacts) -> NodeConfig {
    let boot = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    NodeConfig {
        control_plane: settings.control_plane.clone(),
        state: settings.state.clone(),
        hostname: facts.hostname.to_string(),
        version: facts.version.to_owned(),
        boot_id: format!("{:x}-{:x}", boot.as_nanos(), std::process::id()),
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}
