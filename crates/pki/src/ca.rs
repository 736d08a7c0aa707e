//! The cluster's certificate authority.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{parse, validity};
use crate::{CLUSTER_NAME, Fingerprint, NodeIdentity};

/// How long a CA lasts: 20 years of 365 days. It is pinned by every token and node, so it outlasts them all.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Certificates begin a little before they are made, for nodes whose clock is behind. At most this, and at most a
/// quarter of their life.
const BACKDATE: Duration = Duration::from_secs(300);

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// PEM text that holds no CA.
    #[error("not a CA of this cluster: {0}")]
    NotACa(&'static str),
    /// A signing request that is not one, or whose signature is wrong.
    #[error("the signing request cannot be used: {0}")]
    Request(rcgen::Error),
    /// A signing request with a key of a kind that nodes do not make.
    #[error("the signing request's key is not ECDSA P-256")]
    KeyKind,
    /// A name that cannot stand in a server certificate.
    #[error("{0:?} is not a DNS name: check the advertised names of the DP manager")]
    Name(String),
    /// The CA is over, or the lifetime asked for is none.
    #[error("no time left: the certificate would end before it begins (check the clock and the CA's end)")]
    NoTime,
    /// The cryptographic library failed.
    #[error("cannot make keys or certificates: {0}")]
    Crypto(#[from] rcgen::Error),
    /// rustls does not take what we made.
    #[error("TLS cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate that the CA signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// In DER, without the CA's own.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Its serial number in lower-case hexadecimal: what lists of certificates name it by.
    pub serial: String,
}

/// The certificate of a DP manager and its key.
pub struct ServerCertificate {
    /// In DER, the CA's own last: a joining node finds it there by its fingerprint.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivateKeyDer<'static>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The authority that signs every certificate of one cluster: ECDSA P-256, signing end entities only.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new authority that begins now and lasts 20 years.
    ///
    /// # Errors
    /// [`PkiError::Crypto`].
    pub fn generate(now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(now, now + CA_LIFETIME)?;
        // A name of its own for each CA, so that tools which go by names do not mix up those of two clusters.
        let key_hash = Fingerprint::of(key.public_key_raw()).to_string();
        params.distinguished_name = common_name(&format!("Milecastle CA {}", key_hash.get(..16).unwrap_or_default()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Self::of(certificate, key)
    }

    /// The authority that [`certificate_pem`](Self::certificate_pem) and [`key_pem`](Self::key_pem) gave out.
    ///
    /// # Errors
    /// [`PkiError::NotACa`] if either is something else, or they do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|_| PkiError::NotACa("its key is not a private key in PEM"))?;
        let certificate = pem::parse(certificate)
            .ok()
            .filter(|pem| pem.tag() == "CERTIFICATE")
            .ok_or(PkiError::NotACa("its certificate is not one in PEM"))?;
        Self::of(CertificateDer::from(certificate.into_contents()), key)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, PkiError> {
        let not_after = {
            let parsed = parse(&certificate).ok_or(PkiError::NotACa("its certificate cannot be read"))?;
            if !parsed.is_ca() {
                return Err(PkiError::NotACa("its certificate is not one of a CA"));
            }
            if *parsed.public_key().subject_public_key.data != *key.der_bytes() {
                return Err(PkiError::NotACa("its key belongs to another certificate"));
            }
            validity(&parsed).1
        };
        Ok(Self { issuer: Issuer::from_ca_cert_der(&certificate, key)?, certificate, not_after })
    }

    /// The certificate, in DER: what nodes pin.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate, in PEM.
    pub fn certificate_pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate.as_ref()))
    }

    /// The private key, in PEM (PKCS #8). A secret: only for a store that seals it.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the certificate, as in every group token.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// When the authority ends. No certificate outlasts it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs a node's certificate for TLS clients. Of the request (PKCS #10 in DER) only the key counts, once its
    /// signature has shown that the asker holds it; the names are `identity`'s.
    ///
    /// # Errors
    /// [`PkiError::Request`], [`PkiError::KeyKind`], [`PkiError::NoTime`].
    pub fn sign_node(
        &self,
        csr: &[u8],
        identity: &NodeIdentity,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&csr.into()).map_err(PkiError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::KeyKind);
        }
        let mut params = self.leaf_params(now, lifetime, ExtendedKeyUsagePurpose::ClientAuth)?;
        params.distinguished_name = common_name(identity.node_id());
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        let serial = params.serial_number.iter().flat_map(SerialNumber::to_bytes).map(|byte| format!("{byte:02x}"));
        let serial = serial.collect();
        let (certificate, not_before, not_after) = self.sign(&params, &request.public_key)?;
        Ok(Issued { chain: vec![certificate], not_before, not_after, serial })
    }

    /// Makes a key and a certificate for a DP manager. It carries [`CLUSTER_NAME`], which nodes ask for, and the
    /// advertised names and addresses for other tools.
    ///
    /// # Errors
    /// [`PkiError::Name`], [`PkiError::NoTime`], [`PkiError::Crypto`].
    pub fn issue_server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServerCertificate, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = self.leaf_params(now, lifetime, ExtendedKeyUsagePurpose::ServerAuth)?;
        params.distinguished_name = common_name(CLUSTER_NAME);
        params.subject_alt_names.push(SanType::DnsName(CLUSTER_NAME.try_into()?));
        for name in names {
            DnsName::try_from(name.as_str()).map_err(|_| PkiError::Name(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let (certificate, not_before, not_after) = self.sign(&params, &key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServerCertificate { chain: vec![certificate, self.certificate.clone()], key, not_before, not_after })
    }

    fn leaf_params(
        &self,
        now: SystemTime,
        lifetime: Duration,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<CertificateParams, PkiError> {
        let end = now.checked_add(lifetime).map_or(self.not_after, |end| end.min(self.not_after));
        let begin = now - BACKDATE.min(lifetime / 4);
        if end <= now {
            return Err(PkiError::NoTime);
        }
        let mut params = params(begin, end)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// The certificate with its begin and end as written, in whole seconds.
    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<(CertificateDer<'static>, SystemTime, SystemTime), PkiError> {
        let certificate = params.signed_by(key, &self.issuer)?.der().clone();
        let (not_before, not_after) = parse(&certificate).map(|parsed| validity(&parsed)).ok_or(PkiError::NoTime)?;
        Ok((certificate, not_before, not_after))
    }
}

fn params(begin: SystemTime, end: SystemTime) -> Result<CertificateParams, PkiError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive and of full length (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| PkiError::NoTime);
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch(begin)?;
    params.not_after = epoch + since_epoch(end)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
