//! Paths into JSON documents, as far as the gateway's configuration speaks them.
//!
//! Two kinds share one type (`docs/spec/plugins/_variables.md`, `post_arg.PATH`): a plain dotted path (`user.name`)
//! names at most one value; a path with `[`, `*` or `..` is a query and gives the list of its matches. Queries know
//! names, `['names']`, `[n]` (negative from the end), `[start:end:step]`, unions of these, `*` and `..`. Filters and
//! script expressions are deliberately absent: such a path is refused when the configuration is written.

use serde_json::Value;
use thiserror::Error;

use crate::var::Var;

/// A query keeps at most this many values in hand, so that repeated `..` cannot multiply a body without bound.
const MAX_NODES: usize = 65_536;

/// A path that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid JSONPath '{path}': {reason}")]
pub struct JsonPathError {
    /// The path as written.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
    query: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// After `..`: applied to the value and all its descendants.
    deep: bool,
    selectors: Vec<Selector>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Selector {
    Name(Box<str>),
    Index(i64),
    Slice { start: Option<i64>, end: Option<i64>, step: i64 },
    All,
}

impl JsonPath {
    /// Parses a path. The root `$` may be left out.
    pub fn parse(text: &str) -> Result<JsonPath, JsonPathError> {
        let query = text.contains(['[', '*']) || text.contains("..");
        parse_steps(text)
            .map(|steps| JsonPath { steps, query })
            .map_err(|reason| JsonPathError { path: text.to_owned(), reason })
    }

    /// Whether the path may match several values.
    pub fn is_query(&self) -> bool {
        self.query
    }

    /// All matches in document order; a value reached in two ways is listed twice. At most 65,536 are kept.
    pub fn select<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut nodes = vec![root];
        for step in &self.steps {
            if step.deep {
                nodes = descendants(&nodes);
            }
            let mut next = Vec::new();
            for node in nodes {
                for selector in &step.selectors {
                    selector.apply(node, &mut next);
                }
                if next.len() >= MAX_NODES {
                    next.truncate(MAX_NODES);
                    break;
                }
            }
            nodes = next;
        }
        nodes
    }

    /// The value as a variable: the one value of a dotted path, the list of matches of a query, `None` if there is
    /// none.
    pub fn var<'v>(&self, root: &'v Value) -> Option<Var<'v>> {
        let found = self.select(root);
        if self.query {
            (!found.is_empty()).then(|| Var::List(found.into_iter().cloned().collect()))
        } else {
            Var::from_json(found.first()?)
        }
    }
}

impl Selector {
    fn apply<'v>(&self, node: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, node) {
            (Selector::Name(name), Value::Object(members)) => out.extend(members.get(&**name)),
            (Selector::All, Value::Object(members)) => out.extend(members.values()),
            (Selector::All, Value::Array(items)) => out.extend(items),
            (Selector::Index(index), Value::Array(items)) => {
                out.extend(from_end(*index, items.len()).and_then(|index| items.get(index)));
            }
            (Selector::Slice { start, end, step }, Value::Array(items)) => slice(items, *start, *end, *step, out),
            _ => {}
        }
    }
}

/// An index that counts from the end if negative; `None` if that is before the start.
fn from_end(index: i64, len: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn slice<'v>(items: &'v [Value], start: Option<i64>, end: Option<i64>, step: i64, out: &mut Vec<&'v Value>) {
    let clamp = |bound: i64| from_end(bound, items.len()).unwrap_or(0).min(items.len());
    let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    if step > 0 {
        let (start, end) = (start.map_or(0, clamp), end.map_or(items.len(), clamp));
        out.extend(items.get(start..end).unwrap_or_default().iter().step_by(stride));
    } else {
        // Backwards: from `start` down to, not including, `end`.
        let top = start.map_or(items.len(), |start| match from_end(start, items.len()) {
            Some(start) => start.saturating_add(1).min(items.len()),
            None => 0,
        });
        let bottom = end.map_or(0, |end| from_end(end, items.len()).map_or(0, |end| end.saturating_add(1)));
        out.extend(items.get(bottom..top).unwrap_or_default().iter().rev().step_by(stride));
    }
}

/// The values themselves and everything below them, parents first.
fn descendants<'v>(nodes: &[&'v Value]) -> Vec<&'v Value> {
    let mut found = Vec::new();
    let mut open: Vec<&Value> = nodes.iter().rev().copied().collect();
    while let Some(node) = open.pop() {
        if found.len() == MAX_NODES {
            break;
        }
        found.push(node);
        match node {
            Value::Array(items) => open.extend(items.iter().rev()),
            Value::Object(members) => open.extend(members.values().rev()),
            _ => {}
        }
    }
    found
}

fn parse_steps(text: &str) -> Result<Vec<Step>, &'static str> {
    let mut rest = match text.strip_prefix('$') {
        Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => rest,
        _ => text,
    };
    let mut steps = Vec::new();
    let mut first = true;
    while !rest.is_empty() {
        let deep = rest.starts_with("..");
        let dot = rest.starts_with('.');
        rest = rest.strip_prefix("..").or_else(|| rest.strip_prefix('.')).unwrap_or(rest);
        let selectors;
        (selectors, rest) = match rest.strip_prefix('[') {
            Some(inner) => brackets(inner)?,
            None if dot || first => member(rest)?,
            None => return Err("a '.' or '[' is expected after ']'"),
        };
        steps.push(Step { deep, selectors });
        first = false;
    }
    if steps.is_empty() { Err("it names nothing") } else { Ok(steps) }
}

/// Reads `name` or `*` up to the next `.` or `[`.
fn member(text: &str) -> Result<(Vec<Selector>, &str), &'static str> {
    let (name, rest) = text.split_at(text.find(['.', '[']).unwrap_or(text.len()));
    match name {
        "" => Err("a name is missing"),
        "*" => Ok((vec![Selector::All], rest)),
        _ if name
            .contains(|c: char| matches!(c, '*' | ']' | '(' | ')' | '?' | '@' | '"' | '\'') || c.is_whitespace()) =>
        {
            Err("a name with special characters must be written as ['name']")
        }
        _ => Ok((vec![Selector::Name(name.into())], rest)),
    }
}

/// Reads what follows a `[`, up to and with its `]`.
fn brackets(text: &str) -> Result<(Vec<Selector>, &str), &'static str> {
    let mut selectors = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        let selector;
        (selector, rest) = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => quoted(rest, quote)?,
            Some(_) => {
                let end = rest.find([',', ']']).ok_or("a ']' is missing")?;
                let (inner, rest) = rest.split_at(end);
                (number_or_slice(inner.trim_ascii())?, rest)
            }
            None => return Err("a ']' is missing"),
        };
        selectors.push(selector);
        rest = rest.trim_ascii_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((selectors, rest.strip_prefix(']').ok_or("a ']' is missing")?)),
        }
    }
}

fn quoted(text: &str, quote: char) -> Result<(Selector, &str), &'static str> {
    let mut name = String::new();
    let mut chars = text.chars();
    chars.next();
    while let Some(c) = chars.next() {
        match c {
            '\\' => name.push(chars.next().ok_or("a quote is missing")?),
            c if c == quote => return Ok((Selector::Name(name.into()), chars.as_str())),
            c => name.push(c),
        }
    }
    Err("a quote is missing")
}

fn number_or_slice(text: &str) -> Result<Selector, &'static str> {
    const WRONG: &str = "only names in quotes, numbers, slices and '*' may stand in brackets";
    let number = |text: &str| match text.trim_ascii() {
        "" => Ok(None),
        digits => digits.parse::<i64>().map(Some).map_err(|_| WRONG),
    };
    if text == "*" {
        return Ok(Selector::All);
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [index] => number(index)?.map(Selector::Index).ok_or(WRONG),
        [start, end] => Ok(Selector::Slice { start: number(start)?, end: number(end)?, step: 1 }),
        [start, end, step] => match number(step)?.unwrap_or(1) {
            0 => Err("the step of a slice must not be 0"),
            step => Ok(Selector::Slice { start: number(start)?, end: number(end)?, step }),
        },
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(path: &str, expected: Value) {
        let root = json!({
            "user": {"name": "ann", "tags": ["x", "y", "z"], "a b": {"name": 7}},
            "items": [{"id": 1, "name": "one"}, {"id": 2}],
            "n": null
        });
        let found: Vec<Value> = JsonPath::parse(path).unwrap().select(&root).into_iter().cloned().collect();
        assert_eq!(Value::Array(found), expected, "{path}");
    }

    #[test]
    fn paths_select() {
        check("user.name", json!(["ann"]));
        check("$.user.name", json!(["ann"]));
        check("user.missing.name", json!([]));
        check("user.tags[*]", json!(["x", "y", "z"]));
        check("user.tags[1]", json!(["y"]));
        check("user.tags[-1]", json!(["z"]));
        check("user.tags[-9]", json!([]));
        check("user.tags[0,2]", json!(["x", "z"]));
        check("user.tags[1:]", json!(["y", "z"]));
        check("user.tags[:-1]", json!(["x", "y"]));
        check("user.tags[::2]", json!(["x", "z"]));
        check("user.tags[::-1]", json!(["z", "y", "x"]));
        check("user.tags[1::-1]", json!(["y", "x"]));
        check("user.tags[5:9]", json!([]));
        check("user['a b'].name", json!([7]));
        check("user[\"name\", 'tags'][0]", json!(["x"]));
        check("..name", json!(["ann", 7, "one"]));
        check("$..name", json!(["ann", 7, "one"]));
        check("items[*].id", json!([1, 2]));
        check("items.*.id", json!([1, 2]));
        check("items..[0]", json!([{"id": 1, "name": "one"}]));
        check("[0]", json!([]));
    }

    #[test]
    fn malformed_paths_are_refused() {
        for path in [
            "",
            "$",
            "a.",
            "a...b",
            "a[",
            "a[]",
            "a[1",
            "a[x]",
            "a['x]",
            "a[1]b",
            "a b",
            "a*",
            "a[?(@.b)]",
            "a[(1)]",
            "a[::0]",
            "a[1:2:3:4]",
            "a]",
            "a..",
            ".",
            "a['\\",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn dotted_paths_give_a_value_and_queries_a_list() {
        let root = json!({"a": {"b": 1.5, "c": [true], "d": {"e": 1}, "n": null}});
        let var = |path: &str| JsonPath::parse(path).unwrap().var(&root);
        assert_eq!(var("a.b"), Some(Var::Num(1.5)));
        assert_eq!(var("a.c"), Some(Var::List(vec![json!(true)])));
        assert_eq!(var("a.c[0]"), Some(Var::List(vec![json!(true)])));
        assert_eq!(var("a.d"), Some(Var::from(r#"{"e":1}"#)));
        assert_eq!(var("a.n"), None);
        assert_eq!(var("a.x[*]"), None);
    }

    #[test]
    fn repeated_descent_is_bounded() {
        let mut root = json!(1);
        for _ in 0..100 {
            root = json!([root, [1, 2, 3]]);
        }
        let path = JsonPath::parse("..*..*..*..*..*").unwrap();
        let found = path.select(&root).len();
        assert!((10_000..=MAX_NODES).contains(&found), "{found}");
    }
}
