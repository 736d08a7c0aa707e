//! The text format of Prometheus, version 0.0.4.

use std::borrow::Cow;
use std::fmt;

/// A sample's value.
pub(super) enum Number {
    Whole(u64),
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Whole(n) => n.fmt(f),
            Self::Float(n) if n == f64::INFINITY => f.write_str("+Inf"),
            Self::Float(n) if n == f64::NEG_INFINITY => f.write_str("-Inf"),
            // Whole numbers come out without a point, and NaN as `NaN`.
            Self::Float(n) => n.fmt(f),
        }
    }
}

/// Writes one sample.
pub(super) fn line(page: &mut String, name: &str, suffix: &str, labels: &str, le: Option<&str>, value: Number) {
    page.push_str(name);
    page.push_str(suffix);
    if !labels.is_empty() || le.is_some() {
        page.push('{');
        page.push_str(labels);
        if let Some(le) = le {
            if !labels.is_empty() {
                page.push(',');
            }
            page.push_str("le=\"");
            page.push_str(le);
            page.push('"');
        }
        page.push('}');
    }
    page.push(' ');
    page.push_str(&value.to_string());
    page.push('\n');
}

/// Writes a family's HELP and TYPE lines. Only backslash and line feed are escaped in a help text.
pub(super) fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// A label's value as it stands between quotes: backslash, quote and line feed escaped.
pub fn escape_label(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len() + 8);
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// The text at the start of bytes that came from outside, cut where they stop being UTF-8.
pub fn label_text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => bytes.get(..e.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok()).unwrap_or_default(),
    }
}
