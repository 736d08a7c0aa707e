//! The header `If-Match`: what must still be there for a write to be done.

use http::{HeaderMap, header};

use super::Failure;

/// Its form: a number of at most 15 digits, in quotes as entity tags are or without, or `*`.
pub(crate) const FORM: &str = r#"^("[0-9]{1,15}"|[0-9]{1,15}|\*)$"#;
const DIGITS: usize = 15;

/// What must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing is said of it.
    Unsaid,
    /// Whatever is there.
    Any,
    /// This revision of a group, or this version of a draft.
    Number(u64),
}

impl Expected {
    /// What the headers of a request say; `what` is named where they say something else.
    pub(super) fn of(headers: &HeaderMap, what: &str) -> Result<Self, Failure> {
        let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Self::Unsaid) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let number = quoted.unwrap_or(text);
        let is_number = number.len() <= DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse::<u64>().ok().filter(|_| is_number);
        number
            .map(Self::Number)
            .ok_or_else(|| Failure::bad("invalid_argument", format!("If-Match: expected {what}, or *")))
    }

    /// The number, where there is one.
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Unsaid | Self::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_quotes_and_without_and_a_star() {
        let check = |text: &'static str, expected: Option<Expected>| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, text.parse().unwrap())]);
            assert_eq!(Expected::of(&headers, "a number").ok(), expected, "{text}");
        };
        check("*", Some(Expected::Any));
        check("\"7\"", Some(Expected::Number(7)));
        check("7", Some(Expected::Number(7)));
        check("999999999999999", Some(Expected::Number(999_999_999_999_999)));
        for none in ["", "\"", "\"\"", "\"7", "7\"", "\"*\"", "+7", "-7", "W/\"7\"", "7, 8", "1000000000000000"] {
            check(none, None);
        }
        assert_eq!(Expected::of(&HeaderMap::new(), "a number").unwrap(), Expected::Unsaid);
    }
}
