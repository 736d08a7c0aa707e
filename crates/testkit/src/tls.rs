//! Certificates for tests, and rustls configurations around them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A certificate authority that exists for one test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert: String,
    /// The private key, PEM (PKCS#8).
    pub key: String,
}

impl Authority {
    /// A new authority of this name.
    ///
    /// # Panics
    /// If the crypto provider fails, as do the other functions here.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(Self::params(name), key).expect("a signature"))
    }

    /// An authority that this one vouches for.
    #[must_use]
    pub fn issue_authority(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::signed_by(Self::params(name), key, &self.0).expect("a signature"))
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to get wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The authority's certificate and key.
    pub fn identity(&self) -> Identity {
        Identity { cert: self.pem(), key: self.0.key().serialize_pem() }
    }

    /// A certificate for these host names or addresses; the first is its common name too.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    /// The same, which ends after that long, by the clock of this machine.
    pub fn issue_for(&self, names: &[&str], life: Duration) -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        self.issue_with(names, |params| params.not_after = date_time_ymd(1970, 1, 1) + now + life)
    }

    /// The same, which names an OCSP responder.
    pub fn issue_for_ocsp(&self, names: &[&str], responder: &str) -> Identity {
        let der = |tag: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("a short address");
            [&[tag, length], content].concat()
        };
        // id-ad-ocsp, and a GeneralName of the kind uniformResourceIdentifier.
        let method = der(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01]);
        let description = der(0x30, &[method, der(0x86, responder.as_bytes())].concat());
        let access = der(0x30, &description);
        self.issue_with(names, |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access)];
        })
    }

    /// A certificate for signing OCSP responses.
    pub fn issue_responder(&self) -> Identity {
        self.issue_with(&["responder"], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        })
    }

    fn issue_with(&self, names: &[&str], more: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("valid names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(first) = names.first() {
            params.distinguished_name.push(DnType::CommonName, *first);
        }
        more(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a signature");
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

impl Identity {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that shows `identity` whatever name is asked for and offers these protocols by ALPN.
pub fn server_config(identity: &Identity, alpn: &[&str]) -> Arc<ServerConfig> {
    serving(identity, alpn, WebPkiClientVerifier::no_client_auth())
}

/// As [`server_config`], for clients that show a certificate of the authority with certificate `ca`; others are refused.
pub fn mutual_server_config(identity: &Identity, alpn: &[&str], ca: &str) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)), provider());
    serving(identity, alpn, verifier.build().expect("an authority"))
}

fn serving(identity: &Identity, alpn: &[&str], verifier: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
    let (chain, key) = identity.parts();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn roots(ca: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(cert.expect("PEM")).expect("a CA certificate");
    }
    roots
}

/// A client that trusts the authority with certificate `ca`, shows `identity` if asked, and offers these protocols by ALPN.
pub fn client_config(ca: &str, identity: Option<&Identity>, alpn: &[&str]) -> Arc<ClientConfig> {
    client_config_in(DEFAULT_VERSIONS, ca, identity, alpn)
}

/// As [`client_config`], in these versions of TLS alone.
pub fn client_config_in(
    versions: &[&'static SupportedProtocolVersion],
    ca: &str,
    identity: Option<&Identity>,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider has these versions")
        .with_root_certificates(roots(ca));
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.parts();
            builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}
