//! YAML text as a tree of values that remember where they were written.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::load::Fault;

/// Nesting allowed in a file; ours has seven levels.
const MAX_DEPTH: usize = 32;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Line and column of the file, both from 1.
    File {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// Nowhere: a default, or something that is missing.
    Nowhere,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Yaml,
}

/// A YAML value of the core schema; tags, anchors and aliases are refused.
#[derive(Clone, Debug)]
pub(crate) enum Yaml {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A member of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// An empty mapping, which is what an empty file means.
    pub(crate) const fn empty() -> Self {
        Self { place: Place::Nowhere, value: Yaml::Map(Vec::new()) }
    }

    /// The same value without places.
    pub(crate) fn to_json(&self) -> Value {
        match &self.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => Value::Bool(*b),
            Yaml::Number(n) => Value::Number(n.clone()),
            Yaml::Text(t) => Value::String(t.clone()),
            Yaml::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Yaml::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The place of the value at a dotted path such as `apisix.ssl.listen[0].port`, or of the nearest part of it that is there.
    pub(crate) fn place_of(&self, path: &str) -> &Place {
        let mut node = self;
        for step in path.split(['.', '[']) {
            let next = match &node.value {
                Yaml::Map(entries) => entries.iter().find(|e| e.key == step).map(|e| &e.node),
                Yaml::List(items) => step.trim_end_matches(']').parse().ok().and_then(|i: usize| items.get(i)),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        &node.place
    }

    /// Puts `node` at a path of keys, making the mappings on the way and replacing what was there.
    pub(crate) fn put(&mut self, path: &[String], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Yaml::Map(_)) {
            *self = Self { place: node.place.clone(), value: Yaml::Map(Vec::new()) };
        }
        let Yaml::Map(entries) = &mut self.value else { return };
        let index = entries.iter().position(|e| e.key == *key).unwrap_or_else(|| {
            let place = node.place.clone();
            let node = Self { place: place.clone(), value: Yaml::Map(Vec::new()) };
            entries.push(Entry { key: key.clone(), place, node });
            entries.len() - 1
        });
        entries[index].node.put(rest, node);
    }
}

/// Of JSON that was written nowhere in particular.
impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        let place = Place::Nowhere;
        let value = match value {
            Value::Null => Yaml::Null,
            Value::Bool(b) => Yaml::Bool(*b),
            Value::Number(n) => Yaml::Number(n.clone()),
            Value::String(t) => Yaml::Text(t.clone()),
            Value::Array(items) => Yaml::List(items.iter().map(Self::from).collect()),
            Value::Object(members) => {
                let entry = |(key, value): (&String, &Value)| Entry {
                    key: key.clone(),
                    place: Place::Nowhere,
                    node: Self::from(value),
                };
                Yaml::Map(members.iter().map(entry).collect())
            }
        };
        Self { place, value }
    }
}

/// What a value is, for messages. Shows short scalars, so callers must not use it for secrets.
impl fmt::Display for Yaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(b) => write!(f, "`{b}`"),
            Self::Number(n) => write!(f, "the number {n}"),
            Self::Text(t) if t.chars().count() > 60 => f.write_str("a long text"),
            Self::Text(t) => write!(f, "the text {t:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Reads the one document of `text`. `place` tells where a position of the text is, so that text from the environment can
/// name its variable instead of a line.
pub(crate) fn parse(text: &str, place: &dyn Fn(usize, usize) -> Place) -> Result<Node, Fault> {
    let mut reader = Reader { parser: Parser::new_from_str(text), place };
    let mut document = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(document.unwrap_or_else(Node::empty)),
            Event::DocumentStart(_) if document.is_some() => {
                return Err(reader.fault(span, "a second YAML document begins here; a file holds one"));
            }
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                document = Some(reader.node(event, span, 0)?);
            }
            _ => {}
        }
    }
}

/// Reads YAML that is no file of ours, by the same rules: the core schema, one document, no anchors, aliases and tags, at most 32
/// levels.
///
/// # Errors
/// What is wrong with it, and where.
pub fn yaml(text: &str) -> Result<Value, Fault> {
    parse(text, &|line, column| Place::File { line, column }).map(|node| node.to_json())
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    place: &'a dyn Fn(usize, usize) -> Place,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => {
                let at = e.marker();
                Err(Fault::new((self.place)(at.line(), at.col() + 1), "", format!("not YAML: {}", e.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn at(&self, span: Span) -> Place {
        (self.place)(span.start.line(), span.start.col() + 1)
    }

    fn fault(&self, span: Span, message: &str) -> Fault {
        Fault::new(self.at(span), "", message.to_owned())
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Err(self.fault(span, "nested too deeply"));
        }
        let place = self.at(span);
        let value = match event {
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return Err(self.fault(span, "anchors (`&name`) are not supported; write the value out"));
            }
            Event::Alias(_) => return Err(self.fault(span, "aliases (`*name`) are not supported; write the value out")),
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(self.fault(span, "tags (`!name`) are not supported"));
            }
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Yaml::List(items),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.mapping(depth)?,
            _ => return Err(self.fault(span, "a value is missing here")),
        };
        Ok(Node { place, value })
    }

    fn mapping(&mut self, depth: usize) -> Result<Yaml, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Yaml::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.fault(span, "a key must be plain text")),
            };
            if key == "<<" {
                return Err(self.fault(span, "merge keys (`<<`) are not supported; write the members out"));
            }
            if entries.iter().any(|e| e.key == key) {
                return Err(Fault::new(self.at(span), key.clone(), "the key is given twice in one mapping".to_owned()));
            }
            let place = self.at(span);
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            entries.push(Entry { key, place, node });
        }
    }
}

/// A scalar of YAML 1.2's core schema (section 10.3.2). Quoted text is always text; so are `yes`, `no`, `on` and `off`.
fn scalar(text: &str, style: ScalarStyle) -> Yaml {
    if style != ScalarStyle::Plain {
        return Yaml::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Yaml::Null,
        "true" | "True" | "TRUE" => Yaml::Bool(true),
        "false" | "False" | "FALSE" => Yaml::Bool(false),
        _ => number(text).map_or_else(|| Yaml::Text(text.to_owned()), Yaml::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return plain(hex, u8::is_ascii_hexdigit).and_then(|h| u64::from_str_radix(h, 16).ok()).map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return plain(octal, |b| (b'0'..=b'7').contains(b))
            .and_then(|o| u64::from_str_radix(o, 8).ok())
            .map(Number::from);
    }
    if plain(digits, u8::is_ascii_digit).is_some() {
        let unsigned: u64 = digits.parse().ok()?;
        return if sign {
            i64::try_from(unsigned).ok().map(|n| Number::from(-n))
        } else {
            Some(Number::from(unsigned))
        };
    }
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'));
    float.then(|| text.parse().ok().and_then(Number::from_f64)).flatten()
}

fn plain(text: &str, digit: impl Fn(&u8) -> bool) -> Option<&str> {
    (!text.is_empty() && text.as_bytes().iter().all(digit)).then_some(text)
}
