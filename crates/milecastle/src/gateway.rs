//! The data plane's part of a process: one gateway node.

mod parts;

use crate::supervisor;
use anyhow::bail;
use milecastle_export::Background;
use milecastle_plugin_api::Shared;
use milecastle_proxy::drain::{Drain, Stage};
use milecastle_proxy::handover::{Gate, GateKeeper, HandedOver, Inherited, Offer, OfferParts, Takeover, Transport};
use milecastle_proxy::node::Node;
use milecastle_proxy::status::Health;
use milecastle_proxy::{AccessLog, Gateway, GatewayConfig, SideServers, Totals};
use milecastle_settings::{Gateway as Settings, Shutdown, Upgrade};
use parts::Parts;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where the sockets of a node come from.
pub(crate) enum Origin {
    /// It opens them itself.
    Own,
    /// systemd has opened them.
    Systemd(Inherited),
    /// From the process that it takes over from.
    Takeover(Takeover, Inherited),
}

impl Origin {
    /// Takes them from the process that runs if this one is to `upgrade` it, else from systemd if it has opened any.
    ///
    /// # Errors
    /// There is no process to take over from, or it refuses; or systemd's are of no use.
    pub(crate) async fn find(settings: &Settings, upgrade: bool) -> anyhow::Result<Self> {
        if !upgrade {
            return Ok(supervisor::sockets()?.map_or(Self::Own, Self::Systemd));
        }
        let mut takeover = Takeover::ask(settings.state.dir(), env!("CARGO_PKG_VERSION")).await?;
        let inherited = takeover.inherited();
        Ok(Self::Takeover(takeover, inherited))
    }

    /// Whether it has sockets for the listener that `key` sets to this address.
    pub(crate) fn has(&self, key: &str, address: SocketAddr) -> bool {
        match self {
            Self::Own => false,
            Self::Systemd(inherited) | Self::Takeover(_, inherited) => inherited.has(Transport::Tcp, key, address),
        }
    }
}

/// The files that traffic is logged to. What waits to be written is on the disk once the last of these is gone.
#[derive(Clone)]
pub(crate) struct LogFiles {
    access_logs: Vec<Arc<AccessLog>>,
    /// Has those of plugins.
    shared: Arc<Shared>,
}

impl LogFiles {
    /// Opens every one anew, after it was moved away.
    pub(crate) fn reopen(&self) {
        milecastle_plugins::reopen_log_files(&self.shared);
        self.access_logs.iter().for_each(|log| log.reopen());
    }
}

/// A running gateway node.
pub(crate) struct GatewayNode {
    gateway: Gateway,
    side: SideServers,
    node: Node,
    health: Arc<Health>,
    log_files: LogFiles,
    exporters: Arc<Background>,
    shutdown: Shutdown,
    upgrade: Upgrade,
    drain: Arc<Drain>,
    state_dir: PathBuf,
    offer: Option<Offer>,
}

impl GatewayNode {
    /// Joins the cluster and serves. Returns once the first configuration is in force; until then the traffic ports stay
    /// closed and `/status` says 503. Who takes over from another process lets nobody in before that one says so.
    ///
    /// # Errors
    /// A setting that cannot be used, a listener that cannot be opened, or a process to take over from that serves on.
    pub(crate) async fn start(settings: &Settings, origin: Origin) -> anyhow::Result<Self> {
        let (mut takeover, mut inherited, of_systemd) = match origin {
            Origin::Own => (None, Inherited::default(), false),
            Origin::Systemd(inherited) => (None, inherited, true),
            Origin::Takeover(takeover, inherited) => (Some(takeover), inherited, false),
        };
        let facts = parts::facts(settings);
        let config = GatewayConfig::new(settings, &facts)?;
        let workers = config.workers();
        let parts = Parts::new(settings, facts, &config)?;
        let lock = takeover.as_ref().and_then(Takeover::lock);
        let node = parts.join(settings, lock)?;
        let (gate, gate_keeper) = Gate::closed();
        let side = SideServers::start(settings, parts.for_side_servers(&node, gate.clone()), &mut inherited).await?;
        // Probes find the process before it is ready, unless another one answers them.
        let gate_keeper = match &takeover {
            None => {
                gate_keeper.open();
                tracing::info!(address = %side.status_addr(), "the status page is served");
                supervisor::waiting();
                None
            }
            Some(_) => Some(gate_keeper),
        };
        let current = parts.configuration.first(takeover.as_mut()).await?;
        let gateway = Gateway::start(parts.for_workers(config, current, gate), &mut inherited)?;
        if let Some(unclaimed) = inherited.unclaimed().next().filter(|_| of_systemd) {
            bail!(
                "systemd has opened {unclaimed}, on which this node does not listen: connections would wait there in vain; \
                 remove it from the socket unit, or set a listener to this address"
            );
        }
        // The workers begin with the configuration that has arrived: from here on load balancers may send.
        (0..workers).for_each(|worker| parts.health.worker_loaded(worker));
        if let Some(takeover) = takeover {
            takeover.ready(&inherited).await?;
            tracing::info!("took over from the process that was running");
        }
        gate_keeper.into_iter().for_each(GateKeeper::open);
        let access_logs = parts.access_logs();
        let Parts { health, shared, exporters, drain, .. } = parts;
        Ok(Self {
            gateway,
            side,
            node,
            health,
            log_files: LogFiles { access_logs, shared },
            exporters,
            shutdown: settings.shutdown.clone(),
            upgrade: settings.upgrade.clone(),
            drain,
            state_dir: settings.state.dir().to_owned(),
            offer: None,
        })
    }

    /// Lets another process take over from now on.
    pub(crate) fn offer(&mut self) {
        let listening = [self.gateway.take_listening(), self.side.take_listening()].into_iter().flatten().collect();
        let offered = Offer::open(OfferParts {
            dir: self.state_dir.clone(),
            listening,
            pause: self.node.pause(),
            drain: self.drain.clone(),
            first_word: self.upgrade.first_word.get(),
            patience: self.upgrade.ready_timeout.get(),
        });
        match offered {
            Ok(offer) => self.offer = Some(offer),
            Err(error) => {
                let dir = self.state_dir.display();
                tracing::warn!(%dir, %error, "no other process can take over from this one: it cannot open a socket in state.dir");
            }
        }
    }

    /// Waits until another process has taken over. Cancel safe.
    pub(crate) async fn handed_over(&mut self) -> HandedOver {
        match &mut self.offer {
            Some(offer) => offer.handed_over().await,
            None => std::future::pending().await,
        }
    }

    /// Listening addresses with what they are.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let traffic = self.gateway.local_addrs().iter().map(|local| (local.name(), local.addr));
        let status = std::iter::once(("status", self.side.status_addr()));
        let control = self.side.control_addr().map(|address| ("control API", address));
        let metrics = self.side.metrics_addr().map(|address| ("Prometheus", address));
        traffic.chain(status).chain(control).chain(metrics).collect()
    }

    /// The files that it logs traffic to, also while it ends.
    pub(crate) fn log_files(&self) -> LogFiles {
        self.log_files.clone()
    }

    /// Revision in force.
    pub(crate) fn revision(&self) -> u64 {
        self.node.status().revision
    }

    /// `/status` says 503, load balancers look elsewhere, requests in flight end, and what is left is cut. What it waits for
    /// is in the log.
    pub(crate) async fn stop(self) {
        if let Some(offer) = self.offer {
            offer.withdraw().await;
        }
        self.health.drain();
        let Shutdown { grace, drain, export, .. } = self.shutdown;
        let open = || self.gateway.counters().totals();
        if !grace.is_zero() {
            let Totals { active: connections, in_flight: requests, .. } = open();
            tracing::info!(
                connections,
                requests,
                "/status says 503; traffic is served as before for {grace} (shutdown.grace), until load balancers have noticed"
            );
            self.drain.comes_to(Stage::Grace, grace.get() + drain.get());
            tokio::time::sleep(grace.get()).await;
        }
        let Totals { active: connections, in_flight: requests, .. } = open();
        tracing::info!(
            connections,
            requests,
            "connections end after their present requests; waiting for these for {drain} at most (shutdown.drain)"
        );
        self.drain.comes_to(Stage::Draining, drain.get());
        if !self.gateway.drain(drain.get()).await {
            tracing::warn!("requests in flight were cut: they did not end within shutdown.drain");
        }
        export_rest(&self.exporters, export.get()).await;
    }

    /// Ends with its connections, which follow the configuration that the other process has in force. Those that are left after
    /// `upgrade.drain` are cut; once it is `hurried`, after `shutdown.drain`.
    pub(crate) async fn leave(self, handed: HandedOver, hurried: oneshot::Receiver<()>) {
        self.side.leave();
        let (drain, hurry) = (self.upgrade.drain, self.shutdown.drain);
        self.drain.comes_to(Stage::Replaced, drain.get());
        let Totals { active: connections, in_flight: requests, tunnels, .. } = self.gateway.counters().totals();
        tracing::info!(
            connections,
            requests,
            tunnels,
            "process {} serves; connections of this one end by themselves, or after {drain} (upgrade.drain)",
            handed.successor
        );
        let over = async {
            tokio::select! {
                () = tokio::time::sleep(drain.get()) => {}
                // Whoever could hurry this one lives as long as it.
                Ok(()) = hurried => {
                    tracing::info!("connections that are left have {hurry} (shutdown.drain)");
                    self.drain.comes_to(Stage::Replaced, hurry.get());
                    tokio::time::sleep(hurry.get()).await;
                }
            }
        };
        if !self.gateway.leave(handed.claimed, over).await {
            tracing::warn!("connections were cut: they did not end in time");
        }
        // Up to here it has followed the configuration.
        drop(self.node);
        export_rest(&self.exporters, self.shutdown.export.get()).await;
    }
}

/// Has what waits to be exported sent.
async fn export_rest(exporters: &Background, patience: Duration) {
    if !exporters.end(patience).await {
        tracing::warn!("log entries, spans or metrics that waited were not delivered within shutdown.export");
    }
}
