//! Joining the cluster and staying in it: the node's key and certificate.

use super::NodeConfig;
use milecastle_pki::transport::{ConnectError, connect};
use milecastle_pki::{
    GroupToken, KeyRequest, NodeIdentity, NodeKeys, NodeKeysError, PkiError, TokenError, join_client_config,
};
use milecastle_settings::{ControlPlane, SecretError};
use milecastle_wire::{MAX_MESSAGE_BYTES, pb};
use pb::join_client::JoinClient;
use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;
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
    #[error("{}", refusal(.0))]
    Refused(#[from] Box<tonic::Status>),
}

impl IdentityError {
    /// Whether nothing but somebody's acting on this host helps: another process has this node's identity, or the clock is wrong.
    pub(super) fn bars(&self) -> bool {
        let is_copied = matches!(self, Self::Refused(status) if status.code() == Code::AlreadyExists);
        is_copied || self.is_of_clock()
    }

    /// Whether the clocks of this host and of the control plane differ by so much that certificates do not hold.
    pub(super) fn is_of_clock(&self) -> bool {
        match self {
            Self::Keys(error) => error.is_of_clock(),
            Self::Connect(error) => error.is_of_clock(),
            Self::Refused(status) => status.code() == Code::OutOfRange,
            _ => false,
        }
    }
}

/// What a call ended with: the DP manager's own words, or why the connection broke before there were any.
fn refusal(status: &tonic::Status) -> String {
    let Some(mut cause) = status.source() else {
        return format!("the DP manager refuses: {}", status.message());
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("the connection to the DP manager broke: {cause}")
}

/// The node's key and certificate, on disk and in memory.
pub(super) struct Identity {
    dir: PathBuf,
    settings: ControlPlane,
    keys: Option<Arc<NodeKeys>>,
    /// The id that a node asks for which never had one. The same at each try, so that one whose answer was lost, with the DP
    /// manager that had entered the node already, leaves no second node behind.
    first_id: Option<String>,
    /// The operator was told that others can read the token's file.
    told_of_token_file: bool,
}

impl Identity {
    pub(super) fn new(config: &NodeConfig) -> Self {
        let (dir, settings) = (config.state.dir().to_owned(), config.control_plane.clone());
        Self { dir, settings, keys: None, first_id: None, told_of_token_file: false }
    }

    /// Keys whose certificate is valid now; joins with the group token where there are none, and where the token is of
    /// another cluster: then the one that the certificate is of is no more, or no longer this node's.
    pub(super) async fn keys(&mut self, endpoint: &str, facts: pb::NodeFacts) -> Result<Arc<NodeKeys>, IdentityError> {
        if self.keys.is_none() {
            self.keys = self.load()?.map(Arc::new);
        }
        let Some(keys) = self.keys.clone() else { return self.join(endpoint, facts).await };
        // A valid certificate is enough: a token that cannot be read matters once it is needed.
        let pinned = self.token().ok().map(|token| token.ca());
        let certified = keys.ca_fingerprint();
        if let Some(pinned) = pinned.filter(|pinned| *pinned != certified) {
            tracing::warn!(%certified, %pinned, "the group token is of another cluster than this node's certificate: joining anew");
        } else if !keys.is_expired(SystemTime::now()) {
            return Ok(keys);
        }
        self.join(endpoint, facts).await
    }

    /// The keys of the directory. What is none is put aside, for the token to get others.
    fn load(&self) -> Result<Option<NodeKeys>, IdentityError> {
        match NodeKeys::load(&self.dir) {
            Err(error) if error.is_of_content() => {
                let (file, aside) = NodeKeys::put_aside(&self.dir)?;
                let (file, aside) = (file.display(), aside.display());
                tracing::error!(%file, %error, %aside, "the file with this node's key and certificate is of no use; put aside, joining anew");
                Ok(None)
            }
            loaded => Ok(loaded?),
        }
    }

    fn token(&mut self) -> Result<GroupToken, IdentityError> {
        let token = self.settings.read_token()?.ok_or(IdentityError::NoToken)?;
        if self.settings.group_token.is_none()
            && let Some(file) = &self.settings.group_token_file
            && !self.told_of_token_file
            && is_open_to_all(file)
        {
            self.told_of_token_file = true;
            tracing::warn!("every user of this machine can read the group token in {0}: chmod 600 {0}", file.display());
        }
        Ok(token.reveal().trim().parse()?)
    }

    /// Forgets keys that the control plane no longer accepts, so that the node joins again.
    pub(super) fn forget(&mut self) {
        self.keys = None;
    }

    /// When the certificate ends or ended; `None` without one.
    pub(super) fn not_after(&self) -> Option<SystemTime> {
        self.keys.as_ref().map(|keys| keys.certificate().not_after)
    }

    /// Trades the group token for a certificate. A node that had one keeps its id.
    pub(super) async fn join(&mut self, endpoint: &str, facts: pb::NodeFacts) -> Result<Arc<NodeKeys>, IdentityError> {
        let token = self.token()?;
        let before = NodeKeys::load(&self.dir).ok().flatten();
        let node_id = match &before {
            Some(keys) => keys.certificate().identity.node_id(),
            // Without random numbers here it is up to the control plane.
            None => self.first_id.get_or_insert_with(|| NodeIdentity::random_node_id().unwrap_or_default()).as_str(),
        }
        .to_owned();
        let request = KeyRequest::generate()?;
        let channel = connect(endpoint, Arc::new(join_client_config(token.ca())?)).await?;
        let asked = pb::JoinRequest {
            token: token.expose(),
            csr: request.csr().to_vec().into(),
            node_id,
            facts: Some(facts),
            clock_ms: clock_ms(),
        };
        let answer = join_client(channel).join(asked).await.map_err(Box::new)?.into_inner();
        let keys = self.accept(request, &answer, &token.ca())?;
        tracing::info!(node_id = answer.node_id, group = answer.group, "joined");
        Ok(keys)
    }

    /// Trades the certificate for a fresh one, over the connection that the present one opened.
    pub(super) async fn renew(&mut self, channel: Channel) -> Result<Arc<NodeKeys>, IdentityError> {
        let Some(present) = self.keys.clone() else { return Err(IdentityError::NoToken) };
        let request = KeyRequest::generate()?;
        let asked = pb::RenewRequest { csr: request.csr().to_vec().into(), clock_ms: clock_ms() };
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
        if let Err(error) = keys.save(&self.dir) {
            // It works without: what is lost is that the next start has it.
            tracing::error!(%error, "this node's certificate cannot be kept on disk; after a restart it has to join again");
        }
        let keys = Arc::new(keys);
        self.keys = Some(keys.clone());
        Ok(keys)
    }
}

/// This host's time, in milliseconds since 1970.
fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn is_open_to_all(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0)
}

fn join_client(channel: Channel) -> JoinClient<Channel> {
    JoinClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
