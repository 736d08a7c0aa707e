//! Lists: order, filters, pages (`docs/spec/admin-api.md` §8).

use crate::admin::query::Query;
use crate::admin::reply::Reply;
use http::StatusCode;
use milecastle_model::{Id, Kind, Object};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a list request asks for.
#[derive(Debug)]
pub(crate) struct Selection {
    name: Option<Pattern>,
    label: Option<String>,
    uri: Option<Pattern>,
    service_id: Option<String>,
    upstream_id: Option<String>,
    page: Option<Page>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    /// From 1 on.
    number: usize,
    size: usize,
}

/// The attributes that filters look at, as they are written: of a hundred thousand objects only what is asked for is read.
#[derive(Deserialize)]
struct Facets<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow)]
    uris: Option<&'a RawValue>,
    #[serde(borrow)]
    service_id: Option<&'a RawValue>,
    #[serde(borrow)]
    upstream_id: Option<&'a RawValue>,
}

/// A text that is borrowed unless something in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What is written, if it is of the kind that is asked for.
fn read<'a, T: Deserialize<'a>>(written: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(written?.get()).ok()
}

impl Selection {
    /// Reads the query.
    ///
    /// # Errors
    /// The answer, if a page's size is out of range or a regular expression does not compile.
    pub(crate) fn of(kind: Kind, query: &Query) -> Result<Self, Box<Reply>> {
        let pattern = |name: &str| match query.get(name) {
            Some(text) if !text.is_empty() => Pattern::new(text).map(Some).map_err(|error| {
                Box::new(Reply::bad(format!("invalid argument {name}: not a regular expression: {error}")))
            }),
            _ => Ok(None),
        };
        let (mut service_id, mut upstream_id) = (None, None);
        if matches!(kind, Kind::Route | Kind::StreamRoute) {
            let inner = Query::parse(query.get("filter").unwrap_or_default());
            for (name, value) in inner.iter() {
                match name {
                    "service_id" => service_id = Some(value.to_owned()),
                    "upstream_id" => upstream_id = Some(value.to_owned()),
                    other => tracing::warn!(name = other, "a list filter knows only service_id and upstream_id"),
                }
            }
        }
        Ok(Self {
            name: pattern("name")?,
            label: query.get("label").filter(|label| !label.is_empty()).map(str::to_owned),
            uri: pattern("uri")?,
            service_id,
            upstream_id,
            page: Page::of(query)?,
        })
    }

    /// The objects that are shown, and how many there are on all pages. `objects` come by key.
    pub(crate) fn apply<'a>(&self, objects: impl Iterator<Item = &'a Object>) -> (usize, Vec<&'a Object>) {
        let mut chosen: Vec<&Object> = objects.filter(|object| self.admits(object)).collect();
        let total = chosen.len();
        if let Some(page) = self.page {
            // Stable: objects of one revision stay ordered by key.
            chosen.sort_by_key(|object| object.created);
            let start = (page.number - 1).saturating_mul(page.size).min(total);
            let end = start.saturating_add(page.size).min(total);
            chosen = chosen.drain(start..end).collect();
        }
        (total, chosen)
    }

    fn admits(&self, object: &Object) -> bool {
        let any = self.name.is_some() || self.label.is_some() || self.uri.is_some();
        if !any && self.service_id.is_none() && self.upstream_id.is_none() {
            return true;
        }
        let Ok(facets) = serde_json::from_slice::<Facets<'_>>(&object.body) else { return false };
        let finds = |pattern: &Pattern, text: Option<Text<'_>>| text.is_some_and(|text| pattern.finds(&text.0));
        let same = |wanted: &Option<String>, found: Option<&RawValue>| {
            wanted.as_ref().is_none_or(|wanted| read::<Id>(found).is_some_and(|id| id.as_str() == wanted))
        };
        self.name.as_ref().is_none_or(|re| finds(re, read(facets.name)))
            && self.label.as_ref().is_none_or(|key| {
                read::<BTreeMap<Cow<'_, str>, IgnoredAny>>(facets.labels)
                    .is_some_and(|all| all.contains_key(key.as_str()))
            })
            && self.uri.as_ref().is_none_or(|re| {
                finds(re, read(facets.uri))
                    || read::<Vec<Text<'_>>>(facets.uris).into_iter().flatten().any(|uri| re.finds(&uri.0))
            })
            && same(&self.service_id, facets.service_id)
            && same(&self.upstream_id, facets.upstream_id)
    }
}

impl Page {
    fn of(query: &Query) -> Result<Option<Page>, Box<Reply>> {
        let number =
            |name: &str| query.get(name).and_then(|text| text.trim().parse::<f64>().ok()).filter(|n| !n.is_nan());
        let (Some(number), Some(size)) = (number("page"), number("page_size")) else { return Ok(None) };
        if !(10.0..=500.0).contains(&size) {
            let text = "page_size must be between 10 and 500";
            return Err(Box::new(Reply::plain(StatusCode::BAD_REQUEST, text)));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and both are positive")]
        let page = Page { number: number.max(1.0) as usize, size: size as usize };
        Ok(Some(page))
    }
}

/// A regular expression as clients write them: Perl's syntax.
#[derive(Debug)]
enum Pattern {
    /// Runs in linear time.
    Plain(regex::Regex),
    /// Needs look-around or back-references; bounded by the engine's backtracking limit, beyond which nothing matches.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        // The size limit keeps one request from compiling a machine of many megabytes.
        match regex::RegexBuilder::new(text).size_limit(1 << 20).build() {
            Ok(plain) => Ok(Self::Plain(plain)),
            Err(_) => match fancy_regex::Regex::new(text) {
                Ok(fancy) => Ok(Self::Backtracking(Box::new(fancy))),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    fn finds(&self, text: &str) -> bool {
        match self {
            Self::Plain(plain) => plain.is_match(text),
            Self::Backtracking(fancy) => fancy.is_match(text).unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_model::Key;
    use serde_json::{Value, json};

    fn object(id: &str, created: u64, body: Value) -> Object {
        let key = Key::new(Kind::Route, id);
        Object { key, body: body.to_string().into(), created, modified: created }
    }

    fn check(query: &str, expected: &[&str]) {
        let objects = [
            object("1", 9, json!({"name": "alpha", "labels": {"env": "prod"}, "uri": "/a", "service_id": 1})),
            object("2", 3, json!({"uris": ["/b", "/api/v1"], "upstream_id": "u", "service_id": "1"})),
            object("3", 3, json!({"name": "beta", "labels": {"": "x"}, "uri": "/api/v2"})),
        ];
        let selection = Selection::of(Kind::Route, &Query::parse(query)).unwrap();
        let (total, chosen) = selection.apply(objects.iter());
        let ids: Vec<&str> = chosen.iter().map(|object| &*object.key.id).collect();
        assert_eq!(ids, expected, "{query}");
        if !query.contains("page=") {
            assert_eq!(total, expected.len(), "{query}");
        }
    }

    #[test]
    fn filters() {
        check("", &["1", "2", "3"]);
        check("name=", &["1", "2", "3"]);
        check("name=a$", &["1", "3"]);
        check("name=%5Ealp", &["1"]);
        check("name=(?%3D.*t)b", &["3"]);
        check("label=env", &["1"]);
        check("label=prod", &[]);
        check("label=", &["1", "2", "3"]);
        check("uri=%5E/api", &["2", "3"]);
        check("uri=%5E/api&name=b", &["3"]);
        check("filter=service_id%3D1", &["1", "2"]);
        check("filter=service_id%3D1%26upstream_id%3Du", &["2"]);
        check("filter=service_id%3D2%26service_id%3D1", &["1", "2"]);
        check("filter=uri%3D/a", &["1", "2", "3"]);
    }

    #[test]
    fn pages() {
        check("page=1&page_size=10", &["2", "3", "1"]);
        check("page=0&page_size=10", &["2", "3", "1"]);
        check("page=2&page_size=10", &[]);
        check("page=99999999999999999999&page_size=500", &[]);
        check("page=1", &["1", "2", "3"]);
        check("page=x&page_size=5", &["1", "2", "3"]);
        let refused = Selection::of(Kind::Route, &Query::parse("page=1&page_size=501")).unwrap_err();
        assert_eq!(refused.body, "page_size must be between 10 and 500");
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        let refused = Selection::of(Kind::Route, &Query::parse("name=%5B")).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(String::from_utf8_lossy(&refused.body).contains("invalid argument name: not a regular expression"));
    }
}
