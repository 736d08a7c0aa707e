//! Texts with variables in them: `/v2$uri`, `${http_x_tenant ?? none}`.
//!
//! Rules (`docs/spec/plugins/_variables.md`, "String templates"): `$name` takes letters, digits and `_`; braces allow
//! any name, and a fall-back after `??`. A backslash before `$` keeps both characters as they are
//! (`docs/spec/plugins/redirect.md`). A `$` that starts neither form is a literal one, so every text is a template.

use std::borrow::Cow;

use crate::var::{Lookup, Var, VarName};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Literal(Box<str>),
    Var { name: VarName, default: Option<Box<str>> },
}

/// What a template became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// How many substitutions had a value or a fall-back; the others became empty.
    pub resolved: usize,
}

impl Template {
    /// Parses a text; it cannot fail.
    pub fn parse(text: &str) -> Template {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            let part = if before.ends_with('\\') { None } else { substitution(after) };
            match part {
                Some((part, remaining)) => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                    }
                    parts.push(part);
                    rest = remaining;
                }
                None => {
                    literal.push('$');
                    rest = after;
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Template { parts: parts.into() }
    }

    /// Gives every variable that has no fall-back this one.
    #[must_use]
    pub fn with_fallback(mut self, text: &str) -> Template {
        for part in &mut self.parts {
            if let Part::Var { default, .. } = part {
                default.get_or_insert_with(|| text.into());
            }
        }
        self
    }

    /// Whether no variable occurs, so that the text is always the same.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// The names that occur, in order, repeated as often as they occur.
    pub fn names(&self) -> impl Iterator<Item = &VarName> {
        self.parts.iter().filter_map(|part| match part {
            Part::Var { name, .. } => Some(name),
            Part::Literal(_) => None,
        })
    }

    /// Fills the template in.
    pub fn render(&self, vars: &dyn Lookup) -> Rendered {
        let mut text = String::new();
        let resolved = self.render_into(&mut text, vars);
        Rendered { text, resolved }
    }

    /// The filled-in text alone; no text is made where the template is one variable and nothing else.
    pub fn fill<'a>(&'a self, vars: &'a dyn Lookup) -> Cow<'a, str> {
        match &*self.parts {
            [Part::Var { name, default }] => match vars.var(name) {
                Some(Var::Str(text)) => text,
                Some(other) => other.text().into_owned().into(),
                None => default.as_deref().unwrap_or_default().into(),
            },
            _ => self.render(vars).text.into(),
        }
    }

    /// Appends the filled-in template to `out` and says how many substitutions were resolved.
    pub fn render_into(&self, out: &mut String, vars: &dyn Lookup) -> usize {
        self.render_mapped(out, vars, |value| Cow::Borrowed(value))
    }

    /// As [`Template::render_into`], with every value of a variable (not literals, not fall-backs) passed through
    /// `map`, to escape it for the place it goes to.
    pub fn render_mapped(
        &self,
        out: &mut String,
        vars: &dyn Lookup,
        mut map: impl FnMut(&str) -> Cow<'_, str>,
    ) -> usize {
        let mut resolved = 0;
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Var { name, default } => match (vars.var(name), default) {
                    (Some(value), _) => {
                        out.push_str(&map(&value.text()));
                        resolved += 1;
                    }
                    (None, Some(default)) => {
                        out.push_str(default);
                        resolved += 1;
                    }
                    (None, None) => {}
                },
            }
        }
        resolved
    }
}

/// Reads the substitution that follows a `$`, and what comes after it.
fn substitution(after: &str) -> Option<(Part, &str)> {
    if let Some(inner) = after.strip_prefix('{') {
        let (inner, remaining) = inner.split_once('}')?;
        let (name, default) = match inner.split_once("??") {
            Some((name, default)) => (name, Some(default.trim_ascii().into())),
            None => (inner, None),
        };
        let name = name.trim_ascii();
        return (!name.is_empty()).then(|| (Part::Var { name: VarName::parse(name), default }, remaining));
    }
    let end = after.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_')).unwrap_or(after.len());
    let (name, remaining) = after.split_at(end);
    (!name.is_empty()).then(|| (Part::Var { name: VarName::parse(name), default: None }, remaining))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &VarName) -> Option<Var<'static>> {
        match name.as_str() {
            "uri" => Some(Var::from("/hello")),
            "status" => Some(Var::Num(200.0)),
            "post_arg.a-b" => Some(Var::from("field")),
            "1" => Some(Var::from("one")),
            _ => None,
        }
    }

    #[test]
    fn templates_render() {
        #[rustfmt::skip]
        let table = [
            ("", "", 0),
            ("plain", "plain", 0),
            ("/v2$uri", "/v2/hello", 1),
            ("${uri}x", "/hellox", 1),
            ("$uri.$status", "/hello.200", 2),
            ("t-${arg_v ?? 0}", "t-0", 1),
            ("t-${ arg_v??a b }", "t-a b", 1),
            ("${uri ?? 0}", "/hello", 1),
            ("$status", "200", 1),
            ("${arg_v ?? 0}", "0", 1),
            ("$arg_v", "", 0),
            ("[$arg_v]", "[]", 0),
            ("${post_arg.a-b}", "field", 1),
            ("$1${1}", "oneone", 2),
            (r"\$uri/foo$uri", r"\$uri/foo/hello", 1),
            (r"\${uri}", r"\${uri}", 0),
            ("/foo$$uri", "/foo$/hello", 1),
            ("a$", "a$", 0),
            ("${}", "${}", 0),
            ("${uri", "${uri", 0),
            ("$-", "$-", 0),
        ];
        for (template, text, resolved) in table {
            let parsed = Template::parse(template);
            let rendered = parsed.render(&vars);
            assert_eq!((rendered.text.as_str(), rendered.resolved), (text, resolved), "{template:?}");
            assert_eq!(parsed.fill(&vars), text, "{template:?}");
        }
        assert!(Template::parse(r"a \$b $ c").is_literal());
        assert!(!Template::parse("$b").is_literal());
    }

    #[test]
    fn a_fallback_for_all_leaves_those_given() {
        let template = Template::parse("$uri $arg_v ${arg_v ?? x} -").with_fallback("none");
        assert_eq!(template.render(&vars).text, "/hello none x -");
    }

    #[test]
    fn values_but_not_literals_are_mapped() {
        let mut out = String::new();
        Template::parse("/h$uri/h").render_mapped(&mut out, &vars, |v| v.replace('h', "_").into());
        assert_eq!(out, "/h/_ello/h");
    }
}
