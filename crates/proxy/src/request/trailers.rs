//! Trailers of requests: which of them go on.
//!
//! Whatever was taken off the head or written into it, by the gateway or a plugin, would come back with the trailers, for an
//! upstream may make one of both. So the rule names what passes, not what does not: fields that say what was sent, and nothing
//! of who asks, for what, or by which way.

use super::head::is_spelling;
use super::intake::lists;
use http::{HeaderMap, header};

/// Sums of the body, which may be known only behind it (RFC 9530 §2 and §3, and what came before them).
const SUMS: [&str; 4] = ["content-digest", "content-md5", "digest", "repr-digest"];

/// Which of the [`SUMS`] may follow a head. By default none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trailers([bool; SUMS.len()]);

impl Trailers {
    /// Those that this head leaves open: what stands in it in any spelling is not added to, and what `Connection` names goes no
    /// further (RFC 9110 §7.6.1).
    pub(crate) fn behind(head: &HeaderMap) -> Self {
        Self(SUMS.map(|sum| {
            !head.keys().any(|name| is_spelling(name.as_str(), sum)) && !lists(head, header::CONNECTION, sum.as_bytes())
        }))
    }

    /// What goes on of these; `None` if that is nothing.
    pub(crate) fn sift(self, received: &HeaderMap) -> Option<HeaderMap> {
        let mut kept = HeaderMap::new();
        for (sum, _) in SUMS.into_iter().zip(self.0).filter(|(_, open)| *open) {
            for value in received.get_all(sum) {
                kept.append(sum, value.clone());
            }
        }
        (!kept.is_empty()).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn sifted(head: &[(&'static str, &'static str)], trailers: &[(&'static str, &'static str)]) -> Option<HeaderMap> {
        Trailers::behind(&fields(head)).sift(&fields(trailers))
    }

    #[test]
    fn only_sums_pass() {
        let barred = ["authorization", "cookie", "forwarded", "x-real-ip", "x-sum", "content-type", "content_digest"];
        assert_eq!(sifted(&[], &barred.map(|name| (name, "1"))), None);
        let sums = [("digest", "1"), ("repr-digest", "2"), ("repr-digest", "3")];
        assert_eq!(sifted(&[("digests", "0")], &[&sums[..], &[("x", "4")]].concat()), Some(fields(&sums)));
    }

    #[test]
    fn the_head_is_not_added_to() {
        let passes = |head: &[(&'static str, &'static str)]| sifted(head, &[("content-digest", "1")]).is_some();
        assert!(passes(&[("connection", "keep-alive, digest"), ("content-digests", "0"), ("digest", "0")]));
        for head in [
            ("content-digest", "0"),
            ("content_digest", "0"),
            ("content.digest", "0"),
            ("connection", "content-digest"),
            ("connection", "close,  Content-Digest"),
        ] {
            assert!(!passes(&[head]), "{head:?}");
        }
    }
}
