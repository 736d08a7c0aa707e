//! What stands between a node and a DP manager, and can lose what comes by.
//!
//! Both sides speak mutual TLS, and rightly so; the tap has the authority's key from the database and the node's key from its
//! state directory, which nobody but the test has. Messages pass as they are until the tap is told to lose something.

use milecastle_pki::transport::{HandshakeLimits, connect, incoming};
use milecastle_pki::{Ca, NodeKeys, ServerIdentity, join_client_config, server_config};
use milecastle_wire::{Digest, DigestKey, pb};
use pb::config_client::ConfigClient;
use pb::config_server::{Config, ConfigServer};
use pb::control_message::Message as Control;
use pb::join_client::JoinClient;
use pb::join_server::{Join, JoinServer};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const HOUR: Duration = Duration::from_secs(3600);

/// What is wrong with the next delta that creates an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The object is lost on the way; the digest is that of the sender.
    LostOnTheWay,
    /// The sender forgot the object before it computed the digest, which fits what is sent.
    ForgottenAtTheSource,
}

/// A tap. It ends with this value.
pub(super) struct Tap {
    /// Where nodes connect instead of the DP manager.
    pub(super) address: SocketAddr,
    wire: Arc<Wire>,
    server: JoinHandle<()>,
}

struct Wire {
    ca: Ca,
    behind: String,
    node_dir: PathBuf,
    next: Mutex<Option<Fault>>,
    /// While it is closed, nothing passes to the node.
    open: watch::Sender<bool>,
}

#[derive(Clone)]
struct Service(Arc<Wire>);

impl Tap {
    /// Stands in front of a DP manager, for the node whose state is in this directory.
    pub(super) async fn start(ca: Ca, behind: SocketAddr, node_dir: PathBuf) -> Self {
        let certificate = ca.issue_server(&[], &[], SystemTime::now(), HOUR).unwrap();
        let identity = Arc::new(ServerIdentity::new(&certificate).unwrap());
        let tls = Arc::new(server_config(ca.certificate(), identity, SystemTime::now).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (next, open) = (Mutex::new(None), watch::Sender::new(true));
        let wire = Arc::new(Wire { ca, behind: behind.to_string(), node_dir, next, open });
        let (join, config) = (JoinServer::new(Service(wire.clone())), ConfigServer::new(Service(wire.clone())));
        let server = tonic::transport::Server::builder().add_service(join).add_service(config);
        let limits = HandshakeLimits { most: 64, place: HOUR, timeout: HOUR };
        let incoming = incoming(listener, tls, limits, |_| {});
        let server = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { address, wire, server }
    }

    /// Spoils the next delta that creates an object, and holds back all that follows it until [`Tap::let_pass`].
    pub(super) fn spoil(&self, fault: Fault) {
        *self.wire.next.lock().unwrap() = Some(fault);
    }

    /// Whether that has happened.
    pub(super) fn has_spoilt(&self) -> bool {
        !*self.wire.open.borrow()
    }

    /// Lets everything pass again.
    pub(super) fn let_pass(&self) {
        self.wire.open.send_replace(true);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Wire {
    /// A message on its way to the node.
    fn pass(&self, message: &mut pb::ControlMessage) {
        let Some(Control::Delta(delta)) = &mut message.message else { return };
        let created = |change: &pb::Change| match &change.change {
            Some(pb::change::Change::Put(object)) if object.created == object.modified => Some(object.clone()),
            _ => None,
        };
        let found = delta.changes.iter().enumerate().find_map(|(n, change)| Some((n, created(change)?)));
        let Some((lost, object)) = found else { return };
        let Some(fault) = self.next.lock().unwrap().take() else { return };
        delta.changes.remove(lost);
        if fault == Fault::ForgottenAtTheSource {
            let mut digest = Digest::try_from(&*delta.digest).unwrap();
            digest -= DigestKey::of_lineage(&delta.lineage).wire_object(&object);
            delta.digest = digest.into();
        }
        self.open.send_replace(false);
    }
}

#[tonic::async_trait]
impl Join for Service {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::Certificate>, Status> {
        let config = join_client_config(self.0.ca.fingerprint()).unwrap();
        let channel =
            connect(&self.0.behind, Arc::new(config)).await.map_err(|e| Status::unavailable(e.to_string()))?;
        JoinClient::new(channel).join(request.into_inner()).await
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::Certificate>, Status> {
        Err(Status::unimplemented("no test lasts that long"))
    }
}

#[tonic::async_trait]
impl Config for Service {
    type StreamStream = ReceiverStream<Result<pb::ControlMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let keys = NodeKeys::load(&self.0.node_dir).unwrap().expect("the node has joined");
        let channel = connect(&self.0.behind, Arc::new(keys.client_config().unwrap())).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let up = request.into_inner().map_while(Result::ok);
        let mut down = ConfigClient::new(channel).stream(up).await?.into_inner();
        let (outbox, messages) = mpsc::channel(1);
        let wire = self.0.clone();
        tokio::spawn(async move {
            let mut open = wire.open.subscribe();
            loop {
                let mut message = down.message().await.transpose();
                // Held back too, if the tap was closed by what came before.
                if open.wait_for(|open| *open).await.is_err() {
                    return;
                }
                if let Some(Ok(message)) = &mut message {
                    wire.pass(message);
                }
                let Some(message) = message else { return };
                if outbox.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
