//! Edits of the answer's headers.

use crate::headers::{self, ValueTemplate};
use http::HeaderName;
use milecastle_plugin_api::{ConfigError, RequestCx};
use serde_json::{Map, Value};

/// The edits, in the order in which they are made.
#[derive(Default)]
pub(super) struct Edits {
    add: Box<[(HeaderName, ValueTemplate)]>,
    set: Box<[(HeaderName, ValueTemplate)]>,
    remove: Box<[HeaderName]>,
}

impl Edits {
    pub(super) fn new(headers: Option<&Value>) -> Result<Self, Vec<ConfigError>> {
        let Some(Value::Object(headers)) = headers else { return Ok(Self::default()) };
        let container = |name: &str| headers.get(name).is_some_and(|value| value.is_object() || value.is_array());
        if ["add", "set", "remove"].into_iter().any(container) { Self::grouped(headers) } else { Self::flat(headers) }
    }

    /// `{"add": ["Name: value"], "set": {…}, "remove": […]}`.
    fn grouped(headers: &Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let mut faults: Vec<ConfigError> = headers
            .keys()
            .filter(|name| !matches!(name.as_str(), "add" | "set" | "remove"))
            .map(|name| ConfigError::at("/headers", format!("additional properties forbidden, found {name}")))
            .collect();
        let mut header = |group: &str, name: &str| {
            let found = headers::name(name);
            if found.is_none() {
                faults.push(ConfigError::at(format!("/headers/{group}"), "invalid field character in header"));
            }
            found
        };
        let lines = headers.get("add").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let add = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((header("add", name.trim_ascii())?, ValueTemplate::parse(value.trim_ascii())))
        });
        let add = add.collect();
        let members = headers.get("set").and_then(Value::as_object).into_iter().flatten();
        let set = members.filter_map(|(name, value)| Some((header("set", name)?, ValueTemplate::of(value)?))).collect();
        let names = headers.get("remove").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        // A name that can be no header's is on no answer.
        let remove = names.filter_map(headers::name).collect();
        if faults.is_empty() { Ok(Self { add, set, remove }) } else { Err(faults) }
    }

    /// The old form: names with values to set; an empty text removes.
    fn flat(headers: &Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let (mut set, mut remove, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in headers {
            match (headers::name(name), ValueTemplate::of(value)) {
                _ if name.is_empty() => faults.push(ConfigError::at("/headers", "invalid field length in header")),
                (_, None) => faults.push(ConfigError::at("/headers", "invalid type as header value")),
                (None, _) => faults.push(ConfigError::at("/headers", "invalid field character in header")),
                (Some(header), Some(_)) if *value == "" => remove.push(header),
                (Some(header), Some(value)) => set.push((header, value)),
            }
        }
        if faults.is_empty() {
            Ok(Self { add: Box::default(), set: set.into(), remove: remove.into() })
        } else {
            Err(faults)
        }
    }

    /// Edits the answer.
    pub(super) fn apply(&self, cx: &mut RequestCx) {
        for (name, value) in &self.add {
            let value = value.render(cx);
            cx.response.headers.append(name, value);
        }
        for (name, value) in &self.set {
            let value = value.render(cx);
            cx.response.headers.insert(name, value);
        }
        for name in &self.remove {
            cx.response.headers.remove(name);
        }
    }
}
