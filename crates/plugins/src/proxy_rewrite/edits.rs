//! Edits of the request's headers.

use super::uri::Groups;
use crate::headers::{self, ValueTemplate};
use http::HeaderName;
use milecastle_matching::{Lookup, Var, VarName};
use milecastle_plugin_api::{ConfigError, RequestCx};
use serde_json::{Map, Value};

/// The edits, in the order in which they are made.
#[derive(Default)]
pub(super) struct Edits {
    add: Box<[Values]>,
    set: Box<[Values]>,
    remove: Box<[HeaderName]>,
}

type Values = (HeaderName, Box<[ValueTemplate]>);

impl Edits {
    pub(super) fn new(headers: Option<&Value>) -> Result<Self, Vec<ConfigError>> {
        let Some(Value::Object(headers)) = headers else { return Ok(Self::default()) };
        let container = |name: &str| headers.get(name).is_some_and(|value| value.is_object() || value.is_array());
        if ["add", "set", "remove"].into_iter().any(container) {
            Self::grouped(headers)
        } else {
            flat(headers).map(|set| Self { set, ..Self::default() })
        }
    }

    /// `{"add": {…}, "set": {…}, "remove": […]}`.
    fn grouped(headers: &Map<String, Value>) -> Result<Self, Vec<ConfigError>> {
        let mut faults: Vec<ConfigError> = headers
            .keys()
            .filter(|name| !matches!(name.as_str(), "add" | "set" | "remove"))
            .map(|name| ConfigError::at("/headers", format!("additional properties forbidden, found {name}")))
            .collect();
        let mut values = |group: &str| -> Box<[Values]> {
            let members = headers.get(group).and_then(Value::as_object).into_iter().flatten();
            let mut list = Vec::new();
            for (name, value) in members {
                match headers::name(name) {
                    Some(header) => list.push((header, several(value))),
                    None => {
                        faults.push(ConfigError::at(format!("/headers/{group}"), "invalid field character in header"))
                    }
                }
            }
            list.into()
        };
        let (add, set) = (values("add"), values("set"));
        // A name that can be no header's is on no request.
        let remove = headers.get("remove").and_then(Value::as_array).into_iter().flatten();
        let remove = remove.filter_map(|name| headers::name(name.as_str()?)).collect();
        if faults.is_empty() { Ok(Self { add, set, remove }) } else { Err(faults) }
    }

    /// Edits the request. `groups` are those of the pattern that rewrote the path.
    pub(super) fn apply(&self, cx: &mut RequestCx, groups: Option<&Groups>) {
        for (name, values) in &self.add {
            for value in values {
                let value = value.render(&WithGroups { cx, groups });
                cx.request.headers.append(name, value);
            }
        }
        for (name, values) in &self.set {
            let mut values = values.iter();
            if let Some(first) = values.next() {
                let first = first.render(&WithGroups { cx, groups });
                cx.request.headers.insert(name, first);
            }
            for value in values {
                let value = value.render(&WithGroups { cx, groups });
                cx.request.headers.append(name, value);
            }
        }
        for name in &self.remove {
            cx.request.headers.remove(name);
        }
    }
}

/// The old form: names with values to set.
fn flat(headers: &Map<String, Value>) -> Result<Box<[Values]>, Vec<ConfigError>> {
    let (mut set, mut faults) = (Vec::new(), Vec::new());
    let mut fault = |text: &str| faults.push(ConfigError::at("/headers", text));
    for (name, value) in headers {
        let text = match value {
            Value::String(text) => text.as_str(),
            _ => "",
        };
        if name.is_empty() {
            fault("invalid field length in header");
        } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            fault("invalid field character in header");
        } else if !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            fault("invalid value character in header");
        } else if let Some(header) = headers::name(name) {
            set.push((header, several(value)));
        } else {
            fault("invalid field character in header");
        }
    }
    if faults.is_empty() { Ok(set.into()) } else { Err(faults) }
}

fn several(value: &Value) -> Box<[ValueTemplate]> {
    match value {
        Value::Array(values) => values.iter().filter_map(ValueTemplate::of).collect(),
        single => ValueTemplate::of(single).into_iter().collect(),
    }
}

/// The request's variables, and `$1`, `$2` … for the groups.
struct WithGroups<'a> {
    cx: &'a RequestCx,
    groups: Option<&'a Groups>,
}

impl Lookup for WithGroups<'_> {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        // Without groups a number is a name like others, and has no value.
        match self.groups.map(|groups| (groups, name.as_str().parse::<usize>())) {
            Some((groups, Ok(group))) => groups.get(group)?.as_str().map(Var::from),
            _ => self.cx.var(name),
        }
    }
}
