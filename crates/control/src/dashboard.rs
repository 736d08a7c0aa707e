//! The dashboard: its listeners, and what is served on them.

use crate::admin::AdminApi;
use crate::admin::body::BodyLimits;
use crate::api::Api;
use crate::callers::Callers;
use crate::clock::Clock;
use crate::dpm::Nodes;
use crate::efforts::Efforts;
use crate::events::{self, Tail};
use crate::health::Readiness;
use crate::keys::{KeyError, Keyring};
use crate::listen::{self, Ended, Ending, Served};
use crate::oidc::{Provider, Tickets, TrustError};
use crate::once::Repeats;
use crate::pages::{self, Site};
use crate::passwords::Hashing;
use crate::refusals::Refusals;
use crate::state::State;
use crate::waits::{STREAMS, WAITS, Waits};
use axum::Router;
use milecastle_pki::{ListenTlsError, ListenerTls};
use milecastle_settings as settings;
use milecastle_settings::{Availability, ControlShutdown, Database, Peers, Time};
use milecastle_snapshot::Compiler;
use milecastle_store::{DraftLimits, Maintenance, Store, StoreError};
use milecastle_telemetry::metrics::{MetricError, Options, Registry};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

/// How often the keys of the store are read.
const REFRESH: Duration = Duration::from_secs(1);

/// What a dashboard is made of.
pub struct Parts {
    /// The configuration in memory.
    pub state: Arc<State>,
    /// What the nodes run: answers `?wait=` and `/api`.
    pub nodes: Nodes,
    /// Judges what is written, under the settings of its group: the compiler that the gateways build with.
    pub compiler: Arc<Compiler>,
    /// Where its metrics go, and what `/metrics` shows.
    pub metrics: Arc<Registry>,
    /// The time for timestamps, and for when lifetimes end.
    pub clock: Clock,
    /// How whoever leads looks at what is up: what is unknown, and how many probes there may be.
    pub availability: Availability,
}

/// Why a dashboard did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address} ({key}): {source}; choose another port, or end the process that holds it")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key of the settings opens nothing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A metric of the same name is another one.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] ListenTlsError),
    /// Nobody vouches for the provider of logins.
    #[error(transparent)]
    Provider(#[from] TrustError),
}

/// A dashboard whose listeners are open, and which has nothing to serve yet but `/healthz` and `/readyz`: to everything else
/// it answers 503. So a port that is taken shows at once, and probes are answered while the process waits for its database.
pub struct Opening {
    settings: settings::Dashboard,
    readiness: Readiness,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    main: Arc<OnceLock<Router>>,
    compatible: Arc<OnceLock<Router>>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    provider: Option<Provider>,
}

/// A dashboard that serves. Dropped, it stops at once; see [`Dashboard::stop`].
pub struct Dashboard {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    refresher: JoinHandle<()>,
    refusals: Arc<Refusals>,
    noter: JoinHandle<()>,
}

impl Opening {
    /// Opens the listeners that `settings` name; `last_call` is [`ControlShutdown::last_call`], and `metrics` where connections
    /// that limits end are counted. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A listener that does not open, a metric of the same name that is another one.
    pub async fn listen(
        settings: &settings::Dashboard,
        last_call: Time,
        readiness: &Readiness,
        metrics: &Registry,
    ) -> Result<Self, StartError> {
        let ended = Ended::register(metrics)?;
        let tls = ListenerTls::load("tls", &settings.tls, metrics)?;
        let provider = Provider::new(&settings.oidc)?;
        let own = bind("server.listen", settings.server.listen.socket()).await?;
        let admin = match settings.admin.enable {
            true => Some(bind("admin.admin_listen", settings.admin.admin_listen.socket()).await?),
            false => None,
        };
        let (main, compatible) = (Arc::default(), Arc::default());
        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        let ending = Ending { last_call: last_call.get(), drain: settings.server.drain.get() };
        let mut serve = |(listener, address): (TcpListener, SocketAddr), cell: &Arc<OnceLock<Router>>| {
            let (router, readiness) = (pages::until(cell.clone(), readiness), readiness.clone());
            let (limits, ended) = (settings.limits.clone(), ended.clone());
            let served = Served { router, readiness, limits, ended, tls: tls.clone() };
            listeners.spawn(listen::serve(listener, served, stopped.clone(), ending));
            address
        };
        let address = serve(own, &main);
        let admin_address = admin.map(|admin| serve(admin, &compatible));
        tracing::info!(%address, admin = ?admin_address, "the dashboard listens");
        let (settings, readiness) = (settings.clone(), readiness.clone());
        Ok(Self { settings, readiness, address, admin_address, main, compatible, stop, listeners, provider })
    }

    /// Where console, `/api` and Admin API will be served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads the keys that will open it: all that it needs of the database before it serves.
    ///
    /// # Errors
    /// A store that does not answer, or a key of the settings whose role is not there.
    pub async fn keys(&self, store: &Store) -> Result<Keyring, KeyError> {
        Keyring::load(store.clone(), &self.settings.admin.admin_key).await
    }

    /// Serves all that a dashboard serves, to whom [`Opening::keys`] and sessions admit. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A metric of the same name that is another one.
    pub fn serve(self, keyring: Keyring, parts: Parts) -> Result<Dashboard, MetricError> {
        let Self { settings, readiness, address, admin_address, main, compatible, stop, listeners, provider } = self;
        let Parts { state, nodes, compiler, metrics, clock, availability } = parts;
        let store = state.store().clone();
        let refusals = Arc::new(Refusals::new(store.clone(), settings.access.refusals_most as usize));
        let access = settings.access.clone();
        let hashing = Hashing::new(settings.access.password_hashes);
        let callers = Arc::new(Callers { store, keyring, access, hashing, refusals: refusals.clone() });
        let help = "Requests to the Admin API that were answered.";
        let answers = metrics.counter("admin_requests_total", help, &["method", "status"], Options::default())?;
        let help = "Revision of a gateway group that this process shows.";
        let revisions = metrics.gauge("group_revision", help, &["group"], Options::default())?;
        let help = "Objects in a gateway group.";
        let objects = metrics.gauge("group_objects", help, &["group"], Options::default())?;
        let admin = &settings.admin;
        let waits = Waits::new(&WAITS, admin.max_waits as usize, admin.max_waits_of_a_key as usize);
        let repeats = Arc::new(Repeats::new(admin, &metrics)?);
        let (searches, validations) =
            (Efforts::searches(admin, &metrics)?, Arc::new(Efforts::validations(admin, &metrics)?));
        let streams = settings.event_streams.clone();
        let most = streams.most.min(settings.limits.connections / 4).max(1) as usize;
        let places = Waits::new(&STREAMS, most, streams.most_of_a_caller as usize);
        let events = events::Shared {
            store: state.store().clone(),
            tail: Arc::new(Tail::new(state.store().clone(), streams.memory as usize)),
            settings: streams,
            readiness: readiness.clone(),
            stop: stop.subscribe(),
        };
        let api = Arc::new(Api {
            state: state.clone(),
            nodes: nodes.clone(),
            compiler: compiler.clone(),
            callers: callers.clone(),
            provider,
            tickets: Tickets::default(),
            clock: clock.clone(),
            key_required: admin.admin_key_required,
            body_limits: BodyLimits::new(admin, admin.max_body),
            large_body_limits: BodyLimits::new(admin, admin.max_configs_body),
            draft_limits: DraftLimits {
                drafts: admin.max_drafts.into(),
                objects: admin.max_draft_objects.into(),
                bytes: admin.max_configs_body.get(),
            },
            max_wait: admin.max_wait.get(),
            max_read_wait: admin.max_read_wait.get(),
            repeats: repeats.clone(),
            validations: validations.clone(),
            waits: waits.clone(),
            streams: places,
            events,
            look: availability.look.get(),
            most_probes: availability.most_probes.into(),
            allowed: admin.allow_admin_on_dashboard.as_slice().into(),
        });
        let admin = Arc::new(AdminApi::new(
            state.clone(),
            nodes,
            compiler,
            callers.clone(),
            clock.clone(),
            admin,
            waits,
            repeats,
            searches,
            validations,
        ));
        let site = |allowed: &[Peers]| Site {
            admin: admin.clone(),
            state: state.clone(),
            metrics: metrics.clone(),
            answers: answers.clone(),
            revisions: revisions.clone(),
            objects: objects.clone(),
            allowed: allowed.into(),
        };
        main.get_or_init(|| pages::dashboard(site(&settings.admin.allow_admin_on_dashboard), api, &readiness));
        compatible.get_or_init(|| pages::compatible(site(&settings.admin.allow_admin)));
        let refresher = tokio::spawn(refresh(callers));
        let every = settings.access.refusals_every.get();
        let noter = tokio::spawn({
            let refusals = refusals.clone();
            async move { refusals.note_every(every).await }
        });
        tracing::info!(%address, admin = ?admin_address, "the dashboard serves");
        Ok(Dashboard { address, admin_address, stop, listeners, refresher, refusals, noter })
    }
}

impl Dashboard {
    /// Opens the listeners that `settings` name and serves at once, in maintenance while `maintenance` says so. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A listener that does not open, a store that does not answer.
    pub async fn start(
        settings: &settings::Dashboard,
        parts: Parts,
        maintenance: watch::Receiver<Option<Maintenance>>,
    ) -> Result<Self, StartError> {
        let readiness = Readiness::starting(Database::default().probe_timeout);
        let store = parts.state.store().clone();
        let last_call = ControlShutdown::default().last_call;
        let opening = Opening::listen(settings, last_call, &readiness, &parts.metrics).await?;
        let keyring = opening.keys(&store).await?;
        let dashboard = opening.serve(keyring, parts)?;
        readiness.serves(store, maintenance);
        Ok(dashboard)
    }

    /// Where console, `/api` and Admin API are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the Admin API is served too, if that listener is on.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Takes no more connections, lets requests under way end within the configured drain time, and stops.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.listeners.join_next().await.is_some() {}
        self.refusals.note().await;
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.refresher.abort();
        self.noter.abort();
    }
}

/// Binds an address and tells which one it became.
async fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let fault = |source| StartError::Listen { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let bound = listener.local_addr().map_err(fault)?;
    Ok((listener, bound))
}

/// Reads the keys of the store again and again.
async fn refresh(callers: Arc<Callers>) {
    let mut tick = interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = callers.keyring.refresh().await {
            tracing::debug!(%error, "the admin keys known so far stay in force");
        }
    }
}
