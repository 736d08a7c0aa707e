//! Certificates that the gateway shows to upstreams (`docs/spec/upstream-balancing.md` §11).

use crate::certificates::{MISMATCHED, REFERRED, certified_key, match_each_other};
use milecastle_model::{Fault, UpstreamTls, is_reference};
use rustls::sign::CertifiedKey;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A certificate chain and its key. Two are equal if their chains are: a chain has one key.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// `None` if the key is not that of the certificate: no upstream would take it.
    pub(crate) fn new(pair: Arc<CertifiedKey>) -> Option<Self> {
        match_each_other(&pair).then_some(Self(pair))
    }

    /// The chain and its key.
    pub fn pair(&self) -> &Arc<CertifiedKey> {
        &self.0
    }
}

impl PartialEq for ClientIdentity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.cert == other.0.cert
    }
}

impl Eq for ClientIdentity {}

impl Hash for ClientIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.cert.first().hash(state);
    }
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// What an upstream is to be shown when it asks who we are.
#[derive(Debug, Clone)]
pub enum ClientCertificate {
    /// Nothing.
    None,
    /// The upstream's own pair; `Err` if it cannot be used.
    Own(Result<ClientIdentity, ClientCertificateFault>),
    /// An ssl object of type `client`, looked up when it is needed, so that a change of it touches no upstream.
    Named(Arc<str>),
}

/// Why a certificate that an upstream names cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateFault {
    /// `tls.client_cert_id` names nothing that could be shown.
    #[error("there is no such ssl object of type `client`, or it is switched off")]
    Missing,
    /// It is there and is no good.
    #[error("certificate and key do not belong together, or a secret that they refer to cannot be read")]
    Unusable,
}

impl ClientCertificate {
    /// `resolve` gives the text itself, or what a reference stands for. A reference that leads nowhere, or stands for itself as in
    /// configurations of plugins, is no fault, as with the certificates of ssl objects; what it leads to may be, and then the form
    /// before it stays.
    pub(crate) fn of(tls: Option<&UpstreamTls>, resolve: &dyn Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let Some(tls) = tls else { return Ok(Self::None) };
        let (cert, key) = match (&tls.client_cert_id, &tls.client_cert, &tls.client_key) {
            (Some(id), ..) => return Ok(Self::Named(id.to_string().into())),
            (None, Some(cert), Some(key)) => (cert, key.expose()),
            _ => return Ok(Self::None),
        };
        let unusable = Ok(Self::Own(Err(ClientCertificateFault::Unusable)));
        let referred = is_reference(cert) || is_reference(key);
        let found = |text: &str| resolve(text).filter(|found| found != text || !is_reference(text));
        let (Some(cert), Some(key)) = (found(cert), found(key)) else { return unusable };
        let pair = certified_key(&cert, &key).map_err(|_| REFERRED);
        match pair.and_then(|pair| ClientIdentity::new(pair).ok_or(MISMATCHED)) {
            Ok(identity) => Ok(Self::Own(Ok(identity))),
            Err(reason) if referred => Err(Fault::rule("/tls/client_cert", reason)),
            Err(_) => unusable,
        }
    }
}
