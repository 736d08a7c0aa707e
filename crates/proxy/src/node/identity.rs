//! Joining the cluster and staying in it: the node's key and certificate.

use super::NodeConfig;
use milecastle_pki::transport::{ConnectError, connect};
use milecastle_pki::{GroupToken, KeyRequest, NodeKeys, NodeKeysError, PkiError, TokenError, join_client_config};
use milecastle_settings::{ControlPlane, SecretError};
use milecastle_wire::{MAX_MESSAGE_BYTES, pb};
use pb::join_client::JoinClient;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::transport::Channel;

/// Why the node has no valid certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither certificate nor token.
    #[error(
        "this node has no valid certificate and no group token: set control_plane.group_token_file to a token made with \
         `milecastle token create`"
    )]
    NoToken,
    /// The token cannot be read.
    #[error(transparent)]
    TokenFile(#[from] SecretError),
    /// The token is no token.
    #[error("group token: {0}")]
    Token(#[from] TokenError),
    /// Keys could not be made, read, written or accepted.
    #[error(transparent)]
    Keys(#[from] NodeKeysError),
    /// TLS could not be set up.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The DP manager is not reachable, or not to be trusted.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The DP manager said no.
    #[error("the DP manager refuses: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
}

/// The node's key and certificate, on disk and in memory.
pub(super) struct Identity {
    dir: PathBuf,
    settings: ControlPlane,
    keys: Option<Arc<NodeKeys>>,
}

impl Identity {
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self { dir: config.dir.clone(), settings: config.control_plane.clone(), keys: None }
    }

    /// Keys whose certificate is valid now; joins with the group token where there are none.
    pub(super) async fn keys(&mut self, endpoint: &str, facts: pb::NodeFacts) -> Result<Arc<NodeKeys>, IdentityError> {
        if self.keys.is_none() {
            self.keys = NodeKeys::load(&self.dir)?.map(Arc::new);
        }
        match &self.keys {
            Some(keys) if !keys.is_expired(SystemTime::now()) => Ok(keys.clone()),
            _ => self.join(endpoint, facts).await,
        }
    }

    /// Forgets keys that the control plane no longer accepts, so that the node joins again.
    pub(super) fn forget(&mut self) {
        self.keys = None;
    }

    /// Trades the group token for a certificate. A node that had one keeps its id.
    pub(super) async fn join(&mut self, endpoint: &str, facts: pb::NodeFacts) -> Result<Arc<NodeKeys>, IdentityError> {
        let token = self.settings.read_token()?.ok_or(IdentityError::NoToken)?;
        let token: GroupToken = token.reveal().trim().parse()?;
        let before = NodeKeys::load(&self.dir).ok().flatten();
        let node_id = before.map(|keys| keys.certificate().identity.node_id().to_owned()).unwrap_or_default();
        let request = KeyRequest::generate()?;
        let channel = connect(endpoint, Arc::new(join_client_config(token.ca())?)).await?;
        let asked =
            pb::JoinRequest { token: token.expose(), csr: request.csr().to_vec().into(), node_id, facts: Some(facts) };
        let answer = join_client(channel).join(asked).await.map_err(Box::new)?.into_inner();
        tracing::info!(node_id = answer.node_id, group = answer.group, "joined");
        self.accept(request, &answer, &token.ca())
    }

    /// Trades the certificate for a fresh one, over the connection that the present one opened.
    pub(super) async fn renew(&mut self, channel: Channel) -> Result<Arc<NodeKeys>, IdentityError> {
        let Some(present) = self.keys.clone() else { return Err(IdentityError::NoToken) };
        let request = KeyRequest::generate()?;
        let asked = pb::RenewRequest { csr: request.csr().to_vec().into() };
        let answer = join_client(channel).renew(asked).await.map_err(Box::new)?.into_inner();
        self.accept(request, &answer, &present.ca_fingerprint())
    }

    fn accept(
        &mut self,
        request: KeyRequest,
        answer: &pb::Certificate,
        trusted: &milecastle_pki::Fingerprint,
    ) -> Result<Arc<NodeKeys>, IdentityError> {
        let keys = request.accept(&answer.chain, &answer.ca, trusted, SystemTime::now())?;
        keys.save(&self.dir)?;
        let keys = Arc::new(keys);
        self.keys = Some(keys.clone());
        Ok(keys)
    }
}

fn join_client(channel: Channel) -> JoinClient<Channel> {
    JoinClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
