//! A certificate, and responses about it that `openssl ocsp` of OpenSSL 3.0 has signed, all at the same moment. Made by
//! `openssl ocsp -index … -CA ca.pem -rsigner … -rkey … -reqin … -respout … [-ndays 1] [-resp_key_id]`.

use super::certificate::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// `thisUpdate` of all of them: 2026-11-28 10:53:14 UTC. `nextUpdate`, where there is one, is a day later.
pub(super) const SIGNED_AT: u64 = 1_795_863_194;

pub(super) const GOOD: &[u8] = include_bytes!("samples/good.der");
pub(super) const WITHOUT_NEXT_UPDATE: &[u8] = include_bytes!("samples/without_next_update.der");
pub(super) const REVOKED: &[u8] = include_bytes!("samples/revoked.der");
pub(super) const UNKNOWN: &[u8] = include_bytes!("samples/unknown.der");
/// By a certificate of the issuer for signing responses, named by its subject.
pub(super) const DELEGATED: &[u8] = include_bytes!("samples/delegated.der");
/// By the same one, named by its key.
pub(super) const DELEGATED_BY_KEY: &[u8] = include_bytes!("samples/delegated_by_key.der");
/// By a certificate of the issuer for servers.
pub(super) const WITHOUT_THE_USAGE: &[u8] = include_bytes!("samples/without_the_usage.der");
/// By another authority of the issuer's name.
pub(super) const OF_ANOTHER_AUTHORITY: &[u8] = include_bytes!("samples/of_another_authority.der");

/// The certificate that they are about.
pub(super) fn certificate() -> Certificate {
    let pem = include_bytes!("samples/chain.pem");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap();
    Certificate::of(&chain).unwrap()
}
