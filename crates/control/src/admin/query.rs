//! Query strings, read as the reference reads them.

use std::borrow::Cow;

/// The arguments of a query string, in order, decoded: `%xx` and `+`. Bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first argument of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The arguments, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Decodes `%xx`, and `+` if `plus`; what is no escape stays as it is.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = match bytes.get(at + 1..at + 3) {
            Some([high, low]) if byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            None => {
                out.push(if plus && byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    match String::from_utf8_lossy(&out) {
        Cow::Borrowed(_) => String::from_utf8(out).expect("borrowed means that it is UTF-8"),
        Cow::Owned(repaired) => repaired,
    }
}

/// The inverse of [`decode`]: `%XX` for every byte that has a meaning anywhere in a target.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_decoded_and_the_first_of_a_name_counts() {
        let query = Query::parse("a=1&b=%2Fx+y&&c&a=2&d=100%&e=%zz");
        let all: Vec<_> = query.iter().collect();
        assert_eq!(all, [("a", "1"), ("b", "/x y"), ("c", ""), ("a", "2"), ("d", "100%"), ("e", "%zz")]);
        assert_eq!((query.get("a"), query.get("c"), query.get("f")), (Some("1"), Some(""), None));
        assert_eq!(decode("a+b%2b", false), "a+b+");
        assert_eq!(decode("%ff", true), "\u{fffd}");
        assert_eq!(decode(&encode("a +&=%/ä"), true), "a +&=%/ä");
    }
}
