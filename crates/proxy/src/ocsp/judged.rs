//! A response from its bytes to the verdict on it, for the fuzz target `ocsp_response` and for nothing else.

use super::certificate::Certificate;
use super::message::Response;
use super::verify::{Clock, verify};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::time::{Duration, SystemTime};

/// What is made of a response.
#[derive(Debug)]
pub struct Judged<'r> {
    /// What its signature is over.
    pub signed: &'r [u8],
    /// Until when it may be stapled, if it may.
    pub until: Option<SystemTime>,
}

/// Judges a response about the first certificate of a chain in PEM, at a moment, with the time limits that settings have by
/// default; `None` if it cannot be read.
///
/// # Panics
/// The chain is none.
pub fn judge<'r>(response: &'r [u8], chain: &[u8], now: SystemTime) -> Option<Judged<'r>> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().expect("certificates in PEM");
    let certificate = Certificate::of(&chain).expect("a chain whose first certificate names a responder");
    let response = Response::parse(response).ok()?;
    let clock = Clock { now, skew: Duration::from_secs(300), ttl: Duration::from_secs(3600) };
    Some(Judged { signed: response.signed, until: verify(&response, &certificate, clock).ok() })
}
