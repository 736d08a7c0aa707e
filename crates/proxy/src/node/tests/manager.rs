//! A DP manager that does what a test says, over real gRPC and TLS: what the real one does on a bad day only.

use super::super::{Node, NodeConfig, NodeStatus, TrafficFigures};
use super::compiler_with;
use crate::secrets::NodeSecrets;
use crate::secrets::tests::background;
use milecastle_pki::transport::{HandshakeLimits, incoming, node_of};
use milecastle_pki::{Ca, GroupToken, NodeIdentity, ServerIdentity, server_config};
use milecastle_settings::{ControlPlane, State, Time};
use milecastle_snapshot::Snapshot;
use milecastle_telemetry::Secret;
use milecastle_testkit::{SOON, TempDir, eventually};
use milecastle_wire::pb;
use pb::config_server::{Config, ConfigServer};
use pb::control_message::Message as Control;
use pb::join_server::{Join, JoinServer};
use pb::node_message::Message;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const HOUR: Duration = Duration::from_secs(3600);

/// A CA with the token of a group, for as many managers as a test wants.
pub(super) struct Cluster {
    ca: Arc<Ca>,
    token: GroupToken,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let ca = Arc::new(Ca::generate(SystemTime::now()).unwrap());
        let token = GroupToken::mint("prod", ca.fingerprint()).unwrap();
        Self { ca, token }
    }

    /// A node of it that has nothing, with the settings of a test.
    pub(super) fn node(&self, endpoints: &[&str], change: impl FnOnce(&mut ControlPlane)) -> Running {
        let home = TempDir::new();
        self.try_node(&home, endpoints, change).expect("a new directory is free").lives_in(home)
    }

    /// The same on a directory that another node of the test has left, or is about to leave.
    pub(super) async fn node_in(
        &self,
        home: TempDir,
        endpoints: &[&str],
        change: impl Fn(&mut ControlPlane),
    ) -> Running {
        let mut started = None;
        eventually("the directory is free", async || {
            started = self.try_node(&home, endpoints, &change);
            started.is_some()
        })
        .await;
        started.unwrap().lives_in(home)
    }

    fn try_node(&self, home: &TempDir, endpoints: &[&str], change: impl FnOnce(&mut ControlPlane)) -> Option<Started> {
        let mut control_plane = ControlPlane {
            endpoints: endpoints.iter().map(|address| format!("https://{address}")).collect(),
            group_token: Some(Secret::new(self.token.expose())),
            reconnect_min: Time::millis(10),
            reconnect_max: Time::millis(50),
            ..ControlPlane::default()
        };
        change(&mut control_plane);
        let state = State { dir: Some(home.path().to_owned()), write_timeout: Time::secs(60), ..State::default() };
        let (hostname, version, boot_id) = ("host".to_owned(), "1.2.3".to_owned(), "boot".to_owned());
        let follow_interval = Duration::from_millis(5);
        let config = NodeConfig { control_plane, state, hostname, version, boot_id, follow_interval, lock: None };
        let published = Arc::<Mutex<Vec<Arc<Snapshot>>>>::default();
        let publish = {
            let published = published.clone();
            move |snapshot| published.lock().unwrap().push(snapshot)
        };
        let maintenance = Arc::<Mutex<Option<String>>>::default();
        let maintain = {
            let maintenance = maintenance.clone();
            move |reason| *maintenance.lock().unwrap() = reason
        };
        let settings = milecastle_settings::Secrets { ttl: Time::millis(10), ..Default::default() };
        let secrets = NodeSecrets::new(&settings, &tokio::runtime::Handle::current(), background(None));
        let compiler = Arc::new(compiler_with(secrets.clone()));
        let node = Node::start(config, compiler, secrets, publish, TrafficFigures::default, maintain).ok()?;
        Some(Started { node, published, maintenance })
    }

    /// A manager that signs certificates of an hour.
    pub(super) async fn manager(&self) -> Manager {
        self.manager_with(HOUR).await
    }

    pub(super) async fn manager_with(&self, life: Duration) -> Manager {
        let certificate = self.ca.issue_server(&[], &[], SystemTime::now(), HOUR).unwrap();
        let identity = Arc::new(ServerIdentity::new(&certificate).unwrap());
        let tls = Arc::new(server_config(self.ca.certificate(), identity, SystemTime::now).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (opened, streams) = mpsc::channel(16);
        let script =
            Arc::new(Script { ca: self.ca.clone(), opened, says: Mutex::new(Says { life, ..Says::default() }) });
        let (join, config) = (JoinServer::new(Service(script.clone())), ConfigServer::new(Service(script.clone())));
        let server = tonic::transport::Server::builder().add_service(join).add_service(config);
        let limits = HandshakeLimits { most: 16, place: HOUR, timeout: HOUR };
        let incoming = incoming(listener, tls, limits, |_| {});
        let server = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Manager { address, script, streams, server }
    }
}

struct Started {
    node: Node,
    published: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    maintenance: Arc<Mutex<Option<String>>>,
}

impl Started {
    fn lives_in(self, home: TempDir) -> Running {
        let Self { node, published, maintenance } = self;
        Running { node, published, maintenance, home }
    }
}

/// A node under test.
pub(super) struct Running {
    pub(super) node: Node,
    published: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    maintenance: Arc<Mutex<Option<String>>>,
    pub(super) home: TempDir,
}

impl Running {
    /// Revisions that were put in force, in their order.
    pub(super) fn revisions(&self) -> Vec<u64> {
        self.published.lock().unwrap().iter().map(|snapshot| snapshot.revision()).collect()
    }

    /// Why it is out of service, if it is.
    pub(super) fn maintenance(&self) -> Option<String> {
        self.maintenance.lock().unwrap().clone()
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&NodeStatus) -> bool) {
        eventually(what, async || condition(&self.node.status())).await;
    }

    /// Its state directory.
    pub(super) fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Ends it as a kill does.
    pub(super) fn kill(self) -> TempDir {
        self.home
    }
}

/// What the manager answers.
#[derive(Default)]
struct Says {
    life: Duration,
    /// How far its clock is behind that of the node.
    behind: Duration,
    /// Instead of streams.
    refuse: VecDeque<Status>,
    refuse_joins: Option<Status>,
    refuse_renewals: Option<Status>,
    joins: usize,
    renewals: usize,
}

struct Script {
    ca: Arc<Ca>,
    opened: mpsc::Sender<Opened>,
    says: Mutex<Says>,
}

#[derive(Clone)]
struct Service(Arc<Script>);

pub(super) struct Manager {
    pub(super) address: String,
    script: Arc<Script>,
    streams: mpsc::Receiver<Opened>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Manager {
    /// The next stream that a node opens.
    pub(super) async fn stream(&mut self) -> Opened {
        timeout(SOON, self.streams.recv()).await.expect("a stream is opened in time").unwrap()
    }

    /// Answers the next stream with an error.
    pub(super) fn refuse(&self, status: Status) {
        self.script.says.lock().unwrap().refuse.push_back(status);
    }

    pub(super) fn refuse_joins(&self, status: Option<Status>) {
        self.script.says.lock().unwrap().refuse_joins = status;
    }

    pub(super) fn refuse_renewals(&self, status: Option<Status>) {
        self.script.says.lock().unwrap().refuse_renewals = status;
    }

    /// Its clock is so far behind that of the node.
    pub(super) fn fall_behind(&self, behind: Duration) {
        self.script.says.lock().unwrap().behind = behind;
    }

    pub(super) fn sign_for(&self, life: Duration) {
        self.script.says.lock().unwrap().life = life;
    }

    /// Times that a node joined, and renewed.
    pub(super) fn signed(&self) -> (usize, usize) {
        let says = self.script.says.lock().unwrap();
        (says.joins, says.renewals)
    }
}

/// A stream that a node opened.
pub(super) struct Opened {
    pub(super) hello: pb::Hello,
    pub(super) at: Instant,
    inbox: Streaming<pb::NodeMessage>,
    outbox: mpsc::Sender<Result<pb::ControlMessage, Status>>,
}

impl Opened {
    pub(super) async fn send(&self, message: Control) {
        self.outbox.send(Ok(pb::ControlMessage { message: Some(message) })).await.unwrap();
    }

    /// Ends the stream with an error.
    pub(super) async fn fail(self, status: Status) {
        self.outbox.send(Err(status)).await.unwrap();
    }

    /// The next message that is no report.
    pub(super) async fn answer(&mut self) -> Message {
        loop {
            match self.next().await {
                Message::Report(_) => {}
                message => return message,
            }
        }
    }

    pub(super) async fn report(&mut self) -> pb::Report {
        loop {
            if let Message::Report(report) = self.next().await {
                return report;
            }
        }
    }

    pub(super) async fn applied(&mut self) -> u64 {
        match self.answer().await {
            Message::Applied(applied) => applied.revision,
            other => panic!("not applied: {other:?}"),
        }
    }

    pub(super) async fn next(&mut self) -> Message {
        let message = timeout(SOON, self.inbox.message()).await.expect("a message in time").unwrap();
        message.expect("the stream goes on").message.expect("a message that is known")
    }

    /// Reads to the end of the node's half.
    pub(super) async fn ended(&mut self) {
        while let Ok(Some(_)) = timeout(SOON, self.inbox.message()).await.expect("an end in time") {}
    }
}

impl Script {
    #[allow(clippy::result_large_err, reason = "the trait of the service gives a Status")]
    fn sign(&self, csr: &[u8], identity: &NodeIdentity) -> Result<Response<pb::Certificate>, Status> {
        let (life, behind) = {
            let says = self.says.lock().unwrap();
            (says.life, says.behind)
        };
        let issued = self.ca.sign_node(csr, identity, SystemTime::now() - behind, life).unwrap();
        Ok(Response::new(pb::Certificate {
            chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            ca: self.ca.certificate().to_vec().into(),
            node_id: identity.node_id().to_owned(),
            group: identity.group().to_owned(),
            not_after: 0,
        }))
    }
}

#[tonic::async_trait]
impl Join for Service {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::Certificate>, Status> {
        {
            let mut says = self.0.says.lock().unwrap();
            says.joins += 1;
            if let Some(status) = &says.refuse_joins {
                return Err(status.clone());
            }
        }
        self.0.sign(&request.into_inner().csr, &NodeIdentity::new("prod", "n1").unwrap())
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::Certificate>, Status> {
        let identity = node_of(&request)?.identity.clone();
        {
            let mut says = self.0.says.lock().unwrap();
            says.renewals += 1;
            if let Some(status) = &says.refuse_renewals {
                return Err(status.clone());
            }
        }
        self.0.sign(&request.into_inner().csr, &identity)
    }
}

#[tonic::async_trait]
impl Config for Service {
    type StreamStream = ReceiverStream<Result<pb::ControlMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        node_of(&request)?;
        let refusal = self.0.says.lock().unwrap().refuse.pop_front();
        if let Some(status) = refusal {
            return Err(status);
        }
        let mut inbox = request.into_inner();
        let hello = match inbox.message().await? {
            Some(pb::NodeMessage { message: Some(Message::Hello(hello)) }) => hello,
            other => panic!("the first message is {other:?}"),
        };
        let (outbox, messages) = mpsc::channel(64);
        // A test that has seen enough takes no more streams.
        self.0.opened.send(Opened { hello, at: Instant::now(), inbox, outbox }).await.ok();
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
