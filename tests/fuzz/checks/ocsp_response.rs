//! A responder's answer: read against an obvious reader, and never stapled unless one of the authority's is.
//!
//! Input: the answer. It is judged about the certificate whose genuine answers are the seeds, a minute after these were signed.

use milecastle_proxy::fuzzing::{Judged, judge};
use std::time::{Duration, UNIX_EPOCH};

const CHAIN: &[u8] = include_bytes!("../../../crates/proxy/src/ocsp/samples/chain.pem");
/// What may be stapled of that certificate.
const GENUINE: [&[u8]; 4] = [
    include_bytes!("../../../crates/proxy/src/ocsp/samples/good.der"),
    include_bytes!("../../../crates/proxy/src/ocsp/samples/without_next_update.der"),
    include_bytes!("../../../crates/proxy/src/ocsp/samples/delegated.der"),
    include_bytes!("../../../crates/proxy/src/ocsp/samples/delegated_by_key.der"),
];
/// When they were signed: seconds since 1970.
const SIGNED_AT: u64 = 1_795_863_194;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(SIGNED_AT + 60);
    let Some(Judged { signed, until }) = judge(data, CHAIN, now) else { return };
    assert_eq!(Some(signed), signed_part(data), "the part that is signed");
    if let Some(until) = until {
        assert!(GENUINE.iter().any(|genuine| signed_part(genuine) == Some(signed)), "nobody else can have signed it");
        assert!(until > now && until <= now + DAY);
    }
}

/// `tbsResponseData` (RFC 6960 §4.2.1), with its head.
fn signed_part(response: &[u8]) -> Option<&[u8]> {
    let (_, outer, behind) = value(response)?;
    let (_, _status, rest) = value(outer)?;
    let (_, explicit, _) = value(rest)?;
    let (_, typed, _) = value(explicit)?;
    let (_, _kind, rest) = value(typed)?;
    let (_, octets, _) = value(rest)?;
    let (_, basic, _) = value(octets)?;
    let (signed, ..) = value(basic)?;
    behind.is_empty().then_some(signed)
}

/// The first value of some DER: with its head, without, and what is behind it.
fn value(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&first, &length) = (der.first()?, der.get(1)?);
    if first & 0x1f == 0x1f {
        return None;
    }
    let (head, length) = match length {
        0..=0x7f => (2, usize::from(length)),
        0x81..=0x84 => {
            let bytes = der.get(2..2 + usize::from(length & 0x7f))?;
            (2 + bytes.len(), bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        }
        _ => return None,
    };
    let (whole, behind) = der.split_at_checked(head + length)?;
    Some((whole, &whole[head..], behind))
}
