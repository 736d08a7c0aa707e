//! Query strings and urlencoded forms: `a=1&b&c=%20`.
//!
//! Names and values are percent-decoded and `+` is a blank. Nothing is allocated for a text that holds no escape.

use std::borrow::Cow;

/// One argument: its raw text, its decoded name and, if there is a `=`, its decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg<'a> {
    /// The argument as it stands between two `&`.
    pub raw: &'a str,
    /// Decoded name.
    pub name: Cow<'a, str>,
    /// Decoded value; `None` for an argument without `=`.
    pub value: Option<Cow<'a, str>>,
}

/// The arguments in order. Empty ones (`a&&b`) are left out.
pub fn args(query: &str) -> impl Iterator<Item = Arg<'_>> {
    query.split('&').filter(|raw| !raw.is_empty()).map(|raw| match raw.split_once('=') {
        Some((name, value)) => Arg { raw, name: decode(name), value: Some(decode(value)) },
        None => Arg { raw, name: decode(raw), value: None },
    })
}

/// The first argument of this name, as a variable shows it: a valueless one is `true`.
pub fn first<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    args(query).find(|arg| arg.name == name).map(|arg| arg.value.unwrap_or(Cow::Borrowed("true")))
}

/// The query without the arguments of this name; the others stay as they were written. `None` if none is left.
pub fn without(query: &str, name: &str) -> Option<String> {
    let kept: Vec<&str> = args(query).filter(|arg| arg.name != name).map(|arg| arg.raw).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// What stands in place of a secret.
pub(crate) const MASK: &str = "***";

/// The query with [`MASK`] in place of the values of this name; the others stay as they were written. `None` if the name
/// has no value there.
pub(crate) fn masked(query: &str, name: &str) -> Option<String> {
    // No spelling of a name is shorter than the name.
    let secret = |raw: &'_ str| -> Option<usize> {
        let (raw_name, value) = raw.split_once('=')?;
        (raw_name.len() >= name.len() && !value.is_empty() && decode(raw_name) == name).then_some(raw_name.len())
    };
    query.split('&').find_map(secret)?;
    let mut masked = String::with_capacity(query.len());
    for raw in query.split('&').filter(|raw| !raw.is_empty()) {
        if !masked.is_empty() {
            masked.push('&');
        }
        match secret(raw).and_then(|end| raw.get(..end)) {
            Some(raw_name) => masked.extend([raw_name, "=", MASK]),
            None => masked.push_str(raw),
        }
    }
    Some(masked)
}

/// Percent-decodes a name or value of a query; what is no UTF-8 afterwards becomes U+FFFD.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| hex(bytes.get(at + 1..at + 3)?)).flatten();
        decoded.push(match (escaped, byte) {
            (Some(value), _) => value,
            (None, b'+') => b' ',
            (None, other) => other,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    match String::from_utf8(decoded) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_decoded() {
        let found = |query: &'static str, name| first(query, name).map(Cow::into_owned);
        assert_eq!(found("a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(found("b&a", "a").as_deref(), Some("true"));
        assert_eq!(found("a=", "a").as_deref(), Some(""));
        assert_eq!(found("x%20y=%C3%A9+z", "x y").as_deref(), Some("é z"));
        assert_eq!(found("a=%zz%4", "a").as_deref(), Some("%zz%4"));
        assert_eq!(found("a=%ff", "a").as_deref(), Some("\u{fffd}"));
        assert_eq!(found("ab=1", "a"), None);
    }

    #[test]
    fn a_secret_is_masked_in_every_spelling() {
        let check = |query, expected| assert_eq!(masked(query, "apikey").as_deref(), expected, "{query}");
        check("apikey=k&a=%41&%61pikey=k%20&apikey&apikey=", Some("apikey=***&a=%41&%61pikey=***&apikey&apikey="));
        check("a=1&apikey=k=l", Some("a=1&apikey=***"));
        check("a=1&apikeys=k&apikey", None);
        check("", None);
    }

    #[test]
    fn an_argument_is_taken_out_in_every_spelling() {
        assert_eq!(without("apikey=k&a=%41&%61pikey=k&apikey", "apikey").as_deref(), Some("a=%41"));
        assert_eq!(without("apikey=k", "apikey"), None);
    }
}
