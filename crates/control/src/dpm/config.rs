//! The service `Config`: who may open a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use milecastle_pki::NodeCertificate;
use milecastle_pki::transport::node_of;
use milecastle_settings as settings;
use milecastle_store::Store;
use milecastle_wire::{PROTOCOL, pb};
use pb::config_server::Config;
use pb::node_message::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::admission::Bucket;
use super::away::Away;
use super::feed::Feeds;
use super::join::unavailable;
use super::line::Link;
use super::metrics::Metrics;
use super::nodes::Nodes;
use super::session::{Session, Start};

/// Messages that wait for the transport. The one that it works on comes on top, so a stream never holds more than three.
const OUTBOX: usize = 2;

/// Answers nodes that want their configuration. Cheap to clone.
#[derive(Clone)]
pub(super) struct ConfigService(pub(super) Arc<Shared>);

/// What all streams share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) settings: settings::Stream,
    /// How long a node may take to say `Hello`.
    pub(super) hello_timeout: Duration,
    pub(super) feeds: Feeds,
    pub(super) nodes: Nodes,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Bucket,
    /// Whether nodes should go elsewhere.
    pub(super) away: Away,
    /// Streams that are open or opening.
    pub(super) open: AtomicUsize,
}

/// Counts a stream for as long as it lives.
pub(super) struct Open(Arc<Shared>);

impl Open {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Config for ConfigService {
    type StreamStream = ReceiverStream<Result<pb::ControlMessage, Status>>;

    async fn stream(
        &self,
        mut request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let opened = async {
            let link = request.extensions().get::<Link>().cloned();
            let link = link.ok_or_else(|| Status::internal("a call without a connection"))?;
            request.extensions_mut().insert(link.peer.clone());
            let certificate = node_of(&request)?.clone();
            self.open(link, certificate, request.into_inner()).await
        };
        opened.await.map(Response::new).inspect_err(|status| {
            let reason = match status.code() {
                tonic::Code::Unauthenticated => "unauthenticated",
                tonic::Code::PermissionDenied => "denied",
                tonic::Code::ResourceExhausted => "too_many",
                tonic::Code::AlreadyExists => "copied",
                tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => "protocol",
                _ => "error",
            };
            self.0.metrics.turned_away.with(&[reason]).inc();
        })
    }
}

impl ConfigService {
    async fn open(
        &self,
        link: Link,
        certificate: NodeCertificate,
        mut inbox: Streaming<pb::NodeMessage>,
    ) -> Result<ReceiverStream<Result<pb::ControlMessage, Status>>, Status> {
        let shared = &self.0;
        shared.away.turn_away()?;
        shared.admission.admit("streams")?;
        let mut hello = match timeout(shared.hello_timeout, inbox.message()).await {
            Ok(Ok(Some(pb::NodeMessage { message: Some(Message::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return Err(Status::invalid_argument("the first message must be Hello")),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("no Hello came")),
        };
        let identity = certificate.identity.clone();
        if hello.group != identity.group() {
            return Err(Status::permission_denied("the certificate is for another group"));
        }
        if hello.node_id != identity.node_id() {
            return Err(Status::permission_denied("the certificate is for another node"));
        }
        if !hello.protocols.contains(&PROTOCOL) {
            let spoken = format!("this control plane speaks version {PROTOCOL} of the protocol only");
            return Err(Status::failed_precondition(spoken));
        }
        let (group, node) = (identity.group(), identity.node_id());
        let feed = shared.feeds.get(group).await.map_err(unavailable)?;
        let feed = feed.ok_or_else(|| Status::unavailable("this replica does not know the group (yet)"))?;
        let facts = hello.facts.take().unwrap_or_default();
        if !shared.nodes.admits(feed.group(), node, &facts, link.peer.address).await {
            return Err(copied());
        }
        let start = Start::of(&feed, &hello).await.map_err(unavailable)?;
        // Entered before it is asked whether the node is welcome, or in maintenance: what is said after that finds the stream.
        let (alive, ended) = shared.nodes.enter(feed.group(), node, link.peer.address, facts, start.held());
        if let Some(head) = start.unknown_at {
            // It will say so itself; until then, or if it does not, nobody takes it for one that has all revisions to come.
            alive.refused("backwards", "it holds a revision that the database does not know".to_owned(), head);
        }
        let known = shared.store.node_get(group, node).await.map_err(unavailable)?;
        let Some(known) = known else {
            // Deleted, or it joined after the backup that the database was restored from.
            return Err(Status::unauthenticated("this node is not known to the cluster: join with a group token"));
        };
        if !known.welcome {
            return Err(Status::permission_denied("this node or its group token was revoked"));
        }
        if shared.nodes.gives_way(&alive, &known) {
            return Err(copied());
        }
        alive.begin(&known);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let session = Session::new(shared.clone(), feed, start, alive, link, certificate, outbox);
        tokio::spawn(session.run(inbox, ended));
        Ok(ReceiverStream::new(messages))
    }
}

/// What a process hears whose identity an earlier one has that lives.
fn copied() -> Status {
    Status::already_exists(
        "another process runs with this node's identity and started earlier, as when a state directory was copied: stop one of \
         them, remove `node.pem` from its `state.dir` and start it again; with a group token it joins as a node of its own",
    )
}
