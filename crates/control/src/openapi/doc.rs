//! What an endpoint of `/api` says of itself: the part of a row of its table that becomes the document.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use milecastle_model::{Key, Kind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// Lengths of time as arguments and bodies have them: `500ms`, `30s`, `1h30m`, a bare number of seconds.
pub(crate) const SPAN: &str = "^([0-9]{1,4}(ms|s|m|h|d)){1,3}$|^[0-9]{1,8}$";

/// Longest such length in seconds, as [`milecastle_settings::Time`] has it.
const LONGEST_SPAN: u64 = 100 * 365 * 86_400;

/// The schema of a type, made where definitions are collected.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What an endpoint takes and gives. What follows from its method, its path and its right is not said again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doc {
    /// What it does, in a line.
    pub(super) summary: &'static str,
    /// Arguments of the query.
    pub(super) query: &'static [Param],
    /// The body of the request.
    pub(super) takes: Option<SchemaOf>,
    /// Whether there must be one.
    pub(super) needs: bool,
    /// The status of success, and the body that comes with it.
    pub(super) status: u16,
    pub(super) gives: Option<SchemaOf>,
    /// A media type beside JSON, in which it is given too.
    pub(super) also: Option<&'static str>,
    /// Statuses of refusals that only this endpoint knows.
    pub(super) refuses: &'static [u16],
}

/// An argument of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Param {
    name: &'static str,
    about: &'static str,
    form: Form,
    needed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Like(&'static str),
    Flag,
    Whole { min: u64, max: u64 },
    Span,
    OneOf(&'static [&'static str]),
    Listed(&'static [&'static str]),
    Kind,
    Kinds,
    Objects,
}

/// The schema of a length of time in a body: as it is taken a text or a number of seconds, as it is given a text of one unit.
pub(crate) struct Span;

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        if generator.contract().is_serialize() {
            return json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" });
        }
        let seconds = json!({ "type": "integer", "minimum": 0, "maximum": LONGEST_SPAN });
        json_schema!({ "anyOf": [{ "type": "string", "pattern": SPAN }, seconds] })
    }
}

/// The schema of what can be merged into a type: any of its members, or `null` in place of one.
fn merged<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator).to_value();
    let_members_go(&mut schema);
    schema.try_into().expect("it was a schema before")
}

fn let_members_go(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("required");
    for member in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let_members_go(member);
        *member = json!({ "anyOf": [member.take(), { "type": "null" }] });
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Doc {
    const fn new(summary: &'static str, status: u16, gives: Option<SchemaOf>) -> Self {
        Self { summary, query: &[], takes: None, needs: false, status, gives, also: None, refuses: &[] }
    }

    /// Answers 200 with a `T`.
    pub(crate) const fn gives<T: JsonSchema>(summary: &'static str) -> Self {
        Self::new(summary, 200, Some(schema_of::<T>))
    }

    /// Answers 201 with a `T`.
    pub(crate) const fn makes<T: JsonSchema>(summary: &'static str) -> Self {
        Self::new(summary, 201, Some(schema_of::<T>))
    }

    /// Answers 204.
    pub(crate) const fn done(summary: &'static str) -> Self {
        Self::new(summary, 204, None)
    }

    /// Answers 303: sends the browser elsewhere.
    pub(crate) const fn leads(summary: &'static str) -> Self {
        Self::new(summary, 303, None)
    }

    /// Takes a `T` as its body, of which all may be left out.
    pub(crate) const fn takes<T: JsonSchema>(self) -> Self {
        Self { takes: Some(schema_of::<T>), ..self }
    }

    /// Needs a `T` as its body.
    pub(crate) const fn needs<T: JsonSchema>(self) -> Self {
        Self { needs: true, ..self.takes::<T>() }
    }

    /// Needs a `T` as its body, in another form than it is given in.
    pub(crate) const fn needs_otherwise<T: JsonSchema>(self) -> Self {
        Self { takes: Some(T::json_schema), needs: true, ..self }
    }

    /// Takes what is to be merged into a `T`.
    pub(crate) const fn merges<T: JsonSchema>(self) -> Self {
        Self { takes: Some(merged::<T>), needs: true, ..self }
    }

    /// Takes these arguments.
    pub(crate) const fn query(self, query: &'static [Param]) -> Self {
        Self { query, ..self }
    }

    /// Refuses with these statuses too.
    pub(crate) const fn refuses(self, refuses: &'static [u16]) -> Self {
        Self { refuses, ..self }
    }

    /// Gives this media type too.
    pub(crate) const fn also(self, media_type: &'static str) -> Self {
        Self { also: Some(media_type), ..self }
    }
}

impl Param {
    const fn new(name: &'static str, about: &'static str, form: Form) -> Self {
        Self { name, about, form, needed: false }
    }

    /// Any text.
    pub(crate) const fn text(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Text)
    }

    /// A text that this regular expression describes.
    pub(crate) const fn like(name: &'static str, pattern: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Like(pattern))
    }

    /// The name of a kind of object.
    pub(crate) const fn kind(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Kind)
    }

    /// Names of kinds or of their collections, with commas between them.
    pub(crate) const fn kinds(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Kinds)
    }

    /// Paths of objects, with commas between them.
    pub(crate) const fn objects(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Objects)
    }

    /// Nothing is done without it.
    pub(crate) const fn needed(self) -> Self {
        Self { needed: true, ..self }
    }

    /// `true` or `false`; `false` without it.
    pub(crate) const fn flag(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Flag)
    }

    /// A whole number of these bounds.
    pub(crate) const fn whole(name: &'static str, min: u64, max: u64, about: &'static str) -> Self {
        Self::new(name, about, Form::Whole { min, max })
    }

    /// A length of time.
    pub(crate) const fn span(name: &'static str, about: &'static str) -> Self {
        Self::new(name, about, Form::Span)
    }

    /// One of these words.
    pub(crate) const fn one_of(name: &'static str, words: &'static [&'static str], about: &'static str) -> Self {
        Self::new(name, about, Form::OneOf(words))
    }

    /// Some of these words, with commas between them.
    pub(crate) const fn listed(name: &'static str, words: &'static [&'static str], about: &'static str) -> Self {
        Self::new(name, about, Form::Listed(words))
    }

    /// Whether it makes a request wait for nodes, for which there may be no place.
    pub(super) fn waits(&self) -> bool {
        matches!(self.form, Form::Span)
    }

    /// As the document has it.
    pub(super) fn shown(&self) -> Value {
        let schema = match self.form {
            Form::Text => json!({ "type": "string" }),
            Form::Like(pattern) => json!({ "type": "string", "pattern": pattern }),
            Form::Flag => json!({ "type": "boolean", "default": false }),
            Form::Whole { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
            Form::Span => json!({ "type": "string", "pattern": SPAN }),
            Form::OneOf(words) => json!({ "type": "string", "enum": words }),
            Form::Listed(words) => json!({ "type": "string", "pattern": listed(&words.join("|")) }),
            Form::Kind => json!({ "type": "string", "enum": kind_names(Kind::ALL.iter().copied()) }),
            Form::Kinds => {
                let names = Kind::ALL.iter().flat_map(|kind| BTreeSet::from([kind.name(), kind.collection()]));
                json!({ "type": "string", "pattern": listed(&names.collect::<Vec<_>>().join("|")) })
            }
            Form::Objects => {
                let paths: Vec<String> = Kind::ALL.iter().copied().map(path_of).collect();
                json!({ "type": "string", "pattern": listed(&paths.join("|")) })
            }
        };
        let mut shown = json!({ "name": self.name, "in": "query", "description": self.about, "schema": schema });
        if self.needed {
            shown["required"] = true.into();
        }
        shown
    }
}

/// Names of kinds, as arguments and bodies have them.
fn kind_names(kinds: impl Iterator<Item = Kind>) -> Vec<&'static str> {
    kinds.map(Kind::name).collect()
}

/// Names of the kinds that the Admin API knows, by the pattern of their ids as [`Key::id`] has them.
pub(crate) fn resource_ids() -> BTreeMap<String, Vec<&'static str>> {
    let mut all: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_resource()) {
        all.entry(format!("^{}$", id_of(kind))).or_default().push(kind.name());
    }
    all
}

/// The schema of bodies by the paths of their objects, as files of groups have them.
pub(crate) fn bodies_by_path(_: &mut SchemaGenerator) -> Schema {
    let body = json!({ "type": "object" });
    let paths: Map<String, Value> =
        Kind::ALL.iter().map(|kind| (format!("^{}$", path_of(*kind)), body.clone())).collect();
    json_schema!({
        "type": "object",
        "description": "Bodies by the paths of objects: `/routes/1`.",
        "patternProperties": paths,
        "additionalProperties": false,
    })
}

/// A pattern of what this one describes, once, several times with commas between them, or not at all.
fn listed(one: &str) -> String {
    format!("^(({one})(,({one}))*)?$")
}

/// A pattern of the paths of the objects of a kind.
fn path_of(kind: Kind) -> String {
    match kind.is_resource() {
        true => format!("/{}/{}", kind.parent().unwrap_or(kind).collection(), id_of(kind)),
        false => Key::group_settings().path(),
    }
}

/// A pattern of the ids of the objects of a kind.
fn id_of(kind: Kind) -> String {
    match kind.parent() {
        Some(_) => format!("[^,/]+/{}/[^,/]+", kind.collection()),
        None if kind == Kind::Secret => "[^,/]+/[^,/]+".to_owned(),
        None => "[^,/]+".to_owned(),
    }
}
