//! The control plane's part of a process.

use anyhow::Context;
use milecastle_control::dpm::{DpManager, DpParts, Nodes};
use milecastle_control::{Clock, Dashboard, Parts, State, bootstrap_admin_key};
use milecastle_matching::RouterMode;
use milecastle_plugin_api::{NoSecrets, Registry, Shared};
use milecastle_settings::{Database, Sealing};
use milecastle_snapshot::Compiler;
use milecastle_store::{KeySource, SealingKey, Store, Tuning};
use milecastle_telemetry::metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A running control plane: store, dashboard, DP manager.
pub(crate) struct ControlPlane {
    pub store: Store,
    pub dashboard: Dashboard,
    pub dp_manager: DpManager,
    drain: Duration,
    /// The first Admin key, if this start made one. To be shown once.
    pub new_admin_key: Option<String>,
}

/// What a control plane is made from.
pub(crate) struct ControlSettings<'a> {
    pub database: &'a Database,
    pub sealing: &'a Sealing,
    /// Where a sealing key is made if the settings give none.
    pub sealing_key_file: PathBuf,
    pub dashboard: &'a milecastle_settings::Dashboard,
    pub dp_manager: &'a milecastle_settings::DpManager,
    pub plugin_attr: serde_json::Map<String, serde_json::Value>,
    pub plugins: Option<&'a [String]>,
    pub router: RouterMode,
}

impl ControlPlane {
    /// Opens the store and serves Admin API and configuration stream.
    ///
    /// # Errors
    /// The database, a listener, or the sealing key: each says what to do.
    pub(crate) async fn start(settings: ControlSettings<'_>) -> anyhow::Result<Self> {
        let dsn = settings.database.dsn.as_ref().context("database.dsn is not set")?;
        let key = match settings.sealing.read()? {
            Some(key) => KeySource::Key(SealingKey::from_text(key.reveal())?),
            None => KeySource::File(settings.sealing_key_file),
        };
        let store = milecastle_store::open_with(dsn.reveal(), &key, &tuning(settings.database)).await?;
        let given = std::env::var("MILECASTLE_ADMIN_KEY").ok().filter(|key| !key.is_empty());
        let new_admin_key = bootstrap_admin_key(&store, given.as_deref()).await?;
        let registry = Registry::new(
            milecastle_plugins::ALL,
            settings.plugins,
            settings.plugin_attr,
            Arc::new(Shared::default()),
            Arc::new(NoSecrets),
        );
        let compiler = Arc::new(Compiler::new(Arc::new(registry), settings.router));
        let metrics = Arc::new(metrics::Registry::default());
        let state = Arc::new(State::start(store.clone()).await?);
        let parts = Parts { state: state.clone(), compiler, metrics: metrics.clone(), clock: Clock::system() };
        let dashboard = Dashboard::start(settings.dashboard, parts).await?;
        let nodes = Nodes::new(store.clone());
        let dp_manager = DpManager::start(settings.dp_manager, DpParts { state, nodes, metrics }).await?;
        let drain = settings.dp_manager.server.drain.get();
        Ok(Self { store, dashboard, dp_manager, drain, new_admin_key })
    }

    /// Sends the nodes elsewhere, lets requests in flight end, and closes the store.
    pub(crate) async fn stop(self) {
        self.dp_manager.shutdown(self.drain).await;
        self.dashboard.stop().await;
        self.store.close().await;
    }
}

fn tuning(database: &Database) -> Tuning {
    Tuning {
        max_connections: database.max_connections,
        connect_timeout: database.connect_timeout.get(),
        acquire_timeout: database.acquire_timeout.get(),
        statement_timeout: database.statement_timeout.get(),
    }
}
