//! TLS with upstreams (`docs/spec/upstream-balancing.md` §8.1, §11).

use milecastle_model::VerifyUpstreams;
use milecastle_snapshot::{ClientCertificateFault, ClientIdentity, CompiledUpstream, Snapshot};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsConnector;

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    #[default]
    Http1,
    Http2,
    /// No HTTP: no application protocol is offered.
    Other,
}

/// How a connection is opened. Connections and sessions stand for each other only if all of it is equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Profile {
    /// What is to be spoken.
    pub(crate) protocol: Protocol,
    /// The upstream's certificate is verified.
    pub(crate) verify: bool,
    /// What the upstream is shown when it asks.
    pub(crate) identity: Option<ClientIdentity>,
}

impl Profile {
    /// How connections to the nodes of `upstream` are opened; `verify` is the node's say on certificates, beside that of the group.
    ///
    /// # Errors
    /// What the upstream is to be shown is missing or cannot be used; the log says so.
    pub(crate) fn towards(
        upstream: &CompiledUpstream,
        snapshot: &Snapshot,
        verify: VerifyUpstreams,
    ) -> Result<Self, ClientCertificateFault> {
        let identity = snapshot.client_identity(upstream).inspect_err(|fault| {
            tracing::error!(
                upstream = &*upstream.key,
                error = %fault,
                "the certificate to show to this upstream cannot be used: see its `tls`"
            );
        })?;
        Ok(Self {
            protocol: match upstream.scheme {
                scheme if scheme.is_http2() => Protocol::Http2,
                scheme if scheme.is_http() => Protocol::Http1,
                _ => Protocol::Other,
            },
            verify: match verify.max(snapshot.compiler().settings().upstream_tls.verify) {
                VerifyUpstreams::Off => false,
                VerifyUpstreams::Upstream => upstream.verify,
                VerifyUpstreams::Required => true,
            },
            identity: identity.cloned(),
        })
    }
}

/// What sets one TLS connection to an address apart from another.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsTerms {
    /// Server name: a Host header's value without port.
    pub(crate) name: Box<str>,
    pub(crate) profile: Profile,
}

/// What TLS calls a server of this name, a Host header's value without port. `None`: it has no such names, as `1` or `a..b`.
pub(crate) fn server_name(host: &str) -> Option<ServerName<'_>> {
    ServerName::try_from(host.trim_matches(['[', ']'])).ok()
}

/// How TLS connections to upstreams are opened. Sessions are resumed across all workers, within one profile.
pub(crate) struct UpstreamTls {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// Taken for a moment at each handshake.
    connectors: RwLock<HashMap<Profile, TlsConnector>>,
}

impl UpstreamTls {
    /// Upstreams' certificates are verified against `roots`; without any none is good, where they are verified.
    pub(crate) fn new(roots: Option<RootCertStore>) -> Self {
        let roots = roots.unwrap_or_else(RootCertStore::empty);
        Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            roots: Arc::new(roots),
            connectors: RwLock::default(),
        }
    }

    /// What shakes hands as this profile says.
    ///
    /// # Errors
    /// TLS takes no such configuration.
    pub(super) fn connector(&self, profile: &Profile) -> Result<TlsConnector, rustls::Error> {
        let known = self.connectors.read().unwrap_or_else(PoisonError::into_inner).get(profile).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let new = TlsConnector::from(Arc::new(self.config(profile)?));
        let mut connectors = self.connectors.write().unwrap_or_else(PoisonError::into_inner);
        // A certificate that was replaced is in use by nobody else: its sessions go with it.
        connectors
            .retain(|profile, _| profile.identity.as_ref().is_none_or(|known| Arc::strong_count(known.pair()) > 2));
        connectors.insert(profile.clone(), new.clone());
        Ok(new)
    }

    fn config(&self, profile: &Profile) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = if profile.verify {
            builder.with_root_certificates(self.roots.clone())
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(&self.provider)))
        };
        let mut config = match &profile.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Shown(identity.pair().clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match profile.protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
            Protocol::Other => Vec::new(),
        };
        Ok(config)
    }
}

/// Shows one certificate on request, whatever authorities the upstream names: it is for the upstream to judge it.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate, as the products this one is compatible with do; the handshake's signature is still checked.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl Unverified {
    fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
