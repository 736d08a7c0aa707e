//! What is asked of a certificate, and whom.

use super::message::CertId;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use milecastle_export::{Target, TargetError};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_OCSP;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate whose status can be asked for.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) id: CertId,
    pub(super) issuer: CertificateDer<'static>,
    /// Who knows its status, as the certificate says.
    pub(super) responder: Target,
}

/// Why the status of a certificate cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unaskable {
    #[error("the certificate, or another one of its chain, cannot be read")]
    Unreadable,
    #[error("the chain has no certificate of the issuer: append it in `cert`, behind the certificate itself")]
    NoIssuer,
    #[error(
        "the certificate names no OCSP responder (authority information access): its authority has none, so switch `ocsp_stapling` \
         off"
    )]
    NoResponder,
    #[error("the certificate's OCSP responder cannot be asked: {0}")]
    Responder(#[from] TargetError),
}

impl Certificate {
    /// The first certificate of a chain, with its issuer from the others.
    pub(super) fn of(chain: &[CertificateDer<'static>]) -> Result<Self, Unaskable> {
        let (leaf, others) = chain.split_first().ok_or(Unaskable::Unreadable)?;
        let leaf = read(leaf)?;
        let mut issuer = None;
        for other in others {
            let parsed = read(other)?;
            if issuer.is_none() && parsed.subject().as_raw() == leaf.issuer().as_raw() {
                issuer = Some((other, parsed));
            }
        }
        let (der, parsed) = issuer.ok_or(Unaskable::NoIssuer)?;
        Ok(Self {
            id: CertId {
                issuer_name_hash: sha_1(leaf.issuer().as_raw()),
                issuer_key_hash: key_hash(&parsed),
                serial: leaf.raw_serial().into(),
            },
            issuer: der.clone(),
            responder: Target::parse(responder(&leaf).ok_or(Unaskable::NoResponder)?, true)?,
        })
    }
}

/// SHA-1 of a certificate's public key, as OCSP counts it: without the head of the bit string.
pub(super) fn key_hash(certificate: &X509Certificate<'_>) -> Box<[u8]> {
    sha_1(&certificate.public_key().subject_public_key.data)
}

fn sha_1(bytes: &[u8]) -> Box<[u8]> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().into()
}

fn read<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unaskable> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| Unaskable::Unreadable)
}

/// The first address of a responder that a certificate gives (RFC 5280 §4.2.2.1).
fn responder<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let access = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    })?;
    let mut of_ocsp = access.iter().filter(|description| description.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP);
    of_ocsp.find_map(|description| match &description.access_location {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::tls::{Authority, Identity};
    use rustls_pki_types::pem::PemObject as _;

    fn of(pem: &str) -> Result<Certificate, Unaskable> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        Certificate::of(&chain)
    }

    #[test]
    fn the_issuer_is_found_wherever_it_stands_and_the_responder_is_the_certificates() {
        let (authority, other) = (Authority::new("tests"), Authority::new("others"));
        let Identity { cert, .. } = authority.issue_for_ocsp(&["a.test"], "http://ocsp.test:8080/a?b");
        let found = of(&[&*cert, &other.pem(), &authority.pem()].concat()).unwrap();
        assert_eq!((found.responder.to_string().as_str(), &*found.responder.path), ("http://ocsp.test:8080", "/a?b"));
        let issuer = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
        assert_eq!(found.issuer, issuer);
    }

    #[test]
    fn what_is_missing_is_named() {
        let authority = Authority::new("tests");
        let chain = |identity: Identity| [identity.cert, authority.pem()].concat();
        let with = |responder: &str| chain(authority.issue_for_ocsp(&["a.test"], responder));
        assert_eq!(
            of(&authority.issue_for_ocsp(&["a.test"], "http://ocsp.test").cert).unwrap_err(),
            Unaskable::NoIssuer
        );
        assert_eq!(of(&chain(authority.issue(&["a.test"]))).unwrap_err(), Unaskable::NoResponder);
        for address in
            ["ldap://ocsp.test/a", "file:///etc/passwd", "gopher://ocsp.test:6379/_x", "http://", "ocsp.test"]
        {
            assert!(matches!(of(&with(address)).unwrap_err(), Unaskable::Responder(_)), "{address}");
        }
    }
}
