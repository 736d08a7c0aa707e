//! The reference page of all configuration files, made from the types.

use std::fmt::Write as _;

use serde_json::Value;

use crate::check::{Schema, branches, choices, types};
use crate::load::File;
use crate::units::format_words;
use crate::{ControlFile, DashboardFile, DpManagerFile, GatewayFile, UpFile};

const HEAD: &str = "\
<!-- Generated from the types of crates/settings by `cargo xtask codegen`; edit the doc comments there. -->

# Configuration

Each process reads one YAML file (`-c FILE`); every key has a default, so that a file holds only what differs.
A key that does not exist is refused, with the nearest one named; `milecastle check -c FILE` tells all faults at once, with file, line and column.

The environment variable `MILECASTLE__A__B=v` overrides the key `a.b`; `v` is read as YAML, so `MILECASTLE__APISIX__NODE_LISTEN='[9080, 9081]'` works.

Times are written `500ms`, `30s`, `5m`, `12h`, `7d` or as a sum such as `1h30m`; a bare number is seconds.
Sizes are written `512`, `64k`, `10m`, `2g`, in powers of 1024.
Port 0 lets the system choose a port, which is printed at start.
";

/// The page, in Markdown, ending with a newline.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    file::<GatewayFile>(&mut page, "The gateway's file", "Read by `milecastle gateway`.");
    file::<DashboardFile>(&mut page, "The dashboard's file", "Read by `milecastle dashboard`.");
    file::<DpManagerFile>(&mut page, "The DP manager's file", "Read by `milecastle dp-manager`.");
    let together = "Has `log`, `database`, `sealing`, `members`, `history`, `audit`, `events` and `shutdown` once; the dashboard's other keys stand \
                    under `dashboard`, the DP manager's under `dp_manager`";
    let control = defaults::<ControlFile>();
    let up = defaults::<UpFile>();
    section(&mut page, "The file of `milecastle control`", &format!("{together}."));
    differences(&mut page, &control);
    section(&mut page, "The file of `milecastle up`", &format!("{together}, the gateway's under `gateway`."));
    let schema = Schema::of::<UpFile>();
    let data_dir = &schema.root()["properties"]["data_dir"];
    table(&mut page);
    row(&mut page, "data_dir", data_dir, up.get("data_dir"), false);
    differences(&mut page, &up);
    page
}

fn defaults<F: File>() -> Value {
    // A default that does not serialise would fail every load, which the tests of this crate would show.
    serde_json::to_value(F::default()).unwrap_or_default()
}

fn section(page: &mut String, title: &str, intro: &str) {
    // Writing to a String cannot fail; the same below.
    write!(page, "\n## {title}\n\n{intro}\n").expect("a String takes all");
}

fn table(page: &mut String) {
    page.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
}

fn file<F: File>(page: &mut String, title: &str, intro: &str) {
    section(page, title, intro);
    table(page);
    let schema = Schema::of::<F>();
    members(page, schema.root(), "", Some(&defaults::<F>()));
}

/// The rows of an object schema's members, sections after their heading row.
fn members(page: &mut String, schema: &Value, prefix: &str, default: Option<&Value>) {
    for branch in branches(schema) {
        for (name, member) in branch["properties"].as_object().into_iter().flatten() {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let default = default.and_then(|d| d.get(name));
            let required = branch["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name.as_str()));
            row(page, &key, member, default.or(member.get("default")), required);
            nested(page, member, &key, default);
        }
        if let Some(others) = branch.get("additionalProperties").filter(|s| s.is_object()) {
            nested(page, others, &format!("{prefix}.<name>"), None);
        }
    }
}

/// The rows of what a member holds: a section, a list of objects, a mapping by name.
fn nested(page: &mut String, schema: &Value, key: &str, default: Option<&Value>) {
    for branch in branches(schema) {
        if let Some(items) = branch.get("items") {
            for item in branches(items).filter(|i| i.get("properties").is_some()) {
                members(page, item, &format!("{key}[]"), None);
            }
        } else if branch.get("properties").is_some() || branch.get("additionalProperties").is_some() {
            members(page, branch, key, default);
        }
    }
}

fn row(page: &mut String, key: &str, schema: &Value, default: Option<&Value>, required: bool) {
    let section = branches(schema).any(|s| s.get("properties").is_some());
    let kind = if section { "section".to_owned() } else { kind(schema) };
    let default = match default {
        _ if required => "required".into(),
        _ if section => String::new(),
        None | Some(Value::Null) => "–".into(),
        Some(Value::String(s)) if s.is_empty() => "empty".into(),
        Some(Value::String(s)) => format!("`{s}`"),
        Some(v) => format!("`{}`", compact(v.clone())),
    };
    let meaning = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
    let words: Vec<&str> = branches(schema).flat_map(choices).collect();
    let choices = if words.is_empty() { String::new() } else { format!(" One of `{}`.", words.join("`, `")) };
    let line = format!("| `{key}` | {kind} | {} | {}{choices} |\n", escape(&default), escape(&meaning));
    page.push_str(&line);
}

/// A value as an operator would write it: no members that are unset, no `.0` behind whole numbers.
fn compact(value: Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(compact).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, compact(v))).collect())
        }
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() => float.to_string().parse().map_or(Value::Number(n), Value::Number),
            _ => Value::Number(n),
        },
        other => other,
    }
}

/// The type, range and unit of a value.
fn kind(schema: &Value) -> String {
    let mut all: Vec<String> = Vec::new();
    for branch in branches(schema) {
        let named = branch["format"].as_str().and_then(format_words);
        let words = match named {
            Some(words) => vec![words.to_owned()],
            None => types(branch).into_iter().filter(|t| *t != "null").map(|t| plain_kind(t, branch)).collect(),
        };
        for word in words {
            if !all.contains(&word) {
                all.push(word);
            }
        }
    }
    let mut text = all.join(" or ");
    if let Some(unit) = schema["x-unit"].as_str() {
        write!(text, ", {unit}").expect("a String takes all");
    }
    if schema["writeOnly"] == true {
        text.push_str(", secret");
    }
    text
}

fn plain_kind(name: &str, schema: &Value) -> String {
    match name {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" => "mapping".into(),
        "integer" | "number" => {
            // The limits of the machine's types say nothing to a reader.
            let most = schema["maximum"].as_u64().filter(|m| *m < u64::from(u32::MAX));
            match (schema["minimum"].as_u64(), most) {
                (Some(least), Some(most)) => format!("{name} {least}–{most}"),
                (Some(least), None) if least > 0 => format!("{name} ≥ {least}"),
                _ => name.to_owned(),
            }
        }
        other => other.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Lists the defaults of a file's sections that differ from those of the single files.
fn differences(page: &mut String, whole: &Value) {
    let single = [
        ("dashboard", defaults::<DashboardFile>()),
        ("dp_manager", defaults::<DpManagerFile>()),
        ("gateway", defaults::<GatewayFile>()),
    ];
    let shared = ["log", "sealing", "members", "history", "audit", "events", "shutdown"]
        .map(|name| (name, single[0].1[name].clone()));
    let mut found = Vec::new();
    for (name, single) in shared.iter().chain(&single) {
        if let Some(section) = whole.get(*name) {
            compare(name, section, single, &mut found);
        }
    }
    for (key, value) in found {
        writeln!(page, "\nHere `{key}` is `{value}` by default.").expect("a String takes all");
    }
}

fn compare(key: &str, here: &Value, there: &Value, found: &mut Vec<(String, String)>) {
    match here {
        Value::Object(members) => {
            for (name, value) in members {
                compare(&format!("{key}.{name}"), value, &there[name], found);
            }
        }
        _ if here != there => found.push((key.to_owned(), here.to_string())),
        _ => {}
    }
}
