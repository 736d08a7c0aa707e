//! rustls configurations of both sides.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Fingerprint, PkiError, ServerCertificate};

/// HTTP/2, all that gRPC speaks (RFC 7301).
const ALPN: &[u8] = b"h2";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// An error in words for operators. They are the same at each attempt, without the moment that it was made: so a log can say
/// each reason once.
pub(crate) fn told(error: &rustls::Error) -> String {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    const CLOCK: &str = "by this host's clock; is the clock right, here and where the control plane runs?";
    match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => format!("it has expired {CLOCK}"),
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            format!("it is not valid yet {CLOCK}")
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "no TLS is spoken there; is it the port of a DP manager (17900)?".to_owned()
        }
        other => other.to_string(),
    }
}

/// Whether a certificate was refused for the time that it is: it is over, or has not begun.
pub(crate) fn is_of_clock(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else { return false };
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// What our own verifier has against a server, if it is that.
pub(crate) fn of_trust(error: &rustls::Error) -> Option<&TrustError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
        _ => None,
    }
}

fn roots(ca: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn builder_error(error: VerifierBuilderError) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

pub(crate) fn client_verifier(
    ca: &CertificateDer<'_>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(builder_error)
}

/// The certificate that a DP manager shows, replaceable while it serves: connections made afterwards see the new one.
#[derive(Debug)]
pub struct ServerIdentity(RwLock<Arc<CertifiedKey>>);

impl ServerIdentity {
    /// Shows this certificate.
    ///
    /// # Errors
    /// [`PkiError::Tls`] if key and certificate do not belong together.
    pub fn new(certificate: &ServerCertificate) -> Result<Self, PkiError> {
        Ok(Self(RwLock::new(certified_key(certificate)?)))
    }

    /// Shows this certificate from now on.
    ///
    /// # Errors
    /// As [`new`](Self::new); the former one stays.
    pub fn replace(&self, certificate: &ServerCertificate) -> Result<(), PkiError> {
        let key = certified_key(certificate)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified_key(certificate: &ServerCertificate) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = CertifiedKey::from_der(certificate.chain.clone(), certificate.key.clone_key(), &provider())?;
    Ok(Arc::new(key))
}

/// TLS of a DP manager. A client may come without a certificate, to join; one that shows a certificate must show a valid
/// one of this CA at the time that `now` tells, or the handshake fails. Which call needs one is for the service to say
/// ([`transport::node_of`](crate::transport::node_of)).
///
/// # Errors
/// [`PkiError::Tls`] if the CA's certificate cannot serve as a root.
pub fn server_config(
    ca: &CertificateDer<'_>,
    identity: Arc<ServerIdentity>,
    now: impl Fn() -> SystemTime + Send + Sync + 'static,
) -> Result<ServerConfig, PkiError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(Told(now)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(client_verifier(ca)?)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not look at the client's certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The time as a caller tells it.
struct Told<F>(F);

impl<F: Fn() -> SystemTime + Send + Sync> TimeProvider for Told<F> {
    /// `None` before 1970, and then nobody is trusted.
    fn current_time(&self) -> Option<UnixTime> {
        (self.0)().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl<F> fmt::Debug for Told<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// TLS of a node that has a certificate: trusts this CA only.
pub(crate) fn client_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, key)?;
    Ok(finish(config))
}

/// TLS of a node that has only a token: trusts a server whose certificate was signed by the CA with this fingerprint,
/// which must be in the chain that the server shows, and is valid for [`CLUSTER_NAME`](crate::CLUSTER_NAME).
///
/// # Errors
/// [`PkiError::Tls`] only if the cryptographic library offers no TLS 1.3.
pub fn join_client_config(ca: Fingerprint) -> Result<ClientConfig, PkiError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { ca, provider: provider() }))
        .with_no_client_auth();
    Ok(finish(config))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Why a server is not trusted, beyond what rustls itself says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// No certificate in the server's chain has the fingerprint of the token.
    #[error("this is not the cluster that the token is for: no CA with fingerprint {0} in what the server shows")]
    OtherCa(Fingerprint),
}

/// Verifies as rustls does, with the one root whose fingerprint is known beforehand.
struct PinnedCa {
    ca: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for PinnedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedCa").field(&self.ca).finish()
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(ca) = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.ca) else {
            let error = OtherError(Arc::new(TrustError::OtherCa(self.ca)));
            return Err(CertificateError::Other(error).into());
        };
        WebPkiServerVerifier::builder_with_provider(roots(ca)?, self.provider.clone())
            .build()
            .map_err(builder_error)?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{CLUSTER_NAME, Ca};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    /// What a joining node that pins `pin` thinks of `chain`, `later` than it was made.
    fn verify(
        pin: Fingerprint,
        chain: &[CertificateDer<'_>],
        name: &str,
        later: Duration,
    ) -> Result<(), rustls::Error> {
        let verifier = PinnedCa { ca: pin, provider: provider() };
        let at = UnixTime::since_unix_epoch((now() + later).duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).map(|_| ())
    }

    #[test]
    fn the_pinned_ca_and_nothing_else_is_trusted() {
        let (ca, other) = (Ca::generate(now()).unwrap(), Ca::generate(now()).unwrap());
        let pin = ca.fingerprint();
        let ours = ca.issue_server(&[], &[], now(), HOUR).unwrap().chain;
        let theirs = other.issue_server(&[], &[], now(), HOUR).unwrap().chain;
        let is_other_ca = |error: rustls::Error| error.to_string().contains(&pin.to_string());

        assert_eq!(verify(pin, &ours, CLUSTER_NAME, Duration::ZERO), Ok(()));
        assert!(is_other_ca(verify(pin, &theirs, CLUSTER_NAME, Duration::ZERO).unwrap_err()));
        assert!(is_other_ca(verify(pin, &ours[..1], CLUSTER_NAME, Duration::ZERO).unwrap_err()));
        // The CA's certificate is public: showing it proves nothing.
        let borrowed = [theirs[0].clone(), ours[1].clone()];
        assert!(matches!(
            verify(pin, &borrowed, CLUSTER_NAME, Duration::ZERO),
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
        ));
        assert!(verify(pin, &ours, "elsewhere.internal", Duration::ZERO).is_err());
        assert!(verify(pin, &ours, CLUSTER_NAME, HOUR * 2).is_err());
    }

    #[test]
    fn a_node_cannot_pose_as_the_server() {
        let ca = Ca::generate(now()).unwrap();
        let request = crate::KeyRequest::generate().unwrap();
        let identity = crate::NodeIdentity::new("g", CLUSTER_NAME).unwrap();
        let issued = ca.sign_node(request.csr(), &identity, now(), HOUR).unwrap();
        let chain = [issued.chain[0].clone(), ca.certificate().clone()];
        assert!(verify(ca.fingerprint(), &chain, CLUSTER_NAME, Duration::ZERO).is_err());
    }

    #[test]
    fn a_server_certificate_is_no_client_certificate() {
        let ca = Ca::generate(now()).unwrap();
        let server = ca.issue_server(&[], &[], now(), HOUR).unwrap();
        let at = UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        assert!(client_verifier(ca.certificate()).unwrap().verify_client_cert(&server.chain[0], &[], at).is_err());
    }
}
