//! The node as a member of its cluster: it joins, pulls its configuration, builds it and says what it runs.
//!
//! Invariants:
//! - Traffic never waits for anything here. What is in force stays in force until a whole new snapshot is built.
//! - `Applied` is sent only after the snapshot named is in force.
//! - Another lineage, or a head that went backwards, never replaces what the node holds unless the control plane says
//!   that an operator declared the old lineage over, or an operator gave the node a token of another cluster or group. A head
//!   that went backwards and then on past the node is still that.
//! - A revision is built under the settings of the group that are part of it, or not at all.
//! - The group token is needed to join, not while the node's certificate is valid.
//! - What is in force has the values that secrets have now; a value that is not known holds a configuration up for a bounded time.
//! - The last good configuration is in force before the control plane is asked for anything.
//! - Without one, the first that is in force is no older than the head when the stream began: a snapshot that was packed earlier
//!   waits for what has changed since.

mod certificates;
mod complaints;
mod holdings;
mod identity;
mod in_force;
mod last_good;
mod maintenance;
mod pace;
mod pause;
mod replaced;
mod session;
mod set_back;

#[cfg(test)]
mod tests;

use crate::health::HealthFigures;
use crate::secrets::NodeSecrets;
use certificates::CertificateEnds;
use holdings::Holdings;
use identity::Identity;
use in_force::InForce;
use last_good::{LastGood, Origin, Step};
use maintenance::Maintenance;
use milecastle_pki::{GroupToken, NodeKeys};
use milecastle_settings::{ControlPlane, State};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_wire::pb;
use pace::{Outcome, Pace};
use replaced::Replaced;
use set_back::SetBack;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use identity::IdentityError;
pub use last_good::{DirectoryInUse, LastGoodFigures};
pub use pause::{Pause, Paused, RestError};

/// What a node needs to be a member.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where the control plane is, and how patiently to talk to it.
    pub control_plane: ControlPlane,
    /// Where the node's own files are, and how the last good configuration is kept in them.
    pub state: State,
    /// Host name, for operators.
    pub hostname: String,
    /// Version of the software.
    pub version: String,
    /// Names the start of the process: `NodeFacts.boot_id` of the protocol.
    pub boot_id: String,
    /// How often the process looks, once it was replaced, at what the other one has in force: `upgrade.follow_interval`.
    pub follow_interval: Duration,
    /// The lock on the state directory, if it came from the process that this one takes over from.
    pub lock: Option<Arc<File>>,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// The control plane's database was replaced or set back, and no operator has confirmed it.
    Lineage,
    /// The group has settings that this version does not know: it cannot build what the control plane has.
    Settings,
    /// The node's certificate is over, or it cannot get one: it hears of no updates.
    Identity,
    /// The node's certificate still holds, but could not be renewed in time.
    Renewal,
    /// The last good configuration cannot be kept, or not safely.
    LastGood,
    /// Whether the node is in maintenance cannot be kept on the disk.
    Maintenance,
    /// What is in force has more references to secret managers than this node resolves.
    Secrets,
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
    /// What an operator should know of, and do.
    pub alarms: BTreeMap<Alarm, String>,
    /// What of the configuration is kept on disk.
    pub last_good: LastGoodFigures,
}

/// Figures of the data plane for the node's report.
#[derive(Debug, Clone, Default)]
pub struct TrafficFigures {
    /// Requests since the start.
    pub requests: u64,
    /// Requests that wait for the head of an answer, now.
    pub requests_waiting: u64,
    /// Requests that are over since the start, by the class of the answer's status: 1xx to 5xx.
    pub responses: [u64; 5],
    /// Those of the 5xx class that an upstream answered.
    pub responses_5xx_upstream: u64,
    /// How long they took: how many for each of [`milecastle_wire::TIME_BOUNDS_MS`], and those above all bounds.
    pub request_times: [u64; milecastle_wire::TIME_BOUNDS_MS.len() + 1],
    /// Client connections now.
    pub connections: u64,
    /// Health of upstream nodes now.
    pub upstreams: HealthFigures,
    /// What was counted by route since this was read last; `None` if nothing is.
    pub routes: Option<milecastle_wire::pb::RouteTraffic>,
}

/// Puts a snapshot in force.
type Publish = Box<dyn Fn(Arc<Snapshot>) + Send + Sync>;

/// The running member. It ends when this is dropped.
pub struct Node {
    status: StatusCell,
    pause: Pause,
    /// The membership, and what follows the values of secrets.
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Node {
    /// Starts on the runtime that this is called on: with the last good configuration if there is one, and then with the
    /// control plane. `secrets` is what `compiler` resolves references with; `publish` puts a snapshot in force; `figures` reads
    /// the traffic; `maintain` takes the node out of service for a reason, or with `None` back into it.
    ///
    /// # Errors
    /// Another process uses the state directory. One that cannot be used for other reasons is an alarm.
    pub fn start(
        config: NodeConfig,
        compiler: Arc<Compiler>,
        secrets: Arc<NodeSecrets>,
        publish: impl Fn(Arc<Snapshot>) + Send + Sync + 'static,
        figures: impl Fn() -> TrafficFigures + Send + Sync + 'static,
        maintain: impl Fn(Option<String>) + Send + Sync + 'static,
    ) -> Result<Self, DirectoryInUse> {
        let last_good = LastGood::open(config.state.clone(), config.lock.clone())?;
        // Before any configuration is in force, so that no probe finds the node in service in between.
        let maintenance = Maintenance::resume(config.state.dir(), Box::new(maintain));
        let status = StatusCell { own: Arc::default(), last_good: last_good.figures() };
        milecastle_telemetry::warnings().keep(config.control_plane.warnings as usize);
        let in_force = InForce::new(Box::new(publish), status.clone(), secrets);
        let member = Member {
            identity: Identity::new(&config),
            set_back: SetBack::read(config.state.dir()),
            config,
            compiler,
            in_force: in_force.clone(),
            figures: Box::new(figures),
            status: status.clone(),
            last_good,
            maintenance,
            regraded: in_force.regraded(),
            certificates: CertificateEnds::default(),
            origin: None,
            partial: None,
            lineage_refused: None,
            renew_after: None,
            started: tokio::time::Instant::now(),
        };
        let (pause, asked) = Pause::new();
        let tasks = [tokio::spawn(member.run(asked)), tokio::spawn(in_force.follow_secrets())];
        Ok(Self { status, pause, tasks })
    }

    /// What the node knows of its configuration.
    pub fn status(&self) -> NodeStatus {
        self.status.read()
    }

    /// Lets the membership rest, for another process to take it over.
    pub fn pause(&self) -> Pause {
        self.pause.clone()
    }

    /// The same as [`Self::status`], for those that ask often.
    pub fn status_reader(&self) -> impl Fn() -> NodeStatus + Send + Sync + use<> {
        let status = self.status.clone();
        move || status.read()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The status, part of which the last good configuration's keeper writes.
#[derive(Clone)]
struct StatusCell {
    own: Arc<Mutex<NodeStatus>>,
    last_good: Arc<Mutex<LastGoodFigures>>,
}

impl StatusCell {
    fn read(&self) -> NodeStatus {
        let mut status = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trouble = status.last_good.fault.as_ref().or(status.last_good.warning.as_ref());
        if let Some(trouble) = trouble.cloned() {
            status.alarms.insert(Alarm::LastGood, trouble);
        }
        status
    }
}

impl StatusCell {
    /// Puts in force what was built and shows it in the status, in one step: a reader that one of them wakes finds the other
    /// done.
    fn put_in_force(&self, holdings: &Holdings, publish: &(dyn Fn(Arc<Snapshot>) + Send + Sync)) {
        let quarantined = holdings.rejected().len();
        let mut status = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        publish(holdings.snapshot().clone());
        let position = holdings.position();
        status.lineage = Some(position.lineage.to_string());
        status.revision = position.revision;
        status.digest = position.digest.to_string();
        status.head = status.head.max(position.revision);
        status.quarantined = quarantined;
    }

    /// Raises an alarm, or takes it back. The log has it once for as long as it stays the same.
    fn note(&self, alarm: Alarm, trouble: Option<String>) {
        let mut status = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(text) if status.alarms.get(&alarm) == Some(&text) => {}
            Some(text) => {
                tracing::error!("{text}");
                status.alarms.insert(alarm, text);
            }
            None => drop(status.alarms.remove(&alarm)),
        }
    }
}

/// All that the member's task works on.
struct Member {
    config: NodeConfig,
    identity: Identity,
    compiler: Arc<Compiler>,
    in_force: Arc<InForce>,
    figures: Box<dyn Fn() -> TrafficFigures + Send + Sync>,
    status: StatusCell,
    last_good: LastGood,
    maintenance: Maintenance,
    /// Hears when what is in quarantine is something else, with the revision the same.
    regraded: tokio::sync::watch::Receiver<()>,
    /// Those of objects that have references to theirs.
    certificates: CertificateEnds,
    /// Whose configuration is in force.
    origin: Option<Origin>,
    /// A snapshot of which chunks are due; it goes on over the next stream.
    partial: Option<session::Partial>,
    /// The lineage that was refused last, so that the alarm is raised once.
    lineage_refused: Option<String>,
    set_back: SetBack,
    /// No new certificate is asked for before, although by this host's clock one is due: that clock is wrong.
    renew_after: Option<tokio::time::Instant>,
    started: tokio::time::Instant,
}

impl Member {
    /// Starts from what is on the disk; then follows the control plane, resting whenever it is asked to; and once another process
    /// has the membership, that one.
    async fn run(mut self, mut asked: pause::Asked) {
        self.start_from_last_good().await;
        loop {
            let ask = tokio::select! {
                () = self.follow() => return,
                ask = asked.recv() => ask,
            };
            // Nobody can ask any more: the node is gone.
            let Some(ask) = ask else { return };
            if !self.rest(ask).await {
                break;
            }
        }
        if let Some(replaced) = self.replaced().await {
            replaced.run().await;
        }
    }

    /// What is left of it in the process that was replaced; `None` if it had no configuration. Lock and disk are the other's.
    async fn replaced(self) -> Option<Replaced> {
        let Self { config, compiler, in_force, last_good, origin, .. } = self;
        let trail = last_good.into_trail(in_force.held()?, origin?).await;
        Some(Replaced { trail, compiler, in_force, interval: config.follow_interval })
    }

    /// Connects again and again, to one DP manager after the other.
    async fn follow(&mut self) {
        // What was said last of each DP manager that gave no stream.
        let mut told = BTreeMap::new();
        let mut pace = Pace::new(self.config.control_plane.clone(), random_byte());
        if self.in_force.held().is_some() {
            pace.goes_on(Instant::now());
        }
        loop {
            let Some(endpoint) = pace.endpoint().map(str::to_owned) else {
                tracing::error!("no control plane: set control_plane.endpoints");
                return;
            };
            let ended = session::run(self, &endpoint, pace.patience(Instant::now())).await;
            self.tell(|status| status.connected_to = None);
            let outcome = match &ended {
                session::Ended::Renewed => Outcome::Renewed,
                session::Ended::NotOpened { retry_after: Some(pause), .. } => {
                    Outcome::Asked { pause: *pause, left: false }
                }
                session::Ended::NotOpened { barred: true, .. } => Outcome::Barred,
                session::Ended::NotOpened { .. } => Outcome::NotOpened,
                session::Ended::Goaway { retry_after } => Outcome::Asked { pause: *retry_after, left: true },
                session::Ended::Lost { served, .. } => Outcome::Lost { served: *served },
            };
            let pause = pace.after(outcome, Instant::now(), random_byte());
            let retry_in_ms = pause.as_millis();
            match ended {
                // Once for each reason: a control plane may be away for long.
                session::Ended::NotOpened { reason, .. } if told.get(&endpoint) != Some(&reason) => {
                    tracing::warn!(%endpoint, reason, retry_in_ms, "no configuration stream; trying again and again");
                    told.insert(endpoint, reason);
                }
                session::Ended::Lost { reason, .. } => {
                    tracing::warn!(%endpoint, reason, retry_in_ms, "configuration stream lost");
                    told.clear();
                }
                session::Ended::Renewed | session::Ended::Goaway { .. } => told.clear(),
                session::Ended::NotOpened { .. } => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn start_from_last_good(&mut self) {
        let (load, config, compiler) = (self.last_good.loader(), self.config.clone(), self.compiler.clone());
        let loaded = tokio::task::spawn_blocking(move || load.load(origin_of(&config).as_ref(), &compiler)).await;
        match loaded {
            Ok(Some((holdings, origin))) => drop(self.take(holdings, origin).await),
            Ok(None) => tracing::info!("no last good configuration: traffic waits for the control plane"),
            Err(error) => tracing::error!(%error, "the last good configuration could not be loaded"),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut NodeStatus)) {
        change(&mut self.status.own.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Raises an alarm, or changes what it says. Gives whether it is new.
    fn raise(&self, alarm: Alarm, text: String) -> bool {
        let mut new = false;
        self.tell(|status| new = status.alarms.insert(alarm, text).is_none());
        new
    }

    /// Takes an alarm back.
    fn settle(&self, alarm: Alarm) {
        self.tell(|status| drop(status.alarms.remove(&alarm)));
    }

    /// Has what is in force written to disk; see [`LastGood::keep`].
    async fn keep(&mut self, step: Step) {
        if let (Some(held), Some(origin)) = (self.in_force.held(), &self.origin) {
            self.last_good.keep(step, &held, origin).await;
        }
    }

    /// Puts what was built in force, and shows it. Gives it as it is in force.
    async fn take(&mut self, holdings: Holdings, origin: Origin) -> Holdings {
        let holdings = self.in_force.put(holdings).await;
        self.origin = Some(origin);
        holdings
    }

    /// Takes the node out of service, or back into it, as the control plane says.
    fn maintain(&self, order: pb::Maintenance) {
        let (status, directory) = (self.status.clone(), self.config.state.dir().to_owned());
        let written = move |kept: std::io::Result<()>| {
            let trouble = kept.err().map(|error| {
                let directory = directory.display();
                format!("whether this node is in maintenance cannot be kept in {directory}, and ends with the process: {error}")
            });
            status.note(Alarm::Maintenance, trouble);
        };
        drop(self.maintenance.set(order.on.then_some(order.reason), written));
    }

    fn facts(&self) -> pb::NodeFacts {
        pb::NodeFacts {
            hostname: self.config.hostname.clone(),
            version: self.config.version.clone(),
            boot_id: self.config.boot_id.clone(),
        }
    }
}

/// Where this node belongs, as far as it knows without asking: as its certificate says, even if it is over, or the token with
/// which it will join.
fn origin_of(config: &NodeConfig) -> Option<Origin> {
    // Whatever is wrong with either is told when it is used.
    if let Ok(Some(keys)) = NodeKeys::load(config.state.dir()) {
        return Some(Origin::of(&keys));
    }
    let token = config.control_plane.read_token().ok()??;
    let token: GroupToken = token.reveal().trim().parse().ok()?;
    Some(Origin { cluster: token.ca().to_string(), group: token.group().to_owned() })
}

impl Origin {
    fn of(keys: &NodeKeys) -> Self {
        let group = keys.certificate().identity.group().to_owned();
        Self { cluster: keys.ca_fingerprint().to_string(), group }
    }
}

/// For jitter; nothing depends on its quality.
fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness the pause has no jitter, which is no reason to stop.
    let _filled = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}
