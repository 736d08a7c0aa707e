//! Whether PEM text holds certificates or a private key. Errors never quote the text.

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::Sequence;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why PEM text is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PemError {
    #[error("no certificate found; expected a block that begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("no private key found; expected an unencrypted PKCS#8, PKCS#1 or SEC1 block")]
    NoKey,
    #[error("the PEM text is damaged")]
    Damaged,
    #[error("certificate {0} is not X.509")]
    NotX509(usize),
    #[error("the private key is not DER")]
    NotDer,
}

/// Checks that the text holds certificates only of good form, and at least one.
pub(super) fn certificates(text: &str) -> Result<(), PemError> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        count += 1;
        let der = certificate.map_err(|_| PemError::Damaged)?;
        X509Certificate::from_der(&der).map_err(|_| PemError::NotX509(count))?;
    }
    if count == 0 { Err(PemError::NoCertificate) } else { Ok(()) }
}

/// Checks that the text holds a private key. Whether it fits a certificate is not asked (`docs/spec/tls.md` §4).
pub(super) fn private_key(text: &str) -> Result<(), PemError> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::NoKey,
        _ => PemError::Damaged,
    })?;
    match Sequence::from_der(key.secret_der()) {
        Ok(([], _)) => Ok(()),
        _ => Err(PemError::NotDer),
    }
}
