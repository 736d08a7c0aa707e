//! Whether a response is to be stapled (RFC 6960 §3.2).

use super::certificate::{Certificate, key_hash};
use super::message::{Answer, ResponderId, Response, Status};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// 1.3.6.1.5.5.7.3.9, `id-kp-OCSPSigning`.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];

/// Most certificates of a response that are looked at: one is needed.
const CERTIFICATES: usize = 4;

/// How times are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: SystemTime,
    /// How far the responder's clock may be ahead.
    pub(super) skew: Duration,
    /// How long a response is kept that does not say how long it holds.
    pub(super) ttl: Duration,
}

/// Why a response is not stapled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the response is about another certificate")]
    Other,
    #[error("the response is not signed by the certificate's issuer, nor by a responder that the issuer has appointed")]
    Signer,
    #[error("the response is from the future: compare the clocks of this node and of the responder")]
    Early,
    #[error("the response has expired: the responder hands out an old one")]
    Late,
    #[error("the certificate is revoked: replace it")]
    Revoked,
    #[error("the responder does not know the certificate (status `unknown`)")]
    Unknown,
}

/// Until when a response may be stapled.
pub(super) fn verify(response: &Response<'_>, certificate: &Certificate, clock: Clock) -> Result<SystemTime, Refusal> {
    let answer = response.about(&certificate.id).ok_or(Refusal::Other)?;
    if !is_signed(response, &certificate.issuer, clock.now) {
        return Err(Refusal::Signer);
    }
    let until = until(answer, clock)?;
    match answer.status {
        Status::Good => Ok(until),
        Status::Revoked => Err(Refusal::Revoked),
        Status::Unknown => Err(Refusal::Unknown),
    }
}

/// Until when an answer holds.
pub(super) fn until(answer: &Answer<'_>, clock: Clock) -> Result<SystemTime, Refusal> {
    if answer.this_update > clock.now + clock.skew {
        return Err(Refusal::Early);
    }
    match answer.next_update {
        Some(next) if next > clock.now => Ok(next),
        Some(_) => Err(Refusal::Late),
        // There is always a newer one: such an answer must be fresh, and is not kept for long.
        None if answer.this_update + clock.skew + clock.ttl > clock.now => Ok(clock.now + clock.ttl),
        None => Err(Refusal::Late),
    }
}

/// Whether the issuer has signed a response, or a responder that the issuer has certified for that.
fn is_signed(response: &Response<'_>, issuer: &CertificateDer<'_>, now: SystemTime) -> bool {
    let is_named = |der: &[u8]| {
        let Ok((_, candidate)) = X509Certificate::from_der(der) else { return false };
        match response.responder {
            ResponderId::Name(name) => candidate.subject().as_raw() == name,
            ResponderId::Key(hash) => *key_hash(&candidate) == *hash,
        }
    };
    if is_named(issuer) && has_signed(issuer, response) {
        return true;
    }
    response.certificates.iter().take(CERTIFICATES).any(|der| {
        let candidate = CertificateDer::from(*der);
        is_named(der) && is_appointed(&candidate, issuer, now) && has_signed(&candidate, response)
    })
}

fn has_signed(signer: &CertificateDer<'_>, response: &Response<'_>) -> bool {
    let Ok(signer) = EndEntityCert::try_from(signer) else { return false };
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let mut named = algorithms.iter().filter(|algorithm| *algorithm.signature_alg_id() == *response.algorithm);
    named.any(|algorithm| signer.verify_signature(*algorithm, response.signed, response.signature).is_ok())
}

/// Whether a certificate was issued by the issuer itself, for signing OCSP responses, and is valid now. It is not asked whether
/// that one was revoked: nobody could tell but itself.
fn is_appointed(candidate: &CertificateDer<'_>, issuer: &CertificateDer<'_>, now: SystemTime) -> bool {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let Ok(anchor) = anchor_from_trusted_cert(issuer) else { return false };
    let Ok(candidate) = EndEntityCert::try_from(candidate) else { return false };
    let usage = KeyUsage::required(OCSP_SIGNING);
    candidate.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, certificate};
    use super::*;

    const SKEW: Duration = Duration::from_secs(300);
    const TTL: Duration = Duration::from_secs(3600);

    /// As far behind the moment at which the samples were signed.
    fn at(seconds: i64) -> Clock {
        let moment = UNIX_EPOCH + Duration::from_secs(samples::SIGNED_AT.checked_add_signed(seconds).unwrap());
        Clock { now: moment, skew: SKEW, ttl: TTL }
    }

    fn check(response: &[u8], seconds: i64) -> Result<Duration, Refusal> {
        let clock = at(seconds);
        let until = verify(&Response::parse(response).unwrap(), &certificate(), clock)?;
        Ok(until.duration_since(clock.now).unwrap())
    }

    #[test]
    fn a_response_holds_from_its_time_to_the_next_update() {
        let day = 24 * 3600;
        assert_eq!(check(samples::GOOD, 0), Ok(Duration::from_secs(day)));
        assert_eq!(check(samples::GOOD, -299), Ok(Duration::from_secs(day + 299)));
        assert_eq!(check(samples::GOOD, -301), Err(Refusal::Early));
        assert_eq!(check(samples::GOOD, 24 * 3600 - 1), Ok(Duration::from_secs(1)));
        assert_eq!(check(samples::GOOD, 24 * 3600), Err(Refusal::Late));
    }

    #[test]
    fn one_that_does_not_say_how_long_it_holds_must_be_fresh_and_is_kept_for_the_ttl() {
        assert_eq!(check(samples::WITHOUT_NEXT_UPDATE, 0), Ok(TTL));
        assert_eq!(check(samples::WITHOUT_NEXT_UPDATE, 3899), Ok(TTL));
        assert_eq!(check(samples::WITHOUT_NEXT_UPDATE, 3900), Err(Refusal::Late));
    }

    #[test]
    fn the_status_must_be_good() {
        assert_eq!(check(samples::REVOKED, 0), Err(Refusal::Revoked));
        assert_eq!(check(samples::UNKNOWN, 0), Err(Refusal::Unknown));
    }

    #[test]
    fn a_responder_needs_a_certificate_of_the_issuer_for_signing_responses() {
        let day = Ok(Duration::from_secs(24 * 3600));
        assert_eq!(check(samples::DELEGATED, 0), day, "named by its subject");
        assert_eq!(check(samples::DELEGATED_BY_KEY, 0), day, "named by its key");
        assert_eq!(check(samples::WITHOUT_THE_USAGE, 0), Err(Refusal::Signer), "an ordinary certificate of the issuer");
        assert_eq!(check(samples::OF_ANOTHER_AUTHORITY, 0), Err(Refusal::Signer), "another issuer of the same name");
    }

    #[test]
    fn no_byte_of_what_is_signed_can_be_changed() {
        let good = samples::GOOD;
        let signed = Response::parse(good).unwrap().signed;
        let begin = good.windows(signed.len()).position(|window| window == signed).unwrap();
        for at in begin..begin + signed.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1;
            if let Ok(response) = Response::parse(&changed) {
                verify(&response, &certificate(), self::at(0)).unwrap_err();
            }
        }
    }
}
