//! Whether a process of the control plane lives and can serve: what load balancers and operators ask of it.

use crate::listen::{self, Ended, Ending, Served};
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use milecastle_pki::ListenerTls;
use milecastle_settings::{Probes as Settings, Time};
use milecastle_store::{Maintenance, Store, StoreError};
use milecastle_telemetry::metrics::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long an answer that is under way may still take when a [`Probes`] listener stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What `/readyz` says of a process: shared by all that it serves.
#[derive(Clone)]
pub struct Readiness {
    phase: Arc<RwLock<Phase>>,
    probe_timeout: Duration,
}

#[derive(Clone)]
enum Phase {
    /// Something that it needs is not there yet.
    Waiting(String),
    /// It serves, as long as the store answers and lets it, and it is not in maintenance.
    Serving(Store, watch::Receiver<Option<Maintenance>>),
    /// It is about to stop.
    Draining,
}

impl Readiness {
    /// Of a process that has just started; `probe_timeout` is [`milecastle_settings::Database::probe_timeout`].
    pub fn starting(probe_timeout: Time) -> Self {
        let phase = Arc::new(RwLock::new(Phase::Waiting("starting".to_owned())));
        Self { phase, probe_timeout: probe_timeout.get() }
    }

    /// The process waits for something: `why` says for what, and what to do about it.
    pub fn waits(&self, why: impl Into<String>) {
        self.set(Phase::Waiting(why.into()));
    }

    /// The process serves; from now on it is ready whenever the store answers and it is not in maintenance.
    pub fn serves(&self, store: Store, maintenance: watch::Receiver<Option<Maintenance>>) {
        self.set(Phase::Serving(store, maintenance));
    }

    /// The process is about to stop.
    pub fn drains(&self) {
        self.set(Phase::Draining);
    }

    fn set(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Whether clients should go to another process, although this one still serves.
    pub(crate) fn sends_away(&self) -> bool {
        match self.phase() {
            Phase::Waiting(_) => false,
            Phase::Serving(store, maintenance) => maintenance.borrow().is_some() || store.outdated().borrow().is_some(),
            Phase::Draining => true,
        }
    }

    /// Whether the process may not serve any more: it is too old for the schema that the database has by now.
    pub(crate) fn is_outdated(&self) -> bool {
        matches!(self.phase(), Phase::Serving(store, _) if store.outdated().borrow().is_some())
    }

    fn phase(&self) -> Phase {
        self.phase.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the process cannot serve now; `None` if it can.
    pub async fn problem(&self) -> Option<String> {
        let store = match self.phase() {
            Phase::Waiting(why) => return Some(why),
            Phase::Draining => return Some("this process is about to stop".to_owned()),
            Phase::Serving(_, maintenance) if maintenance.borrow().is_some() => {
                let reason = maintenance.borrow().as_ref().map(|maintenance| maintenance.reason.clone());
                let reason =
                    reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "no reason was given".to_owned());
                return Some(format!("in maintenance: {reason}; `milecastle members maintenance NAME off` ends it"));
            }
            Phase::Serving(store, _) => store,
        };
        if let Some(release) = &*store.outdated().borrow() {
            return Some(StoreError::Outdated { release: release.clone() }.to_string());
        }
        match tokio::time::timeout(self.probe_timeout, store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the database does not answer in time (database.probe_timeout)".to_owned()),
        }
    }
}

/// `/healthz` and `/readyz`, for a router of any state.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(readiness: &Readiness) -> Router<S> {
    let readiness = readiness.clone();
    Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match readiness.problem().await {
                None => "ready\n".into_response(),
                Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
            }
        }),
    )
}

/// The page for Prometheus.
pub(crate) fn metrics_page(metrics: &Registry) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

/// A listener with `/healthz`, `/readyz` and `/metrics`, for processes that have no dashboard. Dropped, it stops
/// at once.
pub struct Probes {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Probes {
    /// Listens and answers; `last_call` is [`milecastle_settings::ControlShutdown::last_call`]. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// The address cannot be bound, its certificate cannot be used, or a metric of the same name is another one.
    pub async fn start(
        settings: &Settings,
        last_call: Time,
        readiness: &Readiness,
        metrics: Arc<Registry>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen.socket()).await?;
        let address = listener.local_addr()?;
        let tls = ListenerTls::load("probes.tls", &settings.tls, &metrics).map_err(io::Error::other)?;
        let ended = Ended::register(&metrics).map_err(io::Error::other)?;
        let router = routes(readiness).route("/metrics", get(move || async move { metrics_page(&metrics) }));
        let (stop, stopped) = watch::channel(false);
        let (readiness, limits) = (readiness.clone(), settings.limits.clone());
        let served = Served { router, readiness, limits, ended, tls };
        let ending = Ending { last_call: last_call.get(), drain: LAST_ANSWERS };
        let server = tokio::spawn(listen::serve(listener, served, stopped, ending));
        tracing::info!(%address, "probes are answered");
        Ok(Self { address, stop, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and stops.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.server).await {
            tracing::error!(%error, "the listener of the probes ended badly");
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.server.abort();
    }
}
