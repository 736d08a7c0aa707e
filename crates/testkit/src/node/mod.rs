//! Gateway nodes as the control plane sees them: they join with a group token, open a configuration stream over mutual TLS
//! and do what the protocol says, and no more (`proto/milecastle/config/v1`). They serve no traffic, so a test can have
//! hundreds of them.
//!
//! A [`Stream`] is driven message by message; a [`Follower`] drives itself, and comes back when its stream ends; [`raw`] says
//! what no node should.

mod follower;
mod held;
pub mod raw;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use milecastle_pki::transport::connect;
use milecastle_pki::{Fingerprint, GroupToken, KeyRequest, NodeKeys, join_client_config};
use milecastle_wire::{MAX_MESSAGE_BYTES, PROTOCOL, pb};
use pb::config_client::ConfigClient;
use pb::join_client::JoinClient;
use pb::node_message::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

pub use follower::{Follower, Seen};
pub use held::Held;
pub use milecastle_pki::GroupToken as Token;
pub use stream::{Got, Stream};

/// Messages of a node that may wait to be sent.
const OUTBOX: usize = 16;

/// A node that joined: its key and its certificate.
#[derive(Clone)]
pub struct Member {
    /// Both, and the cluster's CA.
    pub keys: Arc<NodeKeys>,
}

impl Member {
    /// Joins at a DP manager; with an empty `id` that one chooses it.
    ///
    /// # Errors
    /// What the DP manager answers; `UNAVAILABLE` if it cannot be reached, or is of another cluster than the token.
    ///
    /// # Panics
    /// If the certificate that comes is none of this key and of the token's cluster.
    pub async fn join(at: SocketAddr, token: &GroupToken, id: &str) -> Result<Self, Status> {
        let request = KeyRequest::generate().expect("a key can be made");
        let message = pb::JoinRequest {
            token: token.expose(),
            csr: request.csr().to_vec().into(),
            node_id: id.to_owned(),
            facts: Some(facts()),
            ..pb::JoinRequest::default()
        };
        let trusted = token.ca();
        let answer = call_join(at, trusted, message).await?;
        let keys = request.accept(&answer.chain, &answer.ca, &trusted, SystemTime::now()).expect("a certificate");
        assert_eq!(keys.certificate().identity.node_id(), answer.node_id);
        Ok(Self { keys: Arc::new(keys) })
    }

    /// Its id within the group.
    pub fn id(&self) -> &str {
        self.keys.certificate().identity.node_id()
    }

    /// The first message of a node that holds nothing.
    pub fn hello(&self) -> pb::Hello {
        pb::Hello {
            node_id: self.id().to_owned(),
            group: self.keys.certificate().identity.group().to_owned(),
            facts: Some(facts()),
            protocols: vec![PROTOCOL],
            kinds: Vec::new(),
            have: None,
            resume: None,
        }
    }

    /// A connection that shows its certificate.
    ///
    /// # Errors
    /// `UNAVAILABLE` with the reason.
    pub async fn channel(&self, at: SocketAddr) -> Result<Channel, Status> {
        let config = self.keys.client_config().expect("keys that were accepted");
        connect(&at.to_string(), Arc::new(config)).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Opens a stream with what it has.
    ///
    /// # Errors
    /// What the DP manager answers; `UNAVAILABLE` if it cannot be reached.
    pub async fn open(&self, at: SocketAddr, held: Held) -> Result<Stream, Status> {
        let hello = pb::Hello { have: held.have(), ..self.hello() };
        self.open_with(at, hello, held).await
    }

    /// As [`Self::open`], with a first message that may say something else.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(&self, at: SocketAddr, hello: pb::Hello, held: Held) -> Result<Stream, Status> {
        let mut client = ConfigClient::new(self.channel(at).await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        outbox.try_send(pb::NodeMessage { message: Some(Message::Hello(hello)) }).expect("an empty outbox has room");
        let inbox = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Stream::new(outbox, inbox, held))
    }
}

/// Sends a request to join as it is, over a connection that trusts the cluster with this CA.
///
/// # Errors
/// As [`Member::join`].
pub async fn call_join(
    at: SocketAddr,
    trusted: Fingerprint,
    message: pb::JoinRequest,
) -> Result<pb::Certificate, Status> {
    let config = Arc::new(join_client_config(trusted).expect("a fingerprint is enough"));
    let channel = connect(&at.to_string(), config).await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(JoinClient::new(channel).join(message).await?.into_inner())
}

/// What these nodes say of themselves.
pub fn facts() -> pb::NodeFacts {
    pb::NodeFacts { hostname: "host-1".to_owned(), version: "1.2.3".to_owned(), boot_id: "boot-1".to_owned() }
}
