//! `graphql_*`: the first operation of a GraphQL request.
//!
//! Only what the variables name is read: the operation's type and name and the names of its outermost fields. The rest
//! of the document is skipped by its brackets.

use super::body;
use crate::cx::{Request, RequestCx};
use crate::query;
use http::Method;
use milecastle_matching::Var;
use serde_json::Value;
use std::borrow::Cow;

/// Longest document that is looked at, in bytes.
const MAX_BYTES: usize = 1_048_576;

/// The first operation of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Operation {
    kind: String,
    name: String,
    fields: Vec<String>,
}

pub(super) fn var<'a>(cx: &'a RequestCx, key: &str) -> Option<Var<'a>> {
    let operation = operation(cx)?;
    match key {
        "name" => Some(Var::from(operation.name.as_str())),
        "operation" => Some(Var::from(operation.kind.as_str())),
        "root_fields" => Some(Var::List(operation.fields.iter().cloned().map(Value::String).collect())),
        _ => None,
    }
}

/// The operation of the document, which is taken apart at most once for a request, also if it turns out to be none.
fn operation(cx: &RequestCx) -> Option<&Operation> {
    if let Some(known) = cx.parsed.graphql.get() {
        return known.as_ref();
    }
    let text = match cx.request.method {
        Method::GET => query::first(cx.request.query()?, "query")?,
        // A body that has not been read yet may be read later: its absence is not remembered.
        Method::POST => body::whole(cx)?,
        _ => return None,
    };
    let read = || parse(&document(&cx.request, text).filter(|document| document.len() <= MAX_BYTES)?);
    cx.parsed.graphql.get_or_init(read).as_ref()
}

/// The document in `text`, which is the `query` argument of a GET or the body of a POST: the member `query` of a JSON
/// body, otherwise the whole text.
fn document<'a>(request: &Request, text: Cow<'a, str>) -> Option<Cow<'a, str>> {
    let json = || request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if request.method != Method::POST || !json() {
        return Some(text);
    }
    match serde_json::from_str::<Value>(&text).ok()?.get_mut("query")?.take() {
        Value::String(document) => Some(Cow::Owned(document)),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Sign(char),
}

fn parse(document: &str) -> Option<Operation> {
    let mut tokens = Tokens { rest: document }.peekable();
    loop {
        match tokens.next()? {
            Token::Sign('{') => {
                return Some(Operation { kind: "query".into(), name: String::new(), fields: fields(&mut tokens)? });
            }
            Token::Name(kind @ ("query" | "mutation" | "subscription")) => {
                let name = match tokens.peek() {
                    Some(Token::Name(name)) => (*name).to_owned(),
                    _ => String::new(),
                };
                let mut depth = 0_usize;
                // Variables and directives may hold braces of their own inside parentheses.
                loop {
                    match tokens.next()? {
                        Token::Sign('(') => depth += 1,
                        Token::Sign(')') => depth = depth.checked_sub(1)?,
                        Token::Sign('{') if depth == 0 => break,
                        Token::Sign(_) | Token::Name(_) => {}
                    }
                }
                return Some(Operation { kind: kind.into(), name, fields: fields(&mut tokens)? });
            }
            Token::Name("fragment") => {
                while tokens.next()? != Token::Sign('{') {}
                skip(&mut tokens)?;
            }
            Token::Name(_) | Token::Sign(_) => return None,
        }
    }
}

/// The names of the fields up to the closing brace; an alias is not the name.
fn fields<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'a>>>) -> Option<Vec<String>> {
    let mut names = Vec::new();
    loop {
        match tokens.next()? {
            Token::Sign('}') => return Some(names),
            Token::Sign('{' | '(' | '[') => skip(tokens)?,
            // `...name`, `... on Type {`, `@directive`: no fields.
            Token::Sign('.') => {
                if tokens.peek() == Some(&Token::Name("on")) {
                    tokens.next();
                }
                if matches!(tokens.peek(), Some(Token::Name(_))) {
                    tokens.next();
                }
            }
            Token::Sign('@') => drop(tokens.next()),
            Token::Sign(_) => {}
            Token::Name(name) => {
                if tokens.peek() != Some(&Token::Sign(':')) {
                    names.push(name.to_owned());
                }
            }
        }
    }
}

/// Reads past the bracket that closes the one just read.
fn skip<'a>(tokens: &mut impl Iterator<Item = Token<'a>>) -> Option<()> {
    let mut depth = 1_usize;
    while depth > 0 {
        match tokens.next()? {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            Token::Sign(_) | Token::Name(_) => {}
        }
    }
    Some(())
}

/// Names and signs of a document. Blanks, commas, comments, strings and numbers are left out; `...` is one `.`.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = self.rest.chars().next()?;
            if first.is_ascii_alphabetic() || first == '_' {
                let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
                let (name, rest) = self.rest.split_at(end);
                self.rest = rest;
                return Some(Token::Name(name));
            }
            let after = self.rest.strip_prefix(first)?;
            match first {
                '#' => self.rest = after.split_once('\n').map_or("", |(_, rest)| rest),
                '"' => self.rest = past_string(after),
                '{' | '}' | '(' | ')' | '[' | ']' | ':' | '@' => {
                    self.rest = after;
                    return Some(Token::Sign(first));
                }
                '.' => {
                    self.rest = after.trim_start_matches('.');
                    return Some(Token::Sign('.'));
                }
                '-' | '0'..='9' => {
                    self.rest =
                        after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'));
                }
                _ => self.rest = after,
            }
        }
    }
}

/// What follows a string whose opening quote has been read.
fn past_string(after: &str) -> &str {
    if let Some(block) = after.strip_prefix("\"\"") {
        return block.split_once("\"\"\"").map_or("", |(_, rest)| rest);
    }
    let mut escaped = false;
    for (at, character) in after.char_indices() {
        match character {
            '"' if !escaped => return after.get(at + 1..).unwrap_or_default(),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str, kind: &str, name: &str, fields: &[&str]) {
        let expected = Operation {
            kind: kind.into(),
            name: name.into(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        assert_eq!(parse(document), Some(expected), "{document}");
    }

    #[test]
    fn the_first_operation_is_read() {
        check("mutation A{b c}", "mutation", "A", &["b", "c"]);
        check("{ a, b: c(x: {y: [1]}) { d } }", "query", "", &["a", "c"]);
        check(
            "query Q($v: In = {a: 1}) @live(x: 2) { a @include(if: $v) { b } ...F ... on T { z } }",
            "query",
            "Q",
            &["a"],
        );
        check("fragment F on T { x { y } } subscription { s(t: \"}\\\"\") }", "subscription", "", &["s"]);
        check("# { no }\nquery { s(b: \"\"\" } \" \"\"\") t }", "query", "", &["s", "t"]);
        check("query { a } mutation { b }", "query", "", &["a"]);
    }

    #[test]
    fn a_broken_document_has_no_operation() {
        for document in ["", "query", "query {", "type T { a }", "query ) {a}", "\"unended"] {
            assert_eq!(parse(document), None, "{document}");
        }
    }
}
