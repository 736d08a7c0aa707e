//! Clients' certificates (`docs/spec/tls.md` §6).

use milecastle_snapshot::ClientAuth;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

/// What is known of a client's certificate.
pub(super) enum Verified {
    Absent,
    Yes,
    No(rustls::Error),
}

/// Judges clients' certificates by the authorities of one ssl object.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    strict: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    depth: usize,
    /// The handshake succeeds whatever the client shows; requests are judged later. Sessions of TCP have none.
    lenient: bool,
}

impl ClientVerifier {
    /// With `requests` each of them is judged by its path where the object has exceptions; else the handshake is all there is.
    pub(super) fn new(
        auth: &ClientAuth,
        requests: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<Self>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &auth.authorities {
            roots.add(authority.clone())?;
        }
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Arc::new(Self {
            strict,
            authorities: auth.authorities.clone(),
            depth: auth.depth as usize,
            lenient: requests && !auth.skip_uri.is_empty(),
        }))
    }

    /// The verdict on what a client has shown.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Verified {
        match chain.split_first() {
            None => Verified::Absent,
            Some((leaf, others)) => match self.verify(leaf, others, UnixTime::now()) {
                Ok(_) => Verified::Yes,
                Err(error) => Verified::No(error),
            },
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // A client may send the authority itself along; it is no link of its own.
        let between = others.iter().filter(|other| !self.authorities.contains(other)).count();
        if between >= self.depth.max(1) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        self.strict.verify_client_cert(leaf, others, now)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.lenient
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.lenient { Ok(ClientCertVerified::assertion()) } else { self.verify(leaf, others, now) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
