//! Header values written by operators: literal, or templates with variables.

use http::{HeaderName, HeaderValue};
use milecastle_matching::{Lookup, Template};
use serde_json::Value;

/// A header's value, prepared.
#[derive(Debug, Clone)]
pub(crate) enum ValueTemplate {
    /// The same for each request.
    Literal(HeaderValue),
    /// Filled in for each request.
    Template(Template),
}

impl ValueTemplate {
    /// Takes a text as written. A literal keeps no bytes that a header must not have ([`value`]).
    pub(crate) fn parse(text: &str) -> Self {
        let template = Template::parse(text);
        if template.is_literal() { Self::Literal(value(text)) } else { Self::Template(template) }
    }

    /// Takes a JSON string or number; `None` for anything else.
    pub(crate) fn of(json: &Value) -> Option<Self> {
        match json {
            Value::String(text) => Some(Self::parse(text)),
            Value::Number(number) => Some(Self::Literal(value(&number.to_string()))),
            _ => None,
        }
    }

    /// The value for a request. An unresolved variable is empty.
    pub(crate) fn render(&self, vars: &dyn Lookup) -> HeaderValue {
        match self {
            Self::Literal(value) => value.clone(),
            Self::Template(template) => value(&template.fill(vars)),
        }
    }
}

/// A text as a header's value. Control bytes are percent-encoded, so that no text can begin another header line.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        let mut encoded = String::with_capacity(text.len() + 8);
        for character in text.chars() {
            match u8::try_from(character) {
                Ok(byte) if byte.is_ascii_control() && byte != b'\t' => encoded.push_str(&format!("%{byte:02X}")),
                _ => encoded.push(character),
            }
        }
        HeaderValue::try_from(encoded).expect("control bytes have been encoded")
    })
}

/// A header's name; `None` if it can be none.
pub(crate) fn name(text: &str) -> Option<HeaderName> {
    text.parse().ok()
}
