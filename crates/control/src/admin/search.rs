//! Patterns that are looked for in many objects, none of them without end (`docs/security.md`); how many lists are searched at a time,
//! and for how long, is a matter of [`crate::efforts`].

/// Largest machine that a regular expression is compiled to, in bytes.
const MACHINE: usize = 1 << 20;

/// Longest expression with look-around or back-references, in bytes: each of its parts without them is a machine of its own.
const LONGEST_BACKTRACKING: usize = 512;

/// Largest machine of such a part, in bytes: `\w` alone may take an eighth of the largest, since it is compiled in both directions.
const PART: usize = MACHINE / 4;

/// Most steps back of such an expression in one text. Names and paths are short: what needs more has no end.
const STEPS_BACK: usize = 100_000;

/// Most instructions that such an expression is compiled to.
const INSTRUCTIONS: usize = 1 << 14;

/// A regular expression as clients write them: Perl's syntax.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// Runs in linear time.
    Plain(regex::Regex),
    /// Needs look-around or back-references; bounded by the engine's backtracking limit, beyond which nothing matches.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// # Errors
    /// Why it is none, or too large.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        match regex::RegexBuilder::new(text).size_limit(MACHINE).build() {
            Ok(plain) => Ok(Self::Plain(plain)),
            Err(regex::Error::Syntax(error)) if text.len() > LONGEST_BACKTRACKING => Err(error),
            Err(regex::Error::Syntax(_)) => {
                let mut builder = fancy_regex::RegexBuilder::new(text);
                builder.delegate_size_limit(PART).max_prog_size(INSTRUCTIONS).backtrack_limit(STEPS_BACK);
                builder.build().map(|fancy| Self::Backtracking(Box::new(fancy))).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn finds(&self, text: &str) -> bool {
        match self {
            Self::Plain(plain) => plain.is_match(text),
            Self::Backtracking(fancy) => fancy.is_match(text).unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_a_large_machine_is_refused_by_either_engine() {
        let long = format!("(?=x){}", "x".repeat(LONGEST_BACKTRACKING));
        for text in [r"\w{5000}", r"(?=x)\w{10}", &*long] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        assert!(matches!(Pattern::new(r"\w{5}"), Ok(Pattern::Plain(_))));
        assert!(matches!(Pattern::new(r"(?=a)\w+"), Ok(Pattern::Backtracking(_))));
    }
}
