//! Reference pages of plugins, made of what the code says.

use crate::def::PluginDef;
use serde_json::{Map, Value};
use std::fmt::Write;

/// The reference page of a plugin, in Markdown: what it is, its attributes, its examples. `stream` is the plugin of the same
/// name for TCP and UDP sessions, if it is not the plugin itself.
pub fn reference_page(def: &PluginDef, stream: Option<&PluginDef>) -> String {
    let schema = (def.schema)();
    let mut page = format!("# {}\n\n", def.name);
    if let Some(about) = schema["description"].as_str() {
        page.push_str(about);
        page.push_str("\n\n");
    }
    let line = |page: &mut String, text: std::fmt::Arguments<'_>| writeln!(page, "{text}").expect("a String takes all");
    line(&mut page, format_args!("Priority: {}.", def.priority));
    if !def.encrypted.is_empty() {
        let names: Vec<String> = def.encrypted.iter().map(|name| format!("`{name}`")).collect();
        line(&mut page, format_args!("Stored encrypted: {}.", names.join(", ")));
    }
    line(&mut page, format_args!("Behaviour in detail: `docs/spec/plugins/{}.md`.", def.name));
    section(&mut page, "Attributes", &schema);
    if let Some(auth) = def.auth {
        section(&mut page, "Attributes of a consumer's credential", &(auth.schema)());
    }
    if let Some(metadata) = def.metadata {
        section(&mut page, "Plugin metadata", &(metadata.schema)());
    }
    if !def.examples.is_empty() {
        page.push_str("\n## Examples\n");
        for example in def.examples {
            line(&mut page, format_args!("\n{}:\n\n```json\n{}\n```", example.title, example.json.trim()));
        }
    }
    if let Some(stream) = stream {
        let schema = (stream.schema)();
        page.push_str("\n## On stream routes\n\n");
        line(&mut page, format_args!("{}", schema["description"].as_str().unwrap_or_default()));
        section(&mut page, "Attributes on a stream route", &schema);
        for example in stream.examples {
            line(&mut page, format_args!("\n{}:\n\n```json\n{}\n```", example.title, example.json.trim()));
        }
    }
    page
}

fn section(page: &mut String, title: &str, schema: &Value) {
    let mut rows = Vec::new();
    collect("", schema, &mut rows);
    if rows.is_empty() {
        return;
    }
    writeln!(page, "\n## {title}\n\n| name | type | default | constraint | meaning |\n|---|---|---|---|---|")
        .expect("a String takes all");
    for row in rows {
        page.push_str(&row);
    }
}

/// A row for each attribute, those inside objects and lists after their own.
fn collect(prefix: &str, schema: &Value, rows: &mut Vec<String>) {
    let required = schema["required"].as_array();
    for (name, attribute) in schema["properties"].as_object().into_iter().flatten() {
        let full = format!("{prefix}{name}");
        let needed = required.is_some_and(|names| names.iter().any(|required| required == name));
        let default = match (&attribute["default"], needed) {
            (Value::Null, true) => "required".to_owned(),
            (Value::Null, false) => String::new(),
            (value, _) => format!("`{value}`"),
        };
        let about = attribute["description"].as_str().unwrap_or_default();
        rows.push(format!(
            "| `{full}` | {} | {} | {} | {} |\n",
            cell(&kind(attribute)),
            cell(&default),
            cell(&constraint(attribute)),
            cell(about)
        ));
        collect(&format!("{full}."), attribute, rows);
        collect(&format!("{full}[]."), &attribute["items"], rows);
    }
}

/// Text that keeps its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn kind(attribute: &Value) -> String {
    let alternatives = attribute["oneOf"].as_array().or_else(|| attribute["anyOf"].as_array());
    match (&attribute["type"], alternatives) {
        (Value::String(name), _) if name == "array" => match kind(&attribute["items"]).as_str() {
            "" => name.clone(),
            item => format!("array of {item}"),
        },
        (Value::String(name), _) => name.clone(),
        (Value::Array(names), _) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        (_, Some(alternatives)) => {
            let mut names: Vec<String> = alternatives.iter().map(kind).collect();
            names.dedup();
            names.join(" or ")
        }
        _ => String::new(),
    }
}

fn constraint(attribute: &Value) -> String {
    let empty = Map::new();
    let members = attribute.as_object().unwrap_or(&empty);
    let mut parts = Vec::new();
    for (keyword, words) in [
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("minLength", "length ≥"),
        ("maxLength", "length ≤"),
        ("minItems", "items ≥"),
        ("maxItems", "items ≤"),
        ("minProperties", "members ≥"),
    ] {
        // That a number is not negative goes without saying.
        if let Some(value) = members.get(keyword).filter(|value| !(keyword == "minimum" && **value == 0)) {
            parts.push(format!("{words} {value}"));
        }
    }
    if let Some(values) = members.get("enum").and_then(Value::as_array) {
        parts.push(
            values
                .iter()
                .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(", "),
        );
    }
    if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
        parts.push(format!("`{pattern}`"));
    }
    parts.join("; ")
}
