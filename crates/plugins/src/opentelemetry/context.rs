//! W3C Trace Context: who called, and what the upstream is told (<https://www.w3.org/TR/trace-context/>).

use http::header::{GetAll, HeaderName};
use http::{HeaderMap, HeaderValue};

/// `version-trace_id-parent_id-flags`.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems on the way have to remember; a list of `key=value`.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bit of the flags: the caller may have recorded the trace.
const SAMPLED: u8 = 1;
/// Length of `traceparent` in version 00.
const LENGTH: usize = 55;
/// Most members of a `tracestate`.
const MOST_MEMBERS: usize = 32;

/// Id of a trace: any 16 bytes but zeros.
pub(super) type TraceId = [u8; 16];
/// Id of a span: any 8 bytes but zeros.
pub(super) type SpanId = [u8; 8];

/// The caller's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    /// The caller has recorded, or will.
    pub(super) sampled: bool,
    /// Passed on as it came; empty if there is none, or a malformed one.
    pub(super) state: String,
}

impl Parent {
    /// Reads it from the headers of a request; `None` if there is none, or none that is well-formed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (Some(one), None) = (given.next(), given.next()) else { return None };
        let (trace_id, span_id, flags) = parse(one.as_bytes())?;
        let state = state(headers.get_all(TRACESTATE)).unwrap_or_default();
        Some(Self { trace_id, span_id, sampled: flags & SAMPLED != 0, state })
    }
}

/// Ids and flags of a `traceparent`. A version that is not known yet may have more behind them (§4.3).
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let (known, more) = text.split_at_checked(LENGTH)?;
    let [b'0'..=b'9' | b'a'..=b'f', b'0'..=b'9' | b'a'..=b'f', b'-', ..] = known else { return None };
    let [version] = hex(known.get(..2)?)?;
    let fits = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    if !fits || known.get(35)? != &b'-' || known.get(52)? != &b'-' {
        return None;
    }
    let (trace_id, span_id) = (hex::<16>(known.get(3..35)?)?, hex::<8>(known.get(36..52)?)?);
    let [flags] = hex(known.get(53..)?)?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id, flags))
}

/// Bytes from twice as many digits, in lower case as the standard has them.
pub(super) fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// Digits of bytes.
pub(super) fn digits(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let both = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from(DIGITS[usize::from(half)]));
    bytes.iter().flat_map(both).collect()
}

/// What the upstream is told.
pub(super) fn traceparent(trace_id: &TraceId, span_id: &SpanId, sampled: bool) -> String {
    format!("00-{}-{}-{:02x}", digits(trace_id), digits(span_id), u8::from(sampled))
}

/// The members of all `tracestate` headers as one; `None` if any is malformed (§3.3).
fn state(lines: GetAll<'_, HeaderValue>) -> Option<String> {
    let mut joined = String::new();
    let mut count = 0;
    for line in lines {
        for member in line.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            count += 1;
            if count > MOST_MEMBERS || !is_member(member) {
                return None;
            }
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
        }
    }
    Some(joined)
}

/// Whether this is `key=value`, with the characters and lengths that they may have (§3.3.1.3).
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_part = |part: &str, longest: usize, digit_first: bool| {
        let mut bytes = part.bytes();
        let first =
            bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || (digit_first && byte.is_ascii_digit()));
        let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
        first && part.len() <= longest && bytes.all(rest)
    };
    let key_fits = match key.split_once('@') {
        None => is_part(key, 256, true),
        Some((tenant, system)) => is_part(tenant, 241, true) && is_part(system, 14, false),
    };
    let value_fits = (1..=256).contains(&value.len())
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=' && byte != b',');
    key_fits && value_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(lines: &[(&'static str, &str)]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Parent::of(&headers)
    }

    #[test]
    fn a_traceparent_is_well_formed_or_there_is_none() {
        let good = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        let parent = read(&[("traceparent", &good("01"))]).unwrap();
        assert_eq!((digits(&parent.trace_id), digits(&parent.span_id)), (TRACE.into(), SPAN.into()));
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("ff", true)] {
            assert_eq!(read(&[("traceparent", &good(flags))]).unwrap().sampled, sampled, "{flags}");
        }
        let later = format!("cc-{TRACE}-{SPAN}-01");
        for known in [later.clone(), format!("{later}-what the future will be like")] {
            assert!(read(&[("traceparent", &known)]).is_some(), "{known}");
        }
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            good("1"),
            good("0g"),
            good("01") + "-",
            good("01") + " ",
            format!("{later}."),
            good("01").to_uppercase(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-001"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
        ] {
            assert_eq!(read(&[("traceparent", &bad)]), None, "{bad}");
        }
        assert_eq!(read(&[("traceparent", &good("01")), ("traceparent", &good("01"))]), None, "two");
    }

    #[test]
    fn a_tracestate_is_passed_on_whole_or_not_at_all() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let state = |lines: &[&str]| {
            let lines = lines.iter().map(|line| ("tracestate", *line));
            read(&lines.chain([("traceparent", &*parent)]).collect::<Vec<_>>()).unwrap().state
        };
        assert_eq!(state(&["a=1, b@sys=x y ,,c=3", "d=4"]), "a=1,b@sys=x y,c=3,d=4");
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&many(32)]), many(32));
        for bad in ["a", "=1", "a=", "A=1", "a=1=2", "@a=1", "a@=1", "a@1=1", "a b=1", "a=b\tc", &many(33)] {
            assert_eq!(state(&["z=1", bad]), "", "{bad}");
        }
        assert_eq!(read(&[("tracestate", "a=1")]), None, "without a traceparent it says nothing");
    }
}
