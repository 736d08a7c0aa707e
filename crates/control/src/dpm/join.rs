//! The service `Join`: tokens and old certificates in, certificates out.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use milecastle_pki::transport::node_of;
use milecastle_pki::{Ca, GroupToken, Issued, NodeIdentity, PkiError};
use milecastle_store::{NewNode, Store, StoreError};
use milecastle_wire::pb;
use pb::join_server::Join;
use tonic::{Code, Request, Response, Status};

use super::admission::Bucket;
use super::authority::time_of;
use super::away::Away;
use super::clock;
use super::line::Link;
use super::metrics::Metrics;
use super::nodes::clip;

/// Answers nodes that want a certificate.
pub(super) struct JoinService {
    pub(super) store: Store,
    pub(super) ca: Arc<Ca>,
    /// Life of a node's certificate.
    pub(super) life: Duration,
    /// Whether nodes should go elsewhere.
    pub(super) away: Away,
    /// Calls admitted: each asks the database, and everybody who knows the address may make one.
    pub(super) admission: Bucket,
    pub(super) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::Certificate>, Status> {
        let address = request.extensions().get::<Link>().map(|link| link.peer.address);
        let answer = self.joined(request.into_inner()).await;
        match &answer {
            Ok(certificate) => {
                let (node, group) = (&certificate.node_id, &certificate.group);
                tracing::info!(node, group, ?address, "a node joined");
            }
            Err(status) => tracing::info!(?address, code = ?status.code(), why = status.message(), "no join"),
        }
        self.counted("join", answer)
    }

    async fn renew(&self, mut request: Request<pb::RenewRequest>) -> Result<Response<pb::Certificate>, Status> {
        let identity = identify(&mut request)?;
        let answer = self.renewed(identity, request.into_inner()).await;
        self.counted("renew", answer)
    }
}

/// The node that makes a call, by the certificate of its connection.
fn identify<T>(request: &mut Request<T>) -> Result<NodeIdentity, Status> {
    if let Some(peer) = request.extensions().get::<Link>().map(|link| link.peer.clone()) {
        request.extensions_mut().insert(peer);
    }
    node_of(request).map(|certificate| certificate.identity.clone())
}

impl JoinService {
    async fn joined(&self, request: pb::JoinRequest) -> Result<pb::Certificate, Status> {
        self.away.turn_away()?;
        self.admission.admit("joins")?;
        let token: GroupToken = request.token.parse().map_err(|error| Status::unauthenticated(format!("{error}")))?;
        if token.ca() != self.ca.fingerprint() {
            return Err(Status::unauthenticated("the group token is for another cluster"));
        }
        self.check(&token).await?;
        let node_id = match request.node_id.as_str() {
            "" => NodeIdentity::random_node_id().ok_or_else(no_random)?,
            _ => request.node_id,
        };
        let identity =
            NodeIdentity::new(token.group(), node_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let issued = self.sign(&request.csr, &identity)?;
        self.check_clock(request.clock_ms, &issued, &identity).await?;
        let facts = request.facts.unwrap_or_default();
        let node = NewNode {
            group: identity.group().to_owned(),
            id: identity.node_id().to_owned(),
            token: token.id().to_owned(),
            certificate: issued.serial.clone(),
            host: clip(facts.hostname),
            version: clip(facts.version),
        };
        // The token was good a moment ago.
        if !self.store.node_join(&node).await.map_err(unavailable)? {
            return Err(revoked());
        }
        Ok(self.certificate(issued, &identity))
    }

    /// Whether nodes may join with this token.
    async fn check(&self, token: &GroupToken) -> Result<(), Status> {
        let known = self.store.token_find(&token.hash().to_bytes()).await.map_err(unavailable)?;
        // The hash covers group and id; comparing them costs nothing.
        let known = known.filter(|known| known.group == token.group() && known.id == token.id());
        let known = known.ok_or_else(|| {
            Status::unauthenticated(
                "this cluster does not know the group token: make one with `milecastle token create`",
            )
        })?;
        if known.revoked_at.is_some() {
            return Err(Status::unauthenticated("the group token was revoked"));
        }
        if known.expires_at.is_some_and(|end| end <= self.store.now()) {
            return Err(Status::unauthenticated("the group token has expired"));
        }
        Ok(())
    }

    async fn renewed(&self, identity: NodeIdentity, request: pb::RenewRequest) -> Result<pb::Certificate, Status> {
        self.admission.admit("renewals")?;
        let issued = self.sign(&request.csr, &identity)?;
        self.check_clock(request.clock_ms, &issued, &identity).await?;
        let (group, node) = (identity.group(), identity.node_id());
        if !self.store.node_renew(group, node, &issued.serial).await.map_err(unavailable)? {
            return Err(revoked());
        }
        tracing::debug!(node, group, "a node renewed its certificate");
        Ok(self.certificate(issued, &identity))
    }

    /// Whether the certificate holds by the node's clock. If not, lists show why the node does not come.
    async fn check_clock(&self, clock_ms: i64, issued: &Issued, identity: &NodeIdentity) -> Result<(), Status> {
        let told = u64::try_from(clock_ms).ok().filter(|clock| *clock > 0).map(Duration::from_millis);
        let clock = told.and_then(|since| UNIX_EPOCH.checked_add(since));
        let Some(fault) = clock.and_then(|clock| clock::fault(&self.store, clock, issued)) else { return Ok(()) };
        clock::note(&self.store, identity, &fault).await.map_err(unavailable)?;
        Err(Status::out_of_range(fault))
    }

    fn sign(&self, csr: &[u8], identity: &NodeIdentity) -> Result<Issued, Status> {
        self.ca.sign_node(csr, identity, time_of(&self.store), self.life).map_err(|error| match error {
            PkiError::Request(_) | PkiError::KeyKind => Status::invalid_argument(error.to_string()),
            other => {
                tracing::error!(error = %other, "cannot sign certificates of nodes");
                Status::internal("the control plane cannot sign certificates; its log says why")
            }
        })
    }

    fn certificate(&self, issued: Issued, identity: &NodeIdentity) -> pb::Certificate {
        let not_after = issued.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        pb::Certificate {
            chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            ca: self.ca.certificate().to_vec().into(),
            node_id: identity.node_id().to_owned(),
            group: identity.group().to_owned(),
            not_after: i64::try_from(not_after).unwrap_or(i64::MAX),
        }
    }

    fn counted(
        &self,
        call: &str,
        answer: Result<pb::Certificate, Status>,
    ) -> Result<Response<pb::Certificate>, Status> {
        let result = match answer.as_ref().map_err(Status::code) {
            Ok(_) => "ok",
            Err(Code::Unauthenticated) => "unauthenticated",
            Err(Code::PermissionDenied) => "revoked",
            Err(Code::InvalidArgument) => "invalid",
            Err(Code::ResourceExhausted) => "too_many",
            Err(Code::OutOfRange) => "clock",
            Err(_) => "error",
        };
        self.metrics.joins.with(&[call, result]).inc();
        answer.map(Response::new)
    }
}

fn revoked() -> Status {
    Status::permission_denied("this node was revoked, or its group token was")
}

/// What a node hears when the database does not do its part.
pub(super) fn unavailable(error: StoreError) -> Status {
    tracing::warn!(%error, "a node's call could not be answered");
    Status::unavailable("the control plane cannot ask its database now: try again")
}

fn no_random() -> Status {
    Status::unavailable("no random numbers from the system: try again")
}
