//! The header `If-Match` (RFC 9110, §13.1.1): what must still be there for a write to be done.

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::Failure;

/// Its form: entity tags, or `*`. A number may stand for its tag, without the quotes.
pub(crate) const FORM: &str = r#"^(\*|((W/)?"[!#-~]*"|[0-9]+)([ \t]*,[ \t]*((W/)?"[!#-~]*"|[0-9]+))*)$"#;
/// Longest number that is of anything here.
const DIGITS: usize = 15;

/// What must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing is said of it.
    Unsaid,
    /// Whatever is there.
    Any,
    /// One of these: revisions of a group, or versions of something. Tags that are of nothing here are not among them.
    OneOf(Vec<u64>),
}

impl Expected {
    /// What the headers of a request say, in however many lines; `what` is named where they say something else.
    pub(super) fn of(headers: &HeaderMap, what: &str) -> Result<Self, Failure> {
        let unfit = || Failure::bad("invalid_argument", format!("If-Match: expected {what}, several of them, or *"));
        let mut lines = headers.get_all(header::IF_MATCH).iter().peekable();
        if lines.peek().is_none() {
            return Ok(Self::Unsaid);
        }
        let lines = lines.map(|line| line.to_str().map_err(|_| unfit()));
        let text = lines.collect::<Result<Vec<_>, _>>()?.join(",");
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let tags = tags(&text).filter(|tags| !tags.is_empty()).ok_or_else(unfit)?;
        Ok(Self::OneOf(tags.into_iter().flatten().collect()))
    }

    /// What was expected where that is not what is there: of several the last one.
    ///
    /// # Errors
    /// 412 with this code where none of them is of anything here.
    pub(super) fn unmet(&self, current: u64, code: &'static str) -> Result<Option<u64>, Failure> {
        match self {
            Self::OneOf(numbers) if numbers.is_empty() => {
                let message =
                    format!("If-Match names no revision or version, or by a weak tag: what is there has \"{current}\"");
                let failure = Failure::new(StatusCode::PRECONDITION_FAILED, code, message);
                Err(failure.with("expected", Value::Null).with("current", current))
            }
            Self::OneOf(numbers) if !numbers.contains(&current) => Ok(numbers.last().copied()),
            Self::Unsaid | Self::Any | Self::OneOf(_) => Ok(None),
        }
    }
}

/// The numbers of a list of entity tags, `None` for each that has none or is weak, which matches nothing here; `None` for what is no such
/// list.
fn tags(text: &str) -> Option<Vec<Option<u64>>> {
    let (mut tags, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(tags);
        }
        let strong = rest.strip_prefix("W/").unwrap_or(rest);
        let (tag, after) = match strong.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').filter(|(tag, _)| !tag.contains([' ', '\t']))?,
            None => {
                let (number, after) = rest.split_at(rest.find([' ', '\t', ',']).unwrap_or(rest.len()));
                number.bytes().all(|byte| byte.is_ascii_digit()).then_some((number, after))?
            }
        };
        tags.push(number_of(tag).filter(|_| strong.len() == rest.len()));
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

fn number_of(tag: &str) -> Option<u64> {
    let is_number = (1..=DIGITS).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| tag.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&'static str]) -> Option<Expected> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_MATCH, http::HeaderValue::from_static(line));
        }
        Expected::of(&headers, "a number").ok()
    }

    #[test]
    fn tags_are_listed_in_any_number_of_lines() {
        let check = |lines: &[&'static str], expected: Option<&[u64]>| {
            assert_eq!(of(lines), expected.map(|numbers| Expected::OneOf(numbers.to_vec())), "{lines:?}");
        };
        assert_eq!((of(&[]), of(&["*"])), (Some(Expected::Unsaid), Some(Expected::Any)));
        check(&["\"7\""], Some(&[7]));
        check(&["7"], Some(&[7]));
        check(&["999999999999999"], Some(&[999_999_999_999_999]));
        check(&["\"7\", \"8\"", "\"9\""], Some(&[7, 8, 9]));
        check(&[" ,\"7\" ,, \"8\","], Some(&[7, 8]));
        // Of nothing here, or weak, which is never as strong as it has to be.
        check(&["\"\""], Some(&[]));
        check(&["\"a,b\",W/\"7\",\"1000000000000000\""], Some(&[]));
        check(&["99999999999999999999999"], Some(&[]));
        for none in ["", ",", "\"", "\"7", "7\"", "+7", "-7", "w/\"7\"", "7 8", "\"7\"\"8\"", "\"a b\"", "*, \"7\""] {
            check(&[none], None);
        }
        check(&["*", "\"7\""], None);
    }

    #[test]
    fn what_is_there_is_one_of_what_was_expected() {
        let one = Expected::OneOf(vec![7, 8]);
        let unmet = |expected: &Expected, current| expected.unmet(current, "stale_revision").ok();
        assert_eq!([7, 8, 9].map(|current| unmet(&one, current)), [Some(None), Some(None), Some(Some(8))]);
        assert_eq!((unmet(&Expected::OneOf(Vec::new()), 0), unmet(&Expected::Any, 0)), (None, Some(None)));
    }
}
