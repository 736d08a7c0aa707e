//! A control plane and a node over real sockets: join, mutual TLS, and everyone who must stay outside.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use milecastle_pki::transport::{ConnectError, HandshakeLimits, connect, incoming, node_of};
use milecastle_pki::{
    Ca, Fingerprint, GroupToken, KeyRequest, NodeIdentity, NodeKeys, ServerIdentity, TokenHash, join_client_config,
    server_config,
};
use milecastle_wire::pb;
use milecastle_wire::pb::config_client::ConfigClient;
use milecastle_wire::pb::config_server::{Config, ConfigServer};
use milecastle_wire::pb::join_client::JoinClient;
use milecastle_wire::pb::join_server::{Join, JoinServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

const HOUR: Duration = Duration::from_secs(3600);

/// The services, as far as identities go.
#[derive(Clone)]
struct Services {
    ca: Arc<Ca>,
    tokens: Arc<Vec<(String, TokenHash)>>,
}

impl Services {
    fn certificate(&self, csr: &[u8], identity: &NodeIdentity) -> Result<Response<pb::Certificate>, Status> {
        let issued = self
            .ca
            .sign_node(csr, identity, SystemTime::now(), HOUR)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
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
impl Join for Services {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::Certificate>, Status> {
        let request = request.into_inner();
        let token: GroupToken = request.token.parse().map_err(|_| Status::unauthenticated("no token"))?;
        let known = self.tokens.iter().any(|(id, hash)| id == token.id() && hash.verify(&token));
        if !known {
            return Err(Status::unauthenticated("unknown token"));
        }
        let identity = NodeIdentity::new(token.group(), request.node_id).unwrap();
        self.certificate(&request.csr, &identity)
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::Certificate>, Status> {
        let identity = node_of(&request)?.identity.clone();
        self.certificate(&request.into_inner().csr, &identity)
    }
}

#[tonic::async_trait]
impl Config for Services {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<pb::ControlMessage, Status>> + Send>>;

    /// Answers every message with who sent it.
    async fn stream(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let identity = node_of(&request)?.identity.to_string();
        let answers = request.into_inner().map(move |message| {
            message?;
            let goaway = pb::Goaway { retry_after_ms: 0, reason: identity.clone() };
            Ok(pb::ControlMessage { message: Some(pb::control_message::Message::Goaway(goaway)) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Cluster {
    ca: Arc<Ca>,
    token: GroupToken,
    address: String,
    identity: Arc<ServerIdentity>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let ca = Arc::new(Ca::generate(SystemTime::now()).unwrap());
        let token = GroupToken::mint("prod", ca.fingerprint()).unwrap();
        let certificate = ca.issue_server(&[], &[], SystemTime::now(), HOUR).unwrap();
        let identity = Arc::new(ServerIdentity::new(&certificate).unwrap());
        let config = server_config(ca.certificate(), identity.clone(), SystemTime::now).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let services = Services { ca: ca.clone(), tokens: Arc::new(vec![(token.id().to_owned(), token.hash())]) };
        let (stop, stopped) = oneshot::channel();
        let limits = HandshakeLimits { most: 64, place: HOUR, timeout: HOUR };
        let incoming = incoming(listener, Arc::new(config), limits, |_| {});
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(JoinServer::new(services.clone()))
                .add_service(ConfigServer::new(services))
                .serve_with_incoming_shutdown(incoming, async { stopped.await.unwrap() })
                .await
                .unwrap();
        });
        Self { ca, token, address, identity, stop, server }
    }

    /// As a node does it: with nothing but an address and a token.
    async fn join(&self, token: &GroupToken) -> Result<NodeKeys, Status> {
        let config = Arc::new(join_client_config(token.ca()).unwrap());
        let mut client = JoinClient::new(connect(&self.address, config).await.unwrap());
        let request = KeyRequest::generate().unwrap();
        let message = pb::JoinRequest {
            token: token.expose(),
            csr: request.csr().to_vec().into(),
            node_id: "n1".to_owned(),
            ..pb::JoinRequest::default()
        };
        let answer = client.join(message).await?.into_inner();
        Ok(request.accept(&answer.chain, &answer.ca, &token.ca(), SystemTime::now()).unwrap())
    }

    /// Opens a stream, sends a message, and says how the server calls the sender.
    async fn greet(&self, config: rustls::ClientConfig) -> Result<String, Refusal> {
        let channel = connect(&self.address, Arc::new(config)).await.map_err(|_| Refusal::Tls)?;
        let mut client = ConfigClient::new(channel);
        let answer = async {
            let mut answers = client.stream(tokio_stream::iter([pb::NodeMessage::default()])).await?.into_inner();
            answers.message().await
        };
        match answer.await.map(|answer| answer.and_then(|answer| answer.message)) {
            Ok(Some(pb::control_message::Message::Goaway(goaway))) => Ok(goaway.reason),
            Ok(other) => panic!("unexpected answer {other:?}"),
            Err(status) if status.code() == Code::Unauthenticated => Err(Refusal::Service),
            Err(status) => {
                assert!(std::error::Error::source(&status).is_some(), "not of the connection: {status}");
                Err(Refusal::Tls)
            }
        }
    }
}

/// Who sent a node away. The connection's own error says more, unless a reset overtakes the TLS alert.
#[derive(Debug, PartialEq)]
enum Refusal {
    Tls,
    Service,
}

/// Keys from a CA, for a certificate that began at `begin`, accepted then.
fn keys_of(ca: &Ca, begin: SystemTime) -> NodeKeys {
    let request = KeyRequest::generate().unwrap();
    let identity = NodeIdentity::new("prod", "n1").unwrap();
    let issued = ca.sign_node(request.csr(), &identity, begin, HOUR).unwrap();
    request.accept(&issued.chain, ca.certificate(), &ca.fingerprint(), begin).unwrap()
}

#[tokio::test]
async fn a_node_joins_and_streams_and_renews() {
    let cluster = Cluster::start().await;
    let keys = cluster.join(&cluster.token).await.unwrap();
    assert_eq!(cluster.greet(keys.client_config().unwrap()).await.unwrap(), "prod/n1");

    let config = Arc::new(keys.client_config().unwrap());
    let mut client = JoinClient::new(connect(&cluster.address, config).await.unwrap());
    let request = KeyRequest::generate().unwrap();
    let answer =
        client.renew(pb::RenewRequest { csr: request.csr().to_vec().into(), clock_ms: 0 }).await.unwrap().into_inner();
    let renewed = request.accept(&answer.chain, &answer.ca, &keys.ca_fingerprint(), SystemTime::now()).unwrap();
    assert_eq!(cluster.greet(renewed.client_config().unwrap()).await.unwrap(), "prod/n1");
}

#[tokio::test]
async fn without_a_certificate_there_is_only_joining() {
    let cluster = Cluster::start().await;
    let config = || join_client_config(cluster.ca.fingerprint()).unwrap();
    assert_eq!(cluster.greet(config()).await, Err(Refusal::Service));
    let mut client = JoinClient::new(connect(&cluster.address, Arc::new(config())).await.unwrap());
    let status = client.renew(pb::RenewRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let unknown = GroupToken::mint("prod", cluster.ca.fingerprint()).unwrap();
    assert_eq!(cluster.join(&unknown).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_refused() {
    let cluster = Cluster::start().await;
    let expired = keys_of(&cluster.ca, SystemTime::now() - HOUR * 24);
    assert_eq!(cluster.greet(expired.client_config().unwrap()).await, Err(Refusal::Tls));

    // From another cluster: this node does not even trust the server.
    let foreign = keys_of(&Ca::generate(SystemTime::now()).unwrap(), SystemTime::now());
    let error = connect(&cluster.address, Arc::new(foreign.client_config().unwrap())).await.unwrap_err();
    assert!(matches!(error, ConnectError::OtherCluster { .. }), "{error}");
    assert!(error.to_string().contains(&cluster.address), "{error}");
    // And if it did, the server would not trust it.
    assert_eq!(cluster.greet(disguised(&cluster, &foreign)).await, Err(Refusal::Tls));
    let ours = keys_of(&cluster.ca, SystemTime::now());
    assert_eq!(cluster.greet(disguised(&cluster, &ours)).await.unwrap(), "prod/n1");
}

/// Trusts the cluster, and shows these keys' certificate whatever CAs the server names.
fn disguised(cluster: &Cluster, keys: &NodeKeys) -> rustls::ClientConfig {
    let home = tempfile::tempdir().unwrap();
    keys.save(home.path()).unwrap();
    let text = std::fs::read_to_string(home.path().join("node.pem")).unwrap();
    let blocks = pem::parse_many(text).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(blocks[0].contents().to_vec());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.ca.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let signer =
        rustls::sign::CertifiedKey::from_der(vec![blocks[1].contents().to_vec().into()], key.into(), &provider)
            .unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(signer)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[tokio::test]
async fn another_cluster_than_the_token_says_is_refused() {
    let cluster = Cluster::start().await;
    let pin = Fingerprint::of(b"another CA");
    let error = connect(&cluster.address, Arc::new(join_client_config(pin).unwrap())).await.unwrap_err();
    assert!(matches!(error, ConnectError::OtherAuthority { .. }) && error.lasts(), "{error}");
    let said = error.to_string();
    assert!(said.contains(&cluster.address) && said.contains(&pin.to_string()), "{said}");
    assert!(said.contains("milecastle token create"), "{said}");
}

#[tokio::test]
async fn a_new_server_certificate_shows_without_a_restart() {
    let cluster = Cluster::start().await;
    let keys = cluster.join(&cluster.token).await.unwrap();
    let over = cluster.ca.issue_server(&[], &[], SystemTime::now() - HOUR * 24, HOUR).unwrap();
    cluster.identity.replace(&over).unwrap();
    let config = || Arc::new(keys.client_config().unwrap());
    let error = connect(&cluster.address, config()).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    let fresh = cluster.ca.issue_server(&[], &[], SystemTime::now(), HOUR).unwrap();
    cluster.identity.replace(&fresh).unwrap();
    connect(&cluster.address, config()).await.unwrap();
}

#[tokio::test]
async fn silent_clients_hold_up_nobody() {
    let cluster = Cluster::start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(&cluster.address).await.unwrap());
    }
    cluster.join(&cluster.token).await.unwrap();
}

#[tokio::test]
async fn shutting_down_closes_the_port() {
    let cluster = Cluster::start().await;
    let address: SocketAddr = cluster.address.parse().unwrap();
    cluster.stop.send(()).unwrap();
    cluster.server.await.unwrap();
    // The listener's task notices on its own time.
    let closed = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap();
}

#[tokio::test]
async fn a_port_without_tls_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Open until the other side has read it and gone.
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let config = Arc::new(join_client_config(Fingerprint::of(b"")).unwrap());
    let error = connect(&address, config).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("is it the port of a DP manager"), "{error}");
}

#[tokio::test]
async fn addresses_are_host_and_port() {
    let config = Arc::new(join_client_config(Fingerprint::of(b"")).unwrap());
    for bad in ["", "localhost", "http://localhost:1", "localhost:1/path", "user@localhost:1x"] {
        let error = connect(bad, config.clone()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Address { .. }), "{bad}: {error}");
    }
}
