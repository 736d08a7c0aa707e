//! The DP manager: lets gateway nodes join, and brings each of them the configuration of its group
//! (`proto/milecastle/config/v1`).
//!
//! How a change travels: [`State`] reads a new revision once and makes an image of it; each group's feed works out its
//! digest; each stream works out, or shares, the delta from where its node stands to the newest image, whenever it has nothing
//! else under way. So a node that falls behind gets one delta over all that it missed, and there is no queue anywhere.
//!
//! What must stay true:
//! - The database's work for a commit does not grow with the number of streams.
//! - A stream takes a bounded amount of memory, whatever its node does or leaves undone.
//! - A node reads the group that its certificate names and no other. Revoking it, its token or its group ends its stream, and
//!   so does the end of its certificate.
//! - Up to where a node may go the database alone says: while a rollout is on, canaries go to its candidate and others to its base,
//!   whichever replica they have a stream to.
//! - No node is ever set back, or moved to another lineage that does not supersede its own.
//!
//! Deliberately absent: what nodes do with a configuration, how operators are asked about lineages, other replicas (the
//! database is all that they share).

mod admission;
mod authority;
mod away;
mod clock;
mod config;
mod feed;
mod head;
mod join;
mod line;
mod lines;
mod metrics;
mod nodes;
mod session;
mod sweep;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use futures_util::Stream;
use milecastle_pki::transport::{GivenUp, HandshakeLimits, incoming};
use milecastle_pki::{PkiError, server_config};
use milecastle_settings as settings;
use milecastle_store::Maintenance;
use milecastle_telemetry::metrics::{MetricError, Registry};
use milecastle_wire::MAX_MESSAGE_BYTES;
use milecastle_wire::pb::config_server::ConfigServer;
use milecastle_wire::pb::join_server::JoinServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use crate::state::State;
use admission::Bucket;
use away::Away;
use config::{ConfigService, Shared};
use feed::Feeds;
use join::JoinService;
use line::Line;
use metrics::Metrics;

pub use authority::{AuthorityError, cluster_ca, mint_group_token};
pub(crate) use feed::off_thread;
pub use nodes::{
    Condition, Figures, HeldCertificate, NodeState, Nodes, Receipt, RefusedStep, RejectedObject, Troubles,
};
pub(crate) use nodes::{Silence, clip, is_connected};

/// Calls of one connection at a time. A node has one stream, and renews its certificate now and then.
const CALLS_OF_A_CONNECTION: u32 = 8;

/// What a call may send ahead before it is read, and all calls of a connection together, in bytes.
const CALL_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// How long the end of a DP manager waits for the database.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// What a DP manager is made of.
pub struct DpParts {
    /// The configuration in memory, and its store.
    pub state: Arc<State>,
    /// Where it tells what its nodes run.
    pub nodes: Nodes,
    /// Whether this process is in maintenance: then its nodes go elsewhere, and none is taken.
    pub maintenance: watch::Receiver<Option<Maintenance>>,
    /// Where its metrics go.
    pub metrics: Arc<Registry>,
    /// Different lines of the log of each node that are kept.
    pub kept_warnings: u64,
}

/// Why a DP manager did not start.
#[derive(Debug, thiserror::Error)]
pub enum DpStartError {
    /// The address is taken, or not this machine's.
    #[error(
        "cannot listen on {address} (server.listen): {source}; choose another port, or end the process that holds it"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// This replica's certificate cannot be made: check `certificates.names`.
    #[error("the DP manager's own certificate: {0}")]
    Certificate(#[from] PkiError),
    /// A metric of the same name is another one.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

impl DpStartError {
    /// Whether the same may succeed later without anything being done to this program.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Authority(error) if error.may_pass())
    }
}

/// A DP manager that serves. Dropped, it stops at once; see [`DpManager::shutdown`].
pub struct DpManager {
    address: SocketAddr,
    nodes: Nodes,
    draining: watch::Sender<bool>,
    /// Held for as long as connections may last.
    _halt: watch::Sender<()>,
    server: JoinHandle<()>,
    /// Writes what nodes run; stops when told.
    writer: JoinHandle<()>,
    written: watch::Sender<bool>,
    chores: Vec<JoinHandle<()>>,
}

impl DpManager {
    /// Listens and serves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`DpStartError`]. If that may pass, this may be tried again.
    pub async fn start(settings: &settings::DpManager, parts: DpParts) -> Result<Self, DpStartError> {
        let DpParts { state, nodes, maintenance, metrics, kept_warnings } = parts;
        let store = state.store().clone();
        let metrics = Arc::new(Metrics::register(&metrics)?);
        let ca = Arc::new(cluster_ca(&store).await?);
        let shown = authority::Shown::new(&store, ca.clone(), &settings.certificates)?;
        let clock = store.clone();
        let tls = server_config(ca.certificate(), shown.identity(), move || authority::time_of(&clock))?;
        let tls = Arc::new(tls);
        let address = settings.server.listen.socket();
        let listen = |source| DpStartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let (draining, drained) = watch::channel(false);
        let (halt, halted) = watch::channel(());
        let bucket = || Bucket::new(&settings.stream, Instant::now());
        let watch = store.watch();
        let away = Away { draining: drained.clone(), maintenance, outdated: state.store().outdated() };
        let join = JoinService {
            store: store.clone(),
            ca,
            life: settings.certificates.node_life.get(),
            away: away.clone(),
            admission: bucket(),
            metrics: metrics.clone(),
        };
        let limits = &settings.limits;
        let handshakes = HandshakeLimits {
            most: limits.handshakes as usize,
            place: limits.handshake_place.get(),
            timeout: limits.handshake_timeout.get(),
        };
        let ended = metrics.ended.clone();
        let incoming = incoming(listener, tls, handshakes, move |why| {
            let why = match why {
                GivenUp::Timeout => "handshake_time",
                GivenUp::Place => "handshake_place",
            };
            ended.with(&[why]).inc();
        });
        let lines = line::lines(incoming, limits, metrics.ended.clone(), halted);
        let dropped_warnings = metrics.dropped_warnings.clone();
        let shared = Arc::new(Shared {
            store,
            settings: settings.stream.clone(),
            hello_timeout: limits.hello_timeout.get(),
            feeds: Feeds::new(state, &settings.stream),
            nodes: nodes.clone(),
            metrics,
            admission: bucket(),
            away,
            open: AtomicUsize::new(0),
        });
        let server = tokio::spawn(serve(limits.clone(), join, shared.clone(), lines, drained));
        let (written, stop) = watch::channel(false);
        let stream = &settings.stream;
        let (receipt, node) = (stream.receipt_interval.get(), stream.report_interval.get());
        let pace = nodes::Pace { receipt, node, kept_warnings };
        let writer = tokio::spawn(nodes::write(nodes.clone(), pace, dropped_warnings, stop));
        let chores = vec![tokio::spawn(shown.rotate()), tokio::spawn(sweep::sweep(shared, watch))];
        tracing::info!(%address, "the DP manager serves");
        Ok(Self { address, nodes, draining, _halt: halt, server, writer, written, chores })
    }

    /// Where it listens; the port that the system chose, if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What the nodes run.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.nodes.streams()
    }

    /// Tells every node to go elsewhere, takes no more connections, and ends when all are gone, or after `drain` whatever is
    /// left.
    pub async fn shutdown(mut self, drain: Duration) {
        self.draining.send_replace(true);
        if timeout(drain, &mut self.server).await.is_err() {
            tracing::info!("connections of nodes are cut: they did not end in time");
        }
        self.written.send_replace(true);
        if timeout(LAST_WRITE, &mut self.writer).await.is_err() {
            tracing::warn!("what nodes run last was not written: the database does not answer");
        }
    }
}

impl Drop for DpManager {
    fn drop(&mut self) {
        self.draining.send_replace(true);
        self.server.abort();
        self.writer.abort();
        self.chores.iter().for_each(JoinHandle::abort);
    }
}

/// Answers the calls of nodes that come over `lines`, until `draining` turns true and the connections have ended.
async fn serve(
    limits: settings::DpLimits,
    join: JoinService,
    shared: Arc<Shared>,
    lines: impl Stream<Item = io::Result<Line>> + Send + 'static,
    draining: watch::Receiver<bool>,
) {
    let refused = shared.metrics.refused.clone();
    let join = JoinServer::new(join).max_decoding_message_size(limits.join_bytes.as_len());
    let config = ConfigServer::new(ConfigService(shared))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let served = Server::builder()
        .timeout(limits.call_timeout.get())
        .max_concurrent_streams(CALLS_OF_A_CONNECTION)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(u32::try_from(limits.header_bytes.get()).unwrap_or(u32::MAX))
        .http2_keepalive_interval(Some(limits.ping_interval.get()))
        .http2_keepalive_timeout(Some(limits.ping_timeout.get()))
        .layer(MapResponseLayer::new(move |answer: http::Response<tonic::body::Body>| {
            // A call that is refused is answered by a head alone.
            if let Some(status) = Status::from_header_map(answer.headers()) {
                refused.with(&[&format!("{:?}", status.code())]).inc();
            }
            answer
        }))
        .add_service(join)
        .add_service(config)
        .serve_with_incoming_shutdown(lines, until(draining))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the DP manager's server ended");
    }
}

async fn until(mut draining: watch::Receiver<bool>) {
    // An error means that the manager is gone, which is the same.
    draining.wait_for(|draining| *draining).await.map(drop).ok();
}

/// 64 random bits; `None` if the system has none.
fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
