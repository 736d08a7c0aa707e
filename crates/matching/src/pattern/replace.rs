//! Replacement texts of substitutions.

use super::{Captures, Pattern, PatternError};

/// A parsed replacement text: `$1` and `${1}` are groups (`$0` the whole match), `$$` is a dollar sign, any other `$`
/// stands for itself. A group that took no part gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Group(usize),
}

impl Replacement {
    /// Parses a text; it cannot fail.
    pub fn parse(text: &str) -> Replacement {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
            } else if let Some((group, after)) = group(after) {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(group));
                rest = after;
            } else {
                literal.push('$');
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Replacement { parts }
    }

    /// Appends the text for one occurrence.
    pub fn expand(&self, captures: &Captures<'_>, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Group(group) => out.push_str(captures.get(*group).unwrap_or_default()),
            }
        }
    }
}

/// Reads a group's number after a `$`, and what follows it.
fn group(after: &str) -> Option<(usize, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    if let Some(inner) = after.strip_prefix('{') {
        let (number, rest) = inner.split_at(digits(inner));
        return Some((number.parse().ok()?, rest.strip_prefix('}')?));
    }
    let (number, rest) = after.split_at(digits(after));
    Some((number.parse().ok()?, rest))
}

impl Pattern {
    /// `text` with the first occurrence replaced; `None` if there is none.
    pub fn replace_first(&self, text: &str, by: &Replacement) -> Result<Option<String>, PatternError> {
        self.replace(text, by, 1)
    }

    /// `text` with every occurrence replaced, from left to right without overlap; `None` if there is none.
    pub fn replace_all(&self, text: &str, by: &Replacement) -> Result<Option<String>, PatternError> {
        self.replace(text, by, usize::MAX)
    }

    fn replace(&self, text: &str, by: &Replacement, limit: usize) -> Result<Option<String>, PatternError> {
        let mut out = String::new();
        // `copied`: the text before it is in `out`. `from`: where the next search starts.
        let (mut copied, mut from, mut count) = (0, 0, 0);
        while count < limit && from <= text.len() {
            let Some(captures) = self.captures_at(text, from)? else { break };
            let found = captures.range(0).expect("group 0 is the match itself");
            out.push_str(text.get(copied..found.start).unwrap_or_default());
            by.expand(&captures, &mut out);
            copied = found.end;
            // After an empty occurrence the search moves on by one character, or it would never end.
            from = if found.is_empty() {
                found.end + text.get(found.end..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
            } else {
                found.end
            };
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Ok(Some(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, by: &str, text: &str, first: Option<&str>, all: Option<&str>) {
        let (pattern, by) = (Pattern::new(pattern).unwrap(), Replacement::parse(by));
        assert_eq!(pattern.replace_first(text, &by).unwrap().as_deref(), first);
        assert_eq!(pattern.replace_all(text, &by).unwrap().as_deref(), all);
    }

    #[test]
    fn occurrences_are_replaced() {
        check(r"^/u/(\d+)$", "/users/$1", "/u/7", Some("/users/7"), Some("/users/7"));
        check(r"^/u/(\d+)$", "/users/$1", "/x", None, None);
        check("b", "<$0>", "abcb", Some("a<b>cb"), Some("a<b>c<b>"));
        check("(b)(x)?", "${1}1$2$9", "ab", Some("ab1"), Some("ab1"));
        check("b", "$$1 $ $x ${1 ${x}", "b", Some("$1 $ $x ${1 ${x}"), Some("$1 $ $x ${1 ${x}"));
        check("x*", "-", "é!", Some("-é!"), Some("-é-!-"));
        check("(?=b)", "-", "abb", Some("a-bb"), Some("a-b-b"));
        check("^a", "", "aab", Some("ab"), Some("ab"));
        check(
            r"(\d+)\-\d+\-\d+\-(\d+)",
            "$1-****-****-$2",
            "1-2-3-4,5-6-7-8",
            Some("1-****-****-4,5-6-7-8"),
            Some("1-****-****-4,5-****-****-8"),
        );
    }
}
