//! The node as a member of its cluster: it joins, pulls its configuration, builds it and says what it runs.
//!
//! Invariants:
//! - Traffic never waits for anything here. What is in force stays in force until a whole new snapshot is built.
//! - `Applied` is sent only after the snapshot named is in force.
//! - Another lineage, or a head that went backwards, never replaces what the node holds unless the control plane says
//!   that an operator declared the old lineage over.
//! - The group token is needed to join, not while the node's certificate is valid.

mod holdings;
mod identity;
mod session;

#[cfg(test)]
mod tests;

use holdings::Holdings;
use identity::Identity;
use milecastle_settings::ControlPlane;
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_wire::pb;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use identity::IdentityError;

/// What a node needs to be a member.
pub struct NodeConfig {
    /// Where the control plane is, and how patiently to talk to it.
    pub control_plane: ControlPlane,
    /// Directory of the node's own files.
    pub dir: PathBuf,
    /// Host name, for operators.
    pub hostname: String,
    /// Version of the software.
    pub version: String,
    /// Differs after each start of the process.
    pub boot_id: String,
}

/// What the node knows of its configuration; for status pages and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The DP manager that the stream is open to.
    pub connected_to: Option<String>,
    /// Id of this node, once it has joined.
    pub node_id: Option<String>,
    /// Lineage of what is in force; `None` before the first configuration.
    pub lineage: Option<String>,
    /// Revision of what is in force.
    pub revision: u64,
    /// Digest of what is in force, in hexadecimal.
    pub digest: String,
    /// The newest revision that the control plane has named.
    pub head: u64,
    /// Objects in quarantine.
    pub quarantined: usize,
    /// What an operator should know of.
    pub alarms: Vec<String>,
}

/// Figures of the data plane for the node's report.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrafficFigures {
    /// Requests since the start.
    pub requests: u64,
    /// Answers of the 5xx class since the start.
    pub responses_5xx: u64,
    /// Client connections now.
    pub connections: u64,
}

/// The running member. It ends when this is dropped.
pub struct Node {
    status: Arc<Mutex<NodeStatus>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts on the runtime that this is called on. `publish` puts a snapshot in force; `figures` reads the traffic.
    pub fn start(
        config: NodeConfig,
        compiler: Arc<Compiler>,
        publish: impl Fn(Arc<Snapshot>) + Send + Sync + 'static,
        figures: impl Fn() -> TrafficFigures + Send + Sync + 'static,
    ) -> Self {
        let status = Arc::new(Mutex::new(NodeStatus::default()));
        let member = Member {
            identity: Identity::new(&config),
            config,
            compiler,
            publish: Box::new(publish),
            figures: Box::new(figures),
            status: status.clone(),
            holdings: None,
            lineage_refused: None,
            started: tokio::time::Instant::now(),
        };
        Self { status, task: tokio::spawn(member.run()) }
    }

    /// What the node knows of its configuration.
    pub fn status(&self) -> NodeStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, for those that ask often.
    pub fn status_reader(&self) -> impl Fn() -> NodeStatus + Send + Sync + use<> {
        let status = self.status.clone();
        move || status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All that the member's task works on.
struct Member {
    config: NodeConfig,
    identity: Identity,
    compiler: Arc<Compiler>,
    publish: Box<dyn Fn(Arc<Snapshot>) + Send + Sync>,
    figures: Box<dyn Fn() -> TrafficFigures + Send + Sync>,
    status: Arc<Mutex<NodeStatus>>,
    holdings: Option<Holdings>,
    /// The lineage that was refused last, so that the alarm is raised once.
    lineage_refused: Option<String>,
    started: tokio::time::Instant,
}

impl Member {
    /// Connects again and again, to one DP manager after the other.
    async fn run(mut self) {
        let mut failures = 0;
        let mut turn = usize::from(random_byte());
        loop {
            let endpoints = &self.config.control_plane.endpoints;
            let Some(endpoint) = endpoints.get(turn % endpoints.len().max(1)).cloned() else {
                tracing::error!("no control plane: set control_plane.endpoints");
                return;
            };
            let ended = session::run(&mut self, &endpoint).await;
            self.tell(|status| status.connected_to = None);
            let pause = match ended {
                Ok(session::Ended::Reconnect) => Duration::ZERO,
                Ok(session::Ended::Goaway { retry_after }) => retry_after,
                Ok(session::Ended::Lost { reason, served }) => {
                    tracing::warn!(%endpoint, reason, "configuration stream lost");
                    failures = if served { 0 } else { failures + 1 };
                    self.back_off(failures)
                }
                Err(error) => {
                    failures += 1;
                    let pause = self.back_off(failures);
                    tracing::warn!(%endpoint, %error, retry_in_ms = pause.as_millis(), "no configuration stream");
                    pause
                }
            };
            turn += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// The pause before the next try: doubled at each failure up to the longest, then between half and all of it.
    fn back_off(&self, failures: u32) -> Duration {
        let (shortest, longest) = (self.config.control_plane.reconnect_min, self.config.control_plane.reconnect_max);
        let pause = shortest.get().saturating_mul(1 << failures.min(16)).min(longest.get());
        pause.mul_f64(0.5 + f64::from(random_byte()) / 510.0)
    }

    fn tell(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Puts what was built in force and shows it.
    fn take(&mut self, holdings: Holdings) {
        (self.publish)(holdings.snapshot().clone());
        let quarantined = holdings.rejected().len();
        self.tell(|status| {
            status.lineage = Some(holdings.lineage().to_owned());
            status.revision = holdings.revision();
            status.digest = holdings.digest().to_string();
            status.head = status.head.max(holdings.revision());
            status.quarantined = quarantined;
        });
        self.holdings = Some(holdings);
    }

    fn facts(&self) -> pb::NodeFacts {
        pb::NodeFacts {
            hostname: self.config.hostname.clone(),
            version: self.config.version.clone(),
            boot_id: self.config.boot_id.clone(),
        }
    }
}

/// For jitter; nothing depends on its quality.
fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness the pause has no jitter, which is no reason to stop.
    let _filled = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}
