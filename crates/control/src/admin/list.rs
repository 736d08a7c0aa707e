//! Lists: order, filters, pages (`docs/spec/admin-api.md` §8).

use crate::admin::query::Query;
use crate::admin::reply::Reply;
use crate::admin::search::Pattern;
use http::StatusCode;
use memchr::memchr;
use memchr::memmem::Finder;
use milecastle_model::{Id, Kind, Object};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;

/// The characters that mean something else than themselves in a regular expression.
const SPECIAL: &[char] = &['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'];

/// What a list request asks for.
#[derive(Debug)]
pub(crate) struct Selection {
    name: Option<Pattern>,
    label: Option<String>,
    uri: Option<Pattern>,
    service_id: Option<String>,
    upstream_id: Option<String>,
    /// What is found in the body of every object that is shown, unless something in the body is escaped.
    needles: Vec<Finder<'static>>,
    page: Option<Page>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    /// From 1 on.
    number: usize,
    size: usize,
}

/// A member of a body.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Name,
    Labels,
    Uri,
    Uris,
    ServiceId,
    UpstreamId,
    #[serde(other)]
    Other,
}

/// A text that is borrowed unless something in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads from a body whether the object is shown.
struct Look<'s> {
    selection: &'s Selection,
    goes_on: &'s dyn Fn() -> bool,
}

/// Reads from labels whether there is one of this key.
struct HasKey<'k>(&'k str);

impl Selection {
    /// Whether a query asks for patterns to be looked for, which can take long ([`crate::admin::search`]).
    pub(crate) fn searches(query: &Query) -> bool {
        ["name", "uri"].iter().any(|name| given(query, name).is_some())
    }

    /// Reads the query, and compiles its patterns: a part of the search.
    ///
    /// # Errors
    /// The answer, if a page's size is out of range, or a pattern is no regular expression, or too large a one.
    pub(crate) fn of(kind: Kind, query: &Query) -> Result<Self, Box<Reply>> {
        let page = Page::of(query)?;
        let pattern = |name: &str| {
            given(query, name).map(Pattern::new).transpose().map_err(|error| {
                Box::new(Reply::bad(format!("invalid argument {name}: not a regular expression: {error}")))
            })
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
        let literal = |name: &str| query.get(name).filter(|text| !text.contains(SPECIAL));
        let needles = [literal("name"), query.get("label"), literal("uri")].into_iter().flatten();
        Ok(Self {
            name: pattern("name")?,
            label: given(query, "label").map(str::to_owned),
            uri: pattern("uri")?,
            service_id,
            upstream_id,
            needles: needles.map(|text| Finder::new(text).into_owned()).collect(),
            page,
        })
    }

    /// The objects that are shown, and how many there are on all pages. `objects` come by key. `None` once `goes_on` says no, which
    /// it then says for good.
    pub(crate) fn apply<'a>(
        &self,
        objects: impl Iterator<Item = &'a Object>,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<(usize, Vec<&'a Object>)> {
        let chosen = objects.take_while(|_| goes_on()).filter(|object| self.admits(object, goes_on));
        let mut chosen: Vec<&Object> = chosen.collect();
        if !goes_on() {
            return None;
        }
        let total = chosen.len();
        if let Some(page) = self.page {
            // Stable: objects of one revision stay ordered by key.
            chosen.sort_by_key(|object| object.created);
            let start = (page.number - 1).saturating_mul(page.size).min(total);
            let end = start.saturating_add(page.size).min(total);
            chosen = chosen.drain(start..end).collect();
        }
        Some((total, chosen))
    }

    /// A hundred thousand objects are looked at for one answer: most are told by their bytes alone, and of the others no more is read
    /// than what is asked for.
    fn admits(&self, object: &Object, goes_on: &dyn Fn() -> bool) -> bool {
        if let Self { name: None, label: None, uri: None, service_id: None, upstream_id: None, .. } = self {
            return true;
        }
        let body = &*object.body;
        if self.needles.iter().any(|needle| needle.find(body).is_none()) && memchr(b'\\', body).is_none() {
            return false;
        }
        let Ok(body) = str::from_utf8(body) else { return false };
        serde_json::Deserializer::from_str(body).deserialize_map(Look { selection: self, goes_on }).unwrap_or(false)
    }
}

/// What is not of the type that is looked for is an error.
impl<'de> Visitor<'de> for Look<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let Look { selection, goes_on } = self;
        let Selection { name, label, uri, service_id, upstream_id, .. } = selection;
        let (mut by_name, mut by_label) = (name.is_none(), label.is_none());
        let (mut by_uri, mut by_uris) = (uri.is_none(), false);
        let (mut by_service, mut by_upstream) = (service_id.is_none(), upstream_id.is_none());
        while let Some(member) = members.next_key()? {
            match (member, selection) {
                (Member::Name, Selection { name: Some(pattern), .. }) => {
                    by_name = pattern.finds(&members.next_value::<Text<'_>>()?.0);
                }
                (Member::Labels, Selection { label: Some(key), .. }) => {
                    by_label = members.next_value_seed(HasKey(key))?;
                }
                (Member::Uri, Selection { uri: Some(pattern), .. }) => {
                    by_uri = pattern.finds(&members.next_value::<Text<'_>>()?.0);
                }
                (Member::Uris, Selection { uri: Some(pattern), .. }) => {
                    by_uris = false;
                    for uri in members.next_value::<Vec<Text<'_>>>()? {
                        if !goes_on() {
                            return Err(A::Error::custom("nobody waits for it any longer"));
                        }
                        by_uris |= pattern.finds(&uri.0);
                    }
                }
                (Member::ServiceId, Selection { service_id: Some(id), .. }) => {
                    by_service = members.next_value::<Id>()?.as_str() == id;
                }
                (Member::UpstreamId, Selection { upstream_id: Some(id), .. }) => {
                    by_upstream = members.next_value::<Id>()?.as_str() == id;
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(by_name && by_label && (by_uri || by_uris) && by_service && by_upstream)
    }
}

impl<'de> DeserializeSeed<'de> for HasKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, labels: D) -> Result<bool, D::Error> {
        labels.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HasKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut labels: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some((key, _)) = labels.next_entry::<Text<'_>, IgnoredAny>()? {
            found |= key.0 == self.0;
        }
        Ok(found)
    }
}

/// An argument that is there, and not empty.
fn given<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    query.get(name).filter(|text| !text.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_model::Key;
    use serde_json::{Value, json};
    use std::cell::Cell;

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
        check_among(&objects, query, expected);
    }

    fn check_among(objects: &[Object], query: &str, expected: &[&str]) {
        let selection = Selection::of(Kind::Route, &Query::parse(query)).unwrap();
        let (total, chosen) = selection.apply(objects.iter(), &|| true).unwrap();
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
    fn bodies_are_not_told_by_what_stands_elsewhere_in_them_nor_by_how_it_is_written() {
        let written = |id: &str, body: &'static str| Object { body: body.into(), ..object(id, 1, json!({})) };
        let objects = [
            written(
                "elsewhere",
                r#"{"desc": "blue-7", "name": "green", "labels": {"team": "env"}, "upstream_id": "/y"}"#,
            ),
            written(
                "escaped",
                r#"{"name": "bl\u0075e-7", "labels": {"t\u0065am": "x"}, "uri": "\/y", "service_id": "\u0039"}"#,
            ),
            written(
                "plain",
                r#"{"name": "blue-7", "uris": ["/x", "/y"], "labels": {"x": "a", "env": "team"}, "service_id": 9}"#,
            ),
            written("typed", r#"{"name": 7, "labels": ["team", "env"], "uri": "/y", "service_id": [9], "uris": null}"#),
            written(
                "below",
                r#"{"upstream": {"name": "blue-7", "labels": {"team": "x"}, "service_id": 9}, "uri": "/w"}"#,
            ),
            written("twice", r#"{"name": "blue-7", "uri": "/y", "name": "red", "uri": "/w"}"#),
            written("broken", r#"{"name": "blue-7", "uri": "/y""#),
        ];
        let check = |query: &str, expected: &[&str]| check_among(&objects, query, expected);
        check("name=blue-7", &["escaped", "plain"]);
        check("name=bl.e-7", &["escaped", "plain"]);
        check("name=7", &["escaped", "plain"]);
        check("name=red", &["twice"]);
        check("name=Blue", &[]);
        check("label=team", &["elsewhere", "escaped"]);
        check("label=env", &["plain"]);
        check("label=a", &[]);
        check("uri=/y", &["escaped", "plain"]);
        check("uri=/w", &["below", "twice"]);
        check("uri=/y&name=blue&label=x", &["plain"]);
        check("filter=service_id%3D9", &["escaped", "plain"]);
        check("filter=service_id%3D9&name=blue-7", &["escaped", "plain"]);
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
    fn nothing_more_is_looked_at_once_it_does_not_go_on() {
        let selection = Selection::of(Kind::Route, &Query::parse("uri=/a")).unwrap();
        let one = json!({"uri": "/a"});
        let objects: Vec<Object> = (0..10).map(|n| object(&n.to_string(), n, one.clone())).collect();
        let (asked, looked) = (Cell::new(0), Cell::new(0));
        let goes_on = |times: u32| {
            asked.set(asked.get() + 1);
            asked.get() <= times
        };
        let seen = objects.iter().inspect(|_| looked.set(looked.get() + 1));
        assert!(selection.apply(seen, &|| goes_on(3)).is_none());
        assert_eq!(looked.get(), 4, "the fourth was asked about, and not looked into");
        // Nor within one object.
        asked.set(0);
        let many = [object("many", 1, json!({"uris": vec!["/a"; 1000]}))];
        assert!(selection.apply(many.iter(), &|| goes_on(3)).is_none());
        assert_eq!(asked.get(), 5, "for the object, three of its paths, and the whole");
    }

    #[test]
    fn what_asks_for_a_pattern_is_a_search() {
        for (query, expected) in [("name=a", true), ("uri=%5B", true), ("name=&uri=", false), ("label=a&page=1", false)]
        {
            assert_eq!(Selection::searches(&Query::parse(query)), expected, "{query}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        let refused = Selection::of(Kind::Route, &Query::parse("name=%5B")).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(String::from_utf8_lossy(&refused.body).contains("invalid argument name: not a regular expression"));
    }
}
