//! The control plane's part of a process.

use crate::compiler::compiler;
use crate::waiting::Waiting;
use anyhow::Context;
use milecastle_control::dpm::{DpManager, DpParts, Nodes};
use milecastle_control::{
    Clock, Dashboard, FIRST_ACCOUNT, FirstAccount, FirstKey, MemberSettings, Membership, Opening, Parts, Probes,
    Readiness, Role, State, watch_database, watch_rollouts,
};
use milecastle_plugin_api::NoSecrets;
use milecastle_settings::{Database, Replica, Sealing, Time};
use milecastle_snapshot::Compiler;
use milecastle_store::{KeySource, OpenError, SealingKey, Store, StoreError, Tuning, warn_if_open_to_others};
use milecastle_telemetry::{Secret, metrics};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A running control plane: store, and dashboard, DP manager or both.
pub(crate) struct ControlPlane {
    pub store: Store,
    nodes: Nodes,
    dashboard: Option<Dashboard>,
    dp_manager: Option<(DpManager, Time)>,
    probes: Option<Probes>,
    membership: Membership,
    /// Keep the metrics of the database and of rollouts current.
    watches: Vec<JoinHandle<()>>,
    readiness: Readiness,
    /// How long it serves on after it was told to stop.
    grace: Time,
    /// The first Admin key, if this start made one; it was shown.
    pub new_admin_key: Option<String>,
}

/// What a control plane is made from.
pub(crate) struct ControlSettings<'a> {
    pub replica: &'a Replica,
    /// Where a sealing key is made if the settings give none; `None`: they must.
    pub sealing_key_file: Option<PathBuf>,
    pub dashboard: Option<&'a milecastle_settings::Dashboard>,
    pub dp_manager: Option<&'a milecastle_settings::DpManager>,
}

impl ControlPlane {
    /// Opens the listeners, waits for the database as long as it takes, at whatever step it is away, and serves. What opens the
    /// API, if this start made it, is written to standard output as soon as it is recorded.
    ///
    /// # Errors
    /// A listener, the sealing key, or a database that is not to be had by waiting: each says what to do.
    pub(crate) async fn start(settings: ControlSettings<'_>) -> anyhow::Result<Self> {
        let key = sealing_key(&settings.replica.sealing, settings.sealing_key_file.clone())?;
        let readiness = Readiness::starting(settings.replica.database.probe_timeout);
        let metrics = Arc::new(metrics::Registry::default());
        let last_call = settings.replica.shutdown.last_call;
        let opening = match settings.dashboard {
            Some(dashboard) => {
                let opened = opened(dashboard, &key)?;
                Some(Opening::listen(&opened, last_call, &readiness, &metrics).await?)
            }
            None => None,
        };
        let probes = match settings.dp_manager.map(|settings| &settings.probes).filter(|probes| probes.enable) {
            Some(probes) => {
                let address = probes.listen.socket();
                let started = Probes::start(probes, last_call, &readiness, metrics.clone()).await;
                Some(
                    started
                        .with_context(|| format!("cannot answer probes on {address} (probes.listen, probes.tls)"))?,
                )
            }
            None => None,
        };
        let role = role(&settings, opening.as_ref().map(Opening::address));
        // What is accepted depends on no node, and so not on any node's `plugin_attr`.
        let compiler = Arc::new(compiler(serde_json::Map::new(), Arc::default(), Arc::new(NoSecrets)));
        let waiting = Waiting { database: &settings.replica.database, readiness: &readiness };
        let dsn = dsn(&settings.replica.database, &key)?;
        let (state, membership) =
            waiting.until(async || connect(dsn.reveal(), &settings, &key, &role, &compiler).await).await?;
        let store = state.store().clone();
        let nodes = Nodes::new(store.clone(), membership.id(), &settings.replica.members);
        // Before anything is served, so that it opens the Admin API from the first request on.
        let new_admin_key = match settings.dashboard {
            Some(dashboard) => first_access(&waiting, &store, dashboard).await?,
            None => None,
        };
        let dashboard = match opening {
            Some(opening) => {
                let keyring = waiting.until(async || opening.keys(&store).await).await?;
                let (state, nodes, metrics) = (state.clone(), nodes.clone(), metrics.clone());
                let availability = settings.replica.availability.clone();
                let parts = Parts { state, nodes, compiler, metrics, clock: Clock::of(&store), availability };
                Some(opening.serve(keyring, parts)?)
            }
            None => None,
        };
        let history = &settings.replica.history;
        let dp_manager = match settings.dp_manager {
            Some(settings) => {
                let kept_warnings = history.node_warnings_most;
                let parts = || {
                    let (state, nodes, metrics) = (state.clone(), nodes.clone(), metrics.clone());
                    let maintenance = membership.maintenance();
                    DpParts { state, nodes, maintenance, metrics, kept_warnings }
                };
                let started = waiting.until(async || DpManager::start(settings, parts()).await).await?;
                Some((started, settings.server.drain))
            }
            None => None,
        };
        let watches = vec![
            tokio::spawn(watch_database(store.clone(), &metrics)?),
            tokio::spawn(watch_rollouts(store.clone(), &metrics)?),
        ];
        readiness.serves(store.clone(), membership.maintenance());
        let grace = settings.replica.shutdown.grace;
        Ok(Self { store, nodes, dashboard, dp_manager, probes, membership, watches, readiness, grace, new_admin_key })
    }

    /// Where the dashboard serves.
    pub(crate) fn dashboard_address(&self) -> Option<SocketAddr> {
        self.dashboard.as_ref().map(Dashboard::address)
    }

    /// Where the Admin API is served on a port of its own.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.dashboard.as_ref().and_then(Dashboard::admin_address)
    }

    /// Where nodes join.
    pub(crate) fn dp_manager_address(&self) -> Option<SocketAddr> {
        self.dp_manager.as_ref().map(|(dp_manager, _)| dp_manager.local_addr())
    }

    /// Says on `/readyz` that the process stops, and serves on for as long as a load balancer needs to see it; then sends the
    /// nodes elsewhere, lets requests in flight end, and closes the store. What it waits for is in the log.
    pub(crate) async fn stop(self) {
        self.readiness.drains();
        if !self.grace.is_zero() {
            tracing::info!("/readyz says 503; serving on for {} (shutdown.grace)", self.grace);
        }
        tokio::time::sleep(self.grace.get()).await;
        // While the nodes are still here.
        self.nodes.end_waits();
        let nodes = async {
            if let Some((dp_manager, drain)) = self.dp_manager {
                let streams = dp_manager.streams();
                if streams > 0 {
                    tracing::info!(
                        streams,
                        "nodes are sent to other replicas; waiting for their streams for {drain} at most (server.drain of the \
                         DP manager)"
                    );
                }
                dp_manager.shutdown(drain.get()).await;
            }
        };
        let requests = async {
            if let Some(dashboard) = self.dashboard {
                dashboard.stop().await;
            }
        };
        tokio::join!(nodes, requests);
        if let Some(probes) = self.probes {
            probes.stop().await;
        }
        self.membership.leave().await;
        self.watches.iter().for_each(JoinHandle::abort);
        self.store.close().await;
    }
}

/// The sealing key of the settings; without one, that in `file`.
pub(crate) fn sealing_key(settings: &Sealing, file: Option<PathBuf>) -> anyhow::Result<KeySource> {
    if let (None, Some(path)) = (&settings.key, &settings.key_file) {
        warn_if_open_to_others(path);
    }
    let current = match (settings.read()?, file) {
        (Some(key), _) => KeySource::Key(SealingKey::from_text(key.reveal())?),
        (None, Some(path)) => KeySource::File(path),
        (None, None) => anyhow::bail!(
            "sealing.key_file is not set: all processes on one database need the same key; make it once with \
             `head -c 32 /dev/urandom | base64 > sealing-key`, copy it to every replica of the control plane, and keep a backup"
        ),
    };
    let Some(next) = settings.next_key_file.clone() else { return Ok(current) };
    warn_if_open_to_others(&next);
    Ok(KeySource::Replaced { by: Box::new(current), next })
}

/// The connection string, opened if it is sealed.
pub(crate) fn dsn(settings: &Database, key: &KeySource) -> anyhow::Result<Secret<String>> {
    let given = settings.dsn.as_ref().context("database.dsn is not set")?;
    Ok(key.open_text(given.reveal()).context("database.dsn cannot be opened")?.into())
}

/// The settings of a dashboard, with the secrets that they point at, opened if they are sealed.
fn opened(
    settings: &milecastle_settings::Dashboard,
    key: &KeySource,
) -> anyhow::Result<milecastle_settings::Dashboard> {
    let mut opened = settings.clone();
    if let Some(secret) = settings.oidc.secret()? {
        let secret = key.open_text(secret.reveal()).context("oidc.client_secret cannot be opened")?;
        opened.oidc.client_secret = Some(secret.into());
    }
    Ok(opened)
}

/// What lists of members say of this process.
fn role(settings: &ControlSettings<'_>, dashboard: Option<SocketAddr>) -> Role {
    let dp_manager = settings.dp_manager.map(|settings| settings.server.listen.socket());
    let roles = [("dashboard", dashboard), ("dp-manager", dp_manager)];
    let taken: Vec<_> = roles.into_iter().filter_map(|(role, address)| Some((role, address?))).collect();
    Role {
        roles: taken.iter().map(|(role, _)| (*role).to_owned()).collect(),
        address: taken.iter().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(", "),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Opens the store, reads the configuration and becomes a member.
async fn connect(
    dsn: &str,
    settings: &ControlSettings<'_>,
    key: &KeySource,
    role: &Role,
    compiler: &Arc<Compiler>,
) -> Result<(Arc<State>, Membership), OpenError> {
    let store = milecastle_store::open_with(dsn, key, &tuning(&settings.replica.database)).await?;
    let state = Arc::new(State::start(store.clone()).await?);
    let member = MemberSettings {
        members: settings.replica.members.clone(),
        history: settings.replica.history.clone(),
        audit: settings.replica.audit.clone(),
        idempotency: settings.replica.idempotency.clone(),
        events: settings.replica.events.clone(),
        availability: settings.replica.availability.clone(),
        compiler: compiler.clone(),
        clock: Clock::of(&store),
    };
    let membership = Membership::join(state.clone(), role.clone(), member).await?;
    Ok((state, membership))
}

/// Sees to the first Admin key, unless the settings have one, and to the first account; shows each as soon as it is known to be
/// recorded, so that none is recorded and never seen. Gives the key, if this start made it.
async fn first_access(
    waiting: &Waiting<'_>,
    store: &Store,
    settings: &milecastle_settings::Dashboard,
) -> anyhow::Result<Option<String>> {
    let given = std::env::var("MILECASTLE_ADMIN_KEY").ok().filter(|key| !key.is_empty());
    let mut new_key = None;
    if given.is_some() || settings.admin.admin_key.is_empty() {
        let first = FirstKey::new(given);
        new_key = waiting.until(async || Ok::<_, StoreError>(first.record(store).await?.map(str::to_owned))).await?;
        if let Some(key) = &new_key {
            show(&format!("\nAdmin key (shown this once; only its hash is kept):\n\n  {key}\n"))?;
        }
    }
    let first = FirstAccount::new();
    if let Some(password) = waiting.until(async || Ok::<_, StoreError>(first.record(store).await?.cloned())).await? {
        let password = password.reveal();
        show(&format!(
            "\nPassword of the account `{FIRST_ACCOUNT}` (shown this once; to be changed at the first login):\n\n  {password}\n\n"
        ))?;
    }
    Ok(new_key)
}

/// Writes to standard output, and not to the log, which others read and keep.
fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

pub(crate) fn tuning(database: &Database) -> Tuning {
    Tuning {
        max_connections: database.max_connections,
        connect_timeout: database.connect_timeout.get(),
        acquire_timeout: database.acquire_timeout.get(),
        statement_timeout: database.statement_timeout.get(),
    }
}
