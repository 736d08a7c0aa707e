//! Checks a tree against the schema of its type and reports every fault with its place.
//!
//! Understands what `schemars` makes of this crate's types and no more; the schemas are generated without references.

use milecastle_model::nearest;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::load::Fault;
use crate::tree::{Entry, Node, Place, Yaml};
use crate::units::check_format;

/// The schema of a file.
pub(crate) struct Schema(Value);

/// Keys of other products' files that have no counterpart of the same name here, and what to do about them.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "deployment",
        "nodes take their configuration from `control_plane`; the Admin API's keys are in the dashboard's file, under `admin`",
    ),
    ("etcd", "there is no etcd: nodes take their configuration from `control_plane`"),
    (
        "plugins",
        "which plugins are enabled is a setting of the gateway group: `milecastle group settings set GROUP --plugins a,b`",
    ),
    (
        "stream_plugins",
        "plugins of TCP and UDP are a setting of the gateway group: `milecastle group settings set GROUP --stream-plugins a,b`",
    ),
    (
        "proxy_mode",
        "a node serves what it has listeners for; whether a gateway group takes TCP and UDP routes is a setting of the group: \
         `milecastle group settings set GROUP --proxy-mode 'http&stream'`",
    ),
    (
        "router",
        "how routes are matched is a setting of the gateway group: `milecastle group settings set GROUP --router radixtree_uri`",
    ),
    ("worker_processes", "use the key `workers` of the gateway"),
    ("error_log_level", "use the key `log.level`"),
    ("error_log", "the log goes to standard error; see `log`"),
];

impl Schema {
    /// The schema of `T` as it is read.
    pub(crate) fn of<T: JsonSchema>() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        Self(settings.into_generator().into_root_schema_for::<T>().to_value())
    }

    /// The schema itself.
    pub(crate) const fn root(&self) -> &Value {
        &self.0
    }

    /// Whether the value at a path of keys can only be text.
    pub(crate) fn is_text(&self, path: &[String]) -> bool {
        let mut schema = &self.0;
        for key in path {
            let Some(next) = branches(schema).find_map(|s| member(s, key)) else { return false };
            schema = next;
        }
        let mut types = branches(schema).flat_map(types).filter(|t| *t != "null").peekable();
        types.peek().is_some() && types.all(|t| t == "string")
    }
}

/// The alternatives of a schema, or the schema itself where there are none.
pub(crate) fn branches(schema: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        Some(list) => Box::new(list.iter().flat_map(branches)),
        None => Box::new(std::iter::once(schema)),
    }
}

/// The JSON types a schema without alternatives names.
pub(crate) fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(t)) => vec![t],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The schema of a member of an object schema.
fn member<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema
        .get("properties")
        .and_then(|p| p.get(key))
        .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object() || s.as_bool() == Some(true)))
}

/// Every fault of `tree`, in the file's order.
pub(crate) fn check(schema: &Schema, tree: &Node) -> Vec<Fault> {
    let mut walk = Walk { root: schema.root(), faults: Vec::new() };
    walk.value(schema.root(), tree, String::new());
    walk.faults
}

struct Walk<'a> {
    root: &'a Value,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    fn fault(&mut self, place: &Place, key: &str, message: String) {
        self.faults.push(Fault::new(place.clone(), key, message));
    }

    fn value(&mut self, schema: &Value, node: &Node, key: String) {
        let fitting: Vec<&Value> = branches(schema).filter(|s| fits(s, &node.value)).collect();
        match fitting.as_slice() {
            [] if node.value.is_empty_section() && branches(schema).any(|s| types(s).contains(&"object")) => {}
            [] => {
                self.fault(&node.place, &key, format!("expected {}, found {}", words(schema), shown(schema, node)));
            }
            [one] => self.fitting(one, node, key),
            [first, ..] => {
                // Several alternatives of one JSON type: the first that has no fault, or else the faults of the first.
                let passes = fitting.iter().any(|s| {
                    let mut trial = Walk { root: self.root, faults: Vec::new() };
                    trial.fitting(s, node, key.clone());
                    trial.faults.is_empty()
                });
                if !passes {
                    self.fitting(first, node, key);
                }
            }
        }
    }

    fn fitting(&mut self, schema: &Value, node: &Node, key: String) {
        match &node.value {
            Yaml::Map(entries) => self.mapping(schema, node, entries, &key),
            Yaml::List(items) => {
                if let Some(least) = schema["minItems"].as_u64().filter(|least| (items.len() as u64) < *least) {
                    self.fault(&node.place, &key, format!("expected at least {least} items"));
                }
                if let Some(most) = schema["maxItems"].as_u64().filter(|most| items.len() as u64 > *most) {
                    self.fault(&node.place, &key, format!("expected at most {most} items"));
                }
                if let Some(schema) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.value(schema, item, format!("{key}[{i}]"));
                    }
                }
            }
            Yaml::Number(n) => {
                let number = n.as_f64().unwrap_or(f64::NAN);
                let below = schema["minimum"].as_f64().is_some_and(|least| number < least);
                let above = schema["maximum"].as_f64().is_some_and(|most| number > most);
                if below || above {
                    self.fault(&node.place, &key, format!("expected {}, found {n}", words(schema)));
                }
                self.format(schema, node, &key, &n.to_string());
            }
            Yaml::Text(text) => {
                if schema["minLength"].as_u64().is_some_and(|least| (text.chars().count() as u64) < least) {
                    self.fault(&node.place, &key, "expected text that is not empty".into());
                }
                self.format(schema, node, &key, text);
            }
            Yaml::Null | Yaml::Bool(_) => {}
        }
    }

    fn format(&mut self, schema: &Value, node: &Node, key: &str, text: &str) {
        if let Some(Err(e)) = schema["format"].as_str().map(|format| check_format(format, text)) {
            self.fault(&node.place, key, format!("{e}, found {}", shown(schema, node)));
        }
    }

    fn mapping(&mut self, schema: &Value, node: &Node, entries: &[Entry], key: &str) {
        for entry in entries {
            let path = if key.is_empty() { entry.key.clone() } else { format!("{key}.{}", entry.key) };
            match member(schema, &entry.key) {
                Some(schema) => self.value(schema, &entry.node, path),
                None => {
                    self.fault(&entry.place, &path, format!("unknown key{}", advice(self.root, schema, &entry.key)))
                }
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !entries.iter().any(|e| e.key == required) {
                self.fault(&node.place, key, format!("`{required}` is required here"));
            }
        }
    }
}

/// What was found, for messages: of what may hold a secret, nothing.
fn shown(schema: &Value, node: &Node) -> String {
    if schema["writeOnly"] == true { "something else".into() } else { node.value.to_string() }
}

impl Yaml {
    /// A section whose key is written with nothing below it.
    const fn is_empty_section(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// Whether a schema without alternatives takes values of this kind.
fn fits(schema: &Value, value: &Yaml) -> bool {
    let types = types(schema);
    let kind = match value {
        Yaml::Null => "null",
        Yaml::Bool(_) => "boolean",
        Yaml::Number(n) if n.is_f64() => "number",
        Yaml::Number(_) => "integer",
        Yaml::Text(_) => "string",
        Yaml::List(_) => "array",
        Yaml::Map(_) => "object",
    };
    let kind_fits = types.is_empty() || types.contains(&kind) || (kind == "integer" && types.contains(&"number"));
    kind_fits && (choices(schema).is_empty() || matches!(value, Yaml::Text(t) if choices(schema).contains(&t.as_str())))
}

/// The words a schema is limited to; empty where it is not.
pub(crate) fn choices(schema: &Value) -> Vec<&str> {
    match (schema.get("enum").and_then(Value::as_array), schema.get("const")) {
        (Some(list), _) => list.iter().filter_map(Value::as_str).collect(),
        (None, Some(one)) => one.as_str().into_iter().collect(),
        (None, None) => Vec::new(),
    }
}

/// What a schema takes, for messages.
fn words(schema: &Value) -> String {
    let mut all: Vec<String> = Vec::new();
    for branch in branches(schema) {
        if let Some(Err(e)) = branch["format"].as_str().map(|format| check_format(format, "\0")) {
            all.push(e.0.to_owned());
            continue;
        }
        if !choices(branch).is_empty() {
            all.extend(choices(branch).iter().map(|c| format!("`{c}`")));
            continue;
        }
        all.extend(types(branch).into_iter().filter(|t| *t != "null").map(|t| match t {
            "integer" => format!("a whole number{}", range(branch)),
            "number" => format!("a number{}", range(branch)),
            "boolean" => "`true` or `false`".into(),
            "string" => "text (in quotes where it looks like something else)".into(),
            "array" => "a list".into(),
            _ => "a mapping".into(),
        }));
    }
    all.join(" or ")
}

/// The range of a number: ` from 1 to 65535`, or nothing.
pub(crate) fn range(schema: &Value) -> String {
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Null, Value::Null) => String::new(),
        (least, Value::Null) => format!(" of at least {least}"),
        (Value::Null, most) => format!(" of at most {most}"),
        (least, most) => format!(" from {least} to {most}"),
    }
}

/// What may have been meant by an unknown key: the nearest one beside it, one of that name elsewhere, or what there is.
fn advice(root: &Value, schema: &Value, key: &str) -> String {
    if let Some((_, text)) = ELSEWHERE.iter().find(|(k, _)| *k == key) {
        return format!("; {text}");
    }
    let known: Vec<&str> = schema["properties"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    if let Some(nearest) = nearest(key, known.iter().copied()) {
        return format!("; did you mean `{nearest}`?");
    }
    let mut elsewhere = Vec::new();
    places(root, key, "", &mut elsewhere);
    match elsewhere.as_slice() {
        [] if known.is_empty() => String::new(),
        [] => format!("; known here: {}", known.join(", ")),
        paths => format!("; did you mean `{}`?", paths.join("` or `")),
    }
}

/// All paths of the schema that end in `key`.
fn places(schema: &Value, key: &str, path: &str, found: &mut Vec<String>) {
    for branch in branches(schema) {
        for (name, member) in branch["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if name == key {
                found.push(path.clone());
            }
            places(member, key, &path, found);
        }
    }
}
