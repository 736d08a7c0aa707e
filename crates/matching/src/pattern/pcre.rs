//! From PCRE's dialect to the one both engines read.
//!
//! What is changed: `\d \w \s` and their like mean ASCII, as in PCRE without its Unicode mode; a `{` that starts no
//! repetition, and `[`, `&&`, `~~` and `--` within a class, are literal; `\<`, `\>`, `\e`, `\h`, `\v`, `\R`, `\N`,
//! `\Z` and `\Q…\E` have PCRE's meaning; `(?#…)` is dropped; escaped letters outside ASCII stand for themselves.
//! What stays different: texts are matched by character, not by byte; `$` does not match before a final line end;
//! `\b` and case folding see all of Unicode; verbs such as `(*SKIP)` and control escapes `\cX` are refused.

use regex_syntax::ast::Ast;

use super::{Flags, limits};

/// A pattern ready for an engine.
pub(super) struct Parsed {
    pub(super) text: String,
    pub(super) flags: Flags,
    pub(super) verdict: Verdict,
}

/// The text of a pattern in the dialect of both engines.
struct Translated {
    text: String,
    /// A possessive repetition occurs: the `regex` crate would read it as a repetition of a repetition.
    possessive: bool,
}

/// Which engine a pattern is for. Tells by the grammar only, not by names of properties or sizes.
pub(super) enum Verdict {
    /// The `regex` crate knows all of it: what is written.
    Linear(Ast),
    /// Only the backtracking engine may know it.
    Backtracking,
    /// As `Backtracking`, but most likely it is simply malformed, for this reason.
    Doubtful(String),
}

pub(super) fn parse(source: &str, flags: Flags) -> Parsed {
    let translated = translate(source);
    let verdict = verdict(&translated, flags);
    Parsed { text: translated.text, flags, verdict }
}

fn verdict(pattern: &Translated, flags: Flags) -> Verdict {
    use regex_syntax::ast::ErrorKind::{UnsupportedBackreference, UnsupportedLookAround};
    let mut parser = regex_syntax::ast::parse::ParserBuilder::new()
        .ignore_whitespace(flags.extended)
        .nest_limit(limits::NESTING)
        .build();
    match parser.parse(&pattern.text) {
        Ok(_) if pattern.possessive => Verdict::Backtracking,
        Ok(ast) => Verdict::Linear(ast),
        Err(error) if matches!(error.kind(), UnsupportedBackreference | UnsupportedLookAround) => Verdict::Backtracking,
        Err(error) => Verdict::Doubtful(error.kind().to_string()),
    }
}

fn translate(source: &str) -> Translated {
    let mut out = Translated { text: String::with_capacity(source.len() + 16), possessive: false };
    let mut rest = source;
    // Whether the last item was a repetition, so that a `?` or `+` after it is a part of it.
    let mut repeated = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let was_repeated = std::mem::take(&mut repeated);
        rest = match c {
            '\\' => escape(after, false, &mut out.text),
            '[' => class(after, &mut out.text),
            '(' => group(after, &mut out.text),
            '{' => match repetition(after) {
                Some(len) => {
                    repeated = true;
                    let (inner, after) = after.split_at(len);
                    out.text.push('{');
                    out.text.push_str(inner);
                    after
                }
                None => {
                    out.text.push_str(r"\{");
                    after
                }
            },
            '}' => {
                out.text.push_str(r"\}");
                after
            }
            _ => {
                match c {
                    '+' if was_repeated => out.possessive = true,
                    '?' if was_repeated => {}
                    '*' | '+' | '?' => repeated = true,
                    _ => {}
                }
                out.text.push(c);
                after
            }
        };
    }
    out
}

/// The length of `n}`, `n,}` or `n,m}` at the start.
fn repetition(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let inner = text.get(..end)?;
    let (from, to) = inner.split_once(',').unwrap_or((inner, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (!from.is_empty() && digits(from) && digits(to)).then_some(end + 1)
}

/// Copies what opens a group, so that its `?` is not taken for a repetition.
fn group<'s>(after: &'s str, out: &mut String) -> &'s str {
    if let Some(comment) = after.strip_prefix("?#")
        && let Some((_, after)) = comment.split_once(')')
    {
        return after;
    }
    out.push('(');
    if let Some(after) = after.strip_prefix("?'")
        && let Some((name, after)) = after.split_once('\'')
    {
        out.push_str("?<");
        out.push_str(name);
        out.push('>');
        return after;
    }
    match after.strip_prefix('?') {
        Some(after) => {
            out.push('?');
            after
        }
        None => after,
    }
}

/// Copies what follows a `[`, up to and with its `]`.
fn class<'s>(after: &'s str, out: &mut String) -> &'s str {
    out.push('[');
    let mut rest = after;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str(r"\]");
        rest = after;
    }
    let mut dash = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let was_dash = std::mem::take(&mut dash);
        rest = match c {
            ']' => {
                out.push(']');
                return after;
            }
            '\\' => escape(after, true, out),
            '[' => match posix(after) {
                Some(len) => {
                    let (name, after) = after.split_at(len);
                    out.push('[');
                    out.push_str(name);
                    after
                }
                None => {
                    out.push_str(r"\[");
                    after
                }
            },
            '&' | '~' => {
                out.push('\\');
                out.push(c);
                after
            }
            '-' => {
                out.push_str(if was_dash { r"\-" } else { "-" });
                dash = !was_dash;
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
    }
    rest
}

/// The length of `:alpha:]` and its like at the start.
fn posix(text: &str) -> Option<usize> {
    let inner = text.strip_prefix(':')?;
    let end = inner.find(":]")?;
    inner.get(..end)?.bytes().all(|b| b.is_ascii_alphabetic() || b == b'^').then_some(end + 3)
}

/// Copies what follows a `\`.
fn escape<'s>(after: &'s str, in_class: bool, out: &mut String) -> &'s str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = after.get(c.len_utf8()..).unwrap_or_default();
    // The members of a class, and whether they are excluded.
    let members = match c {
        'd' => Some(("0-9", false)),
        'D' => Some(("0-9", true)),
        'w' => Some(("0-9A-Za-z_", false)),
        'W' => Some(("0-9A-Za-z_", true)),
        's' => Some((r"\t-\r\x20", false)),
        'S' => Some((r"\t-\r\x20", true)),
        'h' => Some((r"\t\x20", false)),
        'H' => Some((r"\t\x20", true)),
        'v' => Some((r"\n-\r", false)),
        'V' => Some((r"\n-\r", true)),
        'N' => Some((r"\n", true)),
        _ => None,
    };
    match (members, c) {
        (Some((members, false)), _) if in_class => out.push_str(members),
        (Some((members, excluded)), _) => {
            out.push_str(if excluded { "[^" } else { "[" });
            out.push_str(members);
            out.push(']');
        }
        (None, 'e') => out.push_str(r"\x1B"),
        (None, 'b') if in_class => out.push_str(r"\x08"),
        (None, 'R') if !in_class => out.push_str(r"(?:\r\n|[\n-\r])"),
        (None, 'Z') if !in_class => out.push_str(r"(?:\n?\z)"),
        (None, 'Q') => {
            let (quoted, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            quoted.chars().for_each(|c| literal(c, out));
            return rest;
        }
        (None, 'E') => {}
        _ if c.is_ascii_alphanumeric() => {
            out.push('\\');
            out.push(c);
            // The braces of `\p{Greek}`, `\x{2028}` or `\k{name}` start no repetition.
            let quotes = match c {
                'p' | 'P' | 'x' | 'u' | 'U' => Some(('{', '}')),
                'k' | 'g' => Some(('<', '>')),
                _ => None,
            };
            let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            if let (Some((open, close)), Some((inner, rest))) = (quotes, braces) {
                out.push(open);
                out.push_str(inner);
                out.push(close);
                return rest;
            }
        }
        _ => literal(c, out),
    }
    rest
}

/// Writes a character so that it stands for itself, in a class or out of one, blanks ignored or not.
fn literal(c: char, out: &mut String) {
    match c {
        ' ' => out.push_str(r"\x20"),
        _ if regex_syntax::is_meta_character(c) => {
            out.push('\\');
            out.push(c);
        }
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    /// The texts in `yes` match as a whole, those in `no` do not.
    fn check(source: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::new(source).unwrap();
        for text in yes {
            assert_eq!(pattern.find(text).unwrap(), Some(0..text.len()), "{source:?} on {text:?}");
        }
        for text in no {
            assert_ne!(pattern.find(text).unwrap(), Some(0..text.len()), "{source:?} on {text:?}");
        }
    }

    #[test]
    fn the_dialect_is_pcre() {
        check(r"\d+", &["12"], &["١٢"]);
        check(r"\w+", &["a_1"], &["é"]);
        check(r"[\w.-]+", &["a.b-c"], &["a b"]);
        check(r"[^\s]+", &["ab"], &["a b", "a\u{b}b"]);
        check(r"[\D]+", &["ab"], &["1"]);
        check(r"/a{id}", &["/a{id}"], &["/aid"]);
        check(r"a{2}b{1,}c{0,1}", &["aabbc", "aab"], &["ab"]);
        check(r"x{,3}", &["x{,3}"], &["xx"]);
        check(r"[[]a", &["[a"], &["a"]);
        check(r"[]a]+", &["]a"], &["b"]);
        check(r"[a&&b]+", &["a&b"], &[]);
        check(r"[a~~b+--]+", &["a~b,-"], &["c"]);
        check(r"[[:alpha:]_]+", &["a_"], &["1"]);
        check(r"\/a\-b\_c\%\é", &["/a-b_c%é"], &[]);
        check(r"\<b\>", &["<b>"], &["b"]);
        check(r"a\Q.*+\Eb", &["a.*+b"], &["axb"]);
        check(r"a(?#comment)b", &["ab"], &[]);
        check(r"(?'n'a)b", &["ab"], &[]);
        check(r"\h\R\N", &["\t\r\nx", " \nx"], &["x\nx"]);
        check(r"a\Z", &["a"], &[]);
        check(r"\p{Greek}\x{41}", &["αA"], &["aA"]);
        check(r"(?<n>a)\k{n}", &["aa"], &["ab"]);
        check(r"a?+b", &["ab", "b"], &[]);
        check(r"a+?b", &["aab"], &[]);
        check(r"(?:a|b)*+c", &["abc"], &[]);
    }

    #[test]
    fn possessive_repetition_is_told_from_lazy() {
        assert!(translate("a++").possessive && translate("a{2}+").possessive && translate("[a]*+").possessive);
        assert!(!translate("a+?").possessive && !translate(r"\++").possessive && !translate("(?+").possessive);
        assert!(!translate("a+b+").possessive);
    }
}
