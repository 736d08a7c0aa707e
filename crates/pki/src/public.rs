//! Certificates that others issued.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::identity::{parse, validity};

/// When the first of the certificates in a text ends, which is a chain in PEM; `None` if it holds none that can be read.
pub fn chain_ends(pem: &str) -> Option<SystemTime> {
    each_end(pem).min()
}

/// When the certificates in a text in PEM end, in the order in which they stand there; those that cannot be read are left out.
pub fn each_end(pem: &str) -> impl Iterator<Item = SystemTime> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(|read| end(&read.ok()?))
}

/// When the first of these certificates ends; `None` if none can be read.
pub fn first_end<'a, 'c: 'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'c>>) -> Option<SystemTime> {
    certificates.into_iter().filter_map(end).min()
}

fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    Some(validity(&parse(certificate)?).1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Ca;

    #[test]
    fn a_chain_ends_with_the_first_of_its_certificates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let ca = Ca::generate(now).unwrap();
        let server = ca.issue_server(&[], &[], now, Duration::from_secs(3600)).unwrap();
        let leaf = pem::encode(&pem::Pem::new("CERTIFICATE", server.chain[0].as_ref()));
        assert_eq!(chain_ends(&ca.certificate_pem()), Some(ca.not_after()));
        let both = format!("{}{leaf}", ca.certificate_pem());
        assert_eq!(chain_ends(&both), Some(server.not_after));
        assert_eq!(each_end(&both).collect::<Vec<_>>(), [ca.not_after(), server.not_after]);
        assert_eq!(chain_ends("$secret://vault/1/cert"), None);
        assert_eq!(first_end(server.chain.iter().rev()), Some(server.not_after));
        assert_eq!(first_end([&CertificateDer::from(vec![0])]), None);
    }
}
