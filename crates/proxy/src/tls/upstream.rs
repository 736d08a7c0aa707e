//! TLS with upstreams (`docs/spec/upstream-balancing.md` §8.1).

use crate::h1::Failure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Opens TLS connections to upstreams. Sessions are resumed across all workers.
pub(crate) struct UpstreamTls {
    connector: TlsConnector,
    /// For what is no HTTP: no application protocol is offered.
    raw: TlsConnector,
}

impl UpstreamTls {
    /// Upstreams' certificates are verified only if there are `roots` to verify them against.
    pub(crate) fn new(roots: Option<RootCertStore>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut config = match roots {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(&provider))),
        }
        .with_no_client_auth();
        let raw = Arc::new(config.clone()).into();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: Arc::new(config).into(), raw })
    }

    /// Shakes hands with the upstream under the name `host`, a Host header's value without port.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        patience: Duration,
    ) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| Failure::Tls(std::io::Error::other(error)))?;
        let stream = tokio::time::timeout(patience, self.connector.connect(name, stream)).await;
        stream.map_err(|_| Failure::ConnectTimeout)?.map(Box::new).map_err(Failure::Tls)
    }

    /// Shakes hands with the upstream of a TCP session under the name `sni`.
    pub(crate) async fn connect_raw(&self, stream: TcpStream, sni: &str) -> io::Result<Box<TlsStream<TcpStream>>> {
        let name = ServerName::try_from(sni.to_owned()).map_err(io::Error::other)?;
        self.raw.connect(name, stream).await.map(Box::new)
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
