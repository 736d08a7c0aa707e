//! The attribute tables of `docs/spec/resources.md` through the Admin API, row by row: what is taken is stored as it was sent, what
//! lies just outside is refused with its place and the reason, and defaults are those of the served schema. A row of such a
//! table that no test tries fails the test of its section. §0, §7 and §11 to §13 have none: what they say is tried by name.
//!
//! What the data plane makes of them is tested there; `xtask/src/tidy/rules/mod.rs` has the places.

mod certificates;
mod health;
mod people;
mod routes;
mod shared;
mod upstreams;

use crate::gateway::Gateway;
use serde_json::Value;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../../../docs/spec/resources.md");

/// No value of an attribute that is refused, or none that is taken here.
const NONE: &[(Value, &str)] = &[];

// Reasons of refusals that several tables have.
const EMPTY: &str = "string too short, expected at least 1, got 0";
const NO_ITEMS: &str = "expect array to have at least 1 items";
const NOT_UNIQUE: &str = "expected unique items but items 1 and 2 are equal";
const NO_WORD: &str = "matches none of the enum values";
const NO_TEXT: &str = "wrong type: expected string, got number";
const NO_INTEGER: &str = "wrong type: expected integer, got string";
const NO_BOOLEAN: &str = "wrong type: expected boolean, got number";
const NO_OBJECT: &str = "wrong type: expected object, got string";
/// Of `a b`, which is no HOST.
const NO_HOST: &str = r#"failed to match pattern "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$" with "a b""#;

/// Values that are no ID, each with the reason.
fn no_ids() -> [(Value, &'static str); 2] {
    [
        ("".into(), "object matches none of the required: string too short, expected at least 1, got 0"),
        (0.into(), "object matches none of the required: expected 0 to be at least 1"),
    ]
}

/// Why a text is no IP.
fn no_ip(text: &str) -> String {
    let reasons =
        ["ipv4", "ipv4-cidr", "ipv6", "ipv6-cidr"].map(|form| format!("expect valid {form} format but got: {text}"));
    format!("object matches none of the required: {}", reasons.join("; or "))
}

/// A text of so many characters.
fn long(length: usize) -> String {
    "x".repeat(length)
}

/// The reason of a fault one level further down.
fn within(name: &str, reason: &str) -> String {
    format!("property \"{name}\" validation failed: {reason}")
}

/// A table of the page, and the objects in which its rows are tried.
struct Table<'a> {
    gw: &'a Gateway,
    section: &'static str,
    /// Where the objects are written.
    path: &'static str,
    /// A body with no more than it must have.
    base: Value,
    /// Where in a body the attributes are.
    at: &'static [&'static str],
    /// The schema of what has the attributes.
    schema: Value,
    tried: BTreeSet<&'static str>,
}

impl<'a> Table<'a> {
    /// The table of a section, whose attributes are at `at` in objects of the kind.
    async fn new(
        gw: &'a Gateway,
        section: &'static str,
        (kind, path): (&str, &'static str),
        at: &'static [&'static str],
        base: Value,
    ) -> Self {
        let mut schema = gw.send(&format!("GET /schema/{kind}")).await.json().unwrap();
        for name in at {
            schema = schema["properties"][*name].take();
        }
        assert!(schema.is_object(), "§{section}");
        Self { gw, section, path, base, at, schema, tried: BTreeSet::new() }
    }

    /// The body that is taken is stored without any default.
    async fn is_stored_as_sent(&self) {
        self.gw.done(&format!("PUT {} {}", self.path, self.base)).await;
        let mut stored = self.gw.read(self.path).await;
        stored.as_object_mut().unwrap().shift_remove("id");
        assert_eq!(stored, self.base, "§{}", self.section);
    }

    /// An attribute (`healthy.interval`): values that are taken, and such as are refused, each with the reason.
    async fn row<R: AsRef<str>>(&mut self, name: &'static str, taken: &[Value], refused: &[(Value, R)]) {
        let base = self.base.clone();
        self.row_of(base, name, taken, refused).await;
    }

    /// The same in a body that has what the attribute needs beside it.
    async fn row_of<R: AsRef<str>>(
        &mut self,
        base: Value,
        name: &'static str,
        taken: &[Value],
        refused: &[(Value, R)],
    ) {
        let at: Vec<&str> = self.at.iter().copied().chain(name.split('.')).collect();
        let line = |value: &Value| {
            let mut body = base.clone();
            *at.iter().fold(&mut body, |place, name| &mut place[*name]) = value.clone();
            format!("PUT {} {body}", self.path)
        };
        for value in taken {
            let stored = self.gw.done(&line(value)).await;
            let stored = at.iter().fold(&stored, |place, name| &place[*name]);
            assert_eq!(stored, value, "§{} {name}", self.section);
        }
        for (value, reason) in refused {
            let said = at.iter().rev().fold(reason.as_ref().to_owned(), |inner, name| within(name, &inner));
            self.gw.refused(&line(value), 400, &format!("invalid configuration: {said}")).await;
        }
        self.tried.insert(name);
    }

    /// The default of an attribute in the served schema, which is the page's where that has one for it.
    fn default(&self, name: &str, default: Value) {
        let of = name.split('.').fold(&self.schema, |schema, name| &schema["properties"][name]);
        assert_eq!(of["default"], default, "§{} {name}", self.section);
        for (_, cell) in attributes(self.section).into_iter().filter(|(attribute, _)| *attribute == name) {
            let cell = cell.expect("a column of defaults").trim_matches('`');
            let said = serde_json::from_str(cell).unwrap_or_else(|_| Value::from(cell));
            assert_eq!(said, default, "§{} {name}", self.section);
        }
    }

    /// The end: no row was forgotten.
    fn is_whole(&self) {
        let rows = attributes(self.section);
        assert!(!rows.is_empty(), "§{} has no table", self.section);
        let forgotten: Vec<_> = rows.iter().filter(|(name, _)| !self.tried.contains(name)).collect();
        assert!(forgotten.is_empty(), "no case of §{} tries {forgotten:?}", self.section);
    }
}

/// The number of the section that begins with a line.
fn heading(line: &str) -> Option<&str> {
    let title = line.strip_prefix("## ").or_else(|| line.strip_prefix("### "))?;
    Some(title.split(' ').next()?.trim_end_matches('.'))
}

/// The attributes of a section's table, each with what stands in the column of defaults.
fn attributes(section: &str) -> Vec<(&'static str, Option<&'static str>)> {
    let lines = PAGE.lines().skip_while(|line| heading(line) != Some(section)).skip(1);
    let table = lines.take_while(|line| heading(line).is_none()).skip_while(|line| !line.starts_with("| attribute |"));
    let cells = |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let mut rows = table.take_while(|line| line.starts_with('|')).map(cells);
    let Some(head) = rows.next() else { return Vec::new() };
    let column = head.iter().position(|title| *title == "default");
    let named = |row: Vec<&'static str>| {
        let default = column.map(|column| row[column]);
        let names: Vec<_> = row[0].split('`').skip(1).step_by(2).map(|name| (name, default)).collect();
        names
    };
    // The line below the titles is none.
    rows.skip(1).flat_map(named).collect()
}
