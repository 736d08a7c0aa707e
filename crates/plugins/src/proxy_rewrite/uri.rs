//! The new target.

use super::encode;
use milecastle_matching::{Captures, Flags, Lookup, Pattern, Replacement, Template};
use milecastle_plugin_api::{BuildCx, ConfigError, Request};
use serde_json::Value;

/// How the target is made.
pub(super) enum Uri {
    /// It stays what it is.
    Kept,
    /// From the attribute `uri`, cut at its first literal `?`, so that no value of a variable can open a query.
    Template { path: Template, query: Option<Template> },
    /// By the first pattern that matches the path.
    Patterns(Box<[Pair]>),
}

pub(super) struct Pair {
    /// `None` for an unresolved secret reference: it matches nothing.
    pattern: Option<Pattern>,
    replacement: Replacement,
}

/// A target made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What later plugins see as `uri`.
    pub(super) path: String,
    /// What goes on the wire.
    pub(super) target: String,
}

/// What came of the patterns.
pub(super) enum Outcome {
    /// Nothing changes.
    Unchanged,
    /// A new target, and the groups of the pattern that made it.
    Rewritten(Target, Option<Groups>),
}

/// The groups of a match: its texts from 0 on; one that took no part is null.
pub(super) type Groups = Vec<Value>;

impl Uri {
    pub(super) fn new(uri: Option<&str>, pairs: Option<&[String]>, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        match (uri, pairs) {
            (Some(uri), _) => {
                let (path, query) = cut(uri);
                Ok(Self::Template { path: Template::parse(path), query: query.map(Template::parse) })
            }
            (None, Some(pairs)) => pairs_of(pairs, cx).map(Self::Patterns),
            (None, None) => Ok(Self::Kept),
        }
    }

    /// Makes the target of a request.
    ///
    /// # Errors
    /// A match was given up; the text is the answer's.
    pub(super) fn apply(&self, request: &Request, vars: &dyn Lookup, raw: bool) -> Result<Outcome, String> {
        match self {
            Self::Kept if raw => {
                let target = request.received_target().to_owned();
                let path = target.split('?').next().unwrap_or_default().to_owned();
                Ok(Outcome::Rewritten(Target { path, target }, None))
            }
            Self::Kept => Ok(Outcome::Unchanged),
            Self::Template { path, query } => {
                let path = path.render(vars).text;
                let query = query.as_ref().map(|query| {
                    let mut text = String::new();
                    query.render_mapped(&mut text, vars, |value| value.replace('?', "%3F").into());
                    text
                });
                Ok(Outcome::Rewritten(assemble(path, query, request, raw), None))
            }
            Self::Patterns(pairs) => by_patterns(pairs, request, raw),
        }
    }
}

/// Splits the attribute at its first `?` outside braces; `${a ?? b}` holds a default.
fn cut(uri: &str) -> (&str, Option<&str>) {
    let mut from = 0;
    while let Some(at) = uri.get(from..).and_then(|rest| rest.find(['?', '$'])).map(|at| from + at) {
        let (before, rest) = uri.split_at(at);
        if let Some(query) = rest.strip_prefix('?') {
            return (before, Some(query));
        }
        let braces = if before.ends_with('\\') || !rest.starts_with("${") { None } else { rest.find('}') };
        from = at + braces.unwrap_or(0) + 1;
    }
    (uri, None)
}

fn assemble(path: String, query: Option<String>, request: &Request, raw: bool) -> Target {
    let mut target =
        if raw { encode::raw(&path.replace('?', "%3F")).into_owned() } else { encode::path(&path).into_owned() };
    let mut separator = '?';
    if let Some(query) = query {
        target.push('?');
        target.push_str(&if raw { encode::raw(&query) } else { encode::query(&query) });
        separator = '&';
    }
    append_query(&mut target, separator, request);
    Target { path, target }
}

fn append_query(target: &mut String, separator: char, request: &Request) {
    if let Some(own) = request.query().filter(|own| !own.is_empty()) {
        target.push(separator);
        target.push_str(own);
    }
}

fn by_patterns(pairs: &[Pair], request: &Request, raw: bool) -> Result<Outcome, String> {
    let start = if raw { request.received_target() } else { request.path() };
    for Pair { pattern, replacement } in pairs {
        let Some(pattern) = pattern else { continue };
        let captures = pattern.captures(start).map_err(|reason| {
            format!("failed to match the uri {start} with the pattern {}: {reason}", pattern.as_str())
        })?;
        let Some(captures) = captures else { continue };
        let groups = (0..captures.len()).map(|n| captures.get(n).map_or(Value::Null, Value::from)).collect();
        let target = substitute(start, &captures, replacement, request, raw);
        return Ok(Outcome::Rewritten(target, Some(groups)));
    }
    Ok(if raw {
        let path = start.split('?').next().unwrap_or_default().to_owned();
        Outcome::Rewritten(Target { path, target: start.to_owned() }, None)
    } else {
        Outcome::Unchanged
    })
}

/// Puts the replacement in place of the first occurrence. A `?` that the replacement itself writes opens a query; one
/// that was part of the decoded path stays a part of the path.
fn substitute(start: &str, captures: &Captures<'_>, with: &Replacement, request: &Request, raw: bool) -> Target {
    let range = captures.range(0).unwrap_or(0..0);
    let before = start.get(..range.start).unwrap_or_default();
    let after = start.get(range.end..).unwrap_or_default();
    let mut middle = String::new();
    with.expand(captures, &mut middle);
    if raw {
        let target = encode::raw(&format!("{before}{middle}{after}")).into_owned();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        return Target { path, target };
    }
    let opens_query = !start.contains('?');
    let (path, query) = match middle.split_once('?').filter(|_| opens_query) {
        Some((path, query)) => (format!("{before}{path}"), Some(format!("{query}{after}"))),
        None => (format!("{before}{middle}{after}"), None),
    };
    let mut target = encode::path(&path).into_owned();
    let mut separator = '?';
    if let Some(query) = query {
        target.push('?');
        target.push_str(&encode::query(&query));
        separator = '&';
    }
    append_query(&mut target, separator, request);
    Target { path, target }
}

fn pairs_of(texts: &[String], cx: &BuildCx<'_>) -> Result<Box<[Pair]>, Vec<ConfigError>> {
    if !texts.len().is_multiple_of(2) {
        return Err(vec![ConfigError::at("/regex_uri", "The length of regex_uri should be an even number")]);
    }
    let (mut pairs, mut faults) = (Vec::new(), Vec::new());
    for (n, pair) in texts.chunks_exact(2).enumerate() {
        let [pattern, replacement] = pair else { continue };
        let checked = match milecastle_plugin_api::is_reference(pattern) {
            true => Ok(None),
            false => cx.pattern(pattern, Flags::default()).map(Some),
        };
        match checked {
            Ok(pattern) => pairs.push(Pair { pattern, replacement: Replacement::parse(replacement) }),
            Err(reason) => faults.push(ConfigError::at(
                format!("/regex_uri/{}", 2 * n),
                format!("invalid regex_uri({pattern}, {replacement}): {reason}"),
            )),
        }
    }
    if faults.is_empty() { Ok(pairs.into()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn the_attribute_is_cut_at_its_own_question_mark() {
        assert_eq!(cut("/a$uri?b=$c"), ("/a$uri", Some("b=$c")));
        assert_eq!(cut("/${a ?? b?}/${c}?d?e"), ("/${a ?? b?}/${c}", Some("d?e")));
        assert_eq!(cut(r"/\${a?b"), (r"/\${a", Some("b")));
        assert_eq!(cut("/${a ?? b}"), ("/${a ?? b}", None));
        assert_eq!(cut("/$"), ("/$", None));
    }
}
