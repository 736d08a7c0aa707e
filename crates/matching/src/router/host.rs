//! Host patterns: an exact name or a leading `*` (`docs/spec/routing.md` §5, condition 3).

use std::sync::Arc;

/// A host of a route, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    text: Arc<str>,
}

impl HostPattern {
    pub(super) fn new(text: &str) -> HostPattern {
        HostPattern { text: text.to_ascii_lowercase().into() }
    }

    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// What a host must end with, if the pattern starts with `*`.
    pub(super) fn suffix(&self) -> Option<&str> {
        self.text.strip_prefix('*')
    }

    /// Whether the pattern names a port and so is compared with the Host header as sent. The colons of a bracketed
    /// IPv6 address are no port.
    fn has_port(&self) -> bool {
        self.text.rsplit(']').next().is_some_and(|rest| rest.contains(':'))
    }

    /// `host` is lower-case and without port, `raw_host` the header as sent.
    pub(super) fn matches(&self, host: &str, raw_host: &[u8]) -> bool {
        let with_port = self.has_port();
        match self.suffix() {
            Some(suffix) if with_port => {
                let tail = raw_host.len().checked_sub(suffix.len()).and_then(|at| raw_host.get(at..));
                tail.is_some_and(|tail| tail.eq_ignore_ascii_case(suffix.as_bytes()))
            }
            Some(suffix) => host.ends_with(suffix),
            None if with_port => raw_host.eq_ignore_ascii_case(self.text.as_bytes()),
            None => host == &*self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match() {
        let check = |pattern, raw: &str, expected| {
            let lower = raw.to_ascii_lowercase();
            let host = match lower.strip_suffix(":80") {
                Some(host) => host,
                None => &lower,
            };
            assert_eq!(HostPattern::new(pattern).matches(host, raw.as_bytes()), expected, "{raw} against {pattern}");
        };
        check("Foo.com", "foo.com", true);
        check("foo.com", "FOO.com:80", true);
        check("foo.com", "a.foo.com", false);
        check("*.foo.com", "a.foo.com", true);
        check("*.foo.com", "a.b.foo.com:80", true);
        check("*.foo.com", "foo.com", false);
        check("*foo.com", "foo.com", true);
        check("*foo.com", "xfoo.com", true);
        check("*", "anything", true);
        check("foo.com:80", "foo.com:80", true);
        check("foo.com:80", "Foo.com:80", true);
        check("foo.com:80", "foo.com", false);
        check("*.foo.com:80", "a.Foo.com:80", true);
        check("*.foo.com:80", "a.foo.com:81", false);
        check("*.foo.com:80", "é", false);
        check("[::1]", "[::1]:80", true);
        check("[::1]:80", "[::1]:80", true);
        check("[::1]:80", "[::1]", false);
    }
}
