//! Names of variables, parsed once, and what a request answers when asked for one.
//!
//! `docs/spec/plugins/_variables.md` lists the names. A name is split into its family and the rest when the
//! configuration is built, so that a lookup is a `match` on [`Family`] and no text is taken apart per request.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use crate::json_path::JsonPath;

/// The prefix family of a variable (`_variables.md`, table A).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `http_NAME`: a header of the client's request.
    Http,
    /// `sent_http_NAME`: a header of the answer to the client.
    SentHttp,
    /// `sent_trailer_NAME`: a trailer of the answer to the client.
    SentTrailer,
    /// `upstream_http_NAME`: a header received from the upstream.
    UpstreamHttp,
    /// `upstream_trailer_NAME`: a trailer received from the upstream.
    UpstreamTrailer,
    /// `upstream_cookie_NAME`: a cookie set by the upstream.
    UpstreamCookie,
    /// `arg_NAME`: a query argument.
    Arg,
    /// `cookie_NAME`: a cookie of the request.
    Cookie,
    /// `post_arg_NAME`: a field of a urlencoded form.
    PostArg,
    /// `post_arg.PATH`: a field of a JSON, form or multipart body; see [`VarName::json_path`].
    PostArgPath,
    /// `uri_param_NAME`: a path capture.
    UriParam,
    /// `graphql_NAME`: `name`, `operation` or `root_fields` of a GraphQL request.
    Graphql,
    /// Any other name: gateway variables and server-core variables. [`VarName::key`] is the whole name.
    Other,
}

impl Family {
    /// Whether its variables show headers or trailers of the answer.
    pub fn is_of_answer(self) -> bool {
        let of_upstream = matches!(self, Self::UpstreamHttp | Self::UpstreamTrailer | Self::UpstreamCookie);
        of_upstream || matches!(self, Self::SentHttp | Self::SentTrailer)
    }
}

/// Family prefixes. No prefix is a prefix of another, so their order does not matter.
const FAMILIES: &[(&str, Family)] = &[
    ("http_", Family::Http),
    ("sent_http_", Family::SentHttp),
    ("sent_trailer_", Family::SentTrailer),
    ("upstream_http_", Family::UpstreamHttp),
    ("upstream_trailer_", Family::UpstreamTrailer),
    ("upstream_cookie_", Family::UpstreamCookie),
    ("arg_", Family::Arg),
    ("cookie_", Family::Cookie),
    ("post_arg_", Family::PostArg),
    ("post_arg.", Family::PostArgPath),
    ("uri_param_", Family::UriParam),
    ("graphql_", Family::Graphql),
];

/// The name of a variable, parsed once. Two names are equal if they were written alike.
#[derive(Clone, Debug)]
pub struct VarName {
    text: Box<str>,
    family: Family,
    key: Box<str>,
    path: Option<Arc<JsonPath>>,
}

impl VarName {
    /// Parses a name as written in the configuration, without the leading `$` of templates. Every text is a name;
    /// one that means nothing has no value.
    pub fn parse(text: &str) -> VarName {
        let (family, rest) = FAMILIES
            .iter()
            .find_map(|&(prefix, family)| text.strip_prefix(prefix).map(|rest| (family, rest)))
            .unwrap_or((Family::Other, text));
        let key = match family {
            Family::Http | Family::SentHttp | Family::SentTrailer | Family::UpstreamHttp | Family::UpstreamTrailer => {
                rest.to_ascii_lowercase().replace('_', "-").into()
            }
            _ => rest.into(),
        };
        let path = match family {
            Family::PostArgPath => JsonPath::parse(rest).ok().map(Arc::new),
            _ => None,
        };
        VarName { text: text.into(), family, key, path }
    }

    /// The family the name belongs to.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The name within its family. For headers and trailers it is in lower case with `-` for `_`, the form in which
    /// header maps keep names; otherwise as written.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path of a `post_arg.PATH` name; `None` for other families and if PATH is malformed.
    pub fn json_path(&self) -> Option<&JsonPath> {
        self.path.as_deref()
    }
}

impl fmt::Display for VarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for VarName {
    fn eq(&self, other: &VarName) -> bool {
        self.text == other.text
    }
}

impl Eq for VarName {}

impl Hash for VarName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// The value of a variable. Absence is `None` of [`Lookup::var`], never a variant here.
#[derive(Clone, Debug, PartialEq)]
pub enum Var<'a> {
    /// Text: nearly every variable.
    Str(Cow<'a, str>),
    /// A number, for variables that are counted or measured by the gateway and for JSON bodies.
    Num(f64),
    /// A boolean out of a JSON body.
    Bool(bool),
    /// A list: `graphql_root_fields`, results of JSONPath queries, arrays out of a JSON body.
    List(Vec<Value>),
}

impl Var<'_> {
    /// The value as a number: a number itself, or text that is wholly a decimal or `0x` number, blanks around it
    /// allowed.
    pub fn number(&self) -> Option<f64> {
        match self {
            Var::Num(n) => Some(*n),
            Var::Str(text) => number_of(text),
            Var::Bool(_) | Var::List(_) => None,
        }
    }

    /// The value as text: whole numbers without a decimal point, lists as JSON.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Var::Str(text) => Cow::Borrowed(text),
            Var::Num(n) => Cow::Owned(number_text(*n)),
            Var::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Var::List(items) => Cow::Owned(Value::Array(items.clone()).to_string()),
        }
    }

    /// The value found in a JSON document: `null` is absence, an object its JSON text.
    pub fn from_json(value: &Value) -> Option<Var<'_>> {
        match value {
            Value::Null => None,
            Value::Bool(b) => Some(Var::Bool(*b)),
            Value::Number(n) => n.as_f64().map(Var::Num),
            Value::String(s) => Some(Var::Str(Cow::Borrowed(s))),
            Value::Array(items) => Some(Var::List(items.clone())),
            Value::Object(_) => Some(Var::Str(Cow::Owned(value.to_string()))),
        }
    }
}

impl<'a> From<&'a str> for Var<'a> {
    fn from(text: &'a str) -> Var<'a> {
        Var::Str(Cow::Borrowed(text))
    }
}

impl From<String> for Var<'_> {
    fn from(text: String) -> Self {
        Var::Str(Cow::Owned(text))
    }
}

/// What can be asked for variables: a request, mostly.
pub trait Lookup {
    /// The value of `name`, or `None` if it has none.
    fn var(&self, name: &VarName) -> Option<Var<'_>>;
}

impl<F: for<'n> Fn(&'n VarName) -> Option<Var<'static>>> Lookup for F {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        self(name)
    }
}

/// A lookup that knows no variable.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVars;

impl Lookup for NoVars {
    fn var(&self, _: &VarName) -> Option<Var<'_>> {
        None
    }
}

/// Reads a whole text as a number; infinities and NaN are not numbers here.
pub(crate) fn number_of(text: &str) -> Option<f64> {
    let text = text.trim_ascii();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        // `from_str_radix` would take a second sign.
        return hex
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(hex, 16).ok())
            .flatten()
            .map(|n| sign * n as f64);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    text.parse().ok().filter(|n: &f64| n.is_finite())
}

fn number_text(n: f64) -> String {
    // Below 2^53 every whole number is exact.
    if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 { format!("{}", n as i64) } else { format!("{n}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_family_and_key() {
        #[rustfmt::skip]
        let table = [
            ("http_X-Foo_Bar", Family::Http, "x-foo-bar"),
            ("http_host", Family::Http, "host"),
            ("sent_http_Content_Type", Family::SentHttp, "content-type"),
            ("upstream_http_etag", Family::UpstreamHttp, "etag"),
            ("sent_trailer_a_b", Family::SentTrailer, "a-b"),
            ("upstream_trailer_grpc_status", Family::UpstreamTrailer, "grpc-status"),
            ("upstream_cookie_Id", Family::UpstreamCookie, "Id"),
            ("arg_Foo_bar", Family::Arg, "Foo_bar"),
            ("cookie_SID", Family::Cookie, "SID"),
            ("post_arg_a.b", Family::PostArg, "a.b"),
            ("post_arg.a.b", Family::PostArgPath, "a.b"),
            ("uri_param_id", Family::UriParam, "id"),
            ("graphql_root_fields", Family::Graphql, "root_fields"),
            ("cookie", Family::Other, "cookie"),
            ("http2", Family::Other, "http2"),
            ("HTTP_host", Family::Other, "HTTP_host"),
            ("", Family::Other, ""),
        ];
        for (text, family, key) in table {
            let name = VarName::parse(text);
            assert_eq!((name.family(), name.key(), name.to_string().as_str()), (family, key, text));
        }
        assert!(VarName::parse("post_arg.a[*]").json_path().is_some_and(JsonPath::is_query));
        assert!(VarName::parse("post_arg.a[").json_path().is_none());
    }

    #[test]
    fn text_converts_to_numbers_and_back() {
        #[rustfmt::skip]
        let table = [
            ("10", Some(10.0)), (" 10\t", Some(10.0)), ("1e3", Some(1000.0)), ("-.5", Some(-0.5)), ("5.", Some(5.0)),
            ("0x1F", Some(31.0)), ("-0x10", Some(-16.0)), ("0x+1", None), ("0x", None), ("", None), ("inf", None),
            ("NaN", None), ("1e999", None), ("1 0", None), ("10a", None), ("--1", None),
        ];
        for (text, expected) in table {
            assert_eq!(Var::from(text).number(), expected, "{text:?}");
        }
        for (n, text) in [(80.0, "80"), (-1.0, "-1"), (0.25, "0.25"), (1e300, &format!("{}", 1e300))] {
            assert_eq!(Var::Num(n).text(), text);
        }
    }
}
