//! What clients and other plugins are told about a limit.

use super::config::Metadata;
use super::window::Verdict;
use http::{HeaderName, HeaderValue};
use milecastle_plugin_api::RequestCx;

/// Names of the three headers.
pub(super) struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

impl Names {
    /// The names, with `prefix` before their text `RateLimit-` for one rule of several.
    pub(super) fn new(metadata: &Metadata, prefix: Option<&str>) -> Self {
        let name = |name: &HeaderName| match prefix.and_then(|prefix| prefixed(name, prefix)) {
            Some(name) => name,
            None => name.clone(),
        };
        Self {
            limit: name(&metadata.limit_header),
            remaining: name(&metadata.remaining_header),
            reset: name(&metadata.reset_header),
        }
    }

    /// Puts the headers on the answer to come.
    pub(super) fn put(&self, cx: &mut RequestCx, limit: HeaderValue, verdict: Verdict) {
        cx.set_response_header(self.limit.clone(), limit);
        cx.set_response_header(self.remaining.clone(), number(verdict.remaining));
        cx.set_response_header(self.reset.clone(), seconds(verdict.reset));
    }
}

/// `None` if the name has no such text, or would be no header's.
pub(super) fn prefixed(name: &HeaderName, prefix: &str) -> Option<HeaderName> {
    let (before, after) = name.as_str().split_once("ratelimit-")?;
    format!("{before}{prefix}-ratelimit-{after}").parse().ok()
}

/// Hundredths of a second as seconds, without needless zeros.
fn seconds(hundredths: u64) -> HeaderValue {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    if rest == 0 {
        return number(whole);
    }
    let mut digits = itoa::Buffer::new();
    let whole = digits.format(whole).as_bytes();
    // At most 18 digits, a point and two decimals.
    let mut text = [b'0'; 24];
    text[..whole.len()].copy_from_slice(whole);
    text[whole.len()] = b'.';
    text[whole.len() + 1] += (rest / 10) as u8;
    text[whole.len() + 2] += (rest % 10) as u8;
    let decimals = if rest % 10 == 0 { 1 } else { 2 };
    digits_of(&text[..whole.len() + 1 + decimals])
}

/// A number as a header's value. Up to four digits it allocates nothing.
pub(super) fn number(n: u64) -> HeaderValue {
    let at = usize::try_from(n).ok().and_then(|n| DIGITS.get(n));
    if let Some(text) = at.and_then(|digits| std::str::from_utf8(digits).ok()) {
        let text = text.trim_start_matches('0');
        return HeaderValue::from_static(if text.is_empty() { "0" } else { text });
    }
    digits_of(itoa::Buffer::new().format(n).as_bytes())
}

fn digits_of(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("digits and a point are a header's value")
}

/// The numbers below 10,000, each in four digits.
static DIGITS: [[u8; 4]; 10_000] = {
    let mut table = [[b'0'; 4]; 10_000];
    let mut n = 0;
    while n < 10_000 {
        let digits = [n / 1000, n / 100 % 10, n / 10 % 10, n % 10];
        let mut at = 0;
        while at < 4 {
            table[n][at] += digits[at] as u8;
            at += 1;
        }
        n += 1;
    }
    table
};

/// The variable `rate_limiting_info`.
pub(super) fn info(key: &str, limit: u64, verdict: Verdict) -> String {
    let mut digits = itoa::Buffer::new();
    let mut text = String::with_capacity(key.len() + 160);
    text.push_str("{\"rate_limiting_key\":");
    push_json(&mut text, key);
    text.push_str(",\"rate_limiting_limit\":");
    text.push_str(digits.format(limit));
    text.push_str(",\"rate_limiting_remaining\":");
    text.push_str(digits.format(verdict.remaining));
    text.push_str(",\"rate_limiting_reset\":");
    text.push_str(digits.format(verdict.reset / 100));
    text.push('}');
    text
}

fn push_json(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.push_str(&serde_json::Value::from(text).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_two_decimals_at_most() {
        for (hundredths, text) in [(6000, "60"), (5987, "59.87"), (5980, "59.8"), (5, "0.05"), (0, "0")] {
            assert_eq!(seconds(hundredths), text);
        }
    }

    #[test]
    fn numbers_of_all_lengths_are_headers() {
        for n in [0, 7, 10, 100, 999, 1000, 9999, 10_000, u64::MAX] {
            assert_eq!(number(n), n.to_string().as_str());
        }
        assert_eq!(seconds(u64::MAX), "184467440737095516.15");
    }

    #[test]
    fn a_prefix_stands_before_the_words() {
        let name = |name: &'static str| prefixed(&HeaderName::from_static(name), "minute");
        assert_eq!(name("x-ratelimit-limit").unwrap(), "x-minute-ratelimit-limit");
        assert_eq!(name("x-quota"), None);
    }
}
