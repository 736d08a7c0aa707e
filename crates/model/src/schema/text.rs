//! Pieces of the messages: where a fault lies, type names, quoting.

use std::fmt::Write;

use serde_json::Value;

use crate::pointer;

/// One step from a value to the part of it (or of the schema) that is judged next.
pub(super) enum Step<'a> {
    Property(&'a str),
    /// A member judged by `patternProperties`: its name and the pattern.
    Matching(&'a str, &'a str),
    /// A member judged by the schema of `additionalProperties`.
    Additional(&'a str),
    /// An item, counted from 0.
    Item(usize),
    /// A branch of `allOf`, counted from 0.
    AllOf(usize),
    /// The schema that depends on this member.
    Dependent(&'a str),
}

/// The way from the root to a place: a list that grows on the stack, so that a valid document allocates nothing.
pub(super) struct At<'a> {
    way: Option<(&'a At<'a>, Step<'a>)>,
}

impl<'a> At<'a> {
    pub(super) const ROOT: At<'static> = At { way: None };

    pub(super) fn then(&'a self, step: Step<'a>) -> At<'a> {
        At { way: Some((self, step)) }
    }

    /// JSON pointer of the place.
    pub(super) fn pointer(&self) -> String {
        let mut out = String::new();
        self.write_pointer(&mut out);
        out
    }

    fn write_pointer(&self, out: &mut String) {
        let Some((parent, step)) = &self.way else { return };
        parent.write_pointer(out);
        match step {
            Step::Property(name) | Step::Matching(name, _) | Step::Additional(name) => pointer::push(out, name),
            Step::Item(index) => pointer::push(out, &index.to_string()),
            Step::AllOf(_) | Step::Dependent(_) => {}
        }
    }

    /// The nesting prefixes of a message about the place.
    pub(super) fn prefix(&self) -> String {
        let mut out = String::new();
        self.write_prefix(&mut out);
        out
    }

    fn write_prefix(&self, out: &mut String) {
        let Some((parent, step)) = &self.way else { return };
        parent.write_prefix(out);
        match step {
            Step::Property(name) => write!(out, "property \"{name}\" validation failed: "),
            Step::Matching(name, pattern) => write!(out, "failed to validate {name} (matching \"{pattern}\"): "),
            Step::Additional(name) => write!(out, "failed to validate additional property {name}: "),
            Step::Item(index) => write!(out, "failed to validate item {}: ", index + 1),
            Step::AllOf(branch) => write!(out, "allOf {} failed: ", branch + 1),
            Step::Dependent(name) => write!(out, "failed to validate dependent schema for \"{name}\": "),
        }
        .expect("writing to a string never fails");
    }
}

/// The type of a value in the words of the messages, which are those of Lua.
pub fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// In double quotes, with backslash escapes; control characters as decimal escapes, as Lua writes them.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\\' | '\n' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_control() => {
                // Three places where a digit follows, or the escape would swallow it.
                let width = if chars.peek().is_some_and(char::is_ascii_digit) { 3 } else { 1 };
                write!(out, "\\{:0width$}", u32::from(c)).expect("writing to a string never fails");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
